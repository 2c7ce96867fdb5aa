"""Find the orientations of simulated images without a map, in easy and in hard cases.

python benchmarks/ab_initio.py                           all cases, one seed each (4 minutes)
python benchmarks/ab_initio.py --seeds 5 --cases centred ctf
python benchmarks/ab_initio.py --map ribosome-70S_65px.mrc --image-size 96

By default, 1,650 images of 116 px with white noise of variance 16 (relative to noise-free images) are searched. The
cases are:

- ``centred``: no CTF, no shifts;
- ``ctf``: astigmatic CTF, defocus 0.5 to 2 um, shifts of up to 5 px;
- ``far``: the same with shifts of up to 20 px;
- ``noisy``: centred, with noise of variance 64;
- ``junk``: as ``ctf``, with structural noise, amplitudes that differ by up to 20 %, and 20 % of junk;
- ``preferred``: as ``junk``, and directions within 45 degrees of one axis are three times as likely.

A search arrives if at least 97 % of the orientations are within 0.3 rad of the true ones, after alignment of the frame
and the hand. Junk is not included. "ROC area" is the area under the ROC curve of the evidence, which tells the particle
from junk.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from table import print_columns

from cryoem import orientations, particles, volumes
from cryoem.contrast import ContrastTransfer
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
}
NEAR_RAD, ARRIVED = 0.3, 0.97
PREFERRED_RAD, PREFERENCE = np.pi / 4, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    density = volumes.load(arguments.map, size=arguments.image_size)
    rows = []
    for case in arguments.cases:
        for seed in range(arguments.seeds):
            rows.append((case, str(seed), *measure(density, case, arguments, seed)))
            print(*rows[-1], sep=", ", flush=True)
    print_columns(
        "ab-initio",
        f"Orientations without a map, {arguments.images:,} images of {arguments.image_size} px",
        (
            "case",
            "seed",
            "arrived",
            "within 0.3 rad",
            "mean error",
            "agreement",
            "ROC area",
            "time",
            "processor",
        ),
        rows,
    )


def measure(
    density: volumes.DensityMap, case: str, arguments: argparse.Namespace, seed: int
) -> tuple[str, ...]:
    """Search one stack, and return the cells of its row."""
    settings = {"noise_variance": 16.0} | CASES[case]
    limit = settings.pop("shift_limit_px", 0.0)
    stack = particles.simulate(
        density,
        draw_poses(arguments.images, limit, preferred=case == "preferred", seed=seed),
        image_size=arguments.image_size,
        rng=seed,
        **settings,
    )
    wall, processor = time.perf_counter(), time.process_time()
    found = orientations.ab_initio(
        stack, shift_deviation_px=limit / np.sqrt(6), starts=arguments.starts, rng=seed
    )
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    good = np.full(len(stack), True) if stack.junk is None else ~stack.junk
    errors = orientations.align_frame(stack.rotations[good], found.poses.rotations[good]).errors
    near = np.mean(errors < NEAR_RAD)
    return (
        "yes" if near >= ARRIVED else "no",
        f"{100 * near:.1f} %",
        f"{errors.mean():.3f} rad",
        f"{np.median(found.agreement[good]):.2f}",
        "-" if good.all() else f"{roc_area(found.evidence, good):.4f}",
        f"{wall:.0f} s",
        f"{processor:.0f} s",
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
