"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


class RunInProgressError(RuntimeError):
    """Another process is running in the same folder."""


@contextmanager
def locked(folder: Path, *, notice: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock while the block runs.

    The operating system frees the lock of a process that dies, however it dies. Its identifier stays in the file, and
    whoever takes over says so through ``notice``.

    Raises
    ------
    RunInProgressError : another living process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInProgressError(
                f"{folder} is in use by process {_owner(file)}; wait for it or choose another run name"
            ) from None
        if owner := _owner(file):
            notice(f"Process {owner} ended in the middle of this run; taking over.")
        try:
            _write_owner(file, str(os.getpid()))
            yield
        finally:
            _write_owner(file, "")


def _owner(file) -> str:
    file.seek(0)
    return file.read()


def _write_owner(file, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()
