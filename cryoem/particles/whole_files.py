"""Files that appear whole or not at all, alone or together."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(*paths: Path) -> Iterator[list[Path]]:
    """Paths to write to instead of ``paths``, each beside its own; they take their places when the block succeeds.

    Otherwise they go, and older files stay as they were.  The content reaches the disk before the name does.  Of
    several files the first comes first, and older ones of the others are gone before: at no moment does a table stand
    beside a stack that it is not of.

    Raises
    ------
    FileNotFoundError : a folder does not exist.
    OSError : a file cannot be written.
    """
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into")
        if path.is_dir():
            raise OSError(f"cannot write {path}: Is a directory")
    parts = [path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for path in paths]
    try:
        yield parts
        for path, part in zip(paths, parts, strict=True):
            with one_sentence(path), open(part, "rb") as stream:
                os.fsync(stream.fileno())
        for path in paths[1:]:
            with one_sentence(path):
                path.unlink(missing_ok=True)
        for path, part in zip(paths, parts, strict=True):
            with one_sentence(path):
                os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


@contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """What the system says of a failed write, with the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None
