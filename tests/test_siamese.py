"""Learned distances: what the losses are zero for, what the encoders keep, fresh data, and training that resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.transform import Rotation

from cryoem import imaging
from cryoem.projectors import project
from cryoem.rotations import geodesic_distance, random_rotations, viewing_directions
from cryoem.siamese import (
    EncoderSettings,
    ProjectionStream,
    build_encoder,
    distances_from_features,
    encode,
    load_encoder,
    predict_distances,
    save_encoder,
    train,
)
from cryoem.siamese.encoders import AngularHarmonics, PolarSampling
from cryoem.siamese.losses import loss_of, metric_of, true_distance, true_kernel
from cryoem.volumes import DensityMap, phantom

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision
KINDS = ("kernel", "cosine", "euclidean")
ARCHITECTURES = ("polar", "published")
SIGMAS = 5  # of a statistical estimate: one false alarm in a million


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def quaternions32(rotations: Rotation) -> np.ndarray:
    return rotations.as_quat().astype(np.float32)


def matrix_features(rotations: Rotation) -> np.ndarray:
    """vec(R) / sqrt 3, whose inner products are the faithful kernel: (n, 9)."""
    return (rotations.as_matrix().reshape(-1, 9) / np.sqrt(3)).astype(np.float32)


def turned(psi: float, rotations: Rotation) -> Rotation:
    """The orientations whose images are turned by psi in their plane."""
    return Rotation.from_rotvec([0, 0, psi]) * rotations


def smooth_particle(size: int, width_px: float = 3.0) -> np.ndarray:
    """(size, size, size): blobs so wide that the pixels hardly matter."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*3 * [np.arange(size) - size // 2], indexing="ij"), axis=-1)
    centres = rng.uniform(-0.16, 0.16, (10, 3)) * size
    return sum(np.exp(-((grid - c) ** 2).sum(axis=-1) / (2 * width_px**2)) for c in centres).astype(
        np.float32
    )


# --- the kernel and the losses


def test_the_kernel_is_that_of_the_rotation_matrices():
    rotations = random_rotations(30, rng=0)
    kernel = np.array(true_kernel(quaternions32(rotations)))
    matrices = rotations.as_matrix()
    np.testing.assert_allclose(kernel, np.einsum("aij,bij->ab", matrices, matrices) / 3, atol=FLOAT32)
    distance = geodesic_distance(rotations, rotations)
    np.testing.assert_allclose(kernel, (1 + 2 * np.cos(distance)) / 3, atol=FLOAT32)
    # the clip near identity costs 2 arccos(1 - 1e-6) = 2.8e-3 rad on the diagonal
    np.testing.assert_allclose(true_distance(quaternions32(rotations)), distance, atol=3e-3)


def test_matrix_features_meet_the_kernel_exactly():
    rotations = random_rotations(20, rng=1)
    loss = float(loss_of("kernel")(quaternions32(rotations), 7.5 * matrix_features(rotations)))
    assert 0 <= loss < FLOAT32**2
    other = float(loss_of("kernel")(quaternions32(rotations), matrix_features(rotations[::-1])))
    assert other > 0.1


def test_quaternions_about_one_axis_meet_the_published_distance():
    angles = np.linspace(0, np.pi / 2, 9)  # all pairs closer than pi: no overlap changes sign
    rotations = Rotation.from_rotvec(angles[:, None] * [0, 0, 1])
    assert float(loss_of("cosine")(quaternions32(rotations), quaternions32(rotations))) < FLOAT32


