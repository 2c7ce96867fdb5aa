"""What the figures alone ask of their arguments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def non_empty_mapping(values, *, name: str) -> Mapping:
    """``values`` if it is a mapping with at least one entry, else a ValueError naming ``name``."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(
            f"{name} must be a mapping from names to values with at least one entry, got {values!r}"
        )
    return values


def thinned(count: int, most: int) -> np.ndarray:
    """At most ``most`` evenly spaced indices into ``count`` things, first and last included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
