"""Memory-mapped arrays that are read once: what was read stays, and counts as the process's memory, until let go."""

from __future__ import annotations

import mmap

import numpy as np

ROWS_AT_ONCE = 16
SHARED_MODES = ("r", "r+", "w+")  # of others a page may be the only copy of what was written to it


def scattered_rows(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A copy of ``rows[numbers]``; of a memory-mapped array, with each row the system reads up to 2 MB around it, which
    are let go after every few.
    """
    rows = np.asanyarray(rows)
    found = np.empty((len(numbers), *rows.shape[1:]), rows.dtype)
    for start in range(0, len(numbers), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        found[some] = rows[numbers[some]]
        let_go(rows)
    return found


def let_go(part: np.ndarray) -> None:
    """Give back the memory of what was read of a memory-mapped array; it is read again where it is asked for again.

    ``part`` may be the array or any view of it.  Any other array stays as it is, and so do all where the system has no
    such call.
    """
    mapped = None
    owner = part
    while isinstance(owner, np.ndarray):
        mapped = owner if isinstance(owner, np.memmap) else mapped
        owner = owner.base
    if mapped is None or not isinstance(owner, mmap.mmap) or mapped.mode not in SHARED_MODES:
        return
    if part.size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return
    low, high = np.lib.array_utils.byte_bounds(part)
    begins = np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    start = (low - begins) // mmap.PAGESIZE * mmap.PAGESIZE  # pages are let go whole
    owner.madvise(mmap.MADV_DONTNEED, start, high - begins - start)
