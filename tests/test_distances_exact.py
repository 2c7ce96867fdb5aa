"""Distances without a network: exact, perturbed, and Euclidean between images."""

import numpy as np
import pytest

from cryoem.distances.exact import euclidean_distances, exact_distances, perturbed_distances
from cryoem.rotations import point_group, random_rotations

FLOAT32 = 1e-5  # in single precision, relative to the largest distance
FLOAT64 = 1e-12


def test_exact_distances_are_the_angles_between_orientations():
    rotations = random_rotations(20, rng=0)
    distances = exact_distances(rotations)
    matrices = rotations.as_matrix()
    trace = np.einsum("aij,bij->ab", matrices, matrices)
    np.testing.assert_allclose(np.cos(distances), (trace - 1) / 2, atol=FLOAT64)
    np.testing.assert_allclose(distances, distances.T, atol=FLOAT64)
    assert not np.diag(distances).any()


def test_symmetry_takes_the_nearest_copy():
    rotations = random_rotations(15, rng=0)
    plain, reduced = exact_distances(rotations), exact_distances(rotations, symmetry="D2")
    assert (reduced <= plain + FLOAT64).all()
    assert (reduced < plain - 0.1).any()
    turned = rotations * point_group("D2")[1]
    np.testing.assert_allclose(exact_distances(turned, symmetry="D2"), reduced, atol=FLOAT64)
    with pytest.raises(ValueError, match="symmetry must be"):
        exact_distances(rotations, symmetry="Q2")


def test_perturbed_distances_have_one_error_for_each_pair_and_are_not_clipped():
    deviation = 0.8
    distances = exact_distances(random_rotations(200, rng=0))
    distances = (distances + distances.T) / 2 + np.eye(200)  # symmetric to the last bit
    before = distances.copy()
    noisy, same, other = (
        perturbed_distances(distances, standard_deviation=deviation, rng=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(noisy, noisy.T)
    np.testing.assert_array_equal(np.diag(noisy), np.ones(200))
    np.testing.assert_array_equal(distances, before)
    np.testing.assert_array_equal(noisy, same)
    assert not np.array_equal(noisy, other)
    errors = (noisy - distances)[np.triu_indices(200, 1)]
    # five standard errors of the estimate
    assert errors.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * errors.size))
    assert abs(errors.mean()) < 5 * deviation / np.sqrt(errors.size)
    assert noisy.min() < 0
    assert noisy.max() > np.pi
    np.testing.assert_array_equal(perturbed_distances(distances, standard_deviation=0.0), distances)


@pytest.mark.parametrize(
    ("shape", "deviation", "message"),
    [
        ((3, 4), 0.1, r"distances must be a square \(n, n\) matrix, got shape \(3, 4\)"),
        ((3, 3), -0.1, "standard_deviation must be a finite, non-negative number, got -0.1"),
        ((3, 3), float("nan"), "standard_deviation must be a finite, non-negative number, got nan"),
    ],
)
def test_a_wrong_perturbation_is_one_sentence(shape, deviation, message):
    with pytest.raises(ValueError, match=message):
        perturbed_distances(np.zeros(shape), standard_deviation=deviation, rng=0)


@pytest.mark.parametrize("background", [0, 1000])  # detector counts
def test_euclidean_distances_are_scaled_to_pi(rng, background):
    images = rng.normal(size=(6, 16, 16))
    images[2] = images[0]
    distances = euclidean_distances(images + background)
    assert distances.dtype == np.float32
    assert distances.max() == np.float32(np.pi)
    flat = images.reshape(6, -1)
    expected = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    # adding the background rounds the images to 1000 times the precision
    tolerance = max(1, background) * FLOAT32 * np.pi
    np.testing.assert_allclose(distances, expected * np.pi / expected.max(), atol=tolerance)
    np.testing.assert_array_equal(distances, distances.T)
    # square root of the rounding error of the norm in single precision
    assert distances[0, 2] < np.sqrt(FLOAT32)


def test_equal_images_have_no_euclidean_distances():
    with pytest.raises(ValueError, match=r"^images must not all be equal, got 4 equal images$"):
        euclidean_distances(np.ones((4, 8, 8)))
