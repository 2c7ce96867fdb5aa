"""What the microscope does to a projection: contrast transfer, shift, noise; and what we do before using it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, not_negative, positive_number, shifts_of, square_images
from cryoem.contrast import ContrastTransfer, defoci_of
from cryoem.distributed import in_order
from cryoem.particles import ParticleSeries, ParticleStack
from cryoem.projectors import (
    Projector,
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
)
from cryoem.rotations import point_group, random_rotations
from cryoem.volumes import DensityMap

if TYPE_CHECKING:
    from distributed import Client

REFERENCE_PROJECTIONS = 200


def simulate(
    density_map: DensityMap,
    n: int,
    *,
    image_size: int | None = None,
    coverage: str = "so3",
    noise_variance: float = 0.0,
    shift_limit_px: float = 0.0,
    ctf: ContrastTransfer | None = None,
    symmetry: str = "C1",
    rng: np.random.Generator | int | None = None,
    backend: str = "auto",
) -> ParticleStack:
    """Simulate particle images of a map at random orientations.

    Parameters
    ----------
    density_map : the particle.
    n : number of images.
    image_size : side in pixels of one voxel; the map's longest side by default.
    coverage : of orientations, see ``rotations.random_rotations``.
    noise_variance : of white noise; images without it, as the microscope shows them, have variance 1 over the data
        set, so the signal-to-noise ratio is ``1 / noise_variance``.
    shift_limit_px : shifts follow a triangular distribution on [-limit, limit] in x and y.
    ctf : contrast transfer, with a defocus drawn for each image; none by default.  It takes most of a particle's
        power away, which is at low frequencies, and noise is relative to what is left.
    symmetry : point group, noted in the stack.
    rng : generator or seed.
    backend : of the projector.

    Returns
    -------
    ParticleStack of n images with their orientations, shifts, contrast transfer and defoci.

    Raises
    ------
    ValueError : a number is out of range, the map projects to nothing, or there is no such point group.

    Source: arXiv 2104.06237, section 4.1.
    """
    known, view = _drawn(
        density_map,
        n,
        image_size=image_size,
        coverage=coverage,
        noise_variance=noise_variance,
        shift_limit_px=shift_limit_px,
        ctf=ctf,
        symmetry=symmetry,
        rng=rng,
        backend=backend,
    )
    return ParticleStack(images=view(_Some.of(known, 0, n)), symmetry=symmetry, **known)


def simulate_lazily(
    density_map: DensityMap,
    n: int,
    *,
    image_size: int | None = None,
    client: Client | None = None,
    **options,
) -> ParticleSeries:
    """Particle images as ``simulate`` makes them, but block by block when they are asked for: more than memory holds.

    Parameters, raises: as ``simulate``, whose images they are for the same seed; ``client`` makes blocks on its
    workers, see ``distributed.in_order``.
    """
    known, view = _drawn(density_map, n, image_size=image_size, **options)

    def blocks(size: int) -> Iterator[np.ndarray]:
        items = (_Some.of(known, start, min(start + size, n)) for start in range(0, n, size))
        return in_order(view, items, client=client)

    return ParticleSeries(n, view.projector.image_size, blocks=blocks, **known)


def _drawn(
    density_map: DensityMap,
    n: int,
    *,
    image_size: int | None = None,
    coverage: str = "so3",
    noise_variance: float = 0.0,
    shift_limit_px: float = 0.0,
    ctf: ContrastTransfer | None = None,
    symmetry: str = "C1",
    rng: np.random.Generator | int | None = None,
    backend: str = "auto",
) -> tuple[dict, _View]:
    """What is known of n images, and what makes some of them."""
    not_negative(noise_variance, name="noise_variance")
    not_negative(shift_limit_px, name="shift_limit_px")
    point_group(symmetry)
    rng = np.random.default_rng(rng)
    size = max(density_map.data.shape) if image_size is None else image_size
    rotations = random_rotations(n, coverage=coverage, rng=rng)
    projector = Projector(density_map.data, image_size=size, backend=backend)
    deviation = _clean_deviation(projector, coverage, ctf, density_map.voxel_size_angstrom)
    known = {
        "pixel_size_angstrom": density_map.voxel_size_angstrom,
        "rotations": rotations,
        "defocus_angstrom": None if ctf is None else rng.uniform(*ctf.defocus_angstrom, n),
        "shifts_px": rng.triangular(-shift_limit_px, 0, shift_limit_px, (n, 2))
        if shift_limit_px
        else np.zeros((n, 2)),
        "ctf": ctf,
    }
    view = _View(
        projector,
        density_map.voxel_size_angstrom,
        deviation,
        noise_variance,
        noise_seed=int(rng.integers(2**63)),
    )
    return known, view


@dataclass(frozen=True)
class _Some:
    """What is known of some images, the first of which has the number ``start``."""

    start: int
    rotations: Rotation
    shifts_px: np.ndarray
    defocus_angstrom: np.ndarray | None
    ctf: ContrastTransfer | None

    @classmethod
    def of(cls, known: dict, start: int, stop: int) -> _Some:
        some, defocus = slice(start, stop), known["defocus_angstrom"]
        return cls(
            start,
            known["rotations"][some],
            known["shifts_px"][some],
            None if defocus is None else defocus[some],
            known["ctf"],
        )


@dataclass(frozen=True)
class _View:
    """Makes images; the noise of each has a seed of its own, so that they may be made in any order and anywhere."""

    projector: Projector
    pixel_size_angstrom: float
    deviation: float
    noise_variance: float
    noise_seed: int

    def __call__(self, some: _Some) -> np.ndarray:
        """(k, y, x) float32"""
        images = self.projector(some.rotations)
        images /= self.deviation
        if some.ctf is not None:
            images = apply_ctf(
                images, some.ctf, some.defocus_angstrom, pixel_size_angstrom=self.pixel_size_angstrom
            )
        if some.shifts_px.any():
            images = shift(images, some.shifts_px)
        if self.noise_variance:
            for number, image in enumerate(images, start=some.start):
                noise = np.random.default_rng([self.noise_seed, number])
                image += np.float32(np.sqrt(self.noise_variance)) * noise.standard_normal(
                    image.shape, np.float32
                )
        return images


def clean_deviation(
    density_map: DensityMap,
    *,
    image_size: int,
    coverage: str = "so3",
    ctf: ContrastTransfer | None = None,
    backend: str = "auto",
) -> float:
    """Standard deviation of noise-free images over a fixed set of orientations and defoci: the unit of ``simulate``.

    Raises
    ------
    ValueError : the map projects to a constant.
    """
    projector = Projector(density_map.data, image_size=image_size, backend=backend)
    return _clean_deviation(projector, coverage, ctf, density_map.voxel_size_angstrom)


def _clean_deviation(
    projector: Projector,
    coverage: str,
    ctf: ContrastTransfer | None,
    pixel_size_angstrom: float,
) -> float:
    """``clean_deviation`` of a map by its projector."""
    images = projector(random_rotations(REFERENCE_PROJECTIONS, coverage=coverage, rng=0))
    if ctf is not None:
        defoci = np.linspace(*ctf.defocus_angstrom, REFERENCE_PROJECTIONS)
        images = apply_ctf(images, ctf, defoci, pixel_size_angstrom=pixel_size_angstrom)
    deviation = float(images.std())
    if deviation == 0:
        raise ValueError("density_map must have structure, got one whose projections are constant")
    return deviation


def add_noise(
    images: np.ndarray, variance: float, *, rng: np.random.Generator | int | None = None
) -> np.ndarray:
    """Images plus white Gaussian noise of a variance: (n, y, x) float32.

    Raises
    ------
    ValueError : images are not three-dimensional or not finite, or the variance is negative.
    """
    images = finite_array(images, name="images", ndim=3, dtype=np.float32)
    if not_negative(variance, name="variance") == 0:
        return images
    noise = np.random.default_rng(rng).standard_normal(images.shape, dtype=np.float32)
    return images + np.float32(np.sqrt(variance)) * noise


def without_background(images: np.ndarray) -> np.ndarray:
    """Images less the mean of each outside the inscribed circle: (n, y, x) float32.

    Raises
    ------
    ValueError : images are not (n, y, y) or not finite.
    """
    images = square_images(images)
    n = images.shape[1]
    y, x = np.indices((n, n)) - n // 2
    outside = np.hypot(y, x) > 0.5 * n - 1
    return images - images[:, outside].mean(axis=1)[:, None, None]


def shift(images: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Move image content by sub-pixel amounts, periodically.

    Parameters
    ----------
    images : (n, y, x), y == x.
    shifts_px : (n, 2) displacement (x, y) towards larger coordinates.

    Returns
    -------
    (n, y, x) float32.

    Raises
    ------
    ValueError : images are not (n, y, y), or shifts are not (n, 2), or either is not finite.
    """
    images = square_images(images)
    shifts_px = shifts_of(shifts_px, count=len(images))
    size = images.shape[1]
    phase = np.exp(-2j * np.pi * shifts_px @ plane_frequencies(size).T.astype(float))
    return images_from_half_planes(half_planes_from_images(images) * phase.astype(np.complex64), size)


