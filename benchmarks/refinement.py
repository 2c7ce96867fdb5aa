"""Refine orientations that were found without a map, and compare their errors with the smallest ones to expect.

    python benchmarks/refinement.py                        all rows (three quarters of an hour)
    python benchmarks/refinement.py --particles 5j0n --cases centred --seeds 3

The particles, their symmetry, the images and the cases ``centred`` and ``ctf`` are those of ab_initio.py; images of
the case ``noise-free`` are centred. In the case ``defocus``, the stated defoci are wrong by 500 angstrom (standard
deviation), the signal differs by up to 20 % between images, and the particles are centred. Its images are refined three
times: with the stated optics, with refinement of the CTF, and with the true optics, each from the orientations that
were found with the stated optics.

"Error / limit" is the mean pose error divided by that of the most likely poses, given the true map and the true
optics; "median" is the ratio of the medians, on which images that are "far" from their true orientation, 0.3 rad or
more, have little influence. "Resolution" is that at which the half-maps agree, divided by that of half-maps of the
same halves, in the same frame, with true poses and optics.

Below each row of centred images, a row shows poses with errors at the limit instead of refined ones: the most likely
poses of the same projections with other noise. Those of the images themselves would align the noise of both halves
with the same true map, so that the half-maps would agree too well. Rows of several seeds contain means and, after the
sign ±, standard deviations; times are medians.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import numpy as np
from ab_initio import CASES as SEARCHED
from ab_initio import NEAR_RAD, SYMMETRY, load, parser_of
from table import print_columns

from cryoem import orientations, particles, reconstruction, volumes
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles import ParticleStack, Realism
from cryoem.rotations import Poses

DEFOCUS_ERROR_ANGSTROM = 500.0
CASES = {
    "centred": SEARCHED["centred"],
    "ctf": SEARCHED["ctf"],
    "noise-free": {"noise_variance": 0.0},
    "defocus": {
        "ctf": ContrastTransfer(defocus_range_angstrom=(5_000.0, 20_000.0), b_factor_angstrom2=0.0),
        "realism": Realism(structural_noise=0.0),
    },
}
PARTICLES = {  # and the seeds of each of their cases
    "5j0n": {"centred": 5, "ctf": 3, "noise-free": 1, "defocus": 1},
    "ribosome": {"centred": 1, "ctf": 1},
    "beta-galactosidase": {"centred": 1, "ctf": 1},
    "1igy": {"centred": 1, "ctf": 1},
    "1ncb": {"centred": 1, "ctf": 1},
    "4gxy": {"centred": 1, "ctf": 1},
    "1u19": {"centred": 1},
    "2d0f": {"centred": 1},
    "5ugo": {"centred": 1},
}
NOISE_VARIANCE = 16.0
LEAST_LIMIT_RAD = 1e-5  # of rounding, without noise


def main() -> None:
    parser = parser_of(__doc__, PARTICLES, CASES)
    parser.add_argument("--seeds", type=int, help="seeds of each case (default: 5, 3 or 1)")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.particles:
        density = volumes.cube(load(name), arguments.image_size)
        for case, seeds in PARTICLES[name].items():
            if case not in arguments.cases:
                continue
            found: dict[str, list] = {}
            for seed in range(arguments.seeds or seeds):
                for label, values in measure(
                    density, SYMMETRY.get(name, "C1"), case, arguments.images, seed
                ).items():
                    found.setdefault(label, []).append(values)
            for label, values in found.items():
                rows.append((name, label, *summary(np.array(values))))
                print(*rows[-1], sep=", ", flush=True)
    print_columns(
        "refinement",
        f"Refinement of {arguments.images:,} images of {arguments.image_size} px, noise variance {NOISE_VARIANCE:g}",
        (
            "particle",
            "case",
            "error",
            "error / limit",
            "median",
            "far",
            "resolution",
            "defocus error",
            "time",
            "processor",
        ),
        rows,
    )


def measure(
    density: volumes.DensityMap, symmetry: str, case: str, images: int, seed: int
) -> dict[str, tuple[float, ...]]:
    """Return the numbers of each refinement of a case, as listed in ``refined``."""
    stack = particles.simulate(
        density,
        images,
        image_size=len(density.data),
        rng=seed,
        **{"noise_variance": NOISE_VARIANCE, **CASES[case]},
    )
    true, stated = stack.optics, stack.optics
    if case == "defocus":
        errors = np.random.default_rng(seed).normal(0, DEFOCUS_ERROR_ANGSTROM, images)
        stated = replace(true, defocus_angstrom=true.defocus_angstrom + np.outer(errors, [1, 1, 0]))
    largest = CASES[case].get("shift_limit_px", 0.0)
    start = orientations.ab_initio(
        ParticleStack(stack.images, stated),
        shift_deviation_px=largest / np.sqrt(6),
        symmetry=symmetry,
        rng=seed,
    ).poses
    limit = reconstruction.pose_limit(stack.images, stack.poses, density, optics=true)
    refine = partial(refined, stack, start, limit.errors_rad, symmetry, seed)
    if case == "defocus":
        return {
            "stated defocus": refine(stated)[0],
            "refined defocus": refine(stated, refine_ctf=True)[0],
            "true defocus": refine(true)[0],
        }
    numbers, found = refine(true)
    if case != "centred":
        return {case: numbers}
    other = particles.simulate(
        density, stack.poses, image_size=len(density.data), noise_variance=NOISE_VARIANCE, rng=[seed, 1]
    )
    independent = reconstruction.pose_limit(other.images, stack.poses, density, optics=true)
    errors, likely = independent.errors_rad, independent.poses
    ratio = resolution_of(stack, likely, found, symmetry) / resolution_of(stack, stack.poses, found, symmetry)
    far = np.count_nonzero(errors >= NEAR_RAD)
    at_limit = errors.mean(), np.nan, np.nan, far, ratio, np.nan, np.nan, np.nan
    return {case: numbers, f"{case}, at the limit": at_limit}


def refined(
    stack: ParticleStack, start: Poses, limit: np.ndarray, symmetry: str, seed: int, optics: Optics, **options
) -> tuple[tuple[float, ...], reconstruction.Refinement]:
    """Refine poses, and return the columns of the table as numbers, and the refinement.

    The numbers are in rad, ratios, images, a ratio, Å, and seconds.
    """
    begin, processor = time.perf_counter(), time.process_time()
    found = reconstruction.refine(stack.images, start, optics=optics, symmetry=symmetry, rng=seed, **options)
    times = time.perf_counter() - begin, time.process_time() - processor
    errors = orientations.align_frame(stack.rotations, found.rotations, symmetry=symmetry).errors
    ratios = np.nan, np.nan
    if limit.mean() > LEAST_LIMIT_RAD:
        ratios = errors.mean() / limit.mean(), np.median(errors) / np.median(limit)
    defocus_error = np.nan
    if optics.ctf is not None:
        fitted, true = (each.isotropic().defocus_angstrom for each in (found.optics, stack.optics))
        defocus_error = np.sqrt(np.mean((fitted - true) ** 2))
    resolution = found.fsc.resolution_angstrom(reconstruction.HALF_MAP_THRESHOLD)
    resolution /= resolution_of(stack, stack.poses, found, symmetry)
    far = np.count_nonzero(errors >= NEAR_RAD)
    return (errors.mean(), *ratios, far, resolution, defocus_error, *times), found


def resolution_of(
    stack: ParticleStack, poses: Poses, found: reconstruction.Refinement, symmetry: str
) -> float:
    """Return the resolution of half-maps of the halves of a refinement, in its frame, with other poses."""
    rotations = orientations.align_frame(found.rotations, poses.rotations, symmetry=symmetry).rotations
    halves = reconstruction.reconstruct_halves(
        stack.images,
        Poses(rotations, poses.shifts_px),
        optics=stack.optics,
        symmetry=symmetry,
        subset=found.subset,
    ).half_maps
    first, second = (half.data for half in halves)
    fsc = reconstruction.masked_half_map_fsc(
        first,
        second,
        reconstruction.particle_mask(first, second),
        voxel_size_angstrom=stack.pixel_size_angstrom,
        rng=0,
    )
    return fsc.resolution_angstrom(reconstruction.HALF_MAP_THRESHOLD)


def summary(values: np.ndarray) -> tuple[str, ...]:
    """Return the columns of a row from the numbers of each seed."""
    mean, seconds = values.mean(axis=0), np.median(values[:, -2:], axis=0)
    spread = [
        "" if len(values) == 1 else f" ± {each:.3f}" for each in values.std(axis=0, ddof=len(values) > 1)
    ]
    error, ratio, median, far, resolution, defocus_error, *_ = mean
    return (
        f"{error:.4f} rad",
        "-" if np.isnan(ratio) else f"{ratio:.3f}{spread[1]}",
        "-" if np.isnan(median) else f"{median:.3f}{spread[2]}",
        f"{far:.2g}",
        f"{resolution:.3f}{spread[4]}",
        "-" if np.isnan(defocus_error) else f"{defocus_error:.0f} Å",
        *("-" if np.isnan(each) else f"{each:.0f} s" for each in seconds),
    )


if __name__ == "__main__":
    main()
