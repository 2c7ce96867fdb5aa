"""Kill runs at random times, resume them, and compare their results with those of undisturbed runs.

    python benchmarks/kills.py --kills 10 --profile quick
    python benchmarks/kills.py --kills 20 --profile toy

First, two undisturbed runs are executed. The differences between their numbers are the run-to-run noise. Then a run is
started, and its process group is killed with SIGKILL after a random time. The run is resumed and killed again until it
completes, and then the next run begins, until the requested number of kills is reached. The numbers of each run must
agree with the undisturbed ones to within three times the noise or one percent, whichever is larger. No partial files
may remain.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from table import print_table

from cryoem.files.writing import PARTIAL
from cryoem.runs.jobs import read_record
from cryoem.runs.pipeline import PHASES, run_name
from cryoem.runs.profiles import get_profile

TIMES = "seconds"  # suffix of the names of times
NOISE_FACTOR, SMALLEST_DIFFERENCE = 3.0, 0.01  # relative
Numbers = dict[tuple[str, str], float]


@dataclass
class Outcome:
    """Kills in each phase, completed runs and failed starts, with the differences and partial files that were found."""

    killed: Counter = field(default_factory=Counter)
    completed: int = 0
    failed: int = 0
    differences: list[str] = field(default_factory=list)
    partial_files: list[str] = field(default_factory=list)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--shortest", type=float, default=2.0, help="shortest time before a kill, s")
    parser.add_argument(
        "--longest",
        type=float,
        help="longest time before a kill, s (default: a third of the time of an undisturbed run)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--folder", type=Path, help="folder for all runs (default: a temporary folder)")
    return parser.parse_args()


def main() -> int:
    arguments = parsed()
    name = run_name(get_profile(arguments.profile))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        start = time.monotonic()
        undisturbed = []
        for home in (folder / "first", folder / "second"):
            if code := start_run(home, arguments.profile).wait():
                raise SystemExit(f"an undisturbed run failed with exit code {code}")
            undisturbed.append(numbers_of(home / "runs" / name))
        clean_seconds = (time.monotonic() - start) / 2
        longest = clean_seconds / 3 if arguments.longest is None else arguments.longest
        times = random_times(arguments.shortest, longest, arguments.seed)
        start = time.monotonic()
        outcome = kill_repeatedly(folder / "killed", arguments, times, undisturbed)
        seconds = time.monotonic() - start
    where = ", ".join(f"{title} {count}" for title, count in outcome.killed.items())
    rows = [
        ("kills", f"{arguments.kills}", f"{outcome.killed.total()} ({where})"),
        ("completed runs", "-", f"{outcome.completed}"),
        ("failed starts", "0", f"{outcome.failed}"),
        ("numbers that differ by more than the noise", "0", f"{len(outcome.differences)}"),
        ("remaining partial files", "0", f"{len(outcome.partial_files)}"),
        ("time of one undisturbed run", "-", f"{clean_seconds:.0f} s"),
        ("time of all killed and resumed runs", "-", f"{seconds:.0f} s"),
    ]
    print_table("kills", f"Killed and resumed runs, profile {arguments.profile}, seed {arguments.seed}", rows)
    for sentence in (*outcome.differences, *outcome.partial_files):
        print(f"- {sentence}")
    return 1 if outcome.failed or outcome.differences or outcome.partial_files else 0


def random_times(shortest: float, longest: float, seed: int) -> Iterator[float]:
    """Yield an endless sequence of random times in seconds."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.uniform(shortest, longest)


def kill_repeatedly(
    home: Path, arguments: argparse.Namespace, times: Iterator[float], undisturbed: list[Numbers]
) -> Outcome:
    """Start runs, kill and resume each of them until it completes, and compare its results."""
    outcome = Outcome()
    run = home / "runs" / run_name(get_profile(arguments.profile))
    is_last = False
    while not is_last:
        is_last = outcome.killed.total() == arguments.kills
        seconds = None if is_last else next(times)
        process = start_run(home, arguments.profile)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            phase = current_phase(run)
            outcome.killed[phase] += 1
            print(f"kill {outcome.killed.total()}: after {seconds:.1f} s, in {phase}", flush=True)
            continue
        if code:
            outcome.failed += 1
            print(f"a run failed with exit code {code}", flush=True)
            continue
        outcome.completed += 1
        print(f"run {outcome.completed} completed", flush=True)
        outcome.differences += differences(numbers_of(run), undisturbed)
        outcome.partial_files += [str(path) for path in run.rglob(f"{PARTIAL}*")]
        shutil.rmtree(run)
    return outcome


def start_run(home: Path, profile: str) -> subprocess.Popen:
    """Start ``cryoem run`` in a new process group, with ``home`` as the data folder."""
    command = [sys.executable, "-m", "cryoem.cli", "run", "--profile", profile]
    environment = os.environ | {"CRYOEM_HOME": str(home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def numbers_of(run: Path) -> Numbers:
    """Return the numbers recorded by a complete run, except times, by phase and name."""
    return {
        (phase, name): value
        for phase in PHASES
        for name, value in read_record(run / phase)["results"]["numbers"].items()
        if isinstance(value, (int, float)) and not name.endswith(TIMES)
    }


def differences(found: Numbers, undisturbed: list[Numbers]) -> list[str]:
    """Return a sentence for each number that differs from those of undisturbed runs by more than the noise."""
    first, second = undisturbed
    sentences = []
    for key, value in found.items():
        noise = abs(first[key] - second[key])
        allowed = max(NOISE_FACTOR * noise, SMALLEST_DIFFERENCE * abs(first[key]))
        if abs(value - first[key]) > allowed:
            sentences.append(
                f"{' '.join(key)} is {value}, but {first[key]} and {second[key]} in the undisturbed runs"
            )
    return sentences


def current_phase(run: Path) -> str:
    """Return the title of the first phase that is not complete."""
    waiting = (info.title for name, info in PHASES.items() if read_record(run / name) is None)
    return next(waiting, "summary")


if __name__ == "__main__":
    sys.exit(main())
