"""Measure a run that starts without a map, from a particle file to a refined map, for 1,000 to 50,000 images of 64 px.

    python benchmarks/large_job.py                    all sizes; also writes the table of notebook 5.4
    python benchmarks/large_job.py --images 1000 5000

The images are simulated with a CTF and shifts of up to 4 px, and written to a RELION file before the run. Each run is a
separate command, `cryoem run --particles`. Memory is that of its largest process, including the pages of files that it
maps. The error is the mean angle between the refined orientations and the true ones, after alignment of the frame and
the hand; only this comparison uses them. The last row extrapolates the time linearly from the two largest sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
from memory import run
from table import print_columns

SIZE, SHIFT_LIMIT_PX, NOISE_VARIANCE = 64, 4, 4
COUNTS = [1_000, 5_000, 20_000, 50_000]
EXTRAPOLATED = 1_000_000
TABLE = Path(__file__).parents[1] / "notebooks" / "5-paper-figures" / "results" / "large-job.csv"
MAKE_JOB = """
from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer
density = volumes.cube(volumes.phantom(), {size})
conditions = particles.ImagingConditions(
    {size}, noise_variance={noise}, shift_limit_px={shift}, ctf=ContrastTransfer(inverted=True)
)
particles.write_particles("job.star", particles.simulate_lazily(density, {images}, conditions, rng=0))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=COUNTS)
    counts = sorted(parser.parse_args().images)
    rows, measurements = [], []
    for images in counts:
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory_gb, numbers = measured(images, folder)
        error_rad = numbers["difference_from_file_rad"]
        resolution_angstrom = numbers["half_map_resolution_masked_angstrom"]
        measurements.append((images, seconds, memory_gb, error_rad, resolution_angstrom))
        rows.append(
            (
                f"{images:,}",
                f"{seconds / 60:.1f} min",
                f"{1000 * seconds / images:.0f} ms",
                f"{memory_gb:.2f} GB",
                f"{error_rad:.4f} rad",
                f"{resolution_angstrom:.2f} Å",
            )
        )
        print(*rows[-1], sep=", ", flush=True)
    if len(counts) > 1:
        (fewer, before, *_), (most, seconds, *_) = measurements[-2:]
        each = (seconds - before) / (most - fewer)
        total = seconds + each * (EXTRAPOLATED - most)
        rows.append(
            (
                f"{EXTRAPOLATED:,} (extrapolated)",
                f"{total / 3600:.0f} h",
                f"{1000 * each:.0f} ms",
                "-",
                "-",
                "-",
            )
        )
    if counts == COUNTS:
        columns = ["images", "seconds", "peak_memory_gb", "pose_error_rad", "half_map_resolution_angstrom"]
        pd.DataFrame(measurements, columns=columns).to_csv(TABLE, index=False, float_format="%.6g")
    print_columns(
        "large-job",
        f"From a particle file to a map without a model, images of {SIZE} px, noise variance {NOISE_VARIANCE}, CTF, "
        f"shifts of up to {SHIFT_LIMIT_PX} px",
        ("images", "time", "time per image", "peak memory", "error", "half-map resolution"),
        rows,
    )


def measured(images: int, folder: str) -> tuple[float, float, dict]:
    """Run a job; return its time (s), its peak memory (GB) and the numbers of its last phase."""
    job = MAKE_JOB.format(images=images, size=SIZE, noise=NOISE_VARIANCE, shift=SHIFT_LIMIT_PX)
    run([sys.executable, "-c", job], folder)
    os.environ["CRYOEM_HOME"] = folder
    command = [
        "run",
        "--particles",
        "job.star",
        "--run",
        "large",
        "--set",
        f"shift_limit_px={SHIFT_LIMIT_PX}",
    ]
    seconds, memory_gb = run([sys.executable, "-m", "cryoem.cli", *command], folder)
    summary = json.loads((Path(folder) / "runs" / "large" / "summary.json").read_text(encoding="utf-8"))
    return seconds, memory_gb, summary["numbers"]["3-reconstruction"]


if __name__ == "__main__":
    main()
