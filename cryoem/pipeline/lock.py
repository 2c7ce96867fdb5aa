"""One run at a time in a folder, and no kernel of an earlier one."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK_FILE = ".lock"
LONGEST_WAIT_SECONDS = 30.0


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


@contextmanager
def kernel_log(path: Path) -> Iterator[BinaryIO]:
    """An empty file for what a kernel says, locked until the block ends and the kernel that writes to it has, too.

    The lock goes with the open file, which the kernel inherits: a kernel that outlives the process that started it, be
    it for a moment, holds it on.

    Raises
    ------
    RunInProgressError : an earlier kernel does not end.
    """
    with open(path, "ab") as file:
        _wait_for_lock(file, path)
        file.truncate(0)
        yield file


def wait_for_kernel(path: Path) -> None:
    """Return when no earlier kernel holds the log at ``path``, if there is one; raises as ``kernel_log``."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        _wait_for_lock(file, path)


def _wait_for_lock(file: BinaryIO, path: Path) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunInProgressError(
                    f"the kernel of an earlier run still holds {path} after {LONGEST_WAIT_SECONDS:.0f} s; end it first"
                ) from None
            time.sleep(0.05)


def _owner(file) -> str:
    file.seek(0)
    return file.read()


def _write_owner(file, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()