def apply_ctf(
    images: np.ndarray, ctf: ContrastTransfer, defocus_angstrom: np.ndarray, *, pixel_size_angstrom: float
) -> np.ndarray:
    """Images as seen through a contrast transfer function: (n, y, x) float32.

    ``defocus_angstrom`` is that of each image, as for ``ContrastTransfer.at``; ``pixel_size_angstrom`` the side of a
    pixel.

    Raises
    ------
    ValueError : images are not (n, y, y) or not finite, defoci are not one for each, or the pixel size is not positive.
    """
    return _transferred(images, ctf, defocus_angstrom, pixel_size_angstrom, lambda transfer: transfer)


def flip_phases(
    images: np.ndarray,
    ctf: ContrastTransfer | None,
    defocus_angstrom: np.ndarray | None,
    *,
    pixel_size_angstrom: float,
) -> np.ndarray:
    """Images seen through a contrast transfer, without the sign that it gave to each frequency: (n, y, x) float32.

    What remains is seen through its magnitude; white noise stays white.  Where there is no contrast transfer,
    images stay as they are.  Parameters and errors are those of ``apply_ctf``.
    """
    if ctf is None and defocus_angstrom is None:
        positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
        return square_images(images)
    return _transferred(
        images, ctf, defocus_angstrom, pixel_size_angstrom, lambda transfer: np.where(transfer < 0, -1, 1)
    )


