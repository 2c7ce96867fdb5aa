"""A start for orientation recovery of few images, or of images too far apart for ``spectral``.

Distances give the inner products of quaternions but for their signs.  Four images have only eight different patterns of
signs; each makes their Gram matrix, whose factor is their quaternions if it is positive, and every further
image follows from its inner products with the four, with the pattern of signs that makes it a unit vector.
"""

from __future__ import annotations

from itertools import product

import numpy as np

BASES = 30
NEGATIVE_TOLERANCE = 0.05  # of the smallest eigenvalue, for distances with errors
_PATTERNS = np.array([(1, *signs) for signs in product((1, -1), repeat=3)], dtype=float)


def enumerated_starts(distances: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Candidate quaternions (n, 4) of all images from (n, n) distances in radians: one for each base and sign
    pattern.
    """
    overlaps = np.cos(distances / 2)
    starts = []
    for _ in range(BASES):
        base = rng.choice(len(distances), 4, replace=False)
        gram = np.abs(overlaps[np.ix_(base, base)])
        np.fill_diagonal(gram, 1)
        for a, b, c in _PATTERNS[:, 1:]:
            signs = np.array([[1, 1, 1, 1], [1, 1, a, b], [1, a, 1, c], [1, b, c, 1]])
            values, vectors = np.linalg.eigh(signs * gram)
            if values[0] > -NEGATIVE_TOLERANCE:
                starts.append(_place(overlaps[:, base], vectors * np.sqrt(np.maximum(values, 0))))
    return starts


def _place(overlaps: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) from their unsigned overlaps (n, 4) with four known ones (4, 4)."""
    signed = np.abs(overlaps)[:, None] * _PATTERNS  # (n, 8, 4)
    candidates = signed @ np.linalg.pinv(base, rcond=1e-5).T
    misfit = np.linalg.norm(candidates @ base.T - signed, axis=2)
    best = np.argmin(misfit + np.abs(np.linalg.norm(candidates, axis=2) - 1), axis=1)
    chosen = candidates[np.arange(len(candidates)), best]
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