def test_points_on_a_small_arc_meet_the_euclidean_distance():
    d = 2.0
    rotations = Rotation.from_rotvec([[0, 0, 0], [d, 0, 0]])
    half = np.arcsin(d / np.pi)  # a chord of length 2 d / pi
    features = np.array([[np.cos(half), np.sin(half)], [np.cos(half), -np.sin(half)]], np.float32)
    assert float(loss_of("euclidean")(quaternions32(rotations), features)) < FLOAT32**2 * 10


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_metrics_are_means_over_all_different_pairs(kind, rng):
    rotations = random_rotations(12, rng=2)
    features = rng.normal(size=(12, 6)).astype(np.float32)
    similarity = off_diagonal(unit(features.astype(float)) @ unit(features.astype(float)).T)
    distance = off_diagonal(geodesic_distance(rotations, rotations))
    residual = {
        "kernel": similarity - (1 + 2 * np.cos(distance)) / 3,
        "cosine": 2 * np.arccos(similarity) - distance,
        "euclidean": np.pi / 2 * np.sqrt(2 - 2 * similarity) - distance,
    }[kind]
    decoded = {
        "kernel": np.arccos(np.clip((3 * similarity - 1) / 2, -1, 1)),
        "cosine": np.minimum(2 * np.arccos(similarity), np.pi),
        "euclidean": np.minimum(np.pi / 2 * np.sqrt(2 - 2 * similarity), np.pi),
    }[kind]
    loss = float(loss_of(kind)(quaternions32(rotations), features))
    error = float(metric_of(kind)(quaternions32(rotations), features))
    assert loss == pytest.approx(np.mean(residual**2), rel=10 * FLOAT32)
    assert error == pytest.approx(np.abs(decoded - distance).mean(), rel=10 * FLOAT32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sign_of_a_quaternion_does_not_matter(kind, rng):
    quaternions = quaternions32(random_rotations(10, rng=3))
    features = rng.normal(size=(10, 5)).astype(np.float32)
    flipped = quaternions * rng.choice([-1, 1], (10, 1)).astype(np.float32)
    assert (flipped != quaternions).any()
    assert float(loss_of(kind)(flipped, features)) == float(loss_of(kind)(quaternions, features))
    assert float(metric_of(kind)(flipped, features)) == float(metric_of(kind)(quaternions, features))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_equal_opposite_and_vanishing_features(kind):
    quaternions = quaternions32(random_rotations(4, rng=4))
    quaternions[1] = quaternions[0]
    features = tf.Variable([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = loss_of(kind)(quaternions, features)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, features).numpy()).all()


# --- features to distances


def test_kernel_features_decode_to_their_distances():
    a, b = random_rotations(40, rng=5), random_rotations(30, rng=6)
    decoded = distances_from_features(3 * matrix_features(a), 0.1 * matrix_features(b), kind="kernel")
    assert decoded.shape == (40, 30)
    assert decoded.dtype == np.float32
    true = geodesic_distance(a, b)
    # rounding of the kernel by 1e-7 is divided by the slope of the cosine
    np.testing.assert_array_less(np.abs(decoded - true), FLOAT32 / np.sin(true))


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_angles_between_features_decode_to_their_distances(kind):
    wanted = np.linspace(0.05, 3.1, 30)
    angle = {"cosine": wanted / 2, "euclidean": 2 * np.arcsin(wanted / np.pi)}[kind]
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    decoded = distances_from_features(features, np.array([[2.0, 0.0]]), kind=kind)
    # rounding of the similarity by 1e-7 is divided by its slope, which is small near 0
    np.testing.assert_allclose(decoded[:, 0], wanted, atol=FLOAT32)


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_distances_stay_between_0_and_pi(kind, rng):
    features = rng.normal(size=(50, 2)).astype(np.float32)  # all angles, opposite ones too
    features[1], features[2], features[3] = features[0], -features[0], 0
    distances = distances_from_features(features, features, kind=kind)
    assert np.isfinite(distances).all()
    assert distances.min() >= 0
    assert distances.max() == np.float32(np.pi)
    assert distances[0, 2] == np.float32(np.pi)
    # the square root of the rounding of the similarity
    assert distances[0, 1] < 2e-3


def test_an_unknown_kind_of_feature_distance_is_refused():
    with pytest.raises(ValueError, match="kind must be one of kernel, cosine, euclidean, mlp, got 'dot'"):
        distances_from_features(np.eye(2), np.eye(2), kind="dot")


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


# --- storage


@pytest.fixture
def stored(tmp_path):
    settings = EncoderSettings(17, channels=8, blocks=2, feature_distance="cosine")
    keras.utils.set_random_seed(3)
    encoder = settings.build()
    path = tmp_path / "encoder.weights.h5"
    save_encoder(path, encoder, settings)
    return path, encoder, settings


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_encoder_comes_back(tmp_path, architecture, rng):
    settings = EncoderSettings(17, architecture=architecture, n_features=12, feature_distance="cosine")
    encoder = settings.build()
    save_encoder(tmp_path / "a.weights.h5", encoder, settings)
    assert {path.name for path in tmp_path.iterdir()} == {"a.weights.h5", "a.json"}
    again, same = load_encoder(str(tmp_path / "a.weights.h5"))
    assert same == settings
    images = rng.normal(size=(4, 17, 17)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(images, verbose=0), encoder.predict(images, verbose=0))


def test_the_suffix_of_a_stored_encoder_is_checked(tmp_path):
    settings = EncoderSettings(17, channels=8)
    for act in (lambda path: save_encoder(path, settings.build(), settings), load_encoder):
        with pytest.raises(ValueError, match=r"path must end in \.weights\.h5, got .*/encoder\.h5"):
            act(tmp_path / "encoder.h5")


@pytest.mark.parametrize("suffix", [".weights.h5", ".json"])
def test_a_missing_file_of_an_encoder_is_named(stored, suffix):
    path = stored[0]
    missing = path.with_name("encoder" + suffix)
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"no such file of an encoder: {missing}"):
        load_encoder(path)


