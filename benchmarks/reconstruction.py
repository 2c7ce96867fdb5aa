"""Compare the reconstruction from 1,650 images at known orientations with ASPIRE's mean estimator.

    python benchmarks/reconstruction.py

ASPIRE is included if it is installed (extra ``baselines``), with its default settings: least squares by conjugate
gradients with a circulant preconditioner. Both methods run in turn, and times are medians; a method that takes more
than a minute runs only once. Accuracy is measured by the Fourier shell correlation (FSC) with the true map: the
resolution at 0.5, and the mean over all shells. The table also contains the mean FSC between the two reconstructions.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial

import numpy as np
import peers
from watch import OURS, in_turns, print_comparison

from cryoem import particles, volumes
from cryoem.reconstruction import fourier_shell_correlation, reconstruct

SAME_MAP = 0.99  # smallest mean FSC allowed between the two maps without noise
NOISE = (0.0, 16.0)
REHEARSED, REHEARSED_PX = 20, 32  # number and size of the images that are used to compile and load the code


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
    density = volumes.load(arguments.map)
    truth = volumes.cube(density, size)
    voxel = density.voxel_size_angstrom
    contenders = {OURS: ours}
    aspire = peers.aspire("reconstruction", "source", "utils")
    if aspire is not None:
        contenders[peers.ASPIRE] = aspire_of(aspire, voxel)
    for run in contenders.values():
        run(particles.simulate(density, REHEARSED, image_size=REHEARSED_PX, rng=1))
    for noise in NOISE:
        stack = particles.simulate(density, arguments.images, image_size=size, noise_variance=noise, rng=0)
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
                accuracy[name] += f", FSC against cryoem {likeness:.4f}"
                if noise == 0 and likeness < SAME_MAP:
                    raise SystemExit(f"the two maps from noise-free images differ: {accuracy[name]}")
        print_comparison(
            f"reconstruction-noise-{noise:g}",
            f"Reconstruction of {arguments.map} from {arguments.images:,} images of {size} px, "
            f"noise variance {noise:g}",
            watched,
            accuracy=accuracy,
            targets={peers.ASPIRE: ">= 10 x at no lower FSC"},
            absent=() if aspire is not None else (peers.ASPIRE,),
        )


def ours(stack: particles.ParticleStack) -> np.ndarray:
    """Reconstruct a map from a stack with cryoem."""
    return reconstruct(stack.images, stack.poses, optics=stack.optics).data


def aspire_of(aspire, voxel: float):
    """Return a function that reconstructs a map from a stack with ASPIRE's mean estimator."""

    def run(stack: particles.ParticleStack) -> np.ndarray:
        turned = aspire.utils.Rotation(peers.matrices_for_aspire(stack.rotations))
        source = aspire.source.ArrayImageSource(
            aspire.image.Image(stack.images), angles=turned.angles, pixel_size=voxel
        )
        with tempfile.TemporaryDirectory() as folder:  # the estimator always writes its last iteration
            estimator = aspire.reconstruction.MeanEstimator(
                source, checkpoint_iterations=None, checkpoint_prefix=f"{folder}/volume"
            )
            return estimator.estimate().asnumpy()[0]

    return run


if __name__ == "__main__":
    main()
