"""Memory of long steps on a stack that does not fit: 20,000 particles of 128 px, 1.3 GB of pixels.

    python benchmarks/memory.py                    a quarter of an hour on two cores
    python benchmarks/memory.py --images 2000

Each command is a process of its own, whose largest resident memory the system tells.
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
ASKED_GB = 2.0
COMMANDS = {
    "align2d, template": ["align2d", "job.star", "--out", "aligned-template", "--method", "template"],
    "align2d, joint network": ["align2d", "job.star", "--out", "aligned", "--epochs", "1"],
    "reconstruct": ["reconstruct", "job.star", "--half-maps", "--out", "map.mrc"],
}
MAKE_JOB = """
import sys
from cryoem import imaging, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.particles import write_particles
density = volumes.cube(volumes.phantom(), {size} // 2)
series = imaging.simulate_lazily(
    density, {images}, image_size={size}, noise_variance=4, shift_limit_px=3, ctf=ContrastTransfer(inverted=True), rng=0
)
write_particles("job.star", series)
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
            rows.append((name, f"< {ASKED_GB:g} GB", f"{memory_gb:.2f} GB, {seconds / 60:.1f} min"))
    print_table(f"Largest memory on {images:,} images of {SIZE} px, a stack of {stack_gb:.2f} GB", rows)


def run(command: list[str], folder: str) -> tuple[float, float]:
    """Seconds and largest resident memory (GB) of a command; SystemExit where it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
