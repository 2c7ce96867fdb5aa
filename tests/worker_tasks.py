"""Functions that tests run on Dask workers, in a module that a restarted worker can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def slow_start(number: int) -> tuple[int, int]:
    """Return the number and the process ID; smaller numbers take longer."""
    time.sleep(0.2 / (1 + number))
    return number, os.getpid()


def refuse(number: int) -> int:
    if number == 2:
        raise ValueError(f"number must not be 2, got {number}")
    return number


def threads(_) -> str | None:
    """Return the number of threads that libraries may use."""
    return os.environ.get("OMP_NUM_THREADS")


class Killer:
    """Task that kills its worker at number 3, either once or always."""

    def __init__(self, folder: Path, *, always: bool):
        self.folder, self.always = folder, always

    def __call__(self, number: int) -> int:
        trace = self.folder / str(number)
        if number == 3 and (self.always or not trace.exists()):
            trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * 10
