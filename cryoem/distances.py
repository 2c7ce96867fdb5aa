"""Distances between orientations that need no network: exact, perturbed, and between the images themselves."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, not_negative
from cryoem.rotations import geodesic_distance


def exact_distances(rotations: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Geodesic distances between all pairs of n orientations: (n, n) float64 radians, zero on the diagonal.

    Raises
    ------
    ValueError : ``symmetry`` is not a known point group.
    """
    return geodesic_distance(rotations, rotations, symmetry=symmetry)


def perturbed_distances(
    distances: np.ndarray, *, standard_deviation: float, rng: np.random.Generator | int | None = None
) -> np.ndarray:
    """Distances with Gaussian errors, one for each pair; values are not clipped to [0, pi].

    Parameters
    ----------
    distances : (n, n) radians.
    standard_deviation : of the errors, radians.  The floor of the recovery loss is its square.
    rng : generator or seed.

    Returns
    -------
    (n, n) float64 radians, symmetric where ``distances`` is, the diagonal unchanged.

    Raises
    ------
    ValueError : distances are not square or the deviation is negative.

    Source: arXiv 2104.06237, section 5.2 (there called a variance).
    """
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {distances.shape}")
    not_negative(standard_deviation, name="standard_deviation")
    errors = np.triu(np.random.default_rng(rng).normal(0, standard_deviation, distances.shape), 1)
    return distances + errors + errors.T


def euclidean_distances(images: np.ndarray) -> np.ndarray:
    """Euclidean distances between all pairs of images, scaled so that the largest is pi: (n, n) float32.

    Parameters
    ----------
    images : (n, y, x).

    Raises
    ------
    ValueError : images are not (n, y, x) or all the same.

    A baseline: images may differ greatly by an in-plane rotation alone, and the distance saturates.
    """
    images = finite_array(images, name="images", ndim=3, dtype=np.float64)
    distances = squareform(pdist(images.reshape(len(images), -1)))
    if distances.max() == 0:
        raise ValueError(f"images must differ, got {len(images)} times the same")
    return (distances * (np.pi / distances.max())).astype(np.float32)
