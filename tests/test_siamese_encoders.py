"""Encoders: what their features keep and turn with, and distances predicted from them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from learned_features import off_diagonal, smooth_particle, turned, unit
from scipy.spatial.transform import Rotation

from cryoem.projectors import project
from cryoem.rotations import random_rotations
from cryoem.siamese import (
    build_encoder,
    encode,
    predict_distances,
)
from cryoem.siamese.encoders import AngularHarmonics, PolarSampling

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision
KINDS = ("kernel", "cosine", "euclidean")
ARCHITECTURES = ("polar", "published")


# --- encoders


@pytest.mark.parametrize("size", [8, 23])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoders_give_finite_features_that_ignore_brightness_and_contrast(architecture, size, rng):
    encoder = build_encoder(size, architecture=architecture, n_features=12)
    images = rng.normal(size=(3, size, size)).astype(np.float32)
    features = encoder.predict(images, verbose=0)
    assert features.shape == (3, 12)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0
    scaled = encoder.predict(20 * images + 5, verbose=0)
    np.testing.assert_allclose(scaled, features, atol=10 * FLOAT32 * np.abs(features).max())
    assert np.isfinite(encoder.predict(np.ones((1, size, size), np.float32), verbose=0)).all()


def test_the_published_network_has_its_seven_convolutions():
    encoder = build_encoder(116, architecture="published")
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.kernel_size[0] for layer in convolutions] == [7, 5, 3, 3, 3, 3, 3]
    assert [layer.filters for layer in convolutions] == [32, 64, 128, 256, 256, 512, 512]
    assert sum(layer.count_params() for layer in convolutions) == pytest.approx(
        4.5e6, rel=0.02
    )  # the paper's
    assert encoder.output_shape == (None, 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "large"}, "architecture must be one of polar, published, got 'large'"),
        ({"image_size": 7}, "image_size must be a whole number of at least 8, got 7"),
        ({"n_features": 10}, "n_features of the polar encoder must be a multiple of 3, got 10"),
        ({"n_features": 0}, "n_features must be a whole number of at least 1, got 0"),
        (
            {"n_features": 0, "architecture": "published"},
            "n_features must be a whole number of at least 1, got 0",
        ),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"blocks": -1}, "blocks must be a whole number of at least 1, got -1"),
    ],
)
def test_an_impossible_encoder_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(**({"image_size": 16} | options))


@pytest.mark.parametrize("size", [16, 17])
def test_circles_are_read_from_x_towards_y_about_the_origin(size):
    position = np.arange(size, dtype=np.float32) - size // 2
    ramps = np.stack(np.broadcast_arrays(position, position[:, None]))  # x, then y: (2, y, x)
    x, y = np.array(PolarSampling(12, 5)(ramps))  # (angle, radius)
    radius = np.hypot(x, y)
    np.testing.assert_allclose(radius, np.broadcast_to(radius[0], (12, 5)), atol=FLOAT32 * size)
    assert (np.diff(radius[0]) > 0).all()
    assert radius[0, 0] > 0
    assert radius[0, -1] <= (size - 1) // 2
    angle = 2 * np.pi * np.arange(12) / 12
    np.testing.assert_allclose(x, np.cos(angle)[:, None] * radius, atol=FLOAT32 * size)
    np.testing.assert_allclose(y, np.sin(angle)[:, None] * radius, atol=FLOAT32 * size)


def test_a_shift_along_the_circle_turns_the_first_harmonic(rng):
    signal = rng.normal(size=(2, 16, 6)).astype(np.float32)
    still, turning = split(np.array(AngularHarmonics()(signal)))
    for steps in (1, 5, 16):
        moved_still, moved = split(np.array(AngularHarmonics()(np.roll(signal, steps, axis=1))))
        np.testing.assert_allclose(moved_still, still, atol=FLOAT32)
        np.testing.assert_allclose(moved, turning * np.exp(2j * np.pi * steps / 16), atol=FLOAT32)


def split(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polar features as the part that stays under a turn of the image and the complex part that turns."""
    c = features.shape[1] // 3
    return features[:, :c], features[:, c : 2 * c] + 1j * features[:, 2 * c :]


def test_a_quarter_turn_of_the_pixels_turns_the_features_exactly(rng):
    keras.utils.set_random_seed(0)
    encoder = build_encoder(
        25, channels=16, blocks=3
    )  # odd: a quarter turn about pixel n // 2 maps pixels to pixels
    images = rng.normal(size=(5, 25, 25)).astype(np.float32)
    # from (y, x) to (-x, y): by -90 degrees from x towards y
    quarter = np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
    still, turning = split(encoder.predict(images, verbose=0))
    still_after, turning_after = split(encoder.predict(quarter, verbose=0))
    np.testing.assert_allclose(still_after, still, atol=10 * FLOAT32 * np.abs(still).max())
    np.testing.assert_allclose(turning_after, -1j * turning, atol=10 * FLOAT32 * np.abs(turning).max())


