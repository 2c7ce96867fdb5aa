"""Measure the time and peak memory of single calls, and print a table that compares several methods.

The peak memory is the increase during the call, above the resident memory before the call. On Linux, writing 5 to
/proc/self/clear_refs resets the peak resident memory of the process (see proc(5)). On other systems, tables show "not
known". TensorFlow keeps the memory that it has allocated, so only the first call in a process shows how much memory it
needs; ``peak_alone`` makes this call in a new process.
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
    """Measurements of a method: ``seconds`` of each call, ``peak_bytes`` (None if unknown) and the last ``result``."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    result: object = None

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def peak(self) -> str:
        """Return the peak memory as text."""
        return "not known" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f} MB"


def watch(call: Callable[[], object], *, into: Watched | None = None) -> Watched:
    """Time one call, and measure by how much its peak resident memory exceeds that before the call."""
    watched = Watched() if into is None else into
    watched.result = None  # free the result of the previous call
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
    """Measure methods in turn, so that other work on the machine affects all of them.

    Each method is first called ``rehearsals`` times without being measured, to compile and load its code. A method that
    takes longer than ``patience_s`` is measured only once.
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
    """Measure the peak memory (bytes) of the callable returned by ``prepare(*arguments)``, in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, *arguments).result()


def _peak(prepare: Callable[..., Callable[[], object]], *arguments) -> int | None:
    return watch(prepare(*arguments)).peak_bytes


def print_comparison(
    name: str,
    title: str,
    watched: Mapping[str, Watched],
    *,
    accuracy: Mapping[str, str],
    targets: Mapping[str, str] | None = None,
    work: float | None = None,
    unit: str = "",
    absent: tuple[str, ...] = (),
) -> None:
    """Print and store a table of methods (see ``print_columns``). Speed-ups are those of the first method.

    ``accuracy`` and ``targets`` map methods to texts. If ``work`` is given, it is the amount of work done by one call,
    and the table shows the rate in ``unit``. ``absent`` lists other programs that are not installed.
    """
    targets = targets or {}
    first, rows = next(iter(watched)), []
    for method, one in watched.items():
        ratio = "" if method == first else ratio_text(one.median_s / watched[first].median_s)
        rows.append(
            (
                method,
                time_text(one.median_s) + (" (once)" if len(one.seconds) == 1 else ""),
                *(() if work is None else (f"{work / one.median_s:,.0f} {unit}",)),
                ratio,
                accuracy.get(method, ""),
                one.peak,
                targets.get(method, "-"),
            )
        )
    rate = () if work is None else ("rate",)
    for peer in absent:
        rows.append((peer, ABSENT, *("" for _ in rate), "", "", "", targets.get(peer, "-")))
    print_columns(
        name,
        title,
        ("method", "time", *rate, f"speed-up of {first}", "accuracy", "peak memory", "target"),
        rows,
    )


def ratio_text(ratio: float) -> str:
    """Return a ratio as text with at least two significant digits."""
    return f"{ratio:,.0f} x" if ratio >= 10 else f"{ratio:.2g} x"


def time_text(seconds: float) -> str:
    """Return a time as text, in a suitable unit."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _resident_before() -> int | None:
    """Reset the peak and return the current resident memory in bytes; None if the system does not support this."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(
            0
        )  # freed memory that the process still holds would hide memory used by the call
        _CLEAR.write_text("5")
        return memory_bytes("VmRSS")
    except (OSError, AttributeError):
        return None


def memory_bytes(name: str) -> int:
    """Read an entry of /proc/self/status in bytes: ``VmRSS`` (resident memory) or ``VmHWM`` (its peak)."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no entry {name}")
