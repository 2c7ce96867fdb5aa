"""The whole quick run from nothing, and how long one waits for `import cryoem` and `cryoem --help`.

    python benchmarks/quick_run.py                  some minutes on two cores
    python benchmarks/quick_run.py --profile toy

Phases 0 to 3 are run by `cryoem run` in a data folder that is new and empty.  The other two are medians over fresh
processes, the start of Python included, which is in the table as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from memory import run
from table import print_table
from watch import time_text

from cryoem.pipeline.summary import with_unit

CLI = [sys.executable, "-m", "cryoem.cli"]
WAITS = (
    ("import cryoem", "<= 300 ms", [sys.executable, "-c", "import cryoem"]),
    ("cryoem --help", "<= 500 ms", [*CLI, "--help"]),
    ("Python alone", "-", [sys.executable, "-c", "pass"]),
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
    parser.add_argument("--profile", default="quick", help="of the run")
    parser.add_argument("--repeats", type=int, default=9, help="fresh processes each")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, asked, command in WAITS:
            seconds = [run(command, folder)[0] for _ in range(arguments.repeats + 1)]
            rows.append((name, asked, time_text(float(np.median(seconds[1:])))))  # the first one compiles
        os.environ["CRYOEM_HOME"] = folder
        seconds, memory_gb = run([*CLI, "run", "--profile", arguments.profile], folder)
        summary = json.loads(
            (Path(folder) / "runs" / arguments.profile / "summary.json").read_text(encoding="utf-8")
        )
    asked = "<= 4 min" if arguments.profile == "quick" else "-"
    rows.append((f"{arguments.profile} run, phases 0 to 3", asked, f"{seconds / 60:.1f} min"))
    rows.append(("its largest memory", "-", f"{memory_gb:.2f} GB"))
    numbers = {name: value for phase in summary["numbers"].values() for name, value in phase.items()}
    rows += [(label, "-", text) for label, text in (with_unit(name, numbers[name]) for name in SHOWN)]
    print_table(f"A clean {arguments.profile} run, and what one waits for", rows)


if __name__ == "__main__":
    main()
