"""Losses between features: what they are zero for, and how features become distances."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from learned_features import matrix_features, off_diagonal, quaternions32, unit
from scipy.spatial.transform import Rotation

from cryoem.rotations import geodesic_distance, random_rotations
from cryoem.siamese import (
    distances_from_features,
)
from cryoem.siamese.losses import loss_of, metric_of, true_distance, true_kernel

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision
KINDS = ("kernel", "cosine", "euclidean")


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
