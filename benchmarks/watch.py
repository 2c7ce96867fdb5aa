"""Time and peak memory of single calls, contenders taken in turns, and one table of them side by side.

The peak is that of the call alone, above what the process held before it: Linux forgets the largest resident memory
of a process when a 5 is written to /proc/self/clear_refs (proc(5)).  Elsewhere it is not known, and tables say so.
TensorFlow keeps the memory that it once took, so that only the first call of a process shows what it takes: for that
there is ``peak_alone``.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from table import print_columns

ABSENT = "not installed"
OURS = "cryoem"
PATIENCE_S = 60.0
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Watched:
    """What a contender's calls took: ``seconds`` each, the largest ``peak_bytes`` (None if not known), and what
    the last one returned.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    result: object = None

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def peak(self) -> str:
        """The peak as text."""
        return "not known" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f} MB"


def watch(call: Callable[[], object], *, into: Watched | None = None) -> Watched:
    """Time one call and find its peak of resident memory above what there was before."""
    watched = Watched() if into is None else into
    watched.result = None  # of the call before, so that it is not there any more
    before = _resident_before()
    start = time.perf_counter()
    result = call()
    watched.seconds.append(time.perf_counter() - start)
    if before is not None:
        watched.peak_bytes = max(watched.peak_bytes or 0, memory_bytes("VmHWM") - before)
    watched.result = result
    return watched


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    rehearsals: int = 1,
    patience_s: float = PATIENCE_S,
) -> dict[str, Watched]:
    """Watch each contender in turn, again and again, so that a busy moment of the machine meets all of them.

    ``rehearsals`` calls of each come before and do not count: they compile and load.  A contender of whom one counted
    call takes longer than ``patience_s`` is called once.
    """
    for _ in range(rehearsals):
        for call in contenders.values():
            call()
    watched = {name: Watched() for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            if max(watched[name].seconds, default=0.0) <= patience_s:
                watch(call, into=watched[name])
    return watched


def peak_alone(prepare: Callable[..., Callable[[], object]], *arguments) -> int | None:
    """The peak in bytes, as ``watch`` finds it, of the call that ``prepare(*arguments)`` returns, in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, *arguments).result()


def _peak(prepare: Callable[..., Callable[[], object]], *arguments) -> int | None:
    return watch(prepare(*arguments)).peak_bytes


def print_beside(
    title: str,
    watched: Mapping[str, Watched],
    *,
    accuracy: Mapping[str, str],
    asked: Mapping[str, str] | None = None,
    work: float | None = None,
    unit: str = "",
    absent: tuple[str, ...] = (),
) -> None:
    """Print contenders side by side; ours, that the others are held against, is the first.

    ``accuracy`` and ``asked`` are texts by contender; ``work`` is what one call does, in ``unit``, for a rate;
    ``absent`` are peers that are not installed.
    """
    asked = asked or {}
    first, rows = next(iter(watched)), []
    for name, one in watched.items():
        ratio = "" if name == first else ratio_text(one.median_s / watched[first].median_s)
        rows.append(
            (
                name,
                time_text(one.median_s) + (" (once)" if len(one.seconds) == 1 else ""),
                *(() if work is None else (f"{work / one.median_s:,.0f} {unit}",)),
                ratio,
                accuracy.get(name, ""),
                one.peak,
                asked.get(name, "-"),
            )
        )
    rate = () if work is None else ("rate",)
    for name in absent:
        rows.append((name, ABSENT, *("" for _ in rate), "", "", "", asked.get(name, "-")))
    print_columns(
        title, ("method", "time", *rate, f"{first} is faster by", "accuracy", "peak memory", "asked"), rows
    )


def ratio_text(ratio: float) -> str:
    """How many times, with a sensible number of digits."""
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x"


def time_text(seconds: float) -> str:
    """Seconds with a sensible number of digits."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _resident_before() -> int | None:
    """Bytes resident now, the record of the largest forgotten; None where the system has no such thing."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what the call takes
        _CLEAR.write_text("5")
        return memory_bytes("VmRSS")
    except (OSError, AttributeError):
        return None


def memory_bytes(name: str) -> int:
    """A line of /proc/self/status in bytes: ``VmRSS``, what is resident, or ``VmHWM``, the most that was."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no line {name}")
