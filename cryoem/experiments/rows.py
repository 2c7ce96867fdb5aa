"""What a notebook hands back: measurements, one a row, as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from cryoem.pipeline.files import write_text

RESERVED = ("quantity", "value")


def measurement(quantity: str, value: float, **conditions) -> dict:
    """One row: what was measured, its value, and the conditions that this point's parameters do not say.

    Parameters
    ----------
    quantity : name with its unit, such as ``distance_error_rad``.
    value : a finite number.
    conditions : what else sets this row apart, numbers or short words.

    Raises
    ------
    ValueError : the value is not finite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{quantity} must be finite, got {value}")
    return {
        **{name: _plain(condition) for name, condition in conditions.items()},
        "quantity": quantity,
        "value": value,
    }


def save_rows(path: str | os.PathLike | None, rows: Sequence[dict]) -> None:
    """Write the rows of a point where the runner reads them, all or nothing; nowhere where ``path`` is None.

    Raises
    ------
    ValueError : there are no rows, or one has no quantity or value.
    """
    if not rows:
        raise ValueError("rows must hold at least one measurement, got none")
    for row in rows:
        if not set(RESERVED) <= set(row):
            raise ValueError(f"rows must hold quantity and value, got {row}")
    if path is not None:
        write_text(Path(path), json.dumps(list(rows), allow_nan=False))


def _plain(value):
    """A number of NumPy as Python's own."""
    return value.item() if hasattr(value, "item") else value
