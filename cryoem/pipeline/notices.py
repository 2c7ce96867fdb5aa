"""What a run says while it goes on: on stderr, or nothing."""

from __future__ import annotations

import sys


def notice_on_stderr(text: str) -> None:
    """A line on stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def silent(text: str) -> None:
    """Notices are not wanted."""
