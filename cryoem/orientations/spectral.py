"""Starts of orientation recovery by linear algebra alone.

The spectral start rests on two facts.  Within a cap of orientations closer than pi/2 to one of them, all quaternions
can be signed so that their inner products are positive; cos(d/2) is then their Gram matrix, of rank 4, and its
eigenvectors are quaternions.  And ``(1 + cos d_ij) / 2 = <q_i, q_j>^2 = <q_i q_i^T, q_j q_j^T>`` is linear in the lift
``q q^T`` (10 numbers), so that quaternions of some images give every other one by least squares; alternating this over
all images converges.

For small samples, or images too far apart for a cap, signs are enumerated.  Distances give the inner products of
quaternions up to their signs.  Four images have only eight different sign patterns; each gives a Gram matrix, whose
factor is their quaternions if it is positive.  Every further image follows from its inner products with the four, with
the sign pattern that makes it a unit vector.
"""

from __future__ import annotations

from itertools import product

import numba
import numpy as np

MIN_CAP = 12
LEAST_SPREAD = 1e-4
ROUNDS = 12
# root mean square move (rad) at which alternation ends; noise leaves larger errors, and exact distances none
CONVERGED_RAD = 5e-4
BASES = 30
NEGATIVE_TOLERANCE = 0.05  # of the smallest eigenvalue, for distances with errors
_ROWS, _COLUMNS = np.triu_indices(4)
_SIGN_PATTERNS = np.array([(1, *signs) for signs in product((1, -1), repeat=3)], dtype=float)


def spectral_start(distances: np.ndarray) -> np.ndarray | None:
    """Find quaternions (n, 4) of all images from (n, n) distances in radians, up to an orthogonal map of R^4.

    Return None if no image has ``MIN_CAP`` neighbours within pi/2, or if these have fewer than ten different lifts, too
    few for a start.
    """
    # the largest cap, from its Gram matrix
    near = distances < np.pi / 2
    cap = np.flatnonzero(near[np.argmax(near.sum(axis=1))])
    if len(cap) < MIN_CAP:
        return None
    quaternions = gram_quaternions(np.cos(distances[np.ix_(cap, cap)] / 2))
    spread = np.linalg.svd(_lift(quaternions), compute_uv=False)
    if spread[-1] < LEAST_SPREAD * spread[0]:
        return None

    # all images from the cap, then from each other
    overlap_squared = squared_overlaps(distances)
    quaternions = locate(overlap_squared[:, cap], quaternions)
    for _ in range(ROUNDS):
        before, quaternions = quaternions, locate(overlap_squared, quaternions)
        agreement = np.mean(np.sum(before * quaternions, axis=1) ** 2)
        if 1 - agreement < (CONVERGED_RAD / 2) ** 2:
            break
    return quaternions


def small_sample_starts(distances: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Enumerate candidate quaternions (n, 4) of all images from (n, n) distances in radians.

    There is one candidate for each of ``BASES`` random sets of four images and each sign pattern that their distances
    allow.
    """
    overlaps = np.cos(distances / 2)
    starts = []
    for _ in range(BASES):
        base = rng.choice(len(distances), 4, replace=False)
        gram = np.abs(overlaps[np.ix_(base, base)])
        np.fill_diagonal(gram, 1)
        for a, b, c in _SIGN_PATTERNS[:, 1:]:
            signs = np.array([[1, 1, 1, 1], [1, 1, a, b], [1, a, 1, c], [1, b, c, 1]])
            values, vectors = np.linalg.eigh(signs * gram)
            if values[0] > -NEGATIVE_TOLERANCE:
                starts.append(_extend(overlaps[:, base], vectors * np.sqrt(np.maximum(values, 0))))
    return starts


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def squared_overlaps(distances):
    """Compute (1 + cos d) / 2 of (n, m) distances: (n, m).

    The value is cos^2 of the half distance.  The half distance is reduced to [-pi / 2, pi / 2], and its cosine taken by
    its power series there, which is exact to double precision and uses arithmetic alone, so that loops vectorise.
    """
    n, m = distances.shape
    overlaps = np.empty((n, m))
    for i in numba.prange(n):
        for j in range(m):
            turns = distances[i, j] / (2 * np.pi)
            x = (np.pi * (turns - np.rint(turns))) ** 2
            cosine = 1.0
            for k in range(22, 0, -2):
                cosine = 1 - x / ((k - 1) * k) * cosine
            overlaps[i, j] = cosine * cosine
    return overlaps


def locate(overlap_squared: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """Find quaternions (n, 4) of images from their (n, m) squared overlaps with m known quaternions (m, 4)."""
    # least squares for the lift of each image, then its leading eigenvector
    lifts = _lift(quaternions)
    coefficients = np.linalg.lstsq(lifts.T @ lifts, lifts.T @ overlap_squared.T, rcond=1e-10)[0].T
    matrices = np.zeros((len(coefficients), 4, 4))
    matrices[:, _ROWS, _COLUMNS] = coefficients
    matrices[:, _COLUMNS, _ROWS] = coefficients
    return np.linalg.eigh(matrices)[1][:, :, -1]


def gram_quaternions(gram: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) whose inner products are nearest to (n, n) given ones."""
    values, vectors = np.linalg.eigh(gram)
    quaternions = vectors[:, -4:] * np.sqrt(np.maximum(values[-4:], 0))
    return quaternions / np.maximum(np.linalg.norm(quaternions, axis=1, keepdims=True), 1e-12)


def _lift(quaternions: np.ndarray) -> np.ndarray:
    """The 10 numbers whose inner product with those of a symmetric matrix X is q^T X q: (n, 10)."""
    products = quaternions[:, _ROWS] * quaternions[:, _COLUMNS]
    return products * np.where(_ROWS == _COLUMNS, 1, 2)


def _extend(overlaps: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) from their unsigned overlaps (n, 4) with four known ones (4, 4)."""
    signed = np.abs(overlaps)[:, None] * _SIGN_PATTERNS  # (n, 8, 4)
    candidates = signed @ np.linalg.pinv(base, rcond=1e-5).T
    misfit = np.linalg.norm(candidates @ base.T - signed, axis=2)
    best = np.argmin(misfit + np.abs(np.linalg.norm(candidates, axis=2) - 1), axis=1)
    chosen = candidates[np.arange(len(candidates)), best]
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
