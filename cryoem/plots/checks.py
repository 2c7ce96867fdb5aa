"""What the figures ask of their arguments, each with one clear sentence when it is not so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation


def finite_array(values, *, name: str, ndim: int) -> np.ndarray:
    """``values`` as a non-empty finite array of ``ndim`` axes, else a ValueError naming ``name``."""
    values = np.asarray(values)
    if values.ndim != ndim or values.size == 0:
        raise ValueError(f"{name} must be a non-empty array with {ndim} axes, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(values))} non-finite values"
        )
    return values


def positive_number(value: float, *, name: str) -> float:
    """``value`` as a float above zero, else a ValueError naming ``name``."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")
    return float(value)


def non_empty_mapping(values, *, name: str) -> Mapping:
    """``values`` if it is a mapping with at least one entry, else a ValueError naming ``name``."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(
            f"{name} must be a mapping from names to values with at least one entry, got {values!r}"
        )
    return values


def many_rotations(rotations: Rotation, *, name: str) -> Rotation:
    """``rotations`` if it is a non-empty sequence in a SciPy Rotation, else a ValueError naming ``name``."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"{name} must be a scipy Rotation, got {type(rotations).__name__}")
    if rotations.single or len(rotations) == 0:
        raise ValueError(
            f"{name} must hold at least one rotation in a sequence, got a single or an empty one"
        )
    return rotations


def thinned(count: int, most: int) -> np.ndarray:
    """At most ``most`` evenly spaced indices into ``count`` things, first and last included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
