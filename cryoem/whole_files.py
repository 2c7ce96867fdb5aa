"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ASIDE = ".partial-"  # begins the names of what is being written


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Path to write to instead of ``path``, beside it; it takes its place when the block succeeds, else it goes.

    As ``whole_files`` does it with several.
    """
    with whole_files(path) as (aside,):
        yield aside


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """As ``whole_file``; folders above ``path`` that are missing are made, and what the block cannot write is an error
    about ``path``.

    Raises
    ------
    OSError : ``path`` cannot be written, such as on a full disk; one sentence that names it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        try:
            yield aside
        except (OSError, RuntimeError) as error:
            number = _error_number(error, aside)
            if number is None:
                raise
            raise OSError(f"cannot write {path}: {os.strerror(number)}") from None


@contextmanager
def whole_files(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Paths to write to instead of ``paths``, each beside its own; they take their places when the block succeeds.

    Otherwise they go, and older files stay as they were.  The content reaches the disk before the name does, so that a
    kill or a power cut leaves the old file or the new one.  Of several files the first comes first, and older ones of
    the others are gone before: at no moment does a table stand beside a stack that it is not of.  What processes of
    this machine left in such places when they were killed is removed.

    Raises
    ------
    FileNotFoundError : a folder does not exist.
    OSError : a file cannot be written.
    """
    places, asides = [Path(path) for path in paths], []
    for place in places:
        if not place.parent.is_dir():
            raise FileNotFoundError(f"no folder {place.parent} to write {place.name} into")
        if place.is_dir():
            raise OSError(f"cannot write {place}: Is a directory")
        with cannot_write(place):
            asides.append(_place_aside(place))
    try:
        yield asides
        for place, aside in zip(places, asides, strict=True):
            with cannot_write(place):
                to_disk(aside)
        for place in places[1:]:
            with cannot_write(place):
                place.unlink(missing_ok=True)
        for place, aside in zip(places, asides, strict=True):
            with cannot_write(place):
                os.replace(aside, place)
                to_disk(place.parent)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


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
    with _cannot_make(out):
        place = Path(os.path.realpath(out))
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ValueError(f"out must be a new or an empty folder, got {out}, which holds something")
        if os.path.ismount(place):
            raise ValueError(f"out must be a folder that can be replaced, got the mounted volume {out}")
        missing = [folder for folder in place.parents if not folder.exists()]
        aside = _place_aside(place)
    try:
        with _cannot_make(out):
            aside.mkdir(parents=True)
        yield aside
        with _cannot_make(out):
            os.replace(aside, place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in missing:  # the innermost first
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def cannot_write(path: str | os.PathLike) -> Iterator[None]:
    """What the system says of a failed write, an OSError with the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def _cannot_make(out: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"out {out} cannot be made: {error.strerror or error}") from None


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_left_overs(folder: Path) -> None:
    """Remove files that killed processes were writing aside, in a folder and all below it; none may be writing now."""
    for path in folder.rglob(f"{ASIDE}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _place_aside(place: Path) -> Path:
    """Where to write what is to become ``place``, with the same ending; what processes that are no more left in such
    places is removed.
    """
    prefix = f"{ASIDE}{platform.node()}-"
    for left in place.parent.glob(f"{glob.escape(prefix)}*-{glob.escape(place.name)}"):
        process = left.name.removeprefix(prefix).partition("-")[0]
        if not process.isdecimal() or _is_running(int(process)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return place.with_name(f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}-{place.name}")


def _error_number(error: Exception, aside: Path) -> int | None:
    """What the system said when ``aside`` could not be written; None where an error is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.filename in (None, str(aside)) else None
    told = re.search(r"\berrno = (\d+)", str(error))  # HDF5 has it in its text only
    return int(told[1]) if told else None


def _is_running(process: int) -> bool:
    """Whether a process of this number runs; taken for granted where asking would end it."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
