"""Orientations of many images from their distances to landmarks, whose orientations are known."""

from __future__ import annotations

import mmap

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.orientations.gauss_newton import gauss_newton
from cryoem.orientations.spectral import locate, squared_overlaps
from cryoem.orientations.symmetric_recovery import locate_near, unambiguous_radius

BLOCK = 8192  # images whose distances are in memory at a time
ROWS_AT_ONCE = 16
SHARED_MODES = (
    "r",
    "r+",
    "w+",
)  # in copy-on-write mode, a page may contain the only copy of what was written to it


def locate_all(
    columns: np.ndarray,
    known: np.ndarray,
    *,
    rounds: int,
    robust_width: float,
    group: Rotation | None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Find quaternions of all images from their (n, m) distances, radians, to known ones (m, 4), block by block.

    Distances may be memory-mapped; the other arguments are those of ``gauss_newton``.  Return the quaternions of every
    round, the best last, and their losses in rad^2; with more than one block, of the last round only.

    Raises
    ------
    ValueError
        If a distance is not finite.
    """
    n = len(columns)
    found, weighted = np.empty((n, 4)), 0.0
    for first in range(0, n, BLOCK):
        some = columns[first : first + BLOCK]
        some = np.ascontiguousarray(some, np.result_type(some, np.float32))
        if not np.isfinite(some).all():
            row = first + int(np.argmin(np.isfinite(some).all(axis=1)))
            raise ValueError(f"distances must be finite, got NaN or infinity in row {row}")
        if group is None:
            start = locate(squared_overlaps(some), known)
        else:
            start = locate_near(some, known, unambiguous_radius(group))
        visited, losses = gauss_newton(
            some, start, known, rounds=rounds, robust_width=robust_width, group=group
        )
        release_pages(columns[first : first + BLOCK])
        if n <= BLOCK:
            return visited, np.array(losses)
        found[first : first + BLOCK] = visited[-1]
        weighted += losses[-1] * len(some)
    return [found], np.array([weighted / n])


def read_rows(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return a copy of ``rows[numbers]``, releasing pages after every few rows of a memory-mapped array.

    The system reads up to 2 MB around each row, so that scattered rows would otherwise map the whole file.
    """
    rows = np.asanyarray(rows)
    found = np.empty((len(numbers), *rows.shape[1:]), rows.dtype)
    for start in range(0, len(numbers), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        found[part] = rows[numbers[part]]
        release_pages(rows)
    return found


def release_pages(array: np.ndarray) -> None:
    """Release the file pages that a memory-mapped array, or a view of one, has read; reading restores them.

    Without this they count as memory of the process.  The function has no effect on other arrays, or on systems without
    ``madvise``.
    """
    mapped = None
    while isinstance(array, np.ndarray):
        mapped = array if isinstance(array, np.memmap) else mapped
        array = array.base
    shared = mapped is not None and isinstance(array, mmap.mmap) and mapped.mode in SHARED_MODES
    if shared and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
