"""Print the table of a benchmark, and store it in benchmarks/results/ if its command is one of ``COMMANDS``."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "scipy", "numba", "tensorflow", "keras")
D2 = "--map beta-galactosidase --masked --symmetry D2 --image-size 100"
# The measurements in docs/benchmarks.md, in their order. With other options, a benchmark only prints its tables.
COMMANDS = (
    "quick_run.py",
    "projection.py",
    "reconstruction.py",
    "reading.py",
    "recovery.py --stochastic",
    "recovery_speed.py",
    "landmarks.py",
    "ab_initio.py --seeds 5",
    "refinement.py",
    "initial_models.py",
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
    "classification.py",
    "particles.py",
    "memory.py",
    "large_job.py",
    "amortised.py",
    "natural.py",
    "published.py",
    "kills.py --kills 10 --profile quick",
    "gpu.py",
)


class Table(NamedTuple):
    """A stored table: its title, the command and the machine used to measure it, the column names and the rows."""

    title: str
    command: str
    machine: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def print_table(name: str, title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Print and store a table with the columns quantity, target and measured."""
    print_columns(name, title, ("quantity", "target", "measured"), rows)


def print_columns(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with any columns as Markdown, and store it as results/NAME.csv.

    The file is written only if the running command is one of ``COMMANDS``. A trial with fewer images therefore does
    not replace a measurement.
    """
    print(f"\n### {title}\n\n{as_markdown(columns, rows)}", flush=True)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if command in COMMANDS:
        store(name, Table(title, command, machine(), tuple(columns), tuple(map(tuple, rows))))


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = [columns, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Return the date, the processor, the GPU and the versions of installed packages as text."""
    versions = {package: installed_version(package) for package in packages}
    return (
        f"{date.today()}, {os.cpu_count()} CPU cores ({platform.machine()}), {card_name() or 'no GPU'}, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {found}" for package, found in versions.items() if found is not None)
    )


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def card_name() -> str | None:
    """Return the name of the first NVIDIA GPU that CUDA_VISIBLE_DEVICES allows, or None if there is none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if chosen is not None:
        command.append(f"--id={chosen.partition(',')[0]}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip().partition("\n")[0] or None


def store(name: str, table: Table) -> None:
    """Write results/NAME.csv: three comment lines that start with ``#``, the column names and the rows."""
    RESULTS.mkdir(exist_ok=True)
    partial = RESULTS / f".{name}.partial"
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# title: {table.title}\n# command: python benchmarks/{table.command}\n")
        file.write(f"# measured: {table.machine}\n")
        csv.writer(file, lineterminator="\n").writerows([table.columns, *table.rows])
    os.replace(partial, RESULTS / f"{name}.csv")


def read(path: Path) -> Table:
    """Read a table written by ``store``. Other programs can use ``pandas.read_csv(path, comment="#")``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    title, command, measured = (line.partition(": ")[2] for line in lines[:3])
    columns, *rows = csv.reader(lines[3:])
    return Table(
        title, command.removeprefix("python benchmarks/"), measured, tuple(columns), tuple(map(tuple, rows))
    )
