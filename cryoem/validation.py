"""Argument validation: each function returns the validated argument or raises a ValueError that names it."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable

import numpy as np
from scipy.spatial.transform import Rotation


def finite_array(values, *, name: str, ndim: int, dtype=None) -> np.ndarray:
    """Return ``values`` as a non-empty array of finite real numbers with ``ndim`` axes.

    If ``dtype`` is given, the result is contiguous and has that type.
    """
    try:
        values = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be a non-empty {ndim}-D array, got rows of unequal lengths") from None
    if values.ndim != ndim or values.size == 0:
        raise ValueError(f"{name} must be a non-empty {ndim}-D array, got shape {values.shape}")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
        raise ValueError(f"{name} must contain real numbers, got dtype {values.dtype}")
    if dtype is not None:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(values.sum(dtype=float))  # unlike the count below, it needs no memory
    bad = 0 if finite else values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {values.size} values")
    return values


def unread_images(images, *, name: str = "images", at_least: int = 1, smallest_px: int = 1):
    """Return images after checking only that their shape is (n, y, x) with y == x; images in files are not read."""
    images = images if hasattr(images, "shape") else np.asarray(images)
    shape = tuple(images.shape)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{name} must be a non-empty 3-D array, got shape {shape}")
    if shape[1] != shape[2] or shape[1] < smallest_px:
        least = f" >= {smallest_px}" if smallest_px > 1 else ""
        raise ValueError(f"{name} must be (n, y, x) with y == x{least}, got {shape}")
    if shape[0] < at_least:
        raise ValueError(f"at least {at_least} {name} are required, got {shape[0]}")
    return images


def square_images(images, *, name: str = "images", at_least: int = 1, smallest_px: int = 1) -> np.ndarray:
    """Return finite (n, y, x) images with y == x as contiguous float32."""
    images = finite_array(images, name=name, ndim=3, dtype=np.float32)
    return unread_images(images, name=name, at_least=at_least, smallest_px=smallest_px)


def many_rotations(rotations: Rotation, *, name: str = "rotations", count: int | None = None) -> Rotation:
    """Return a non-empty sequence of rotations; if ``count`` is given, check its length."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"{name} must be a scipy Rotation, got {type(rotations).__name__}")
    if rotations.single or len(rotations) == 0:
        found = "a single rotation" if rotations.single else "an empty sequence"
        raise ValueError(f"{name} must be a non-empty sequence of rotations, got {found}")
    if rotations.as_quat().ndim != 2:
        raise ValueError(
            f"{name} must be a one-dimensional sequence of rotations, got shape {rotations.as_quat().shape[:-1]}"
        )
    if count is not None and len(rotations) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} images, got {len(rotations)}")
    return rotations


def shifts_of(shifts_px, *, count: int, name: str = "shifts_px") -> np.ndarray:
    """Return finite (x, y) shifts as a (count, 2) float64 array."""
    shifts_px = finite_array(shifts_px, name=name, ndim=2, dtype=float)
    if shifts_px.shape != (count, 2):
        raise ValueError(f"{name} must be ({count}, 2), got {shifts_px.shape}")
    return shifts_px


def one_each(values, *, count: int, name: str) -> np.ndarray:
    """Return one finite number for each image as a (count,) float64 array."""
    values = finite_array(values, name=name, ndim=1, dtype=float)
    if len(values) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} images, got {len(values)}")
    return values


def positive_number(value: float, *, name: str) -> float:
    """Return a positive, finite number as a float."""
    if not (_is_finite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {_shown(value)}")
    return float(value)


def not_negative(value: float, *, name: str) -> float:
    """Return a non-negative, finite number as a float."""
    if not (_is_finite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite, non-negative number, got {_shown(value)}")
    return float(value)


def whole_number(value: int, *, name: str, at_least: int) -> int:
    """Return an integer of at least ``at_least`` as an int."""
    whole = _is_finite(value) and int(value) == value
    if not (whole and value >= at_least):
        raise ValueError(f"{name} must be an integer >= {at_least}, got {_shown(value)}")
    return int(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name, ``"; did you mean 'x'?"``, or "" if none is similar."""
    spelled = {each.lower(): each for each in known}
    parts = [each for each in spelled if len(name) > 2 and name.lower() in each]
    similar = [*parts, *difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)]
    return f"; did you mean {spelled[similar[0]]!r}?" if similar else ""


def _is_finite(value) -> bool:
    """Return whether a value is a real number that is finite as a float."""
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value) -> str:
    """Format a value for an error message in at most 80 characters, with strings quoted to tell "4" from 4."""
    return f"{value!r:.80}" if isinstance(value, str) else f"{value!s:.80}"
