"""Sections of gpu.py that use ASTRA. Each section yields rows of (quantity, target, measured)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from watch import in_turns, time_text

from cryoem.devices import cores

MAP = "phantom"  # needs no network
AGREEMENT = 2e-3  # relative
NO_ASTRA = "not measured, because astra-toolbox finds no usable GPU"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements; the defaults are those of the stored table."""

    views: int = 12  # orientations of each check
    box: int = 100  # side of the volumes of the check, ten standard deviations of a blob
    image_size: int = 116
    images: int = 5000
    cgls_images: int = 1000
    search_images: int = 1000
    iterations: int = 100
    repeats: int = 3
    encoders: tuple[dict, ...] = (
        {"image_size": 58},
        {"image_size": 116, "architecture": "published", "feature_distance": "cosine"},
    )
    batch_size: int = 256
    steps: int = 50  # of an epoch
    experiment: str = "paper"


TOY = Sizes(
    views=1, box=80, image_size=32, images=4, cgls_images=8, search_images=64, iterations=3, repeats=1,
    encoders=({"image_size": 16, "channels": 8, "blocks": 1},), batch_size=4, steps=2, experiment="toy",
)  # fmt: skip


class NotMeasured(Exception):
    """A section cannot be measured on this machine; the message states why."""


class Clock:
    """Time that is left of ``seconds``; without a limit, infinite."""

    def __init__(self, seconds: float | None):
        self._end = float("inf") if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


# --- projection


