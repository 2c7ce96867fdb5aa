"""Units at the end of names, and formatting of quantities as text."""

from __future__ import annotations

import math

UNITS = {
    "rad": "rad",
    "deg": "°",
    "px": "px",
    "angstrom": "Å",
    "angstrom2": "Å²",
    "seconds": "s",
    "percent": "%",
}
PROPER = {"b": "B", "ctf": "CTF", "euclidean": "Euclidean", "fsc": "FSC", "nyquist": "Nyquist"}


def split_unit(name: str) -> tuple[str, str]:
    """Split a name into words and a unit: ``pose_error_rad`` becomes ``("pose error", "rad")``.

    The unit is empty if the name does not end in one of ``UNITS``.
    """
    words, last = name.split("_"), ""
    if len(words) > 1 and words[-1] in UNITS:
        last = words.pop()
    return " ".join(PROPER.get(word, word) for word in words), UNITS.get(last, "")


def label_with_unit(name: str) -> str:
    """Return the label of an axis or column: ``pose_error_rad`` becomes ``"pose error (rad)"``."""
    words, unit = split_unit(name)
    return f"{words} ({unit})" if unit else words


def format_quantity(name: str, value) -> tuple[str, str]:
    """Return the label and the text, with a unit, of a recorded value; angles in radians are also shown in degrees.

    For example, ``recovery_error_rad`` with the value 0.0931 becomes ``("recovery error", "0.0931 rad (5.33°)")``. None
    becomes "not available", and a boolean becomes "yes" or "no".
    """
    label, unit = split_unit(name)
    if value is None:
        return label, "not available"
    if isinstance(value, bool):
        return label, "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = f"{value:,}" if isinstance(value, int) else str(value)
    if not unit:
        return label, text
    degrees = f" ({math.degrees(value):.3g}°)" if unit == "rad" else ""
    return label, f"{text} {unit}{degrees}"


def readable_duration(seconds: float) -> str:
    """Format a duration: ``0.4 s``, ``42 s``, ``3 min 07 s`` or ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
