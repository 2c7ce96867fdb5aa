"""Files that are either whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoem.whole_files import whole_file


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """As ``whole_file``; folders above ``path`` that are missing are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        yield aside


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, all of it or nothing."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def canonical_json(value: dict) -> str:
    """JSON in which equal dictionaries are equal texts: sorted keys, no spaces, NaN and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
