"""Measure how the time and memory of each step grow, for 1,000 to 1,000,000 images and for images of 64 to 512 px.

    python benchmarks/growth.py                      measure only the missing rows (half an hour at most)
    python benchmarks/growth.py --most 10000         measure up to this number of images
    python benchmarks/growth.py --again              measure all rows again

Images are projected, aligned and reconstructed in blocks, which are then discarded. Recovery reads distances to
landmarks from a file. Each row is for one step at one size, measured in a separate process. The time exponent is the
slope of log time against log size over the three largest sizes. Memory is the peak resident memory of the process, of
which libraries take 0.2 GB, or 1 GB with TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from table import print_table

from cryoem.experiments.tables import growth_of
from cryoem.files.writing import atomic_write

HERE = Path(__file__).parent
TABLE = HERE.parent / "notebooks" / "5-paper-figures" / "results" / "growth.csv"
STEPS = HERE / "growth_steps.py"
IMAGES = (1_000, 10_000, 100_000, 1_000_000)
IMAGE_SIZES = (64, 128, 256, 512)
LANDMARKS = (100, 200, 400, 800)
SMALL_PX = 32  # image size when the number of images varies
IMAGES_OF_EACH_SIZE = 256
LANDMARKS_OF_MANY = 300
IMAGES_TO_LANDMARKS = 50_000
LARGEST_MAP_PX = 256  # for reconstruction, which keeps two grids per core
STREAMED = ("projection", "alignment, template", "alignment, joint network", "reconstruction")
# (step, variable) -> largest exponent
TARGETS = {
    **{(step, "images"): 1.1 for step in (*STREAMED, "recovery")},
    **{(step, "image_size_px"): 2.2 for step in STREAMED[:3]},
    ("recovery", "landmarks"): 1.1,
}
BYTES_AN_IMAGE = 100  # target: room for an orientation, a shift, a score and a copy of each
KEY = ["step", "variable", "size", "images", "image_size_px", "landmarks"]
MEASURED = ["seconds", "cpu_seconds", "repeats", "added_memory_gb", "peak_memory_gb", "error_rad"]
STAMP = ["date", "cores", "machine", "python", "numpy", "numba", "tensorflow"]
COLUMNS = [*KEY, *MEASURED, *STAMP]


class Point(NamedTuple):
    """A row to measure. Its ``size`` is the value of the quantity named by ``variable``."""

    step: str
    variable: str
    images: int
    image_size_px: int
    landmarks: int

    @property
    def size(self) -> int:
        return getattr(self, self.variable)

    @property
    def key(self) -> dict:
        return {name: getattr(self, name) for name in KEY}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=IMAGES[-1], help="largest number of images")
    parser.add_argument(
        "--most-px", type=int, default=IMAGE_SIZES[-1], help="largest width of the images, px"
    )
    parser.add_argument("--steps", nargs="+", choices=sorted({point.step for point in points()}))
    parser.add_argument(
        "--again", action="store_true", help="also measure rows that are already in the table"
    )
    parser.add_argument("--csv", type=Path, default=TABLE, help="path of the table")
    arguments = parser.parse_args()
    chosen = [
        point
        for point in points()
        if point.images <= arguments.most
        and point.image_size_px <= arguments.most_px
        and (arguments.steps is None or point.step in arguments.steps)
    ]
    table = Table(arguments.csv)
    for point in chosen:
        if arguments.again or not table.has(point):
            table.add(point, measured(point))
    print_growth(table.rows)


def points() -> list[Point]:
    """List all rows, with the smallest sizes first."""
    of_images = [Point(step, "images", n, SMALL_PX, 0) for n in IMAGES for step in STREAMED]
    of_images += [Point("recovery", "images", n, 0, LANDMARKS_OF_MANY) for n in IMAGES]
    of_sizes = [
        Point(step, "image_size_px", 0 if step == "volume transform" else IMAGES_OF_EACH_SIZE, size, 0)
        for size in IMAGE_SIZES
        for step in (*STREAMED, "volume transform")
        if step != "reconstruction" or size <= LARGEST_MAP_PX
    ]
    of_landmarks = [Point("recovery", "landmarks", IMAGES_TO_LANDMARKS, 0, m) for m in LANDMARKS]
    return sorted(of_images, key=lambda point: point.images) + of_sizes + of_landmarks


def measured(point: Point) -> dict[str, float]:
    """Measure a row in a separate process."""
    work = json.dumps([point.step, point.images, point.image_size_px, point.landmarks])
    command = [sys.executable, str(STEPS), work]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{point.step} at {point.variable} {point.size} failed\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


class Table:
    """A table of measurements, stored in a file that is rewritten after each new row."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = pd.DataFrame(pd.read_csv(path) if path.is_file() else None, columns=COLUMNS)

    def has(self, point: Point) -> bool:
        return bool(self._same(point).any())

    def add(self, point: Point, values: dict[str, float]) -> None:
        row = pd.DataFrame([{**point.key, **values, **stamp()}], columns=COLUMNS)
        kept = self.rows[~self._same(point)]
        rows = row if kept.empty else pd.concat([kept, row])
        self.rows = rows.sort_values(["variable", "step", "size"], ignore_index=True)
        with atomic_write(self.path) as aside:
            self.rows.to_csv(aside, index=False, float_format="%.6g")
        print(
            f"{point.step}, {point.variable} {point.size:,}: {values['seconds']:.3g} s, "
            f"{values['peak_memory_gb']:.3g} GB",
            flush=True,
        )

    def _same(self, point: Point) -> pd.Series:
        return (self.rows[KEY] == pd.Series(point.key)).all(axis=1)


def stamp() -> dict[str, str | int | None]:
    """Return the date, the machine and the package versions of a measurement."""
    return {
        "date": str(date.today()),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "numba", "tensorflow")},
    }


def print_growth(table: pd.DataFrame) -> None:
    """Print the time exponents and the memory per image."""
    rows = []
    for row in growth_of(table).itertuples():
        last = table.query("step == @row.step and variable == @row.variable and size == @row.largest").iloc[0]
        target = TARGETS.get((row.step, row.variable))
        name = f"{row.step}, {row.variable} {row.smallest:,} to {row.largest:,}"
        rows.append(
            (
                f"{name}: time exponent",
                "-" if target is None else f"<= {target:g}",
                f"{row.exponent:.2f}; {last.seconds:.3g} s at the largest size",
            )
        )
        if row.variable == "images":
            rows.append(
                (
                    f"{name}: memory per image",
                    f"<= {BYTES_AN_IMAGE} bytes" if row.step in STREAMED else "-",
                    f"{row.bytes_each:.0f} bytes; {last.peak_memory_gb:.2f} GB in total at the largest size",
                )
            )
    print_table("growth", "Scaling of time and memory", rows)


if __name__ == "__main__":
    main()
