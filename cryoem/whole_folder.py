"""A folder that appears whole or not at all."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_folder(out: str | os.PathLike) -> Iterator[Path]:
    """A folder to write in, beside ``out``, that becomes it at the end, or vanishes with whatever went wrong.

    Folders above ``out`` that are missing are made, and removed again after an error where they are empty.  What
    processes of this machine left beside it when they were killed is removed, too.

    Raises
    ------
    ValueError : ``out`` is there and holds something, or is where a volume is mounted.
    OSError : ``out`` cannot be made.
    """
    with _one_sentence(out):
        place = Path(os.path.realpath(out))
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ValueError(f"out must be a new or an empty folder, got {out}, which holds something")
        if os.path.ismount(place):
            raise ValueError(f"out must be a folder that can be replaced, got the mounted volume {out}")
        prefix = f".partial-{place.name}-{platform.node()}-"
        _remove_left_over(place.parent, prefix)
        missing = [folder for folder in place.parents if not folder.exists()]
    aside = place.with_name(f"{prefix}{os.getpid()}")
    try:
        with _one_sentence(out):
            aside.mkdir(parents=True)
        yield aside
        with _one_sentence(out):
            os.replace(aside, place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in missing:  # the innermost first
            with suppress(OSError):
                folder.rmdir()
        raise


def _remove_left_over(parent: Path, prefix: str) -> None:
    """Remove folders of this prefix whose names end in the number of a process that is no more."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        number = left.name.removeprefix(prefix)
        if number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether another process of this number runs; taken for granted where asking would end it."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _one_sentence(out: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"out {out} cannot be made: {error.strerror or error}") from None
