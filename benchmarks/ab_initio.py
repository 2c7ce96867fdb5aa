"""Find the orientations of simulated images of several particles without a map, in easy and in hard cases.

    python benchmarks/ab_initio.py                           all particles and cases, one seed each (12 minutes)
    python benchmarks/ab_initio.py --seeds 5 --particles 5j0n 1ncb --cases centred ctf

By default, 1,650 images of 116 px with white noise of variance 16 (relative to noise-free images) are searched. The
cases are:

- ``centred``: no CTF, no shifts;
- ``ctf``: astigmatic CTF, defocus 0.5 to 2 um, shifts of up to 5 px;
- ``far``: the same with shifts of up to 20 px;
- ``noisy``: centred, with noise of variance 64;
- ``junk``: as ``ctf``, with structural noise, amplitudes that differ by up to 20 %, and 20 % of junk;
- ``preferred``: as ``junk``, and directions within 45 degrees of one axis are three times as likely;
- ``mixed``: centred, but every second image shows an octahedral phantom, so that no map explains all images.

The particles are 5j0n in all cases, and others in some of them: a ribosome (a map in ``CRYOEM_DATA``),
beta-galactosidase, whose D2 symmetry is imposed, three atomic models at a resolution of 8 angstrom, with 3-angstrom
pixels, and three phantoms with tetrahedral, octahedral and icosahedral symmetry, which is imposed as well.

A search succeeds if at least 97 % of the orientations are within 0.3 rad of the true ones, after alignment of the frame
and the hand. Junk and images of another particle are not counted. "Explained" is the fraction of the signal that the
map explains: a low value suggests a mixture of particles. "ROC area" is the area under the ROC curve of the evidence,
which distinguishes the particle from junk. Each row contains the number of seeds whose search succeeded, the worst
value of each other quantity over all seeds, the range of the explained signal, and the median times.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from table import print_columns

from cryoem import orientations, particles, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.experiments.trials import load_particle
from cryoem.particles import Realism
from cryoem.rotations import Poses, random_rotations, viewing_directions

CTF = ContrastTransfer(defocus_range_angstrom=(5_000.0, 20_000.0))
ASTIGMATIC = Realism(structural_noise=0.0, amplitude_spread=0.0)
CASES = {
    "centred": {},
    "ctf": {"shift_limit_px": 5.0, "ctf": CTF, "realism": ASTIGMATIC},
    "far": {"shift_limit_px": 20.0, "ctf": CTF, "realism": ASTIGMATIC},
    "noisy": {"noise_variance": 64.0},
    "junk": {"shift_limit_px": 5.0, "ctf": CTF, "realism": Realism(junk=0.2)},
    "preferred": {"shift_limit_px": 5.0, "ctf": CTF, "realism": Realism(junk=0.2)},
    "mixed": {},
}
RIBOSOME = "ribosome-70S_65px.mrc"
RIBOSOME_VOXEL_ANGSTROM = 5.0  # approximate, as the header has no cell
PHANTOM_PX = 100
MODEL = {"voxel_size_angstrom": 3.0, "resolution_angstrom": 8.0}
PARTICLES = {  # and their cases
    "5j0n": tuple(CASES),
    "ribosome": ("centred", "ctf", "noisy"),
    "beta-galactosidase": ("centred", "ctf"),
    "1igy": ("centred", "ctf"),
    "1ncb": ("centred", "ctf"),
    "4gxy": ("centred", "ctf"),
    "phantom-T": ("centred",),
    "phantom-O": ("centred",),
    "phantom-I": ("centred",),
}
SYMMETRY = {"beta-galactosidase": "D2", "phantom-T": "T", "phantom-O": "O", "phantom-I": "I"}
NEAR_RAD, SUCCEEDED = 0.3, 0.97
PREFERRED_RAD, PREFERENCE = np.pi / 4, 3


def main() -> None:
    parser = parser_of(__doc__, PARTICLES, CASES)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.particles:
        density = volumes.cube(load(name), arguments.image_size)
        for case in PARTICLES[name]:
            if case in arguments.cases:
                seeds = [
                    measure(density, SYMMETRY.get(name, "C1"), case, arguments, seed)
                    for seed in range(arguments.seeds)
                ]
                rows.append((name, case, *summary(*map(np.array, zip(*seeds, strict=True)))))
                print(*rows[-1], sep=", ", flush=True)
    print_columns(
        "ab-initio",
        f"Orientations without a map, {arguments.images:,} images of {arguments.image_size} px",
        (
            "particle",
            "case",
            "succeeded",
            "within 0.3 rad",
            "mean error",
            "agreement",
            "explained",
            "ROC area",
            "time",
            "processor",
        ),
        rows,
    )


def parser_of(description: str, particles: Iterable[str], cases: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser of the options that choose particles, cases and the number and size of the images."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", nargs="+", default=list(particles), choices=particles, metavar="NAME")
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--cases", nargs="+", default=list(cases), choices=cases, metavar="CASE")
    return parser


def load(name: str) -> volumes.DensityMap:
    """Load a particle; raise KeyError if it is in the folder ``CRYOEM_DATA``, which is not set."""
    if name == "ribosome":
        path = Path(os.environ["CRYOEM_DATA"]) / "maps" / RIBOSOME
        return volumes.load(path, voxel_size_angstrom=RIBOSOME_VOXEL_ANGSTROM)
    if name in ("5j0n", "beta-galactosidase"):
        return load_particle(name, masked=name != "5j0n")
    if name.startswith("phantom"):
        return volumes.load(name, size=PHANTOM_PX)
    return volumes.load(name, **MODEL)


def measure(
    density: volumes.DensityMap, symmetry: str, case: str, arguments: argparse.Namespace, seed: int
) -> tuple[float, ...]:
    """Search one stack; return the near fraction, error, agreement, explained signal, ROC area and times (s).

    The ROC area is NaN without junk.
    """
    settings = {"noise_variance": 16.0} | CASES[case]
    limit = settings.pop("shift_limit_px", 0.0)
    stack = particles.simulate(
        density,
        draw_poses(arguments.images, limit, preferred=case == "preferred", seed=seed),
        image_size=arguments.image_size,
        rng=seed,
        **settings,
    )
    if case == "mixed":
        # the same voxel size, so that both particles appear in one stack
        other = volumes.DensityMap(load("phantom-O").data, density.voxel_size_angstrom)
        others = particles.simulate(other, len(stack), image_size=stack.image_size, rng=[seed, 2], **settings)
        shown = np.arange(len(stack))[:, None, None] % 2
        stack = replace(stack, images=np.where(shown, others.images, stack.images))
    wall, processor = time.perf_counter(), time.process_time()
    found = orientations.ab_initio(
        stack,
        shift_deviation_px=limit / np.sqrt(6),
        symmetry=symmetry,
        starts=arguments.starts,
        rng=seed,
    )
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    good = np.full(len(stack), True) if stack.junk is None else ~stack.junk
    if case == "mixed":
        good[1::2] = False
    recovered = found.poses.rotations[good]
    errors = orientations.align_frame(stack.rotations[good], recovered, symmetry=symmetry).errors
    area = np.nan if stack.junk is None or not stack.junk.any() else roc_area(found.evidence, good)
    agreement = np.median(found.agreement[good])
    return np.mean(errors < NEAR_RAD), errors.mean(), agreement, found.explained, area, wall, processor


def summary(near, error, agreement, explained, area, wall, processor) -> tuple[str, ...]:
    """Return the cells of a row, from the results of all seeds."""
    return (
        f"{np.count_nonzero(near >= SUCCEEDED)} of {len(near)}",
        f"{100 * near.min():.1f} %",
        f"{error.max():.3f} rad",
        f"{agreement.min():.2f}",
        "-"
        if np.isnan(explained).all()
        else f"{100 * np.nanmin(explained):.0f} to {100 * np.nanmax(explained):.0f} %",
        "-" if np.isnan(area).any() else f"{area.min():.4f}",
        f"{np.median(wall):.0f} s",
        f"{np.median(processor):.0f} s",
    )


def draw_poses(count: int, shift_limit_px: float, *, preferred: bool, seed: int) -> Poses:
    """Draw orientations, which prefer one axis if ``preferred``, and triangular shifts."""
    rng = np.random.default_rng([seed, 1])
    rotations = random_rotations(6 * count, rng=rng)
    if preferred:
        near = viewing_directions(rotations)[:, 2] > np.cos(PREFERRED_RAD)
        rotations = rotations[near | (rng.random(len(near)) < 1 / PREFERENCE)]
    shifts = rng.triangular(-shift_limit_px, 0, shift_limit_px, (count, 2)) if shift_limit_px else None
    return Poses(rotations[:count], shifts)


def roc_area(scores: np.ndarray, good: np.ndarray) -> float:
    """Return the probability that an image that is good has a higher score than one that is not."""
    ranks = np.argsort(np.argsort(scores))[good]
    count = len(ranks)
    return float((ranks.sum() - count * (count - 1) / 2) / (count * (len(good) - count)))


if __name__ == "__main__":
    main()
