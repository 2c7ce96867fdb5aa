"""What functions ask of their arguments, each with one clear sentence when it is not so."""

from __future__ import annotations

import math
import numbers

import numpy as np
from scipy.spatial.transform import Rotation


def finite_array(values, *, name: str, ndim: int, dtype=None) -> np.ndarray:
    """``values`` as a non-empty, finite, real array of ``ndim`` axes (of ``dtype``), else a ValueError naming
    ``name``.
    """
    try:
        values = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{name} must be a non-empty array with {ndim} axes, got rows of unequal lengths"
        ) from None
    if values.ndim != ndim or values.size == 0:
        raise ValueError(f"{name} must be a non-empty array with {ndim} axes, got shape {values.shape}")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
        raise ValueError(f"{name} must hold real numbers, got {values.dtype}")
    if dtype is not None:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} non-finite values of {values.size}")
    return values


def square_images(images, *, name: str = "images", at_least: int = 1, smallest_px: int = 1) -> np.ndarray:
    """(n, y, x) images with y == x as finite float32, n and y large enough, else a ValueError naming ``name``."""
    images = finite_array(images, name=name, ndim=3, dtype=np.float32)
    if images.shape[1] != images.shape[2] or images.shape[1] < smallest_px:
        least = f" >= {smallest_px}" if smallest_px > 1 else ""
        raise ValueError(f"{name} must be (n, y, x) with y == x{least}, got {images.shape}")
    if len(images) < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {len(images)}")
    return images


def many_rotations(rotations: Rotation, *, name: str = "rotations", count: int | None = None) -> Rotation:
    """``rotations`` if it is a non-empty sequence (of ``count``) in a SciPy Rotation, else a ValueError
    naming ``name``.
    """
    if not isinstance(rotations, Rotation):
        raise ValueError(f"{name} must be a scipy Rotation, got {type(rotations).__name__}")
    if rotations.single or len(rotations) == 0:
        raise ValueError(
            f"{name} must hold at least one rotation in a sequence, got a single or an empty one"
        )
    if rotations.as_quat().ndim != 2:
        raise ValueError(
            f"{name} must be one sequence of rotations, got shape {rotations.as_quat().shape[:-1]}"
        )
    if count is not None and len(rotations) != count:
        raise ValueError(f"{name} must be as many as the images, {count}, got {len(rotations)}")
    return rotations


def positive_number(value: float, *, name: str) -> float:
    """``value`` as a float above zero, else a ValueError naming ``name``."""
    if not (_is_finite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {_shown(value)}")
    return float(value)


def not_negative(value: float, *, name: str) -> float:
    """``value`` as a finite float of at least zero, else a ValueError naming ``name``."""
    if not (_is_finite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {_shown(value)}")
    return float(value)


def whole_number(value: int, *, name: str, at_least: int) -> int:
    """``value`` as an int of at least ``at_least``, else a ValueError naming ``name``."""
    whole = _is_finite(value) and int(value) == value
    if not (whole and value >= at_least):
        raise ValueError(f"{name} must be a whole number of at least {at_least}, got {_shown(value)}")
    return int(value)


def _is_finite(value) -> bool:
    """Whether a value is a real number that a float can hold."""
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value) -> str:
    """A value as an error shows it: text in quotes, so that "4" is not taken for a number, and nothing long."""
    return f"{value!r:.80}" if isinstance(value, str) else f"{value!s:.80}"


def shifts_of(shifts_px, *, count: int, name: str = "shifts_px") -> np.ndarray:
    """(count, 2) finite shifts (x, y) as float64, else a ValueError naming ``name``."""
    shifts_px = finite_array(shifts_px, name=name, ndim=2, dtype=float)
    if shifts_px.shape != (count, 2):
        raise ValueError(f"{name} must be ({count}, 2), got {shifts_px.shape}")
    return shifts_px


def one_each(values, *, count: int, name: str) -> np.ndarray:
    """(count,) finite numbers, one for each image, as float64, else a ValueError naming ``name``."""
    values = finite_array(values, name=name, ndim=1, dtype=float)
    if len(values) != count:
        raise ValueError(f"{name} must be one for each of the {count} images, got {len(values)}")
    return values
