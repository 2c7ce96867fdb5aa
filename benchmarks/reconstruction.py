"""Reconstruction of 1,650 images at known orientations, beside ASPIRE's mean estimator on the same images.

    python benchmarks/reconstruction.py

ASPIRE is measured where it is installed (extra ``baselines``), as it comes: least squares by conjugate gradients with a
circulant preconditioner.  Both take part in turns, and times are medians; ASPIRE, where it takes more than a minute, is
called once.  What is made is held against the true map: the Fourier shell correlation at 0.5, its mean over all shells,
and how well the two maps agree.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial

import numpy as np
import peers
from watch import OURS, in_turns, print_beside

from cryoem import imaging, registry, volumes
from cryoem.reconstruction import reconstruct
from cryoem.resolution import fourier_shell_correlation

SAME_MAP = 0.99  # mean Fourier shell correlation of two maps of the same images
NOISE = (0.0, 16.0)
REHEARSED, REHEARSED_PX = 20, 32  # images on which code is compiled and loaded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.image_size
    density = registry.load(arguments.map)
    truth = volumes.cube(density, size)
    voxel = density.voxel_size_angstrom
    contenders = {OURS: ours_of(voxel)}
    aspire = peers.aspire("reconstruction", "source", "utils")
    if aspire is not None:
        contenders[peers.ASPIRE] = aspire_of(aspire, voxel)
    for run in contenders.values():
        run(imaging.simulate(density, REHEARSED, image_size=REHEARSED_PX, rng=1))
    for noise in NOISE:
        stack = imaging.simulate(density, arguments.images, image_size=size, noise_variance=noise, rng=0)
        watched = in_turns(
            {name: partial(run, stack) for name, run in contenders.items()},
            repeats=arguments.repeats,
            rehearsals=0,
        )
        accuracy = {}
        for name, one in watched.items():
            curve = fourier_shell_correlation(one.result, truth.data, voxel_size_angstrom=voxel)
            accuracy[name] = (
                f"FSC 0.5 at {curve.resolution_angstrom(0.5):.2f} Å, mean {np.mean(curve.correlation[1:]):.4f}"
            )
            if name != OURS:
                shared = fourier_shell_correlation(
                    one.result, watched[OURS].result, voxel_size_angstrom=voxel
                )
                likeness = float(np.mean(shared.correlation[1:]))
                accuracy[name] += f", FSC with ours {likeness:.4f}"
                if noise == 0 and likeness < SAME_MAP:
                    raise SystemExit(f"the maps must agree where there is no noise, got {accuracy[name]}")
        print_beside(
            f"{arguments.map}, noise variance {noise:g}, a map of {arguments.images} images of {size} px",
            watched,
            accuracy=accuracy,
            asked={peers.ASPIRE: ">= 10 x, FSC no worse"},
            absent=() if aspire is not None else (peers.ASPIRE,),
        )


def ours_of(voxel: float):
    """Our reconstruction of a stack."""

    def run(stack: imaging.ParticleStack) -> np.ndarray:
        return reconstruct(stack.images, stack.rotations, pixel_size_angstrom=voxel, method="fourier").data

    return run


def aspire_of(aspire, voxel: float):
    """ASPIRE's mean estimate of a stack."""

    def run(stack: imaging.ParticleStack) -> np.ndarray:
        turned = aspire.utils.Rotation(peers.matrices_for_aspire(stack.rotations))
        source = aspire.source.ArrayImageSource(
            aspire.image.Image(stack.images), angles=turned.angles, pixel_size=voxel
        )
        with tempfile.TemporaryDirectory() as folder:  # its last iteration is written, whatever it is told
            estimator = aspire.reconstruction.MeanEstimator(
                source, checkpoint_iterations=None, checkpoint_prefix=f"{folder}/volume"
            )
            return estimator.estimate().asnumpy()[0]

    return run


if __name__ == "__main__":
    main()
