"""Run every benchmark in turn and write what they print into docs/benchmarks.md, whole or not at all.

    python benchmarks/write_report.py       about an hour on two cores; also `make bench`

ASPIRE is compared with where the extra ``baselines`` is installed; alignment reads CRYOEM_DATA/class-averages.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "benchmarks.md"
QUESTIONS = (
    "projection.py",
    "recovery.py --stochastic",
    "end_to_end.py --noise-variance 0",
    "end_to_end.py --noise-variance 16",
    "alignment.py --json notebooks/4-udl-alignment/fourteen-sets.json",
)
PACKAGES = ("numpy", "scipy", "numba", "tensorflow", "keras")


def main() -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = (
        "# Benchmarks\n\nWritten by `make bench`; nothing on this page is typed by hand. "
        f"Measured on {date.today()} with {os.cpu_count()} CPU cores ({platform.machine()}), no GPU, Python "
        f"{platform.python_version()}, {versions}. GPU numbers: not measured.\n"
    )
    for question in QUESTIONS:
        script, *options = shlex.split(question)
        print(f"running {question}", flush=True)
        command = [sys.executable, str(HERE / script), *options]
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        ).stdout
        text += f"\n`python benchmarks/{question}`\n" + output[output.index("\n###") :]
    aside = REPORT.with_suffix(".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, REPORT)
    print(f"wrote {REPORT}")


if __name__ == "__main__":
    main()
