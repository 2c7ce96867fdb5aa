"""Kernels, losses and decoded distances: where they vanish, with and without symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from learned_features import matrix_features, off_diagonal, quaternions32, unit
from scipy.spatial.transform import Rotation

from cryoem.distances.exact import exact_distances
from cryoem.distances.losses import (
    distances_from_features,
    pair_error,
    pair_loss,
    symmetric_kernel,
    true_distance,
    true_kernel,
)
from cryoem.rotations import geodesic_distance, point_group, random_rotations

FLOAT32 = 1e-5  # several operations on numbers of order 1 in single precision
KINDS = ("kernel", "cosine", "euclidean")
GROUPS = ["C2", "D3", "O", "I"]
# standard deviation of the distances that have the same kernel, at the values of the kernel at which it is largest
SPREAD_RAD = {"C2": 0.14, "D3": 0.16, "O": 0.063, "I": 0.026}


# --- without symmetry


def test_the_kernel_is_that_of_the_rotation_matrices():
    rotations = random_rotations(30, rng=0)
    kernel = np.array(true_kernel(quaternions32(rotations)))
    matrices = rotations.as_matrix()
    np.testing.assert_allclose(kernel, np.einsum("aij,bij->ab", matrices, matrices) / 3, atol=FLOAT32)
    distance = geodesic_distance(rotations, rotations)
    np.testing.assert_allclose(kernel, (1 + 2 * np.cos(distance)) / 3, atol=FLOAT32)
    # clipping near the identity causes an error of 2 arccos(1 - 1e-6) = 2.8e-3 rad on the diagonal
    np.testing.assert_allclose(true_distance(quaternions32(rotations)), distance, atol=3e-3)


def test_each_loss_vanishes_for_features_that_match_it():
    rotations = random_rotations(20, rng=1)
    quaternions = quaternions32(rotations)
    assert 0 <= float(pair_loss("kernel")(quaternions, 7.5 * matrix_features(rotations))) < FLOAT32**2
    assert float(pair_loss("kernel")(quaternions, matrix_features(rotations[::-1]))) > 0.1
    # quaternions about one axis, all pairs closer than pi, so that no overlap changes sign
    axis = quaternions32(Rotation.from_rotvec(np.linspace(0, np.pi / 2, 9)[:, None] * [0, 0, 1]))
    assert float(pair_loss("cosine")(axis, axis)) < FLOAT32
    # two points with a chord of 2 d / pi
    pair = quaternions32(Rotation.from_rotvec([[0, 0, 0], [2.0, 0, 0]]))
    half = np.arcsin(2.0 / np.pi)
    features = np.array([[np.cos(half), np.sin(half)], [np.cos(half), -np.sin(half)]], np.float32)
    assert float(pair_loss("euclidean")(pair, features)) < FLOAT32**2 * 10


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
    quaternions = quaternions32(rotations)
    loss, error = (float(make(kind)(quaternions, features)) for make in (pair_loss, pair_error))
    assert loss == pytest.approx(np.mean(residual**2), rel=10 * FLOAT32)
    assert error == pytest.approx(np.abs(decoded - distance).mean(), rel=10 * FLOAT32)
    # q and -q are the same rotation
    flipped = quaternions * rng.choice([-1, 1], (12, 1)).astype(np.float32)
    assert (float(pair_loss(kind)(flipped, features)), float(pair_error(kind)(flipped, features))) == (
        loss,
        error,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_equal_opposite_and_vanishing_features(kind):
    quaternions = quaternions32(random_rotations(4, rng=4))
    quaternions[1] = quaternions[0]
    features = tf.Variable([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = pair_loss(kind)(quaternions, features)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, features).numpy()).all()


def test_kernel_features_decode_to_their_distances():
    a, b = random_rotations(40, rng=5), random_rotations(30, rng=6)
    decoded = distances_from_features(3 * matrix_features(a), 0.1 * matrix_features(b), kind="kernel")
    assert decoded.shape == (40, 30)
    assert decoded.dtype == np.float32
    true = geodesic_distance(a, b)
    # the rounding error of the kernel, 1e-7, is divided by the slope of the cosine
    np.testing.assert_array_less(np.abs(decoded - true), FLOAT32 / np.sin(true))


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_distances_stay_between_0_and_pi(kind, rng):
    features = rng.normal(size=(50, 2)).astype(np.float32)  # all angles, including opposite ones
    features[1], features[2], features[3] = features[0], -features[0], 0
    distances = distances_from_features(features, features, kind=kind)
    assert np.isfinite(distances).all()
    assert distances.min() >= 0
    assert distances.max() == distances[0, 2] == np.float32(np.pi)
    assert distances[0, 1] < 2e-3  # square root of the rounding error of the similarity


# --- symmetry


def single_precision(symmetry: str) -> float:
    """Return the rounding error of a kernel: that of a sum of order 1, divided by the kernel's range above its mean."""
    kernel = symmetric_kernel(symmetry)
    return 5e-6 / (kernel.highest - kernel.mean)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_a_symmetric_kernel_is_an_inner_product_and_equal_for_copies(symmetry):
    rotations, group = random_rotations(150, rng=0), point_group(symmetry)
    gram = np.array(true_kernel(quaternions32(rotations), symmetry), np.float64)
    np.testing.assert_allclose(np.diag(gram), 1, atol=single_precision(symmetry))
    assert np.linalg.eigvalsh(gram)[0] > -np.sqrt(150) * single_precision(symmetry)
    many = np.array(true_kernel(quaternions32(random_rotations(500, rng=1)), symmetry))
    assert abs(many[np.triu_indices(500, 1)].mean()) < 0.01
    some = rotations[:30]
    copies = some * group[np.random.default_rng(0).integers(len(group), size=30)]
    both = quaternions32(Rotation.concatenate([some, copies]))
    kernel = np.array(true_kernel(both, symmetry))
    np.testing.assert_allclose(kernel[:30, :30], kernel[:30, 30:], atol=single_precision(symmetry))
    expected = exact_distances(some, symmetry=symmetry)
    np.testing.assert_allclose(np.array(true_distance(both, symmetry))[:30, 30:], expected, atol=3e-3)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_symmetric_distances_are_decoded_within_their_spread(symmetry):
    rotations = random_rotations(300, rng=0)
    # features whose inner products are the kernel, from a factorisation of its Gram matrix
    gram = np.array(true_kernel(quaternions32(rotations), symmetry), np.float64)
    values, vectors = np.linalg.eigh(gram)
    features = vectors * np.sqrt(np.maximum(values, 0))
    decoded = distances_from_features(features, features, kind="kernel", symmetry=symmetry)
    true = exact_distances(rotations, symmetry=symmetry)
    pairs = np.triu_indices(300, 1)
    error, spread = (decoded - true)[pairs], SPREAD_RAD[symmetry]
    assert abs(error.mean()) < 0.01
    assert error.std() < spread
    near = true[pairs] < 0.4 * np.sort(point_group(symmetry).magnitude())[1] / 2
    assert np.abs(error[near]).max() < spread
    loss, metric = (
        float(make("kernel", symmetry)(quaternions32(rotations), features.astype(np.float32)))
        for make in (pair_loss, pair_error)
    )
    assert loss < 1e-4
    assert metric == pytest.approx(np.abs(error).mean(), rel=0.02)


def test_an_unknown_feature_distance_or_group_is_refused():
    kinds = "must be one of kernel, cosine, euclidean, mlp, got 'dot'"
    with pytest.raises(ValueError, match=f"^kind {kinds}"):
        distances_from_features(np.eye(2), np.eye(2), kind="dot")
    for make in (pair_loss, pair_error):
        with pytest.raises(ValueError, match=f"^feature_distance {kinds}"):
            make("dot")
        with pytest.raises(ValueError, match="symmetry must be Cn, Dn, T, O or I, got 'Q7'"):
            make("kernel", "Q7")