@pytest.mark.parametrize("size", [32, 33])
def test_an_untrained_encoder_turns_its_features_with_the_image(size):
    keras.utils.set_random_seed(1)
    encoder = build_encoder(size, channels=16, blocks=2)
    particle, rotations = smooth_particle(size), random_rotations(6, rng=0)

    def features_at(psi):
        return encoder.predict(project(particle, turned(psi, rotations)), verbose=0)

    before = features_at(0.0)
    still, turning = split(before)
    variation = np.linalg.norm(still - still.mean(axis=0))
    kernel = unit(before) @ unit(before).T
    # bilinear reading of a blob of width w is off by up to 1 / (8 w^2) of its height: 0.014 for w = 3
    tolerance = 1 / (8 * 3.0**2)
    for psi in np.linspace(0, 2 * np.pi, 13)[1:] + 0.03:
        after = features_at(psi)
        still_after, turning_after = split(after)
        assert np.linalg.norm(still_after - still) < tolerance * variation
        assert np.linalg.norm(turning_after * np.exp(-1j * psi) - turning) < tolerance * np.linalg.norm(
            turning
        )
        # so distances between images turned together stay, as they do between orientations
        turned_kernel = unit(after) @ unit(after).T
        assert np.abs(turned_kernel - kernel).max() < tolerance * np.ptp(kernel)
        # and that of an image and its own turned copy follows the cosine
        own = (before * after).sum(axis=1)
        expected = np.square(still).sum(axis=1) + np.cos(psi) * np.square(np.abs(turning)).sum(axis=1)
        np.testing.assert_allclose(
            own, expected, atol=tolerance * np.square(np.abs(turning)).sum(axis=1).max()
        )


# --- prediction


@pytest.fixture(scope="module")
def small_encoder():
    keras.utils.set_random_seed(0)
    return build_encoder(17, channels=8, blocks=2)


@pytest.mark.parametrize("both_views", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_predicted_distances_are_distances(small_encoder, kind, both_views, rng):
    images = rng.normal(size=(150, 17, 17))  # more than one batch
    images[7] = images[3]
    distances = predict_distances(small_encoder, images, feature_distance=kind, both_views=both_views)
    assert distances.shape == (150, 150)
    assert distances.dtype == np.float32
    np.testing.assert_array_equal(distances, distances.T)
    assert not np.diag(distances).any()
    assert distances.min() >= 0
    assert distances.max() <= np.float32(np.pi)
    assert off_diagonal(distances).max() > 0.1
    assert distances[3, 7] < 2e-3  # the square root of the rounding of the similarity


def test_features_do_not_depend_on_the_batch(small_encoder, rng):
    images = rng.normal(size=(10, 17, 17)).astype(np.float32)
    features = encode(small_encoder, images)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=FLOAT32)
    np.testing.assert_allclose(encode(small_encoder, images, batch_size=3), features, atol=FLOAT32)
    np.testing.assert_allclose(encode(small_encoder, images[4:5]), features[4:5], atol=FLOAT32)


@pytest.mark.parametrize("size", [24, 25])
def test_the_mirrored_view_is_the_view_from_the_opposite_side(size):
    keras.utils.set_random_seed(0)
    encoder = build_encoder(size, channels=8, blocks=1)
    particle, rotations = smooth_particle(size, width_px=2.0), random_rotations(5, rng=1)
    images = project(particle, rotations)
    opposite = project(particle, Rotation.from_rotvec([0, np.pi, 0]) * rotations)
    both = encode(encoder, images)
    n = both.shape[1] // 2
    single = encode(encoder, images, both_views=False)
    np.testing.assert_allclose(both[:, :n] * np.sqrt(2), single, atol=FLOAT32)
    # projections are good to 2e-3; in an even box the first column has no partner
    from_opposite = encode(encoder, opposite, both_views=False)
    np.testing.assert_allclose(both[:, n:] * np.sqrt(2), from_opposite, atol=2e-3)
    assert np.abs(from_opposite - single).max() > 0.02
    seen_from_there = encode(encoder, opposite)
    np.testing.assert_allclose(seen_from_there @ seen_from_there.T, both @ both.T, atol=2e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 16, 16)), r"images must be \(n, 17, 17\) for this encoder, got \(3, 16, 16\)"),
        (np.zeros((3, 17)), r"images must be \(n, 17, 17\) for this encoder, got \(3, 17\)"),
        (np.zeros((1, 17, 17)), "images must be at least 2 to have a distance, got 1"),
        (np.full((2, 17, 17), np.nan), "images must be finite, got 578 NaN or infinite values"),
    ],
)
def test_images_that_have_no_distances_are_refused(small_encoder, images, message):
    with pytest.raises(ValueError, match=message):
        predict_distances(small_encoder, images)
