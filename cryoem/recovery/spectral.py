"""A start for orientation recovery by linear algebra alone.

Two facts carry it.  Within a cap of orientations closer than pi/2 to one of them, all quaternions can be signed so that
their inner products are positive; cos(d/2) is then their Gram matrix, of rank 4, and its eigenvectors are quaternions.
And ``(1 + cos d_ij) / 2 = <q_i, q_j>^2 = <q_i q_i^T, q_j q_j^T>`` is linear in the lift ``q q^T`` (10 numbers), so that
from quaternions of some images every other one follows by least squares; alternating this over all images settles it.
"""

from __future__ import annotations

import numba
import numpy as np

MIN_CAP = 12
LEAST_SPREAD = 1e-4
ROUNDS = 12
# rad that images still move, root mean square; noise leaves larger errors, and exact distances none
SETTLED = 5e-4
_ROWS, _COLUMNS = np.triu_indices(4)


def spectral_start(distances: np.ndarray) -> np.ndarray | None:
    """Quaternions (n, 4) of all images from their (n, n) distances in radians, up to an orthogonal map of R^4.

    Returns None where no image has ``MIN_CAP`` neighbours within pi/2, or where these hold fewer than ten
    different lifts, too few for a start.
    """
    near = distances < np.pi / 2
    cap = np.flatnonzero(near[np.argmax(near.sum(axis=1))])
    if len(cap) < MIN_CAP:
        return None
    quaternions = gram_quaternions(np.cos(distances[np.ix_(cap, cap)] / 2))
    spread = np.linalg.svd(_lift(quaternions), compute_uv=False)
    if spread[-1] < LEAST_SPREAD * spread[0]:
        return None
    overlap_squared = squared_overlaps(distances)
    quaternions = locate(overlap_squared[:, cap], quaternions)
    for _ in range(ROUNDS):
        before, quaternions = quaternions, locate(overlap_squared, quaternions)
        agreement = np.mean(np.sum(before * quaternions, axis=1) ** 2)
        if 1 - agreement < (SETTLED / 2) ** 2:
            break
    return quaternions


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def squared_overlaps(distances):
    """(1 + cos d) / 2 of (n, m) distances: (n, m).

    As cos^2 of the half, brought into [-pi / 2, pi / 2], by its power series there, which is exact to double precision
    and is arithmetic alone, as vector units have it.
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
    """Quaternions (n, 4) of images from their (n, m) squared overlaps with m known quaternions (m, 4)."""
    lifts = _lift(quaternions)
    coefficients = np.linalg.lstsq(lifts.T @ lifts, lifts.T @ overlap_squared.T, rcond=1e-10)[0].T
    matrices = np.zeros((len(coefficients), 4, 4))
    matrices[:, _ROWS, _COLUMNS] = coefficients
    matrices[:, _COLUMNS, _ROWS] = coefficients
    return np.linalg.eigh(matrices)[1][:, :, -1]


def _lift(quaternions: np.ndarray) -> np.ndarray:
    """The 10 numbers whose inner product with those of a symmetric matrix X is q^T X q: (n, 10)."""
    products = quaternions[:, _ROWS] * quaternions[:, _COLUMNS]
    return products * np.where(_ROWS == _COLUMNS, 1, 2)


def gram_quaternions(gram: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) of the given inner products (n, n), as nearly as four dimensions allow."""
    values, vectors = np.linalg.eigh(gram)
    quaternions = vectors[:, -4:] * np.sqrt(np.maximum(values[-4:], 0))
    return quaternions / np.maximum(np.linalg.norm(quaternions, axis=1, keepdims=True), 1e-12)
