"""Compare the reading of a RELION STAR file and its stack of 20,000 particles with starfile, mrcfile and ASPIRE.

    python benchmarks/reading.py
    python benchmarks/reading.py --particles 2000

The benchmark first writes the files. One table is for reading orientations and shifts, and the other for reading all
images. ASPIRE is included if it is installed (extra ``baselines``). All methods run in turn, with the files in the
cache of the operating system; times are medians. The benchmark checks that all methods read the same values.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import peers
import starfile
from scipy.spatial.transform import Rotation
from watch import OURS, in_turns, print_comparison

from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.particles import open_particles, write_particles
from cryoem.particles.conditions import ImagingConditions
from cryoem.rotations import from_relion_euler_deg

STARFILE = "starfile"
STREAMED = "cryoem, 1,000 images at a time"
BLOCK = 1000
TOLERANCE = 1e-3  # rad and px; the text in tables is rounded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    aspire = peers.aspire("source")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.star"
        density = volumes.cube(volumes.phantom(), arguments.image_size)
        conditions = ImagingConditions(
            noise_variance=4, shift_limit_px=3, ctf=ContrastTransfer(inverted=True)
        )
        write_particles(path, particles.simulate_lazily(density, arguments.particles, conditions, rng=0))
        compare_metadata(path, aspire, arguments)
        compare_images(path, aspire, arguments)


def compare_metadata(path: Path, aspire, arguments) -> None:
    """Measure the time to read orientations and shifts."""
    contenders = {OURS: partial(our_poses, path), STARFILE: partial(starfile_poses, path)}
    if aspire is not None:
        contenders[peers.ASPIRE] = partial(aspire_poses, aspire, path)
    watched = in_turns(contenders, repeats=arguments.repeats)
    accuracy = {}
    for name, one in watched.items():
        if name != OURS:
            accuracy[name] = agreement(watched[OURS].result, one.result)
    print_comparison(
        "reading-tables",
        f"Reading a STAR file with {arguments.particles:,} particles",
        watched,
        accuracy=accuracy,
        work=arguments.particles,
        unit="particles/s",
        absent=() if aspire is not None else (peers.ASPIRE,),
    )


def compare_images(path: Path, aspire, arguments) -> None:
    """Measure the time to read all images."""
    contenders = {
        OURS: partial(our_images, path),
        f"{STARFILE} and mrcfile": partial(mrcfile_images, path),
    }
    if aspire is not None:
        contenders[peers.ASPIRE] = partial(aspire_images, aspire, path)
    contenders[STREAMED] = partial(our_sum, path)
    watched = in_turns(contenders, repeats=arguments.repeats)
    ours, accuracy = watched[OURS].result, {}
    for name, one in watched.items():
        if name not in (OURS, STREAMED):
            difference = float(np.abs(ours - one.result).max())
            if difference > 0:
                raise SystemExit(f"{name} reads pixel values that differ from ours by up to {difference}")
            accuracy[name] = "identical pixels"
    relative = abs(watched[STREAMED].result / float(ours.sum(dtype=float)) - 1)
    accuracy[STREAMED] = f"sum differs by {relative:.0e}"
    print_comparison(
        "reading-images",
        f"Reading {arguments.particles:,} images of {arguments.image_size} px ({ours.nbytes / 1e6:,.0f} MB) "
        "that are listed in a STAR file",
        watched,
        accuracy=accuracy,
        work=arguments.particles,
        unit="images/s",
        absent=() if aspire is not None else (peers.ASPIRE,),
    )


def agreement(ours: tuple[Rotation, np.ndarray], theirs: tuple[Rotation, np.ndarray]) -> str:
    """Return the largest differences in orientations and shifts as text. Exit if they exceed the tolerance."""
    turned = float((ours[0].inv() * theirs[0]).magnitude().max())
    shifted = float(np.abs(ours[1] - theirs[1]).max())
    if not max(turned, shifted) < TOLERANCE:
        raise SystemExit(f"the poses differ by {turned} rad and {shifted} px")
    return f"orientations within {turned:.0e} rad, shifts within {shifted:.0e} px"


def our_poses(path: Path) -> tuple[Rotation, np.ndarray]:
    particles = open_particles(path)
    return particles.rotations, particles.shifts_px


def starfile_poses(path: Path) -> tuple[Rotation, np.ndarray]:
    blocks = starfile.read(path)
    table, optics = blocks["particles"], blocks["optics"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    origins = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    return from_relion_euler_deg(angles), -origins / float(optics["rlnImagePixelSize"].iloc[0])


def aspire_poses(aspire, path: Path) -> tuple[Rotation, np.ndarray]:
    source = aspire.source.RelionSource(path)
    rotations = Rotation.from_matrix(np.asarray(source.rotations, float).transpose(0, 2, 1))
    return rotations, -np.asarray(source.offsets)


def our_images(path: Path) -> np.ndarray:
    return np.asarray(open_particles(path))


def our_sum(path: Path) -> float:
    """Return the sum of all pixels, with one block of images in memory at a time."""
    images = open_particles(path)
    starts = range(0, len(images), BLOCK)
    return sum(float(np.asarray(images[start : start + BLOCK]).sum(dtype=float)) for start in starts)


def mrcfile_images(path: Path) -> np.ndarray:
    """Read the images stack by stack, and return them in the order of the table."""
    names = starfile.read(path)["particles"]["rlnImageName"].str.split("@", expand=True)
    numbers = names[0].astype(int).to_numpy() - 1
    images = None
    for stack in names[1].unique():
        chosen = (names[1] == stack).to_numpy()
        with mrcfile.open(path.parent / stack, permissive=True) as opened:
            if images is None:
                images = np.empty((len(names), *opened.data.shape[1:]), np.float32)
            images[chosen] = opened.data[numbers[chosen]]
    return images


def aspire_images(aspire, path: Path) -> np.ndarray:
    return aspire.source.RelionSource(path).images[:].asnumpy()


if __name__ == "__main__":
    main()
