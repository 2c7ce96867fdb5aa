"""What other packages' errors say, in one line."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message without the point at its end, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")
