"""Encoders: how features change when an image is rotated, distances predicted from them, and the pair head."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from learned_features import off_diagonal, quaternions32, smooth_particle, unit
from scipy.spatial.transform import Rotation

from cryoem.distances.encoders import AngularHarmonics, PairHead, PolarSampling, build_encoder, head_of
from cryoem.distances.losses import (
    distances_from_features,
    highest_harmonic,
    pair_error,
    pair_loss,
    true_distance,
)
from cryoem.distances.prediction import encode, predict_distances, predict_shifts
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations

FLOAT32 = 1e-5  # several operations on numbers of order 1 in single precision
KINDS = ("kernel", "cosine", "euclidean")


# --- encoders


@pytest.mark.parametrize(
    ("architecture", "size"), [("polar", 8), ("polar", 23), ("published", 8), ("published", 23)]
)
def test_encoders_give_finite_features(architecture, size, rng):
    encoder = build_encoder(size, architecture=architecture, n_features=12)
    images = rng.normal(size=(3, size, size)).astype(np.float32)
    features = encoder.predict(images, verbose=0)
    assert features.shape == (3, 12)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0
    if architecture == "polar":  # images are normalised
        scaled = encoder.predict(20 * images + 5, verbose=0)
        np.testing.assert_allclose(scaled, features, atol=10 * FLOAT32 * np.abs(features).max())
    assert np.isfinite(encoder.predict(np.ones((1, size, size), np.float32), verbose=0)).all()


def test_the_published_network_has_its_seven_convolutions():
    encoder = build_encoder(116, architecture="published")
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.kernel_size[0] for layer in convolutions] == [7, 5, 3, 3, 3, 3, 3]
    assert [layer.filters for layer in convolutions] == [32, 64, 128, 256, 256, 512, 512]
    assert encoder.count_params() == 4_551_936  # as in the paper: no other layer has parameters
    assert encoder.output_shape == (None, 512)
    # each pooling halves the image, and the global average remains
    sizes = [
        layer.output.shape[1] for layer in encoder.layers if isinstance(layer, keras.layers.MaxPooling2D)
    ]
    assert sizes == [58, 29, 15, 8, 4, 2, 1]
    assert build_encoder(116, architecture="published", n_features=4).output_shape == (None, 4)


@pytest.mark.parametrize(
    ("symmetry", "highest"),
    [("C1", 1), ("C2", 2), ("C7", 7), ("D2", 2), ("D3", 3), ("T", 3), ("O", 4), ("I", 6)],
)
def test_encoders_have_the_harmonics_of_their_group(symmetry, highest):
    assert highest_harmonic(symmetry) == highest
    n_features = build_encoder(16, channels=8, blocks=1, symmetry=symmetry).output_shape[1]
    assert n_features % (1 + 2 * highest) == 0
    assert n_features >= 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "large"}, "architecture must be one of polar, published, got 'large'"),
        ({"image_size": 7}, "image_size must be an integer >= 8, got 7"),
        ({"n_features": 10}, "n_features of the polar encoder must be a multiple of 3, got 10"),
        (
            {"n_features": 96, "symmetry": "D2"},
            "n_features of the polar encoder must be a multiple of 5, got 96",
        ),
        (
            {"n_features": 0, "architecture": "published"},
            "n_features must be an integer >= 1, got 0",
        ),
        ({"blocks": -1}, "blocks must be an integer >= 1, got -1"),
        (
            {"architecture": "published", "with_shifts": True},
            "with_shifts must be False for the published encoder",
        ),
    ],
)
def test_an_impossible_encoder_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build_encoder(**({"image_size": 16} | options))


@pytest.mark.parametrize("size", [16, 17])
def test_circles_are_sampled_from_x_towards_y_about_the_origin(size):
    position = np.arange(size, dtype=np.float32) - size // 2
    ramps = np.stack(np.broadcast_arrays(position, position[:, None]))  # x, then y: (2, y, x)
    x, y = np.array(PolarSampling(12, 5)(ramps))  # (angle, radius)
    radius = np.hypot(x, y)[0]
    assert (np.diff(radius) > 0).all()
    assert 0 < radius[0] < radius[-1] <= (size - 1) // 2
    angle = 2 * np.pi * np.arange(12)[:, None] / 12
    np.testing.assert_allclose(x, np.cos(angle) * radius, atol=FLOAT32 * size)
    np.testing.assert_allclose(y, np.sin(angle) * radius, atol=FLOAT32 * size)


@pytest.mark.parametrize("steps", [1, 5, 16])
def test_harmonics_turn_as_often_as_their_number(rng, steps):
    signal = rng.normal(size=(2, 16, 10)).astype(np.float32)
    harmonics = AngularHarmonics(2)
    still, moved = (np.array(harmonics(x)).reshape(2, 5, 2) for x in (signal, np.roll(signal, steps, axis=1)))
    np.testing.assert_allclose(moved[:, 0], still[:, 0], atol=FLOAT32)
    for harmonic in (1, 2):
        before, after = (x[:, 2 * harmonic - 1] + 1j * x[:, 2 * harmonic] for x in (still, moved))
        expected = before * np.exp(2j * np.pi * steps * harmonic / 16)
        np.testing.assert_allclose(after, expected, atol=FLOAT32)


def split(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split polar features into the part invariant under rotation of the image and the complex part that rotates."""
    c = features.shape[1] // 3
    return features[:, :c], features[:, c : 2 * c] + 1j * features[:, 2 * c :]


