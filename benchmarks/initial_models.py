"""Find the orientations of the same 1,000 simulated images without a map: cryoem, cryoDRGN and ASPIRE's common lines.

    python benchmarks/initial_models.py                               more than an hour
    python benchmarks/initial_models.py --cryodrgn /other/bin/cryodrgn --seconds 600

The images are 64 px wide and centred; the particle is 5j0n with 5-angstrom pixels, the noise variance is 1. cryoDRGN
(`cryodrgn abinit`, with its default settings, without heterogeneity and without shifts) is included if its command is
installed; its packages conflict with ours, so install it in an environment of its own. It is stopped after an hour, and
the last poses it saved are compared. ASPIRE (extra ``baselines``) gets the first 400 images, because the time of
its voting increases with the cube of the number of images.

The error is the mean pose error, after alignment of the frame and the hand. An image is near if its error is below
0.3 rad. Random orientations have an error of about 2.2 rad.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from table import print_columns

from cryoem import orientations, particles, volumes
from cryoem.particles import SimulatedParticles

IMAGES, SIZE, VOXEL_ANGSTROM = 1000, 64, 5.0
MOST_FOR_COMMON_LINES = 400
NOISE_VARIANCE = 1.0
EPOCHS = 30  # cryoDRGN's default
SECONDS = 3600.0
NEAR_RAD = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--cryodrgn", default="cryodrgn", metavar="COMMAND")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of cryoDRGN")
    arguments = parser.parse_args()
    rows = []
    for row in contenders(simulate(arguments.images), arguments.cryodrgn, arguments.seconds):
        rows.append(row)
        print(*row, sep=", ", flush=True)
    print_columns(
        "initial-models",
        f"Orientations without a map, by different programs, {arguments.images:,} images of {SIZE} px",
        ("method", "within 0.3 rad", "mean error", "time"),
        rows,
    )


def simulate(images: int) -> SimulatedParticles:
    """Simulate centred images of 5j0n without CTF."""
    density = volumes.cube(volumes.load("5j0n", voxel_size_angstrom=VOXEL_ANGSTROM), SIZE)
    return particles.simulate(density, images, image_size=SIZE, noise_variance=NOISE_VARIANCE, rng=0)


def contenders(stack: SimulatedParticles, command: str, seconds: float) -> Iterator[tuple[str, ...]]:
    """Yield the method, near fraction, mean error and time of each method that is installed."""
    start = time.perf_counter()
    found = orientations.ab_initio(stack, rng=0).poses.rotations
    yield "cryoem ab initio", *accuracy(stack, found), f"{time.perf_counter() - start:.0f} s"
    if orientations.is_installed():
        few = stack.images[:MOST_FOR_COMMON_LINES]
        start = time.perf_counter()
        found = orientations.orientations_from_common_lines(few)
        name = f"ASPIRE common lines, {len(few)} images"
        yield name, *accuracy(stack, found), f"{time.perf_counter() - start:.0f} s"
    if shutil.which(command):
        yield cryodrgn(stack, command, seconds)
    else:
        print(f"cryoDRGN is left out, because there is no command {command}", file=sys.stderr)


def cryodrgn(stack: SimulatedParticles, command: str, seconds: float) -> tuple[str, ...]:
    """Run cryoDRGN for a limited time; return its name with the epochs, near fraction, mean error and time."""
    with tempfile.TemporaryDirectory() as folder:
        images, transfer, out = (Path(folder) / name for name in ("images.mrcs", "ctf.pkl", "out"))
        particles.write_stack(images, stack.images, pixel_size_angstrom=stack.pixel_size_angstrom)
        with transfer.open("wb") as file:
            pickle.dump(constant_transfer(len(stack), stack.image_size, stack.pixel_size_angstrom), file)
        options = ["--zdim", "0", "--no-trans", "--seed", "0", "--num-epochs", str(EPOCHS)]
        options += ["--checkpoint", "1", "--log-interval", "100", "--no-analysis", "--uninvert-data"]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [command, "abinit", images, "--ctf", transfer, "-o", out, *options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            if status := process.wait(timeout=seconds):
                raise RuntimeError(f"{command} failed with exit code {status}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the processes that load its data, too
            process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken = f"{time.perf_counter() - start:.0f} s (processor {used:.0f} s)"
        # epoch 0 is a pre-training with random poses
        epochs = sorted(int(path.suffixes[0][1:]) for path in out.glob("pose.*.pkl"))
        if not epochs or epochs[-1] == 0:
            reached = f"epoch 1 of {EPOCHS}" if epochs else "pre-training"
            return f"cryoDRGN abinit, stopped in {reached}", "-", "-", taken
        with (out / f"pose.{epochs[-1]}.pkl").open("rb") as file:
            poses = pickle.load(file)
    found = Rotation.from_matrix(np.asarray(poses, dtype=float))
    return f"cryoDRGN abinit, {epochs[-1]} of {EPOCHS} epochs", *accuracy(stack, found), taken


def constant_transfer(count: int, size: int, pixel_size_angstrom: float) -> np.ndarray:
    """Return cryoDRGN's CTF parameters of images without CTF: pure amplitude contrast in focus. Shape (count, 9)."""
    defocus, angle, spherical_mm, phase_shift = 0.0, 0.0, 0.0, 0.0
    one = [size, pixel_size_angstrom, defocus, defocus, angle, 300.0, spherical_mm, 1.0, phase_shift]
    return np.tile(np.float32(one), (count, 1))


def accuracy(stack: SimulatedParticles, found: Rotation) -> tuple[str, str]:
    """Return the fraction of near images and the mean error."""
    errors = orientations.align_frame(stack.rotations[: len(found)], found).errors
    return f"{100 * np.mean(errors < NEAR_RAD):.1f} %", f"{errors.mean():.3f} rad"


if __name__ == "__main__":
    main()
