"""Compare two ways to find the orientations of 50,000 images of 64 px after a search on a few thousand of them.

    python benchmarks/amortised.py                  half an hour on two cores
    python benchmarks/amortised.py --images 3000

The images are those of large_job.py. Both ways begin with the search without a map, on a random subset of the images:

- without learning, the last step of the search (E step) is applied to all images in blocks: `cryoem run --particles`;
- a network is trained on the map that the search found; the orientations of all images are recovered from their
  estimated distances to landmarks: `cryoem run --particles --learn`, which starts from the first run.

Both runs end with refinement. The time until all orientations of the second way includes that of the first run, without
its refinement. Memory is the peak of the largest process of each command, including the pages of files that it maps.
The error is the mean angle between the orientations and the true ones, after alignment of the frame and the hand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from large_job import MAKE_JOB, NOISE_VARIANCE, SHIFT_LIMIT_PX, SIZE
from memory import run
from scipy.spatial.transform import Rotation
from table import print_columns

from cryoem import orientations, particles
from cryoem.files import load_arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    images = parser.parse_args().images
    command = ["run", "--particles", "job.star", "--run", "job", "--set", f"shift_limit_px={SHIFT_LIMIT_PX}"]
    rows, before = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        job = MAKE_JOB.format(images=images, size=SIZE, noise=NOISE_VARIANCE, shift=SHIFT_LIMIT_PX)
        run([sys.executable, "-c", job], folder)
        os.environ["CRYOEM_HOME"] = folder
        # only the rotations are used, so any pixel size will do
        true = particles.read_poses(Path(folder) / "job.star", pixel_size_angstrom=1.0).rotations
        for way, name, options, phase in (
            ("without learning", "job", [], "2.1-orientations-without-a-map"),
            ("learned", "job-learned", ["--learn"], "2-orientation-recovery"),
        ):
            _, memory_gb = run([sys.executable, "-m", "cryoem.cli", *command, *options], folder)
            result = Path(folder) / "runs" / name
            seconds = json.loads((result / "summary.json").read_text(encoding="utf-8"))["seconds"]
            refinement = seconds.pop("3-reconstruction")
            errors = [
                orientations.align_frame(true, read_orientations(path / "orientations.h5")).errors
                for path in (result / phase, result / "3-reconstruction")
            ]
            before += sum(seconds.values())
            rows.append(
                (
                    way,
                    f"{before / 60:.1f} min",
                    f"{refinement / 60:.1f} min",
                    f"{memory_gb:.2f} GB",
                    *(f"{error.mean():.4f} rad" for error in errors),
                )
            )
            print(*rows[-1], sep=", ", flush=True)
    print_columns(
        "amortised",
        f"Orientations of {images:,} images of {SIZE} px after a search on a subset, noise variance {NOISE_VARIANCE}, "
        f"CTF, shifts of up to {SHIFT_LIMIT_PX} px",
        ("way", "until all orientations", "refinement", "peak memory", "error", "refined error"),
        rows,
    )


def read_orientations(path: Path) -> Rotation:
    """Read the orientations of all images from a file of a run."""
    return Rotation.from_quat(load_arrays(path, ["quaternions"])["quaternions"])


if __name__ == "__main__":
    main()
