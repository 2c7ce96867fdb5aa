"""What tests let Dask's workers do; a module of its own, as a worker loads it anew each time it is started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def late(number: int) -> tuple[int, int]:
    """Earlier numbers take longer."""
    time.sleep(0.2 / (1 + number))
    return number, os.getpid()


def refuse(number: int) -> int:
    if number == 2:
        raise ValueError(f"number must not be 2, got {number}")
    return number


def numbers_and_processes(number: int) -> tuple[int, int]:
    """A tenth of a second's work, and who did it."""
    time.sleep(0.1)
    return number, os.getpid()


def threads(_) -> str | None:
    """How many threads a library is told to use."""
    return os.environ.get("OMP_NUM_THREADS")


class Killer:
    """Kills the worker that it is on, at one number, the first time or each time."""

    def __init__(self, folder: Path, *, always: bool):
        self.folder, self.always = folder, always

    def __call__(self, number: int) -> int:
        trace = self.folder / str(number)
        if number == 3 and (self.always or not trace.exists()):
            trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * 10
