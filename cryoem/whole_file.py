"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFT_OVER = (".partial-*", ".*.part")  # names of what this package writes aside, here and for maps and stacks


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Path to write to instead of ``path``, in the same folder; it takes the place of ``path`` when the block succeeds.

    The content reaches the disk before the name does, so a kill or a power cut leaves the old file or the new one. A
    block that raises leaves ``path`` untouched.  The folder is made; the path to write to ends as ``path`` does.

    Raises
    ------
    OSError : ``path`` cannot be written, such as on a full disk; one sentence that names it.
    """
    path = Path(path)
    aside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        to_disk(aside)
        os.replace(aside, path)
        to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        number = _error_number(error, aside)
        if number is None:
            raise
        raise OSError(f"cannot write {path}: {os.strerror(number)}") from None
    finally:
        aside.unlink(missing_ok=True)


def _error_number(error: Exception, aside: Path) -> int | None:
    """What the system said when ``aside`` could not be written; None where an error is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.filename in (None, str(aside)) else None
    told = re.search(r"\berrno = (\d+)", str(error))  # HDF5 has it in its text only
    return int(told[1]) if told else None


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes were writing aside, in a folder and all below it; none may be writing now."""
    for pattern in LEFT_OVER:
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)