def test_a_quarter_turn_of_the_pixels_turns_features_and_shifts_exactly(rng):
    keras.utils.set_random_seed(0)
    # odd: a quarter turn about pixel n // 2 maps pixels to pixels
    encoder = build_encoder(25, channels=16, blocks=3, with_shifts=True)
    images = rng.normal(size=(5, 25, 25)).astype(np.float32)
    # from (y, x) to (-x, y): by -90 degrees from x towards y
    quarter = np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
    before, after = (encoder.predict(views, verbose=0) for views in (images, quarter))
    (still, turning), (still_after, turning_after) = (
        split(outputs["features"]) for outputs in (before, after)
    )
    np.testing.assert_allclose(still_after, still, atol=10 * FLOAT32 * np.abs(still).max())
    np.testing.assert_allclose(turning_after, -1j * turning, atol=10 * FLOAT32 * np.abs(turning).max())
    shifts, shifts_after = (outputs["shifts_px"] @ [1, 1j] for outputs in (before, after))
    assert np.abs(shifts).max() > 0
    np.testing.assert_allclose(shifts_after, -1j * shifts, atol=10 * FLOAT32 * np.abs(shifts).max())


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
    assert distances[3, 7] < 2e-3  # square root of the rounding error of the similarity


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
    # projections are accurate to 2e-3; in an even box the first column has no counterpart
    from_opposite = encode(encoder, opposite, both_views=False)
    np.testing.assert_allclose(both[:, n:] * np.sqrt(2), from_opposite, atol=2e-3)
    assert np.abs(from_opposite - single).max() > 0.02
    seen_from_there = encode(encoder, opposite)
    np.testing.assert_allclose(seen_from_there @ seen_from_there.T, both @ both.T, atol=2e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 16, 16)), r"images must be \(n, 17, 17\) for this encoder, got \(3, 16, 16\)"),
        (np.zeros((3, 17)), r"images must be a non-empty 3-D array, got shape \(3, 17\)"),
        (np.zeros((1, 17, 17)), "at least 2 images are required, got 1"),
        (np.full((2, 17, 17), np.nan), "images must be finite, got NaN or infinity in 578 of 578 values"),
    ],
)
def test_images_that_have_no_distances_are_refused(small_encoder, images, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        predict_distances(small_encoder, images)


def test_an_encoder_without_shifts_or_a_head_is_refused(small_encoder):
    images = np.ones((2, 17, 17))
    with pytest.raises(
        ValueError, match=r"^encoder must be built with with_shifts=True to .*, but polar_encod"
    ):
        predict_shifts(small_encoder, images)
    with pytest.raises(ValueError, match="encoder must be built with pair_head=True"):
        predict_distances(small_encoder, images, feature_distance="mlp")


# --- the learned feature distance


@pytest.fixture
def head() -> PairHead:
    keras.utils.set_random_seed(1)
    head = PairHead(widths=(7, 5))
    head(np.zeros((1, 6), np.float32))
    return head


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1))


def test_it_is_a_network_on_concatenated_pairs_the_same_for_both_orders(head, rng):
    features, others = (rng.normal(size=(n, 6)).astype(np.float32) for n in (4, 3))
    first, bias, second, hidden, hidden_bias, last, last_bias = (
        np.asarray(weight, float) for weight in head.get_weights()
    )
    weights = np.concatenate([first, second])

    def one_way(a, b):
        x = selu(np.concatenate([a, b]) @ weights + bias)
        x = selu(x @ hidden + hidden_bias)
        return 1 / (1 + np.exp(-(x @ last + last_bias)[0]))

    expected = [[np.pi * (one_way(a, b) + one_way(b, a)) / 2 for b in others] for a in features]
    np.testing.assert_allclose(head.predict_distances(features, others), expected, atol=FLOAT32)
    np.testing.assert_array_equal(np.asarray(head(features)), features)
    many = rng.normal(size=(150, 6)).astype(np.float32)  # more rows than are processed at a time
    np.testing.assert_allclose(head.predict_distances(many, many), head.distances(many, many), atol=FLOAT32)


def test_loss_and_metric_are_those_of_its_distances(head, rng):
    quaternions = quaternions32(random_rotations(5, rng=0))
    features = rng.normal(size=(5, 6)).astype(np.float32)
    distances = head.predict_distances(unit(features), unit(features))
    error = off_diagonal(distances - np.asarray(true_distance(quaternions)))
    loss, metric = (make("mlp", head=head)(quaternions, features) for make in (pair_loss, pair_error))
    assert float(loss) == pytest.approx((error**2).mean(), rel=FLOAT32)
    assert float(metric) == pytest.approx(np.abs(error).mean(), rel=FLOAT32)


def test_predicted_distances_are_the_mean_over_both_views(rng):
    encoder = build_encoder(16, n_features=9, channels=8, blocks=1, pair_head=True)
    images = rng.normal(size=(6, 16, 16))
    distances = predict_distances(encoder, images, feature_distance="mlp")
    np.testing.assert_array_equal(distances, distances.T)
    assert 0 <= distances.min() < distances.max() <= np.float32(np.pi)
    views, head = np.split(encode(encoder, images), 2, axis=1), head_of(encoder, "mlp")
    expected = np.mean([distances_from_features(f, f, kind="mlp", head=head) for f in views], axis=0)
    np.testing.assert_allclose(off_diagonal(distances), off_diagonal(expected), atol=FLOAT32)


def test_decoding_without_the_head_is_refused():
    with pytest.raises(ValueError, match="'mlp' requires the pair head of the encoder, got None"):
        distances_from_features(np.eye(2), np.eye(2), kind="mlp")
