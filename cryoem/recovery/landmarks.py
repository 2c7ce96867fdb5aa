"""Many orientations from their distances to a few: landmarks, which all pairs among themselves settle first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.mapped_arrays import let_go
from cryoem.recovery.polish import polish_against
from cryoem.recovery.spectral import locate, squared_overlaps
from cryoem.recovery.symmetric import place, reach_of

BLOCK = 8192  # images whose distances are in memory at a time


def spread_landmarks(
    distances_to: Callable[[int], np.ndarray], n: int, m: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Choose m of n images that cover all orientations: each the farthest from those before it.

    Parameters
    ----------
    distances_to : of an image's number, the (n,) distances of all images to it, in any unit; called m times.
    rng : of the first.

    Returns
    -------
    (m,) numbers, rising.

    Source: Gonzalez, Theor. Comput. Sci. 38 (1985) 293.
    """
    chosen = np.empty(m, int)
    nearest = np.full(n, np.inf)
    for k in range(m):
        chosen[k] = rng.integers(n) if k == 0 else int(np.argmax(nearest))
        nearest = np.minimum(nearest, distances_to(int(chosen[k])))
        nearest[chosen[: k + 1]] = -np.inf  # none twice, whatever errors distances have
    return np.sort(chosen)


def locate_all(
    columns: np.ndarray,
    known: np.ndarray,
    *,
    rounds: int,
    robust_width: float,
    group: Rotation | None,
    block: int = BLOCK,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Orientations of n images from their distances to m that are known, each by itself, a block of them at a time.

    Parameters
    ----------
    columns : (n, m) radians, of any floating-point kind; may be memory-mapped.
    known : (m, 4) quaternions of the landmarks.
    rounds, robust_width, group : as ``polish_against`` takes them.
    block : images in memory at a time.

    Returns
    -------
    Quaternions (n, 4) round by round, the last being the best, and their losses, rad^2; of more than one block the
    last round alone.

    Raises
    ------
    ValueError : a distance is not finite.
    """
    n = len(columns)
    found, weighted = np.empty((n, 4)), 0.0
    for first in range(0, n, block):
        some = columns[first : first + block]
        some = np.ascontiguousarray(some, np.result_type(some, np.float32))
        if not np.isfinite(some).all():
            row = first + int(np.argmin(np.isfinite(some).all(axis=1)))
            raise ValueError(f"distances must be finite, got NaN or infinity in row {row}")
        start = (
            locate(squared_overlaps(some), known) if group is None else place(some, known, reach_of(group))
        )
        visited, losses = polish_against(
            some, start, known, rounds=rounds, robust_width=robust_width, group=group
        )
        let_go(columns[first : first + block])
        if n <= block:
            return visited, np.array(losses)
        found[first : first + block] = visited[-1]
        weighted += losses[-1] * len(some)
    return [found], np.array([weighted / n])
