"""Run every benchmark in turn and write what they print into docs/benchmarks.md, whole or not at all.

    python benchmarks/write_report.py                       some three hours on two cores; also `make bench`
    python benchmarks/write_report.py natural published     these scripts alone; the other sections stay as they are
    python benchmarks/write_report.py "end_to_end.py --noise-variance 0"     this one question alone

ASPIRE and scikit-learn are compared with where the extra ``baselines`` is installed; alignment reads
CRYOEM_DATA/class-averages, natural CRYOEM_DATA/natural-images.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "benchmarks.md"
D2 = "--map beta-galactosidase --masked --symmetry D2 --image-size 100"
QUESTIONS = (
    "quick_run.py",
    "projection.py",
    "reconstruction.py",
    "reading.py",
    "recovery.py --stochastic",
    "recovery_speed.py",
    "landmarks.py",
    "growth.py --again",
    "training.py",
    "end_to_end.py --noise-variance 0",
    "end_to_end.py --noise-variance 16",
    "end_to_end.py --noise-variance 0 --shift-limit-px 5",
    "end_to_end.py --noise-variance 16 --shift-limit-px 5",
    "end_to_end.py --noise-variance 0 --shift-limit-px 5 --ctf",
    "end_to_end.py --noise-variance 16 --shift-limit-px 5 --ctf",
    f"end_to_end.py --noise-variance 0 {D2}",
    f"end_to_end.py --noise-variance 16 {D2}",
    "alignment.py --json notebooks/4-udl-alignment/fourteen-sets.json",
    "alignment_speed.py",
    "particles.py",
    "memory.py",
    "natural.py",
    "published.py",
)
PACKAGES = ("numpy", "scipy", "numba", "tensorflow", "keras")


def main() -> None:
    scripts = sorted({script_of(question) for question in QUESTIONS})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "questions",
        nargs="*",
        choices=[*scripts, *QUESTIONS, []],
        metavar="QUESTION",
        help=f"{', '.join(scripts)}, or one of their command lines",
    )
    chosen = parser.parse_args().questions or scripts
    for question in QUESTIONS:
        if question in chosen or script_of(question) in chosen:
            print(f"running {question}", flush=True)
            measured = answer(question)
            write(sections() | {question: measured})
    print(f"wrote {REPORT}")


def script_of(question: str) -> str:
    """Name of the script that answers a question."""
    return question.partition(".py")[0]


def sections() -> dict[str, str]:
    """What the page holds for each question so far."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else ""
    parts = re.split(r"^`python benchmarks/(.+)`\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip("\n") for part in parts[2::2]), strict=True))


def answer(question: str) -> str:
    """When and with what a benchmark was run, and the tables that it printed."""
    script, *options = shlex.split(question)
    command = [sys.executable, str(HERE / script), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent).stdout
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured on {date.today()} with {os.cpu_count()} CPU cores ({platform.machine()}), no GPU, Python "
        f"{platform.python_version()}, {versions}.\n\n" + output[output.index("\n###") :].strip("\n")
    )


def write(answers: dict[str, str]) -> None:
    """The page of the answers there are, in the order of the questions."""
    text = "# Benchmarks\n\nWritten by `make bench`; nothing on this page is typed by hand. "
    text += "GPU numbers: not measured.\n"
    for question in QUESTIONS:
        if question in answers:
            text += f"\n`python benchmarks/{question}`\n\n{answers[question]}\n"
    aside = REPORT.with_suffix(".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, REPORT)


if __name__ == "__main__":
    main()
