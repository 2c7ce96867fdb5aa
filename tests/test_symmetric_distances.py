"""Distances of symmetric particles: what inner products of features stand for, and what is read off them."""

from __future__ import annotations

import numpy as np
import pytest
from learned_features import quaternions32
from scipy.spatial.transform import Rotation

from cryoem.distances import exact_distances
from cryoem.rotations import point_group, random_rotations
from cryoem.siamese import EncoderSettings, distances_from_features
from cryoem.siamese.encoders import AngularHarmonics
from cryoem.siamese.kernels import highest_harmonic, kernel_of
from cryoem.siamese.losses import loss_of, metric_of, true_distance, true_kernel

GROUPS = ["C2", "C3", "C4", "D2", "D3", "T", "O", "I"]
FLOAT32 = 1e-4


def single_precision(symmetry: str) -> float:
    """Of a kernel whose sum, of a few units, is scaled by one over what its highest value has above the mean."""
    kernel = kernel_of(symmetry)
    return 5e-6 / (kernel.highest - kernel.mean)


def exact_features(rotations: Rotation, symmetry: str) -> np.ndarray:
    """Unit features whose inner products are the kernel exactly: the factor of its Gram matrix."""
    gram = np.array(true_kernel(quaternions32(rotations), symmetry), np.float64)
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0))


def test_without_symmetry_it_is_the_plain_kernel():
    rotations = random_rotations(40, rng=0)
    expected = (1 + 2 * np.cos(exact_distances(rotations))) / 3
    np.testing.assert_allclose(true_kernel(quaternions32(rotations)), expected, atol=FLOAT32)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_features_can_meet_the_kernel(symmetry):
    rotations = random_rotations(150, rng=0)
    gram = np.array(true_kernel(quaternions32(rotations), symmetry), np.float64)
    np.testing.assert_allclose(np.diag(gram), 1, atol=single_precision(symmetry))
    assert np.linalg.eigvalsh(gram)[0] > -np.sqrt(150) * single_precision(symmetry)  # an inner product
    many = np.array(true_kernel(quaternions32(random_rotations(1500, rng=1)), symmetry))
    assert abs(many[np.triu_indices(1500, 1)].mean()) < 0.01


@pytest.mark.parametrize("symmetry", GROUPS)
def test_copies_are_at_no_distance(symmetry):
    rotations = random_rotations(30, rng=0)
    group = point_group(symmetry)
    copies = rotations * group[np.random.default_rng(0).integers(len(group), size=30)]
    both = quaternions32(Rotation.concatenate([rotations, copies]))
    kernel = np.array(true_kernel(both, symmetry))
    np.testing.assert_allclose(kernel[:30, :30], kernel[:30, 30:], atol=single_precision(symmetry))
    expected = exact_distances(rotations, symmetry=symmetry)
    np.testing.assert_allclose(np.array(true_distance(both, symmetry))[:30, 30:], expected, atol=3e-3)


@pytest.mark.parametrize("symmetry", GROUPS)
def test_distances_are_read_off_within_their_spread(symmetry):
    rotations = random_rotations(300, rng=0)
    features = exact_features(rotations, symmetry)
    decoded = distances_from_features(features, features, kind="kernel", symmetry=symmetry)
    true = exact_distances(rotations, symmetry=symmetry)
    pairs = np.triu_indices(300, 1)
    error = (decoded - true)[pairs]
    kernel = kernel_of(symmetry)
    assert abs(error.mean()) < 0.01
    assert error.std() < 1.1 * kernel.spread.max()
    near = true[pairs] < 0.4 * np.sort(point_group(symmetry).magnitude())[1] / 2
    assert np.abs(error[near]).max() < 3 * kernel.spread.max()
    loss = float(loss_of("kernel", symmetry)(quaternions32(rotations), features.astype(np.float32)))
    assert loss < FLOAT32
    metric = float(metric_of("kernel", symmetry)(quaternions32(rotations), features.astype(np.float32)))
    assert metric == pytest.approx(np.abs(error).mean(), rel=0.02)


@pytest.mark.parametrize(
    ("symmetry", "highest"),
    [("C1", 1), ("C2", 2), ("C7", 7), ("D2", 2), ("D3", 3), ("T", 3), ("O", 4), ("I", 6)],
)
def test_encoders_have_the_harmonics_of_their_group(symmetry, highest):
    assert highest_harmonic(symmetry) == highest
    encoder = EncoderSettings(16, channels=8, blocks=1, symmetry=symmetry).build()
    assert encoder.output_shape[1] % (1 + 2 * highest) == 0
    assert encoder.output_shape[1] >= 96


def test_harmonics_turn_as_often_as_their_number():
    signal = np.random.default_rng(0).standard_normal((2, 32, 10)).astype(np.float32)
    harmonics = AngularHarmonics(2)
    still, moved = (np.array(harmonics(x)).reshape(2, 5, 2) for x in (signal, np.roll(signal, 3, axis=1)))
    np.testing.assert_allclose(moved[:, 0], still[:, 0], atol=1e-5)
    for harmonic in (1, 2):
        before, after = (x[:, 2 * harmonic - 1] + 1j * x[:, 2 * harmonic] for x in (still, moved))
        np.testing.assert_allclose(after, before * np.exp(2j * np.pi * 3 * harmonic / 32), atol=1e-5)


def test_what_does_not_suit_is_refused():
    with pytest.raises(ValueError, match="n_features of the polar encoder must be a multiple of 5, got 96"):
        EncoderSettings(16, n_features=96, symmetry="D2").build()
    with pytest.raises(ValueError, match="symmetry must be Cn, Dn, T, O or I, got 'Q7'"):
        loss_of("kernel", "Q7")
    with pytest.raises(
        ValueError, match="feature_distance must be one of kernel, cosine, euclidean, mlp, got 'dot'"
    ):
        metric_of("dot")