@pytest.mark.parametrize("kept_share", [0, 0.02, 0.5, 0.999])
def test_damaged_weights_are_one_sentence(stored, kept_share):
    path = stored[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(kept_share * len(content))])
    expected = json.loads(path.with_name("encoder.json").read_text())["sha256"]
    message = (
        f"^{path} and its settings must have the sha256 {expected} written with them, got [0-9a-f]{{64}}$"
    )
    with pytest.raises(ValueError, match=message):
        load_encoder(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "must hold JSON: Expecting value"),
        ("{", "must hold JSON: Expecting property name"),
        ("[]", r"must hold a JSON dictionary, got \[\]"),
        ("{}", "does not hold the settings of an encoder: 'settings'"),
        ('{"settings": null}', "does not hold the settings of an encoder: .* must be a mapping"),
        # as an older version wrote them
        (
            '{"image_size": 17, "channels": 8, "blocks": 2}',
            "does not hold the settings of an encoder: 'settings'",
        ),
    ],
)
def test_damaged_settings_are_one_sentence(stored, text, cause):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    settings_file.write_text(text)
    message = f"^{settings_file} {cause}"
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"color": 1}, "unexpected keyword argument 'color'"),
        ({"image_size": None}, "image_size must be a whole number of at least 8, got None"),
        ({"image_size": "17"}, "image_size must be a whole number of at least 8, got '17'"),
        ({"channels": "8"}, "channels must be a whole number of at least 1, got '8'"),
        (
            {"feature_distance": "dot"},
            "feature_distance must be one of kernel, cosine, euclidean, mlp, got 'dot'",
        ),
    ],
)
def test_impossible_settings_are_one_sentence(stored, change, cause):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    change_settings(settings_file, change)
    message = f"^{settings_file} does not hold the settings of an encoder: .*{cause}"
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


def test_settings_without_the_sum_of_their_weights_are_refused(stored):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    description = json.loads(settings_file.read_text())
    del description["sha256"]
    settings_file.write_text(json.dumps(description))
    message = f"^{settings_file} does not hold the settings of an encoder: .*sha256"
    with pytest.raises(ValueError, match=message):
        load_encoder(path)


