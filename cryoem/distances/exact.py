"""Distances without a network (exact, perturbed, or Euclidean between images), and the choice of landmarks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from cryoem.rotations import geodesic_distance
from cryoem.validation import finite_array, not_negative

FEWEST_LANDMARKS = 12
BYTES_PER_PAIR = 24  # memory for the distances between all pairs, while they are estimated or used


def exact_distances(rotations: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Return the geodesic distances between all pairs of n orientations: (n, n) float64, in radians.

    Parameters
    ----------
    rotations : Rotation
        n orientations.
    symmetry : str
        Point group of the particle. Distances are measured to the nearest equivalent orientation. Default: ``"C1"``.

    Raises
    ------
    ValueError
        If the point group is unknown.
    """
    return geodesic_distance(rotations, rotations, symmetry=symmetry)


def perturbed_distances(
    distances: np.ndarray, *, standard_deviation: float, rng: np.random.Generator | int | None = None
) -> np.ndarray:
    """Add independent Gaussian errors to distances: (n, n) float64, in radians.

    The result is not clipped to [0, pi].

    Parameters
    ----------
    distances : (n, n) array
        Distances in radians. If this matrix is symmetric, so is the result. The diagonal is not changed.
    standard_deviation : float
        Standard deviation of the errors in radians. Its square is approximately the lowest recovery loss that can be
        reached.
    rng : Generator or int, optional
        Random number generator or seed.

    Returns
    -------
    (n, n) array

    Raises
    ------
    ValueError
        If ``distances`` is not a square matrix or ``standard_deviation`` is negative.

    References
    ----------
    Banjac et al., arXiv 2104.06237, section 5.2 (where the standard deviation is called a variance).
    """
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {distances.shape}")
    not_negative(standard_deviation, name="standard_deviation")
    errors = np.triu(np.random.default_rng(rng).normal(0, standard_deviation, distances.shape), 1)
    return distances + errors + errors.T


def euclidean_distances(images: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances between all pairs of images, scaled to a maximum of pi: (n, n) float32.

    This distance serves as a baseline. It saturates quickly, because an in-plane rotation alone already changes an
    image considerably.

    Parameters
    ----------
    images : (n, y, x) array
        Images to compare.

    Returns
    -------
    (n, n) array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, x), contain NaN or infinity, or are all equal.
    """
    images = finite_array(images, name="images", ndim=3, dtype=np.float64)
    distances = squareform(pdist(images.reshape(len(images), -1)))
    if distances.max() == 0:
        raise ValueError(f"images must not all be equal, got {len(images)} equal images")
    return (distances * (np.pi / distances.max())).astype(np.float32)


def spread_landmarks(
    distances_to: Callable[[int], np.ndarray], n: int, m: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Choose m of n images as landmarks, with orientations spread over those of all images.

    Each landmark is the image farthest from the landmarks chosen so far.

    Parameters
    ----------
    distances_to : callable
        Function that takes the index of an image and returns the (n,) distances between this image and all images, in
        any unit. The function is called m times.
    n, m : int
        Number of images and number of landmarks.
    rng : Generator
        Random number generator, which chooses the first landmark.

    Returns
    -------
    (m,) array
        Indices of the landmarks in ascending order.

    References
    ----------
    Gonzalez, Theor. Comput. Sci. 38 (1985) 293.
    """
    chosen = np.empty(m, int)
    nearest = np.full(n, np.inf)
    for k in range(m):
        chosen[k] = rng.integers(n) if k == 0 else int(np.argmax(nearest))
        nearest = np.minimum(nearest, distances_to(int(chosen[k])))
        nearest[chosen[: k + 1]] = -np.inf  # distances have errors, so exclude chosen landmarks explicitly
    return np.sort(chosen)
