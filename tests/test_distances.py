"""Distances that need no network: exact, perturbed, between the images themselves."""

import re

import numpy as np
import pytest

from cryoem.distances import euclidean_distances, exact_distances, perturbed_distances
from cryoem.rotations import point_group, random_rotations

FLOAT32 = 1e-5  # single precision, relative to the largest distance
FLOAT64 = 1e-12


# --- exact


def test_exact_distances_are_the_angles_between_orientations():
    rotations = random_rotations(20, rng=0)
    distances = exact_distances(rotations)
    matrices = rotations.as_matrix()
    trace = np.einsum("aij,bij->ab", matrices, matrices)
    np.testing.assert_allclose(np.cos(distances), (trace - 1) / 2, atol=FLOAT64)
    np.testing.assert_allclose(distances, distances.T, atol=FLOAT64)
    assert not np.diag(distances).any()
    assert distances.max() <= np.pi


def test_symmetry_takes_the_nearest_copy():
    rotations = random_rotations(15, rng=0)
    plain, reduced = exact_distances(rotations), exact_distances(rotations, symmetry="D2")
    assert (reduced <= plain + FLOAT64).all()
    assert (reduced < plain - 0.1).any()
    turned = rotations * point_group("D2")[1]
    np.testing.assert_allclose(exact_distances(turned, symmetry="D2"), reduced, atol=FLOAT64)
    with pytest.raises(ValueError, match="symmetry must be"):
        exact_distances(rotations, symmetry="Q2")


# --- perturbed


@pytest.mark.parametrize("deviation", [0.1, 0.8])
def test_perturbed_distances_have_one_error_for_each_pair(deviation):
    distances = exact_distances(random_rotations(200, rng=0))
    distances = (distances + distances.T) / 2  # symmetric to the last bit
    before = distances.copy()
    noisy = perturbed_distances(distances, standard_deviation=deviation, rng=1)
    np.testing.assert_array_equal(noisy, noisy.T)
    np.testing.assert_array_equal(np.diag(noisy), np.diag(distances))
    np.testing.assert_array_equal(distances, before)
    errors = (noisy - distances)[np.triu_indices(200, 1)]
    # five standard errors of each estimate
    assert errors.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * errors.size))
    assert abs(errors.mean()) < 5 * deviation / np.sqrt(errors.size)


def test_perturbed_distances_are_not_clipped():
    distances = exact_distances(random_rotations(50, rng=0))
    noisy = perturbed_distances(distances, standard_deviation=0.8, rng=1)
    assert noisy.min() < 0
    assert noisy.max() > np.pi


def test_the_diagonal_is_kept_whatever_it_is():
    noisy = perturbed_distances(np.eye(6), standard_deviation=0.5, rng=0)
    np.testing.assert_array_equal(np.diag(noisy), np.ones(6))


def test_perturbation_is_that_of_the_seed():
    distances = np.ones((5, 5))
    a, b, other = (perturbed_distances(distances, standard_deviation=0.1, rng=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, other)
    np.testing.assert_array_equal(perturbed_distances(distances, standard_deviation=0.0), distances)


@pytest.mark.parametrize(
    ("shape", "deviation", "message"),
    [
        ((3, 4), 0.1, r"distances must be a square \(n, n\) matrix, got shape \(3, 4\)"),
        ((3,), 0.1, r"distances must be a square \(n, n\) matrix, got shape \(3,\)"),
        ((3, 3), -0.1, "standard_deviation must be a finite number of at least 0, got -0.1"),
        ((3, 3), float("nan"), "standard_deviation must be a finite number of at least 0, got nan"),
    ],
)
def test_a_wrong_perturbation_is_one_sentence(shape, deviation, message):
    with pytest.raises(ValueError, match=message):
        perturbed_distances(np.zeros(shape), standard_deviation=deviation, rng=0)


# --- Euclidean


def brute_force(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    return distances * np.pi / distances.max()


def test_euclidean_distances_are_scaled_to_pi(rng):
    images = rng.normal(size=(6, 8, 8))
    distances = euclidean_distances(images)
    assert distances.dtype == np.float32
    assert distances.max() == np.float32(np.pi)
    np.testing.assert_allclose(distances, brute_force(images), atol=FLOAT32 * np.pi)
    np.testing.assert_array_equal(distances, distances.T)
    assert not np.diag(distances).any()
    np.testing.assert_allclose(euclidean_distances(1e4 * images), distances, atol=FLOAT32 * np.pi)


def test_euclidean_distances_ignore_a_common_background(rng):
    images = rng.normal(size=(6, 16, 16))
    distances = euclidean_distances(images + 1000)  # counts of a detector
    # adding the background rounds the images themselves to 1000 times the precision
    np.testing.assert_allclose(distances, brute_force(images), atol=1000 * FLOAT32)


@pytest.mark.parametrize("seed", range(5))
def test_images_that_are_all_the_same_are_refused(seed):
    image = np.random.default_rng(seed).normal(size=(1, 32, 32))
    with pytest.raises(ValueError, match="images must differ, got 4 times the same"):
        euclidean_distances(np.repeat(image, 4, axis=0))


def test_a_repeated_image_is_at_distance_zero(rng):
    images = rng.normal(size=(4, 32, 32))
    images[2] = images[0]
    # the square of what single precision leaves of the norm
    assert euclidean_distances(images)[0, 2] < np.sqrt(FLOAT32)


@pytest.mark.parametrize("shape", [(8, 8), (2, 3, 8, 8)])
def test_images_of_a_wrong_shape_are_refused(shape):
    message = f"images must be a non-empty array with 3 axes, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        euclidean_distances(np.zeros(shape))


@pytest.mark.parametrize("images", [np.full((3, 8, 8), np.nan), np.zeros((0, 8, 8))], ids=["nan", "none"])
def test_images_without_distances_are_refused(images):
    with pytest.raises(ValueError, match=r"^images must"):
        euclidean_distances(images)
