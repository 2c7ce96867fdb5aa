"""Kill a run at random moments, let it go on, and compare what it ends with to a run that nothing disturbed.

    python benchmarks/kills.py --kills 20 --profile toy
    python benchmarks/kills.py --kills 50 --profile quick

One run is left alone.  Another is killed, with SIGKILL to its whole process group, after a random time, and started
again, until it ends in spite of that; then the next one is begun, until there were as many kills as asked.  Of each run
that ended, every array, map and figure must be the same bit for bit as those of the first, each number of a record the
same but times, and nothing that was half-written may be left.
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

from cryoem.pipeline import PHASES, run_differences
from cryoem.whole_files import ASIDE


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--shortest", type=float, default=2.0, help="seconds that a start lives at the least")
    parser.add_argument(
        "--longest", type=float, default=None, help="and at the most; a third of the clean run"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, default=None, help="for both runs; a temporary one by default")
    return parser.parse_args()


def main() -> int:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        start = time.monotonic()
        if code := start_run(folder / "clean", arguments.profile).wait():
            raise SystemExit(f"the clean run ended with exit code {code}")
        clean_seconds = time.monotonic() - start
        longest = clean_seconds / 3 if arguments.longest is None else arguments.longest
        lives = random_lives((arguments.shortest, longest), arguments.seed)
        start = time.monotonic()
        told = kill_again_and_again(folder, arguments.profile, arguments.kills, lives)
        seconds = time.monotonic() - start
    where = ", ".join(f"{title} {count}" for title, count in told.killed.items())
    rows = [
        ("kills", f"{arguments.kills}", f"{told.killed.total()} ({where})"),
        ("runs that came to their end", "-", f"{told.ended}"),
        ("starts that failed", "0", f"{told.failed}"),
        ("files, maps, figures, records that differ", "0", f"{len(told.differences)}"),
        ("half-written files left", "0", f"{len(told.left)}"),
        ("the clean run", "-", f"{clean_seconds:.0f} s"),
        ("the killed ones, all starts together", "-", f"{seconds:.0f} s"),
    ]
    print_table(f"Kills of a run, profile {arguments.profile}, seed {arguments.seed}", rows)
    for sentence in (*told.differences, *told.left):
        print(f"- {sentence}")
    return 1 if told.failed or told.differences or told.left else 0


@dataclass
class Told:
    """How many starts were ``killed`` in which phase, how many runs ``ended``, how many starts ``failed``, and what
    ``differences`` and half-written files, ``left``, the ended runs show.
    """

    killed: Counter = field(default_factory=Counter)
    ended: int = 0
    failed: int = 0
    differences: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def random_lives(between: tuple[float, float], seed: int) -> Iterator[float]:
    """Seconds, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.uniform(*between)


def kill_again_and_again(folder: Path, profile: str, kills: int, lives: Iterator[float]) -> Told:
    """Runs that are killed when they have lived so many seconds, started again, and compared when they end."""
    told = Told()
    clean, killed = (folder / name / "runs" / profile for name in ("clean", "killed"))
    started_last = False
    while not started_last:
        started_last = told.killed.total() == kills
        seconds = None if started_last else next(lives)
        process = start_run(folder / "killed", profile)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stage = stage_of(killed)
            told.killed[stage] += 1
            print(f"kill {told.killed.total()}: after {seconds:.1f} s, in {stage}", flush=True)
            continue
        if code:
            told.failed += 1
            print(f"a start ended with exit code {code}", flush=True)
            continue
        told.ended += 1
        print(f"run {told.ended} came to its end", flush=True)
        told.differences += run_differences(clean, killed)
        told.left += [str(path) for path in killed.rglob(f"{ASIDE}*")]
        shutil.rmtree(killed)
    return told


def start_run(home: Path, profile: str) -> subprocess.Popen:
    """``cryoem run`` in a process group and a data folder of its own."""
    command = [sys.executable, "-m", "cryoem.cli", "run", "--profile", profile]
    return subprocess.Popen(
        command,
        env=os.environ | {"CRYOEM_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=None,
        start_new_session=True,
    )


def stage_of(folder: Path) -> str:
    """The title of the phase that is not complete yet."""
    waiting = (info.title for name, info in PHASES.items() if not (folder / name / "phase.json").exists())
    return next(waiting, "summary")


if __name__ == "__main__":
    sys.exit(main())
