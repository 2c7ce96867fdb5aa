"""Atomic writing: a file or folder appears complete under its name or not at all."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial-"  # prefix of the names of files and folders that are being written


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, and rename it to ``path`` if the block succeeds.

    An existing file is kept until then; if the block fails, it stays and the temporary file is removed. The content
    is flushed to disk before the rename. Missing parent folders are created.

    Raises
    ------
    OSError
        The file cannot be written, for example because the disk is full; one sentence that names ``path``.
    """
    with atomic_write_many(path) as (partial,):
        yield partial


@contextmanager
def atomic_write_many(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Write files that belong together, each as ``atomic_write`` does; yield one temporary path for each.

    Earlier versions of all files but the first are removed before the first is renamed. A table is therefore never
    left next to a stack that it does not describe.
    """
    places = [Path(path) for path in paths]
    partials = [_partial(place) for place in places]
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


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically; raises as ``atomic_write``."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(out: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder next to ``out``, and rename it to ``out`` if the block succeeds.

    If the block fails, the temporary folder is removed. Missing parent folders are created.

    Raises
    ------
    ValueError
        ``out`` exists and is not an empty folder, or is the mount point of a volume.
    OSError
        ``out`` or a file in it cannot be written.
    """
    place = Path(os.path.realpath(out))
    partial = _partial(place)
    try:
        with _final_names([place], [partial]):
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise ValueError(f"{out} exists; give a new or an empty folder")
            if os.path.ismount(place):
                raise ValueError(f"{out} is a mounted volume; give a folder in it")
            partial.mkdir(parents=True)
            yield partial
            os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def path_with_suffix(path: str | os.PathLike, *suffixes: str) -> Path:
    """Return ``path`` as a Path, or raise a ValueError unless its name has one of the suffixes."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"path must end in {' or '.join(suffixes)}, got {str(path)!r}")
    return path


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of killed processes in a folder and below it; no process may be writing there."""
    for path in folder.rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _partial(place: Path) -> Path:
    """Return a hidden temporary name next to ``place``, with the same suffix and a random part."""
    return place.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{place.name}")


@contextmanager
def _final_names(places: list[Path], partials: list[Path]) -> Iterator[None]:
    """Turn errors about temporary files into one sentence that names the final path."""

    def final(text: str) -> str:
        for place, partial in zip(places, partials, strict=True):
            text = text.replace(str(partial), str(place))
        return text

    try:
        yield
    except (OSError, RuntimeError) as error:
        number, name = getattr(error, "errno", None), getattr(error, "filename", None)
        # HDF5 states the error number in its text only.
        if number is None and (match := re.search(r"\berrno = (\d+)", str(error))):
            number = int(match[1])
        if number is None and final(str(error)) != str(error):
            raise OSError(final(str(error))) from None
        if number is None:
            raise
        # A failed write of an open file has no name; a folder that cannot be created has that of the folder.
        if name is None or any(Path(name) in place.parents for place in places):
            raise OSError(f"cannot write {places[0]}: {os.strerror(number)}") from None
        if Path(name) in places or final(str(name)) != str(name):
            raise OSError(f"cannot write {final(str(name))}: {os.strerror(number)}") from None
        raise  # about another file, such as one that the block reads
