"""Reading a RELION STAR file of 20,000 particles and their stack, beside starfile with mrcfile and beside ASPIRE.

    python benchmarks/reading.py
    python benchmarks/reading.py --particles 2000

The files are written anew.  Once what the table says of each particle is read, as orientations and shifts, and once
all the images, too.  ASPIRE is measured where it is installed (extra ``baselines``).  All take part in turns, with the
files in the system's cache; times are medians.  That all read the same values is checked and shown.
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
from watch import OURS, in_turns, print_beside

from cryoem import imaging, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.particles import open_particles, write_particles
from cryoem.rotations import from_relion_euler_deg

STARFILE = "starfile"
STREAMED = "cryoem, 1,000 images at a time"
BLOCK = 1000
TOLERANCE = 1e-3  # of angles in rad and shifts in px, which tables hold as text


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
        series = imaging.simulate_lazily(
            density,
            arguments.particles,
            noise_variance=4,
            shift_limit_px=3,
            ctf=ContrastTransfer(inverted=True),
            rng=0,
        )
        write_particles(path, series)
        compare_metadata(path, aspire, arguments)
        compare_images(path, aspire, arguments)


def compare_metadata(path: Path, aspire, arguments) -> None:
    """The table of reading what is known of each particle."""
    contenders = {OURS: partial(our_poses, path), STARFILE: partial(starfile_poses, path)}
    if aspire is not None:
        contenders[peers.ASPIRE] = partial(aspire_poses, aspire, path)
    watched = in_turns(contenders, repeats=arguments.repeats)
    accuracy = {}
    for name, one in watched.items():
        if name != OURS:
            accuracy[name] = agreement(watched[OURS].result, one.result)
    print_beside(
        f"Reading the STAR file of {arguments.particles:,} particles",
        watched,
        accuracy=accuracy,
        work=arguments.particles,
        unit="particles/s",
        absent=() if aspire is not None else (peers.ASPIRE,),
    )


def compare_images(path: Path, aspire, arguments) -> None:
    """The table of reading all images."""
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
                raise SystemExit(f"{name} must read the same images, got a difference of {difference}")
            accuracy[name] = "the same pixels"
    relative = abs(watched[STREAMED].result / float(ours.sum(dtype=float)) - 1)
    accuracy[STREAMED] = f"sum differs by {relative:.0e}"
    print_beside(
        f"Reading {arguments.particles:,} images of {arguments.image_size} px by their STAR file, "
        f"{ours.nbytes / 1e6:,.0f} MB",
        watched,
        accuracy=accuracy,
        work=arguments.particles,
        unit="images/s",
        absent=() if aspire is not None else (peers.ASPIRE,),
    )


def agreement(ours: tuple[Rotation, np.ndarray], theirs: tuple[Rotation, np.ndarray]) -> str:
    """Largest differences of orientations and shifts, as text; SystemExit where they are not the same."""
    turned = float((ours[0].inv() * theirs[0]).magnitude().max())
    shifted = float(np.abs(ours[1] - theirs[1]).max())
    if not max(turned, shifted) < TOLERANCE:
        raise SystemExit(f"all must read the same poses, got differences of {turned} rad and {shifted} px")
    return f"orientations to {turned:.0e} rad, shifts to {shifted:.0e} px"


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
    return open_particles(path).read(slice(None))


def our_sum(path: Path) -> float:
    """Of all pixels, a block of images in memory at a time."""
    return sum(float(images.sum(dtype=float)) for _, images in open_particles(path).blocks(BLOCK))


def mrcfile_images(path: Path) -> np.ndarray:
    """Images in the order of the table, stack by stack."""
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
