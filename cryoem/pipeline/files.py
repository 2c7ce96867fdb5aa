"""Text files that are either whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

from cryoem.whole_files import written_aside


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, all of it or nothing; raises as ``written_aside``."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def canonical_json(value: dict) -> str:
    """JSON in which equal dictionaries are equal texts: sorted keys, no spaces, NaN and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