def _transferred(images, ctf: ContrastTransfer, defocus_angstrom, pixel_size_angstrom: float, change):
    images = square_images(images)
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    defoci = defoci_of(ctf, defocus_angstrom, count=len(images))
    if ctf is None:
        raise ValueError("ctf must be a ContrastTransfer, got None")
    size = images.shape[1]
    frequencies = plane_frequencies(size) / pixel_size_angstrom
    transfer = change(ctf.at(frequencies, defoci)).astype(np.float32)
    return images_from_half_planes(half_planes_from_images(images) * transfer, size)


def downsample(images: np.ndarray, size: int) -> np.ndarray:
    """Fourier-crop images to a smaller size; values keep their scale, the origin stays at the middle pixel.

    Parameters
    ----------
    images : (n, y, x), y == x.
    size : new side in pixels, at most y.  The pixel grows by y / size, and white noise of variance s2 has variance
        ``s2 * (size / y) ** 2`` afterwards.

    Returns
    -------
    (n, size, size) float32.

    Raises
    ------
    ValueError : images are not (n, y, y), or ``size`` is not between 2 and y.
    """
    images = square_images(images)
    full = images.shape[1]
    if not 2 <= size <= full:
        raise ValueError(f"size must be between 2 and the images' {full} px, got {size}")
    if size == full:
        return images
    kept = cropped_frequencies(full, size)
    planes = half_planes_from_images(images)[:, kept]
    return images_from_half_planes(planes, size) * np.float32((size / full) ** 2)


def cropped_frequencies(full: int, size: int) -> np.ndarray:
    """Where the half-plane elements of a ``size`` px image stand in the half-plane of a ``full`` px image: (m,) int."""
    ky = np.rint(scipy.fft.fftfreq(size) * size).astype(int) % full
    kx = np.arange(size // 2 + 1)
    return (ky[:, None] * (full // 2 + 1) + kx).ravel()