def change_settings(settings_file: Path, change: dict) -> None:
    """Change some settings of a stored encoder; the sum of its weights stays."""
    description = json.loads(settings_file.read_text())
    description["settings"] |= change
    settings_file.write_text(json.dumps(description))


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # outside of tests a warning stops nothing
@pytest.mark.parametrize(
    "change",
    [{"channels": 12}, {"blocks": 1}, {"image_size": 16}, {"feature_distance": "kernel"}],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_weights_of_another_encoder_are_refused(stored, change):
    path = stored[0]
    change_settings(path.with_name("encoder.json"), change)
    with pytest.raises(ValueError, match=f"^{path} and its settings must have the sha256 ") as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


def test_a_save_killed_between_its_two_files_mixes_no_encoders(stored, monkeypatch):
    """The weights fit the older settings in every shape, but were trained with another distance."""
    path, encoder, settings = stored
    before = encoder.get_weights()
    other = replace(settings, feature_distance="kernel")
    keras.utils.set_random_seed(4)
    newer = other.build()
    for failing in (1, 2):
        monkeypatch.setattr("cryoem.whole_files.os.replace", fail_at_call(failing))
        with pytest.raises(Interrupted):
            save_encoder(path, newer, other)
        monkeypatch.undo()
        if failing == 1:  # neither file was replaced
            again, same = load_encoder(path)
            assert same == settings
            for a, b in zip(again.get_weights(), before, strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(
        ValueError, match=f"^{path} and its settings must have the sha256 .* written with them, got "
    ):
        load_encoder(path)
    save_encoder(path, newer, other)
    assert load_encoder(path)[1] == other


# --- the stream


@pytest.fixture(scope="module")
def particle() -> DensityMap:
    return phantom(size=24)


def stream_of(density_map: DensityMap, **options) -> ProjectionStream:
    defaults = {"image_size": 24, "network_image_size": 16, "batch_size": 8, "steps": 3, "seed": 1}
    return ProjectionStream(density_map, **(defaults | options))


@pytest.mark.parametrize(("full", "size"), [(24, 24), (24, 16), (24, 17), (25, 16), (25, 17), (30, 24)])
def test_a_batch_is_what_simulation_and_downsampling_give(particle, full, size):
    images, quaternions = stream_of(particle, image_size=full, network_image_size=size)[0]
    assert images.shape == (8, size, size)
    assert images.dtype == quaternions.dtype == np.float32
    clean = project(particle.data, Rotation.from_quat(quaternions), image_size=full)
    clean /= imaging.clean_deviation(particle, image_size=full)
    np.testing.assert_allclose(images, imaging.downsample(clean, size), atol=FLOAT32 * clean.max())


def test_a_batch_of_images_smaller_than_the_particle_is_cropped_not_folded():
    position = np.arange(24) - 12
    z, y, x = np.meshgrid(position, position, position, indexing="ij")
    blobs = [np.exp(-((x - centre) ** 2 + y**2 + z**2) / (2 * 1.3**2)) for centre in (2, 8)]
    density_map = DensityMap(sum(blobs), 1.0)  # the second blob is often outside of an image of 14 pixels
    images, quaternions = stream_of(density_map, image_size=14, network_image_size=14)[0]
    clean = project(density_map.data, Rotation.from_quat(quaternions), image_size=14)
    clean /= imaging.clean_deviation(density_map, image_size=14)
    np.testing.assert_allclose(images, clean, atol=10 * FLOAT32 * clean.max())


def test_batches_are_reproducible_and_never_repeat(particle):
    stream, again = (stream_of(particle, noise_variance=1.0, shift_limit_px=2.0) for _ in range(2))
    assert len(stream) == 3
    seen = []
    for epoch in range(3):
        stream.epoch = again.epoch = epoch
        backwards = {index: again[index] for index in reversed(range(3))}
        for index in range(3):
            images, quaternions = stream[index]
            np.testing.assert_array_equal(images, backwards[index][0])
            np.testing.assert_array_equal(quaternions, backwards[index][1])
            seen.append(quaternions)
    other_seed = stream_of(particle, noise_variance=1.0, seed=2)[0][1]
    orientations = Rotation.from_quat(np.concatenate([*seen, other_seed]))
    between = off_diagonal(geodesic_distance(orientations, orientations))
    assert between.min() > 1e-3  # 80 orientations drawn independently are that close once in a million times


def test_a_stream_does_not_repeat_what_simulate_draws_with_the_same_seed(particle):
    stream = stream_of(particle, network_image_size=24, noise_variance=1.0, seed=5)
    stack = imaging.simulate(particle, 8, noise_variance=1.0, rng=5)  # to validate on, say
    nearest = geodesic_distance(Rotation.from_quat(stream[0][1]), stack.rotations).min()
    assert nearest > 1e-3


def test_noise_and_shifts_are_those_of_the_full_images(particle):
    options = {"batch_size": 600, "image_size": 24, "network_image_size": 17}
    clean, quaternions = stream_of(particle, **options)[0]
    noisy, same = stream_of(particle, noise_variance=4.0, **options)[0]
    np.testing.assert_array_equal(quaternions, same)
    noise = noisy - clean
    assert noise.var() == pytest.approx(4.0 * (17 / 24) ** 2, rel=SIGMAS * np.sqrt(2 / noise.size))
    shifted, same = stream_of(particle, shift_limit_px=2.0, **options)[0]
    np.testing.assert_array_equal(quaternions, same)
    moves = (centroids(shifted) - centroids(clean)) * 24 / 17
    # the centroid sees the ripple of a filtered image as well
    assert np.abs(moves).max() < 2.0 * 1.1
    np.testing.assert_allclose(moves.std(axis=0), 2 / np.sqrt(6), rtol=0.1)


def centroids(images: np.ndarray) -> np.ndarray:
    """Centre of density (x, y) in pixels from the origin: (n, 2)."""
    position = np.arange(images.shape[1]) - images.shape[1] // 2
    total = images.sum(axis=(1, 2))
    return np.stack([images.sum(axis=1) @ position / total, images.sum(axis=2) @ position / total], axis=1)


def test_a_finite_training_set_repeats_and_an_infinite_one_does_not(particle):
    finite, same = (
        stream_of(particle, distinct=20, noise_variance=1.0, shift_limit_px=1.0) for _ in range(2)
    )
    endless = stream_of(particle, noise_variance=1.0, shift_limit_px=1.0)
    seen = {"finite": set(), "endless": set()}
    for epoch in range(8):
        for name, stream in (("finite", finite), ("endless", endless)):
            stream.epoch = epoch
            for index in range(len(stream)):
                images, quaternions = stream[index]
                pairs = {(i.tobytes(), q.tobytes()) for i, q in zip(images, quaternions, strict=True)}
                assert len(pairs) == 8  # none twice in a batch
                seen[name] |= pairs
    assert len(seen["finite"]) == 20  # each image always with its own noise, shift and orientation
    assert len(seen["endless"]) == 8 * 3 * 8
    for a, b in zip(finite[1], same[1], strict=True):
        assert not np.array_equal(a, b)  # another epoch
    same.epoch = finite.epoch
    for a, b in zip(finite[1], same[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert finite.made_from["distinct"] == 20
    assert "distinct" not in endless.made_from


def test_the_coverage_is_that_asked_for(particle):
    quaternions = stream_of(particle, coverage="half", batch_size=200)[0][1]
    assert (viewing_directions(Rotation.from_quat(quaternions))[:, 2] > -FLOAT32).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_image_size": 25}, "network_image_size must be between 2 and image_size 24, got 25"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 2, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"distinct": 7}, "distinct must be a whole number of at least 8, got 7"),
        (
            {"coverage": "sphere"},
            "coverage must be one of so3, euler, half, quarter, preferred, got 'sphere'",
        ),
        (
            {"batch_size": 1},
            "batch_size must be a whole number of at least 2, got 1",
        ),  # no pair: the loss is 0 / 0
        ({"noise_variance": -1.0}, "noise_variance must be a finite number of at least 0, got -1"),
        ({"shift_limit_px": -1.0}, "shift_limit_px must be a finite number of at least 0, got -1"),
    ],
)
def test_a_wrong_stream_is_one_sentence(particle, options, message):
    with pytest.raises(ValueError, match=message):
        stream_of(particle, **options)[0]


# --- training, on images of 12 pixels


class RecordedStream(ProjectionStream):
    """Notes which batches are asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append((self.epoch, index))
        return super().__getitem__(index)


TINY = phantom(size=16)
SETTINGS = EncoderSettings(12, channels=4, blocks=1, n_features=9)
EPOCHS = 3
STANDSTILL = 1e-20  # a learning rate whose steps are lost in the rounding of the weights


def tiny_stream(kind=ProjectionStream, **options) -> ProjectionStream:
    defaults = {
        "image_size": 16,
        "network_image_size": 12,
        "batch_size": 8,
        "steps": 2,
        "noise_variance": 0.5,
    }
    return kind(TINY, **(defaults | options))


def tiny_validation(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    stack = imaging.simulate(TINY, n, noise_variance=0.5, rng=99)
    return imaging.downsample(stack.images, 12), stack.rotations.as_quat()


def tiny_training(encoder=None, **options):
    """Train on the stream above: encoder and history."""
    if encoder is None:
        keras.utils.set_random_seed(0)
        encoder = SETTINGS.build()
    defaults = {"stream": tiny_stream(), "epochs": EPOCHS, "validation": tiny_validation()}
    return encoder, train(encoder, **(defaults | options))


class Stop(keras.callbacks.Callback):
    """Interrupts the training in the second step of an epoch."""

    def __init__(self, epoch: int, act):
        super().__init__()
        self.epoch, self.act = epoch, act

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            self.act()


class Interrupted(Exception):
    pass


def interrupt():
    raise Interrupted


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def without_compilation():
    """Compilation takes most of the time of a small training."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    with without_compilation():
        yield


uncompiled = [
    pytest.mark.usefixtures("eagerly"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config"),
]


def apply(marks):
    def decorate(test):
        for mark in marks:
            test = mark(test)
        return test

    return decorate


@pytest.fixture(scope="module")
def uninterrupted():
    """Encoder and history of a training that nothing disturbed."""
    return tiny_training()


@pytest.fixture(scope="module")
def uninterrupted_eagerly():
    with without_compilation(), pytest.warns(UserWarning, match="Even though the `tf.config"):
        return tiny_training()


def assert_same_training(one, other):
    for a, b in zip(one[0].get_weights(), other[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_seconds(one[1]) == without_seconds(other[1])


def without_seconds(history: dict) -> dict:
    assert history["seconds"] == sorted(history["seconds"])
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("architecture", "kind"), [("polar", "kernel"), ("polar", "euclidean"), ("published", "cosine")]
)
def test_one_epoch_of_training_runs(architecture, kind):
    keras.utils.set_random_seed(0)
    encoder = replace(SETTINGS, architecture=architecture).build()
    before = [weights.copy() for weights in encoder.get_weights()]
    _, history = tiny_training(encoder, epochs=1, feature_distance=kind, stream=tiny_stream(steps=2))
    assert set(history) == {
        "loss", "val_loss", "distance_error_rad", "val_distance_error_rad", "learning_rate", "step", "seconds",
    }  # fmt: skip
    assert all(len(values) == 1 and np.isfinite(values[0]) for values in history.values())
    assert history["step"] == [2]
    changed = [not np.array_equal(a, b) for a, b in zip(before, encoder.get_weights(), strict=True)]
    assert all(changed)
    images, quaternions = tiny_validation()
    loss = float(loss_of(kind)(quaternions.astype(np.float32), encoder.predict(images, verbose=0)))
    assert history["val_loss"][0] == pytest.approx(loss, rel=10 * FLOAT32)
    predicted = predict_distances(encoder, images, feature_distance=kind, both_views=False)
    rotations = Rotation.from_quat(quaternions)
    error = off_diagonal(np.abs(predicted - geodesic_distance(rotations, rotations))).mean()
    assert history["val_distance_error_rad"][0] == pytest.approx(error, rel=10 * FLOAT32)


@apply(uncompiled)
def test_every_batch_of_a_training_is_fresh():
    stream = tiny_stream(RecordedStream)
    tiny_training(stream=stream, epochs=3)
    expected = [(epoch, index) for epoch in range(3) for index in range(2)]
    assert stream.asked[-len(expected) :] == expected  # Keras looks at one or two for their shape before


def test_an_interrupted_training_goes_on_to_the_same_numbers(uninterrupted, tmp_path):
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(2, interrupt)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.json",
        "made-from.json",
        "after-epoch-2.weights.h5",
    }
    keras.utils.set_random_seed(77)  # the weights come from the checkpoint
    stream = tiny_stream(RecordedStream)
    resumed = tiny_training(SETTINGS.build(), stream=stream, checkpoints=tmp_path)
    assert_same_training(uninterrupted, resumed)
    assert stream.asked[-2:] == [(2, 0), (2, 1)]
    # what is complete is not trained again
    assert_same_training(uninterrupted, tiny_training(SETTINGS.build(), checkpoints=tmp_path))


@apply(uncompiled)
def test_a_killed_training_goes_on_to_the_same_numbers(uninterrupted_eagerly, tmp_path):
    script = (
        "from test_siamese import *\n"
        "with without_compilation():\n"
        f"    tiny_training(checkpoints={str(tmp_path)!r}, callbacks=[Stop(1, kill_this_process)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-500:]
    assert (tmp_path / "after-epoch-1.weights.h5").exists()
    assert_same_training(uninterrupted_eagerly, tiny_training(SETTINGS.build(), checkpoints=tmp_path))


@apply(uncompiled)
@pytest.mark.parametrize(
    ("when", "epochs"),
    [
        ("first-weights", []),
        ("first-state", [1]),
        ("weights", [1]),
        ("state", [1, 2]),
        ("older-weights", [2]),
    ],
)
def test_a_checkpoint_half_written_is_not_used(uninterrupted_eagerly, tmp_path, monkeypatch, when, epochs):
    # the file that says what it is made from comes before all
    failing = {"first-weights": 2, "first-state": 3, "weights": 4, "state": 5, "older-weights": 6}[when]
    monkeypatch.setattr("cryoem.whole_files.os.replace", fail_at_call(failing))
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.glob("after-epoch-*")) == [
        f"after-epoch-{epoch}.weights.h5" for epoch in epochs
    ]
    assert_same_training(uninterrupted_eagerly, tiny_training(checkpoints=tmp_path))


@apply(uncompiled)
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs": 5}, "epochs 4 and not 5;"),
        ({"learning_rate": 1e-5}, "learning_rate 0.002 and not 1e-05;"),
        ({"feature_distance": "cosine"}, "feature_distance 'kernel' and not 'cosine';"),
        ({"stream": {"seed": 3}}, "seed 0 and not 3;"),
        (
            {"stream": {"batch_size": 4, "noise_variance": 2.0}},
            "batch_size 8 and not 4, noise_variance 0.5 and not",
        ),
    ],
)
def test_the_state_of_another_training_is_refused(changed, sentence, tmp_path):
    options = {"epochs": 4, "checkpoints": tmp_path}
    tiny_training(seconds=1e-6, **options)
    if "stream" in changed:
        changed = {"stream": tiny_stream(**changed["stream"])}
    with pytest.raises(ValueError, match=f"are of another training, with {sentence}"):
        tiny_training(**(options | changed))


def fail_at_call(number: int):
    """``os.replace`` that is interrupted at its n-th call, before it does anything."""
    calls = []

    def replace_file(source, target):
        calls.append(target)
        if len(calls) == number:
            interrupt()
        shutil.move(source, target)

    return replace_file


@apply(uncompiled)
def test_training_stops_when_the_validation_loss_no_longer_falls():
    _, history = tiny_training(epochs=5, learning_rate=STANDSTILL, patience=2)
    assert len(set(history["val_loss"])) == 1  # nothing is learned at this rate
    assert len(history["loss"]) == 3


@apply(uncompiled)
def test_a_resumed_training_stops_as_early_as_an_uninterrupted_one(tmp_path):
    options = {"epochs": 4, "learning_rate": STANDSTILL, "patience": 1}  # alone it stops after 2 epochs
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(1, interrupt)], **options)
    _, history = tiny_training(checkpoints=tmp_path, **options)
    assert len(history["loss"]) == 2


