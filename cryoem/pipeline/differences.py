"""Whether two runs came to the same."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cryoem.pipeline.records import PHASES, read_record

COMPARED = ("parameters", "seed", "numbers", "headline", "versions")
TIMES = "seconds"  # the end of the names of numbers that are times


def run_differences(one: Path, other: Path) -> list[str]:
    """What differs between two runs, a sentence each; an empty list where the same seed gave the same.

    Parameters
    ----------
    one, other : folders of runs.

    Compared are the records of all phases, but for times and identifiers, and every file that a phase made: an HDF5
    file by its arrays, bit for bit, any other by its bytes.
    """
    found = []
    for name in PHASES:
        records = [read_record(run / name) for run in (one, other)]
        incomplete = [
            f"{run / name} is not complete"
            for run, record in zip((one, other), records, strict=True)
            if record is None
        ]
        if incomplete:
            found += incomplete
            continue
        for field in COMPARED:
            a, b = (_without_times(record[field]) for record in records)
            if a != b:
                found.append(f"{name}: {field} are {a} and {b}")
        a, b = (record["artefacts"].keys() for record in records)
        found += [f"{name}/{file} is in one only" for file in sorted(a ^ b)]
        found += [
            f"{name}/{file} differs"
            for file in sorted(a & b)
            if not _same(one / name / file, other / name / file)
        ]
    return found


def _without_times(value):
    if isinstance(value, dict):
        return {name: content for name, content in value.items() if not name.endswith(TIMES)}
    return value


def _same(one: Path, other: Path) -> bool:
    if one.suffix != ".h5":
        return one.read_bytes() == other.read_bytes()
    a, b = _arrays(one), _arrays(other)
    return a.keys() == b.keys() and all(_same_bits(a[name], b[name]) for name in a)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All datasets of an HDF5 file, by their path in it."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()])

    with h5py.File(path) as file:
        file.visititems(note)
    return found
