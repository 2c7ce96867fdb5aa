"""Projection: accuracy against an exact non-uniform FFT, the adjoint, and the rate beside a finufft plan and ASPIRE.

    python benchmarks/projection.py

ASPIRE is measured where it is installed (extra ``baselines``), in the same process on the same orientations; its images
are held against ours, so that both are known to do the same work.  Rates are medians of several repeats,
taken in turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import time

import finufft
import numpy as np
from table import print_table

from cryoem import registry, volumes
from cryoem.projectors import (
    backproject,
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
    project,
)
from cryoem.rotations import random_rotations


def exact_half_planes(volume, rotations, size):
    """The transform on every point of the half-planes, by a non-uniform FFT to 1e-9 in double precision."""
    points = slice_points(rotations, size)
    return finufft.nufft3d2(*points, volume.astype(complex), eps=1e-9, isign=-1).reshape(len(rotations), -1)


def slice_points(rotations, size):
    """Angular frequencies (z, y, x) of every half-plane element of every slice."""
    frequencies = 2 * np.pi * plane_frequencies(size).astype(float)
    points = np.einsum("mj,njk->nmk", frequencies, rotations.as_matrix()[:, :2]).reshape(-1, 3)
    return tuple(np.ascontiguousarray(points[:, axis]) for axis in (2, 1, 0))


def project_with_finufft(volume, rotations, size):
    """The same projection through a finufft plan over half of each slice, single precision, 1e-3."""
    plan = finufft.Plan(2, volume.shape, eps=1e-3, isign=-1, dtype="complex64")
    images = np.empty((len(rotations), size, size), np.float32)
    single = volume.astype(np.complex64)
    for start in range(0, len(rotations), 64):
        batch = rotations[start : start + 64]
        plan.setpts(*(points.astype(np.float32) for points in slice_points(batch, size)))
        images[start : start + 64] = images_from_half_planes(
            plan.execute(single).reshape(len(batch), -1), size
        )
    return images


def aspire_projector(volume):
    """ASPIRE's projector of a cubic volume as a function of orientations, or None where it is not installed."""
    if importlib.util.find_spec("aspire") is None:
        return None
    logging.disable(logging.WARNING)
    from aspire.utils import Rotation as AspireRotation
    from aspire.volume import Volume

    aspire_volume = Volume(volume)

    def run(rotations):
        inverse = AspireRotation(rotations.inv().as_matrix().astype(np.float32))
        return aspire_volume.project(inverse).asnumpy()

    return run


def worst_correlation(ours, theirs):
    """Lowest correlation of two stacks, image by image."""
    return min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.image_size
    density = registry.load(arguments.map)
    volume, cubic = density.data, volumes.cube(density, size).data
    rotations = random_rotations(arguments.images, rng=0)

    few = rotations[:20]
    exact = images_from_half_planes(exact_half_planes(volume, few, size), size)
    ours = project(volume, few, image_size=size)
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    spectrum_error = np.linalg.norm(half_planes_from_images(ours - exact)) / np.linalg.norm(
        half_planes_from_images(exact)
    )
    rng = np.random.default_rng(1)
    test_images = rng.normal(size=ours.shape).astype(np.float32)
    test_volume = rng.normal(size=volume.shape).astype(np.float32)
    forward = np.vdot(project(test_volume, few, image_size=size).astype(float), test_images)
    backward = np.vdot(test_volume.astype(float), backproject(test_images, few, volume_shape=volume.shape))

    runners = {
        "cryoem": lambda r: project(volume, r, image_size=size),
        "finufft plan, half slices": lambda r: project_with_finufft(volume, r, size),
    }
    aspire = aspire_projector(cubic)
    if aspire is not None:
        runners["ASPIRE"] = aspire
    agreement = {name: worst_correlation(ours, run(few)) for name, run in runners.items()}
    seconds = {name: [] for name in runners}
    for _ in range(arguments.repeats):
        for name, run in runners.items():
            start = time.perf_counter()
            run(rotations)
            seconds[name].append(time.perf_counter() - start)
    rate = {name: len(rotations) / np.median(times) for name, times in seconds.items()}

    rows = [
        ("relative L2 error, images", "<= 2e-3", f"{error:.1e}"),
        ("relative L2 error, transforms", "<= 2e-3", f"{spectrum_error:.1e}"),
        ("adjoint, relative", "<= 1e-5", f"{abs(forward - backward) / abs(forward):.1e}"),
        ("cryoem", "-", f"{rate['cryoem']:.0f} images/s"),
    ]
    for name, asked in (("finufft plan, half slices", "-"), ("ASPIRE", ">= 4 x")):
        measured = "not installed"
        if name in rate:
            measured = (
                f"{rate[name]:.0f} images/s: cryoem is {rate['cryoem'] / rate[name]:.1f} x, "
                f"correlation with ours >= {agreement[name]:.5f}"
            )
        rows.append((name, asked, measured))
    print_table(f"{arguments.map}, projections of {size} px", rows)


if __name__ == "__main__":
    main()