@apply(uncompiled)
@pytest.mark.parametrize(
    "limit", [{"patience": 1, "learning_rate": STANDSTILL}, {"seconds": 1e-6}], ids=["patience", "time"]
)
def test_a_training_that_stopped_is_not_trained_further_when_called_again(tmp_path, limit):
    """As when the kernel is killed between the end of the training and that of the phase."""
    encoder, history = tiny_training(epochs=4, checkpoints=tmp_path, **limit)
    assert len(history["loss"]) < 4
    again = tiny_training(SETTINGS.build(), epochs=4, checkpoints=tmp_path, **limit)
    assert_same_training((encoder, history), again)


@apply(uncompiled)
def test_training_stops_after_the_time_allowed(tmp_path):
    _, history = tiny_training(seconds=1e-6)
    assert len(history["loss"]) == 1
    with pytest.raises(Interrupted):
        tiny_training(epochs=6, checkpoints=tmp_path, callbacks=[Stop(2, interrupt)])  # after two epochs
    kept = json.loads((tmp_path / "state.json").read_text())
    kept["history"]["seconds"] = [100.0, 200.0]
    (tmp_path / "state.json").write_text(json.dumps(kept))
    _, history = tiny_training(epochs=6, checkpoints=tmp_path, seconds=200.0)  # 200 of them are spent
    assert history["seconds"] == [100.0, 200.0]
    _, history = tiny_training(epochs=6, checkpoints=tmp_path, seconds=200.0 + 1e-6)
    assert len(history["loss"]) == 3
    assert history["seconds"][-1] > 200.0


