"""Memory-mapped arrays: pages that were read are let go, and what they hold stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoem.mapped_arrays import let_go, scattered_rows

STATUS = Path("/proc/self/status")
MEGABYTES, COLUMNS = 64, 1024


def mapped_mb() -> float:
    """Memory of this process that files are mapped to."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) / 1024


@pytest.fixture
def path(tmp_path):
    rows = np.arange(MEGABYTES * 2**20 // 4, dtype=np.float32).reshape(-1, COLUMNS)
    rows.tofile(tmp_path / "rows")
    return tmp_path / "rows"


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell the memory of mapped files")
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("offset", [0, 4 * COLUMNS * 3])
def test_what_was_read_is_let_go_and_read_again(path, mode, offset):
    rows = np.memmap(path, np.float32, mode, offset=offset).reshape(-1, COLUMNS)
    before = mapped_mb()
    total = rows.sum(dtype=float)
    assert mapped_mb() > before + 0.9 * MEGABYTES
    let_go(np.asarray(rows)[len(rows) // 2 :])
    assert before + 0.4 * MEGABYTES < mapped_mb() < before + 0.6 * MEGABYTES
    let_go(rows)
    assert mapped_mb() < before + 0.1 * MEGABYTES
    assert rows.sum(dtype=float) == total


def test_scattered_rows_are_those_of_the_array_and_leave_no_pages(path):
    rows = np.memmap(path, np.float32, "r").reshape(-1, COLUMNS)
    numbers = np.random.default_rng(0).permutation(len(rows))[:50]
    before = mapped_mb() if STATUS.exists() else None
    found = scattered_rows(rows, numbers)
    if before is not None:
        assert mapped_mb() < before + 0.1 * MEGABYTES
    np.testing.assert_array_equal(found, rows[numbers])
    np.testing.assert_array_equal(scattered_rows(np.array(rows), numbers), found)


def test_what_was_written_stays(path):
    shared, private = np.memmap(path, np.float32, "r+"), np.memmap(path, np.float32, "c")
    shared[5], private[6] = -1, -2
    for rows in (shared, private):
        let_go(rows)
    assert shared[5] == private[5] == -1
    assert private[6] == -2


def test_arrays_in_memory_stay_as_they_are(path):
    rows = np.ones((3, 4))
    for part in (
        rows,
        rows[1:],
        np.memmap(path, np.float32, "r")[:0],
        np.memmap(path, np.float32, "r")[[1, 2]],
    ):
        expected = part.copy()
        let_go(part)
        np.testing.assert_array_equal(part, expected)
