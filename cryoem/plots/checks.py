"""What the figures alone ask of their arguments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cryoem.checks import finite_array


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


def rising_curve(curve: tuple, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Equally many x and y for logarithmic axes, all positive and x rising, else a ValueError naming ``name``."""
    x, y = (finite_array(values, name=name, ndim=1, dtype=float) for values in curve)
    if len(x) != len(y) or min(x.min(), y.min()) <= 0 or np.any(np.diff(x) <= 0):
        raise ValueError(
            f"{name} must pair positive x that rise with as many positive y, got {len(x)} and {len(y)}, "
            f"the lowest {x.min():.4g} and {y.min():.4g}"
        )
    return x, y