@apply(uncompiled)
@pytest.mark.parametrize("n", [2, 129])
def test_validation_loss_is_finite_for_any_number_of_images(n):
    _, history = tiny_training(epochs=1, validation=tiny_validation(n))
    assert np.isfinite(history["val_loss"]).all()
    assert np.isfinite(history["val_distance_error_rad"]).all()


@apply(uncompiled)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("no-weights", "No such file"),
        ("cut-weights", "after-epoch-1.weights.h5 is not as it was written"),
        ("flipped-weights", "after-epoch-1.weights.h5 is not as it was written"),
        ("empty-state", "Expecting value"),
        ("half-a-state", "'epochs'"),
        ("no-made-from", "No such file"),
        ("short-history", "state.json does not hold the history of 1 epochs"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_made_anew(uninterrupted_eagerly, tmp_path, damage, told):
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(1, interrupt)])
    weights, state = tmp_path / "after-epoch-1.weights.h5", tmp_path / "state.json"
    content = weights.read_bytes()
    kept = json.loads(state.read_text())
    if damage == "no-weights":
        weights.unlink()
    elif damage == "cut-weights":
        weights.write_bytes(content[:-1])
    elif damage == "flipped-weights":
        middle = len(content) // 2
        weights.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty-state":
        state.write_text("")
    elif damage == "half-a-state":
        state.write_text(json.dumps({"history": kept["history"]}))
    elif damage == "no-made-from":
        (tmp_path / "made-from.json").unlink()
    else:
        state.write_text(json.dumps(kept | {"history": kept["history"] | {"val_loss": []}}))
    with warnings.catch_warnings(record=True, action="always") as caught:  # beside those of Keras
        again = tiny_training(checkpoints=tmp_path)
    sentence = f"checkpoints {tmp_path} hold no whole state, training begins anew: .*{told}"
    assert sum(re.match(sentence, str(warning.message)) is not None for warning in caught) == 1
    assert_same_training(uninterrupted_eagerly, again)


