"""Measure the time and results of a quick run, and the start-up times of `import cryoem` and `cryoem --help`.

    python benchmarks/quick_run.py                  run the quick profile (5 minutes on two cores)
    python benchmarks/quick_run.py --profile toy

`cryoem run` executes phases 0 to 3, each time in a new, empty data folder. The first run, which also compiles the
functions, has its own row; the other rows show the run of median time of the next three. Start-up times are medians
over new processes. They include the start-up time of Python, which is also shown in a separate row.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from operator import itemgetter
from pathlib import Path

import numpy as np
from memory import run
from table import print_table
from watch import time_text

from cryoem.units import format_quantity

CLI = [sys.executable, "-m", "cryoem.cli"]
WAITS = (
    ("import cryoem", "<= 300 ms", [sys.executable, "-c", "import cryoem"]),
    ("cryoem --help", "<= 500 ms", [*CLI, "--help"]),
    ("Python start-up only", "-", [sys.executable, "-c", "pass"]),
)
SHOWN = (
    "images",
    "recovery_error_rad",
    "refined_pose_error_rad",
    "resolution_against_truth_angstrom",
    "nyquist_angstrom",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="quick", help="profile of the run")
    parser.add_argument("--repeats", type=int, default=9, help="number of processes for each start-up time")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, target, command in WAITS:
            seconds = [run(command, folder)[0] for _ in range(arguments.repeats + 1)]
            rows.append(
                (name, target, time_text(float(np.median(seconds[1:]))))
            )  # the first process writes byte code
        os.environ["NUMBA_CACHE_DIR"] = folder
        first, *runs = [cryoem_run(arguments.profile) for _ in range(4)]
    seconds, memory_gb, numbers = sorted(runs, key=itemgetter(0))[1]
    quick = arguments.profile == "quick"
    rows += [
        ("first run, which also compiles", "-", f"{first[0]:.0f} s"),
        (
            f"{arguments.profile} run, phases 0 to 3, median of three",
            "<= 75 s" if quick else "-",
            f"{seconds:.0f} s",
        ),
        ("training", "<= 45 s" if quick else "-", f"{numbers['training_seconds']:.0f} s"),
        ("peak memory of the run", "-", f"{memory_gb:.2f} GB"),
    ]
    rows += [(label, "-", text) for label, text in (format_quantity(name, numbers[name]) for name in SHOWN)]
    print_table(
        "quick-run", f"{arguments.profile.capitalize()} run in an empty folder and start-up times", rows
    )


def cryoem_run(profile: str) -> tuple[float, float, dict[str, float]]:
    """Return the run time (s), peak memory (GB) and numbers of `cryoem run` in an empty data folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CRYOEM_HOME"] = folder
        seconds, memory_gb = run([*CLI, "run", "--profile", profile], folder)
        summary = Path(folder) / "runs" / f"phantom-{profile}" / "summary.json"
        phases = json.loads(summary.read_text(encoding="utf-8"))["numbers"].values()
    return seconds, memory_gb, {name: value for phase in phases for name, value in phase.items()}


if __name__ == "__main__":
    main()
