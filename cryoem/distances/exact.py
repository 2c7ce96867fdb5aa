"""Distances without a network: exact, perturbed, Euclidean between images; and the choice of landmarks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from cryoem.rotations import geodesic_distance
from cryoem.validation import finite_array, not_negative

FEWEST_LANDMARKS = 12


def exact_distances(rotations: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Return the geodesic distances between all pairs of n orientations: (n, n) float64, radians."""
    return geodesic_distance(rotations, rotations, symmetry=symmetry)


def perturbed_distances(
    distances: np.ndarray, *, standard_deviation: float, rng: np.random.Generator | int | None = None
) -> np.ndarray:
    """Add Gaussian errors to distances, one for each pair, without clipping to [0, pi]: (n, n) float64, radians.

    Parameters
    ----------
    distances : (n, n) array
        Radians. The result is symmetric if these are, and has the same diagonal.
    standard_deviation : float
        Of the errors, radians. Its square is the smallest possible recovery loss.
    rng : numpy.random.Generator or int, optional

    Raises
    ------
    ValueError
        If distances are not square or the deviation is negative.

    References
    ----------
    Banjac et al., arXiv 2104.06237, section 5.2 (which calls the deviation a variance).
    """
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {distances.shape}")
    not_negative(standard_deviation, name="standard_deviation")
    errors = np.triu(np.random.default_rng(rng).normal(0, standard_deviation, distances.shape), 1)
    return distances + errors + errors.T


def euclidean_distances(images: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances between all pairs of images, scaled so that the largest is pi: (n, n) float32.

    This is a baseline: an in-plane rotation alone changes an image greatly, and the distance saturates.

    Raises
    ------
    ValueError
        If images are not (n, y, x) or not finite, or all are equal.
    """
    images = finite_array(images, name="images", ndim=3, dtype=np.float64)
    distances = squareform(pdist(images.reshape(len(images), -1)))
    if distances.max() == 0:
        raise ValueError(f"images must differ, got {len(images)} equal images")
    return (distances * (np.pi / distances.max())).astype(np.float32)


def spread_landmarks(
    distances_to: Callable[[int], np.ndarray], n: int, m: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Choose m of n images that cover all orientations: each is the farthest from those chosen before.

    Parameters
    ----------
    distances_to : callable
        Takes the index of an image and returns the (n,) distances of all images to it, in any unit. Called m times.
    n, m : int
        Numbers of images and of landmarks.
    rng : numpy.random.Generator
        Chooses the first landmark.

    Returns
    -------
    (m,) array
        Indices in ascending order.

    References
    ----------
    Gonzalez, Theor. Comput. Sci. 38 (1985) 293.
    """
    chosen = np.empty(m, int)
    nearest = np.full(n, np.inf)
    for k in range(m):
        chosen[k] = rng.integers(n) if k == 0 else int(np.argmax(nearest))
        nearest = np.minimum(nearest, distances_to(int(chosen[k])))
        nearest[chosen[: k + 1]] = -np.inf  # distances have errors: exclude those already chosen
    return np.sort(chosen)
