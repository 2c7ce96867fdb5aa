"""Orientations from their pairwise distances.

Distances determine orientations up to ``R -> A R B`` for any two rotations A, B and up to ``R -> R^T``; see
``gauge`` for what fixes that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.recovery.few import enumerated_starts
from cryoem.recovery.polish import polish_against
from cryoem.recovery.spectral import locate, spectral_start

METHODS = ("spectral", "spectral+refine", "sgd")
SYMMETRY_TOLERANCE = 1e-3
FEWEST_IMAGES = 5


@dataclass(frozen=True)
class Recovery:
    """Recovered orientations.

    ``rotations``: n orientations in an arbitrary gauge; ``losses``: mean squared error of the distances (rad^2) at each
    round; ``frames``: the orientations of each round, the last being ``rotations``; ``start``:
    ``"spectral"`` or ``"enumerated"``, where the images are too few or too spread for that, or ``"random"`` for
    the stochastic method.
    """

    rotations: Rotation
    losses: np.ndarray
    frames: tuple[Rotation, ...]
    start: str


def recover_orientations(
    distances: np.ndarray,
    *,
    method: str = "spectral+refine",
    landmarks: int | None = None,
    rounds: int = 60,
    robust_width: float = np.inf,
    steps: int = 30_000,
    learning_rate: float = 0.05,
    rng: np.random.Generator | int | None = None,
) -> Recovery:
    """Recover orientations from pairwise distances by minimising ``mean (d_hat_ij - d(q_i, q_j))^2``.

    Parameters
    ----------
    distances : (n, n) radians, symmetric; the diagonal is not used.
    method : ``"spectral"`` linear algebra only; ``"spectral+refine"`` followed by Gauss-Newton rounds over all pairs;
        ``"sgd"`` the published stochastic descent from random orientations (arXiv 2104.06237, section 3.2).
    landmarks : use only the distances to this many randomly chosen images, O(n * landmarks); all by default.
    rounds : Gauss-Newton rounds at the most.
    robust_width : residuals beyond this many radians lose weight; plain least squares by default.
    steps, learning_rate : of ``"sgd"``.
    rng : generator or seed, for landmarks, enumerated starts and ``"sgd"``.

    Returns
    -------
    Recovery.

    Raises
    ------
    ValueError : distances are not square, not finite, not symmetric, fewer than 5 images, or negative beyond noise; the
        method is unknown; landmarks are not between 5 and n.

    Source: docs/conventions.md, "The gauge"; SCIENCE of the loss: arXiv 2104.06237, eq. 6.
    """
    distances = _checked(distances)
    n = len(distances)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if landmarks is not None and not FEWEST_IMAGES <= landmarks <= n:
        raise ValueError(f"landmarks must be between {FEWEST_IMAGES} and the {n} images, got {landmarks}")
    rng = np.random.default_rng(rng)
    if method == "sgd":
        from cryoem.recovery.stochastic import descend

        frames, losses = descend(distances, steps=steps, learning_rate=learning_rate, rng=rng)
        return Recovery(frames[-1], losses, frames, "random")
    rounds = 0 if method == "spectral" else rounds
    if landmarks is None or landmarks == n:
        return _recover_square(distances, rounds, robust_width, rng)
    chosen = np.sort(rng.choice(n, landmarks, replace=False))
    anchor = _recover_square(distances[np.ix_(chosen, chosen)], rounds, robust_width, rng)
    known = anchor.rotations.as_quat()
    columns = distances[:, chosen]
    start = locate((1 + np.cos(columns)) / 2, known)
    visited, losses = polish_against(columns, start, known, rounds=rounds, robust_width=robust_width)
    return _recovery(visited, losses, anchor.start)


def _recover_square(distances, rounds: int, robust_width: float, rng: np.random.Generator) -> Recovery:
    """All pairs: the spectral start where it applies, the best of the enumerated ones otherwise."""
    spectral = spectral_start(distances)
    if spectral is not None:
        visited, losses = polish_against(distances, spectral, None, rounds=rounds, robust_width=robust_width)
        return _recovery(visited, losses, "spectral")
    found = []
    for start in enumerated_starts(distances, rng):
        visited, losses = polish_against(distances, start, None, rounds=rounds, robust_width=robust_width)
        found.append(_recovery(visited, losses, "enumerated"))
    if not found:
        raise ValueError("distances must fit orientations, and no four of these images do")
    return min(found, key=lambda recovery: recovery.losses[-1])


def _recovery(visited: list[np.ndarray], losses: list[float], start: str) -> Recovery:
    frames = tuple(Rotation.from_quat(quaternions) for quaternions in visited)
    return Recovery(frames[-1], np.array(losses), frames, start)


def _checked(distances: np.ndarray) -> np.ndarray:
    distances = np.asarray(distances)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {distances.shape}")
    if len(distances) < FEWEST_IMAGES:
        raise ValueError(f"distances must be between at least {FEWEST_IMAGES} images, got {len(distances)}")
    distances = distances.astype(np.float64, copy=False)
    bad = distances.size - np.count_nonzero(np.isfinite(distances))
    if bad:
        raise ValueError(f"distances must be finite, got {bad} NaN or infinite values of {distances.size}")
    asymmetry = np.abs(distances - distances.T).max()
    if asymmetry > SYMMETRY_TOLERANCE:
        raise ValueError(
            f"distances must be symmetric, got entries that differ from their mirror by {asymmetry:.3g} rad"
        )
    return distances
