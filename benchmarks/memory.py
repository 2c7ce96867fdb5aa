"""Measure the peak memory of commands on a large stack: 20,000 particles of 128 px, or 1.3 GB of pixels.

    python benchmarks/memory.py                    15 minutes on two cores
    python benchmarks/memory.py --images 2000

Each command runs in its own process, whose peak resident memory the system reports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import print_table

SIZE = 128
TARGET_GB = 2.0
COMMANDS = {
    "align2d, template": ["align2d", "job.star", "--out", "aligned-template", "--method", "template"],
    "align2d, joint network": ["align2d", "job.star", "--out", "aligned", "--epochs", "1"],
    "reconstruct": ["reconstruct", "job.star", "--half-maps", "--out", "map.mrc"],
}
MAKE_JOB = """
import sys
from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.particles.conditions import ImagingConditions
density = volumes.cube(volumes.phantom(), {size} // 2)
conditions = ImagingConditions({size}, noise_variance=4, shift_limit_px=3, ctf=ContrastTransfer(inverted=True))
particles.write_particles("job.star", particles.simulate_lazily(density, {images}, conditions, rng=0))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    images = parser.parse_args().images
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-c", MAKE_JOB.format(images=images, size=SIZE)], folder)
        stack_gb = (Path(folder) / "job.mrcs").stat().st_size / 1e9
        for name, command in COMMANDS.items():
            seconds, memory_gb = run([sys.executable, "-m", "cryoem.cli", *command], folder)
            rows.append((name, f"< {TARGET_GB:g} GB", f"{memory_gb:.2f} GB, {seconds / 60:.1f} min"))
    print_table(
        "memory", f"Peak memory with a stack of {images:,} images of {SIZE} px ({stack_gb:.2f} GB)", rows
    )


def run(command: list[str], folder: str) -> tuple[float, float]:
    """Run a command and return its run time (s) and peak resident memory (GB). Exit if it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} failed with exit code {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
