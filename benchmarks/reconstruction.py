"""Reconstruction of 1,650 images at known orientations, beside ASPIRE's mean estimator on the same images.

    python benchmarks/reconstruction.py

ASPIRE is measured where it is installed (extra ``baselines``), as it comes: least squares by conjugate gradients with a
circulant preconditioner.  Both take part in turns; times are medians.  What is made is held against the true map.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import time

import numpy as np
from table import print_table

from cryoem import imaging, registry, volumes
from cryoem.reconstruction import reconstruct
from cryoem.resolution import fourier_shell_correlation

NOISE = (0.0, 16.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    density = registry.load(arguments.map)
    truth = volumes.cube(density, arguments.image_size)
    voxel = density.voxel_size_angstrom
    runners = {"cryoem": ours_of(voxel)}
    if importlib.util.find_spec("aspire") is not None:
        runners["ASPIRE"] = aspire_of()
    small = imaging.simulate(density, 20, image_size=arguments.image_size, rng=1)
    runners["cryoem"](small)  # loads the compiled code
    rows = []
    for noise in NOISE:
        stack = imaging.simulate(
            density, arguments.images, image_size=arguments.image_size, noise_variance=noise, rng=0
        )
        seconds, resolution = {name: [] for name in runners}, {}
        for _ in range(arguments.repeats):
            for name, run in runners.items():
                start = time.perf_counter()
                made = run(stack)
                seconds[name].append(time.perf_counter() - start)
                curve = fourier_shell_correlation(made, truth.data, voxel_size_angstrom=voxel)
                resolution[name] = curve.resolution_angstrom(0.5)
        time_of = {name: float(np.median(values)) for name, values in seconds.items()}
        for name in runners:
            ratio = (
                "" if name == "cryoem" else f": cryoem is {time_of[name] / time_of['cryoem']:.0f} x faster"
            )
            rows.append(
                (
                    f"{name}, noise variance {noise:g}",
                    "-" if name == "cryoem" else ">= 10 x, FSC no worse",
                    f"{time_of[name]:.1f} s, FSC 0.5 at {resolution[name]:.2f} Å{ratio}",
                )
            )
    if "ASPIRE" not in runners:
        rows.append(("ASPIRE", ">= 10 x, FSC no worse", "not installed"))
    print_table(f"{arguments.map}, a map of {arguments.images} images of {arguments.image_size} px", rows)


def ours_of(voxel: float):
    def run(stack: imaging.ParticleStack) -> np.ndarray:
        return reconstruct(stack.images, stack.rotations, pixel_size_angstrom=voxel).data

    return run


def aspire_of():
    logging.disable(logging.WARNING)
    from aspire.reconstruction import MeanEstimator
    from aspire.source import ArrayImageSource
    from aspire.utils import Rotation as AspireRotation

    def run(stack: imaging.ParticleStack) -> np.ndarray:
        turned = AspireRotation(stack.rotations.inv().as_matrix().astype(np.float32))
        source = ArrayImageSource(stack.images, angles=turned.angles)
        return MeanEstimator(source, checkpoint_iterations=None).estimate().asnumpy()[0]

    return run


if __name__ == "__main__":
    main()