@apply(uncompiled)
@pytest.mark.filterwarnings("ignore:Skipping nested container")  # outside of tests a warning stops nothing
def test_the_state_of_another_encoder_is_one_sentence(tmp_path):
    tiny_training(epochs=2, seconds=1e-6, checkpoints=tmp_path)
    message = f"^checkpoints {tmp_path} are not of this model, remove it to train anew: ."
    with pytest.raises(ValueError, match=message) as caught:
        tiny_training(replace(SETTINGS, channels=8).build(), epochs=2, checkpoints=tmp_path)
    assert "\n" not in str(caught.value)


@apply(uncompiled)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"feature_distance": "dot"},
            "feature_distance must be one of kernel, cosine, euclidean, mlp, got 'dot'",
        ),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        (
            {"validation": (np.zeros((3, 12, 12)), np.zeros((2, 4)))},
            r"validation must hold 3 unit quaternions \(n, 4\), got shape \(2, 4\)",
        ),
        (
            {"validation": (np.zeros((1, 12, 12)), np.zeros((1, 4)))},
            "validation images must be at least 2, got 1",
        ),
        (
            {"validation": (np.zeros((3, 16, 16)), np.zeros((3, 4)))},
            r"validation images must be \(12, 12\) for this encoder, got \(16, 16\)",
        ),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0"),
    ],
)
def test_a_wrong_training_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_training(epochs=options.pop("epochs", 1), **options)
    assert "\n" not in str(caught.value)
