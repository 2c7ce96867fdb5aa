"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Path to write to instead of ``path``, in the same folder; it takes the place of ``path`` when the block succeeds.

    The content reaches the disk before the name does, so a kill or a power cut leaves the old file or the new one. A
    block that raises leaves ``path`` untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        _to_disk(aside)
        os.replace(aside, path)
        _to_disk(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, all of it or nothing."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def canonical_json(value: dict) -> str:
    """JSON in which equal dictionaries are equal texts: sorted keys, no spaces, NaN and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