def check(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Compare ASTRA with Fourier slices: even, odd and unequal sizes, cropped, padded and sub-sampled images."""
    from cryoem.images import downsample, images_from_half_planes, plane_frequencies
    from cryoem.projection import backproject, fourier, project
    from cryoem.rotations import random_rotations

    need_astra()
    rotations, n = random_rotations(sizes.views, rng=0), sizes.box
    unequal = (n, n + 7, n + 16)
    cases = {
        "even volume, even images": ((n,) * 3, n),
        "odd volume, odd images": ((n + 1,) * 3, n + 1),
        "even volume, odd images": ((n,) * 3, n + 1),
        "odd volume, even images": ((n + 1,) * 3, n),
        "unequal sides": (unequal, max(unequal)),
        "cropped images": ((n,) * 3, n - 12),
        "padded images": ((n,) * 3, n + 11),
    }
    for name, (shape, size) in cases.items():
        volume = blobs(shape, seed=1)
        images = project(blobs(shape, seed=2), rotations, image_size=size, backend="fourier")
        traced = project(volume, rotations, image_size=size, backend="astra")
        smeared = backproject(images, rotations, volume_shape=shape, backend="astra")
        inside = ball(shape, min(size, *shape) // 2 - 1)
        slices = project(volume, rotations, image_size=size, backend="fourier")
        exact = backproject(images, rotations, volume_shape=shape, backend="fourier")
        forth, back = np.vdot(traced.astype(float), images), np.vdot(volume.astype(float), smeared)
        yield agreement(
            f"{name}, {' x '.join(map(str, shape))} voxels, {size} px",
            projection=relative(traced, slices),
            back_projection=relative(smeared[inside], exact[inside]),
            adjoint=abs(back - forth) / abs(forth),
        )
    # sub-sampled images, as the training stream reads them from the transform
    volume, half = blobs((n,) * 3, seed=1), n // 2
    frequencies = plane_frequencies(half) * np.float32(half / n)
    planes = fourier.read_slices(fourier.transform(volume), rotations.as_matrix(), frequencies)
    slices = images_from_half_planes(planes * np.float32((half / n) ** 2), half)
    traced = downsample(project(volume, rotations, image_size=n, backend="astra"), half)
    yield agreement(f"sub-sampled images, {n} to {half} px", projection=relative(traced, slices))
    # a map with detail, for which linear interpolation is coarse
    density = load_map(sizes.image_size)
    traced, slices = (
        project(density.data, rotations, image_size=sizes.image_size, backend=backend)
        for backend in ("astra", "fourier")
    )
    yield (
        f"{MAP}, {sizes.image_size} px: projection, relative difference",
        "-",
        f"{relative(traced, slices):.1e}",
    )


def projection(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Time projection and back-projection by ASTRA and on the CPU, between arrays in the memory of the host."""
    from cryoem.projection import backproject, project
    from cryoem.rotations import random_rotations

    need_astra()
    density, size = load_map(sizes.image_size), sizes.image_size
    rotations = random_rotations(sizes.images, rng=0)
    images = project(density.data, rotations, image_size=size, backend="fourier")
    calls = {
        "projection": partial(project, density.data, rotations, image_size=size),
        "back-projection": partial(backproject, images, rotations, volume_shape=(size,) * 3),
    }
    names = {"ASTRA": "astra", f"Fourier slices, {cores()} cores": "fourier"}
    for operation, call in calls.items():
        contenders = {name: partial(call, backend=backend) for name, backend in names.items()}
        for name, one in in_turns(contenders, repeats=sizes.repeats).items():
            measured = f"{time_text(one.median_s)}, {sizes.images / one.median_s:,.0f} images/s"
            yield f"{operation} of {sizes.images:,} images, {size} px: {name}", "-", measured


def cgls(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Time conjugate gradients by ASTRA (CGLS3D_CUDA) and by cryoem, on noise-free images from Fourier slices."""
    from cryoem.projection import project
    from cryoem.reconstruction import fourier_shell_correlation, reconstruct
    from cryoem.rotations import random_rotations

    need_astra()
    density, size = load_map(sizes.image_size), sizes.image_size
    rotations = random_rotations(sizes.cgls_images, rng=0)
    images = project(density.data, rotations, image_size=size, backend="fourier")
    voxel = density.voxel_size_angstrom

    def ours(backend: str, iterations: int) -> np.ndarray:
        def stop(iteration: int, residual: float) -> None:
            if clock.left() <= 0:
                raise NotMeasured(f"stopped after {iteration + 1} iterations, because the time is up")

        return reconstruct(
            images, rotations, pixel_size_angstrom=voxel, method="cgls", iterations=iterations, backend=backend,
            callback=stop,
        ).data  # fmt: skip

    contenders = {
        "ASTRA, CGLS3D_CUDA": partial(cgls_with_astra, images, rotations.as_matrix()),
        "cryoem with ASTRA's projector": partial(ours, "astra"),
        f"cryoem with Fourier slices, {cores()} cores": partial(ours, "fourier"),
    }
    for name, reconstructed in contenders.items():
        reconstructed(iterations=1)  # compile and load
        start = time.perf_counter()
        found = reconstructed(iterations=sizes.iterations)
        seconds = time.perf_counter() - start
        curve = fourier_shell_correlation(found, density.data, voxel_size_angstrom=voxel)
        yield (
            f"{sizes.iterations} iterations, {sizes.cgls_images:,} images of {MAP}, {size} px: {name}",
            "-",
            f"{time_text(seconds)}, FSC 0.5 at {curve.resolution_angstrom(0.5):.2f} Å, "
            f"mean {np.mean(curve.correlation[1:]):.4f}",
        )


def cgls_with_astra(images: np.ndarray, matrices: np.ndarray, *, iterations: int) -> np.ndarray:
    """Reconstruct a (y, y, y) volume from (n, y, x) images with ASTRA's own conjugate gradients."""
    import astra

    from cryoem.projection.projectors import astra_geometries

    size = images.shape[1]
    volume_geometry, projection_geometry = astra_geometries(matrices, (size,) * 3, size)
    sinogram = astra.data3d.create("-sino", projection_geometry, np.ascontiguousarray(images.swapaxes(0, 1)))
    volume = astra.data3d.create("-vol", volume_geometry, 0)
    settings = astra.astra_dict("CGLS3D_CUDA")
    settings |= {"ProjectionDataId": sinogram, "ReconstructionDataId": volume}
    algorithm = astra.algorithm.create(settings)
    try:
        astra.algorithm.run(algorithm, iterations)
        return astra.data3d.get(volume)
    finally:
        astra.algorithm.delete(algorithm)
        astra.data3d.delete([sinogram, volume])


# --- helpers


def need_astra() -> None:
    """Raise NotMeasured unless ASTRA finds a GPU: without one, its 3-D calls terminate the process."""
    from cryoem.projection.projectors import astra_is_usable

    if not astra_is_usable():
        raise NotMeasured(NO_ASTRA)


def load_map(size: int):
    """Return the map of the timings in a box of ``size`` voxels a side."""
    from cryoem import volumes

    return volumes.cube(volumes.load(MAP), size)


def blobs(shape: tuple[int, int, int], *, seed: int) -> np.ndarray:
    """Three Gaussian blobs near the origin, without any symmetry, a tenth of the shortest side wide: float32."""
    rng, sigma = np.random.default_rng(seed), min(shape) / 10
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    volume = np.zeros(shape)
    for weight, centre in zip((1.0, 0.7, 0.4), rng.uniform(-6, 6, (3, 3)), strict=True):
        squared = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        volume += weight * np.exp(-squared / (2 * sigma**2))
    return volume.astype(np.float32)


def ball(shape: tuple[int, int, int], radius_px: int) -> np.ndarray:
    """Voxels within a radius of the origin: (z, y, x) boolean."""
    return sum(axis**2 for axis in np.ix_(*(np.arange(n) - n // 2 for n in shape))) <= radius_px**2


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 difference."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def agreement(quantity: str, **differences: float) -> tuple[str, str, str]:
    """Return the row of a check with relative differences, each at most AGREEMENT."""
    parts = [
        f"{name.replace('_', '-')} {value:.1e}" + ("" if value <= AGREEMENT else " (above)")
        for name, value in differences.items()
    ]
    return quantity, f"<= {AGREEMENT:.0e}", ", ".join(parts)
