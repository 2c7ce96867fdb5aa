"""Atomic writing: a file or folder appears under its final name only when it is complete."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial-"  # prefix of the temporary names of files and folders


def check_writable(path: str | os.PathLike, *, n_bytes: int = 0) -> None:
    """Raise an error if a file cannot be written, before the work whose result it will contain.

    Nothing is created or changed; missing parent folders are allowed.

    Parameters
    ----------
    path : path-like
        Path of the file.
    n_bytes : int
        Size of the file, if it is known. Default: 0.

    Raises
    ------
    OSError
        The folder or an existing file is write-protected, or the disk has less than ``n_bytes`` of free space.
    """
    place = Path(path)
    folder = next(parent for parent in place.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=PARTIAL):
            pass
        if place.is_file():
            with open(place, "r+b"):
                pass
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(
            f"cannot write {path}: it needs {n_bytes / 1e9:.3g} GB, but only {free / 1e9:.3g} GB are free; "
            "make room, or use another disk"
        )


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, and rename it to ``path`` if the block succeeds.

    An existing file is kept until the rename. If the block fails, the existing file is left unchanged and the temporary
    file is removed. The content is flushed to disk before the rename. Missing parent folders are created.

    Raises
    ------
    OSError
        The file cannot be written, for example because the disk is full. The error message contains ``path``.
    """
    with atomic_write_many(path) as (partial,):
        yield partial


@contextmanager
def atomic_write_many(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Write several files that belong together, each as in ``atomic_write``; yield one temporary path per file.

    Existing versions of all files except the first are removed before the first file is renamed. This ensures, for
    example, that a table is never left next to a stack that it does not describe.
    """
    places = [Path(path) for path in paths]
    partials = [_partial(place) for place in places]
    missing = [folder for place in places for folder in _missing_parents(place)]
    try:
        with _final_names(places, partials):
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.is_dir():
                    raise OSError(f"cannot write {place}: Is a directory")
            yield partials
            for partial in partials:
                with open(partial, "rb") as stream:
                    os.fsync(stream.fileno())
            for place in places[1:]:
                place.unlink(missing_ok=True)
            for place, partial in zip(places, partials, strict=True):
                os.replace(partial, place)
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        _remove_empty(missing)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically. Raises the same errors as ``atomic_write``."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(out: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder next to ``out``, and rename it to ``out`` if the block succeeds.

    If the block fails, the temporary folder is removed. Missing parent folders are created, and removed if it fails.

    Raises
    ------
    ValueError
        ``out`` exists and is not an empty folder, or it is a mount point.
    OSError
        The folder or a file in it cannot be written.
    """
    place = Path(os.path.realpath(out))
    partial, missing = _partial(place), _missing_parents(place)
    try:
        with _final_names([Path(out)], [partial]):
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise ValueError(f"{out} exists; choose a new or empty folder")
            if os.path.ismount(place):
                raise ValueError(f"{out} is a mount point; choose a folder inside it")
            partial.mkdir(parents=True)
            yield partial
            os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(missing)


def path_with_suffix(path: str | os.PathLike, *suffixes: str) -> Path:
    """Return ``path`` as a Path, or raise a ValueError if its name does not end in one of the suffixes."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"path must end in {' or '.join(suffixes)}, got {str(path)!r}")
    return path


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder tree that no running process is writing to."""
    for path in folder.rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _partial(place: Path) -> Path:
    """Return a hidden temporary name next to ``place`` with a random part and the same suffix."""
    return place.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{place.name}")


def _missing_parents(place: Path) -> list[Path]:
    """Return the parent folders that do not exist, the deepest first."""
    return [folder for folder in place.parents if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it has content, or was not created
            folder.rmdir()


@contextmanager
def _final_names(places: list[Path], partials: list[Path]) -> Iterator[None]:
    """Convert errors about temporary files into one sentence that contains the final path."""

    def final(text: str) -> str:
        for place, partial in zip(places, partials, strict=True):
            text = text.replace(str(partial), str(place))
        return text

    try:
        yield
    except (OSError, RuntimeError) as error:
        number, name = getattr(error, "errno", None), getattr(error, "filename", None)
        # HDF5 states the error number only in its message.
        if number is None and (match := re.search(r"\berrno = (\d+)", str(error))):
            number = int(match[1])
        if number is None and final(str(error)) != str(error):
            raise OSError(final(str(error))) from None
        if number is None:
            raise
        # Errors while writing to an open file have no file name. Errors while creating a parent folder have its name.
        if name is None or any(Path(name) in (*place.parents, *place.absolute().parents) for place in places):
            raise OSError(f"cannot write {places[0]}: {os.strerror(number)}") from None
        if Path(name) in places or final(str(name)) != str(name):
            raise OSError(f"cannot write {final(str(name))}: {os.strerror(number)}") from None
        # The error is about a different file, such as one that the block reads.
        raise
