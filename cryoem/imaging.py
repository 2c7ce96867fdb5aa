"""What the microscope does to a projection: contrast transfer, shift, noise; and what we do before using it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.checks import finite_array, not_negative, one_each, positive_number, shifts_of, square_images
from cryoem.particles import ParticleStack
from cryoem.projectors import (
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
    project,
)
from cryoem.rotations import point_group, random_rotations
from cryoem.volumes import DensityMap

REFERENCE_PROJECTIONS = 200


@dataclass(frozen=True)
class ContrastTransfer:
    """The microscope's constants and the range of defocus of a simulated data set.

    ``voltage_kv`` kilovolts; ``spherical_aberration_mm`` millimetres; ``amplitude_contrast`` in [0, 1];
    ``b_factor_angstrom2`` of the envelope ``exp(-B k^2 / 4)``; ``defocus_angstrom`` lowest and highest underfocus.

    Raises
    ------
    ValueError : a value is out of its range.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor_angstrom2: float = 50.0
    defocus_angstrom: tuple[float, float] = (5_000.0, 20_000.0)

    def __post_init__(self):
        positive_number(self.voltage_kv, name="voltage_kv")
        not_negative(self.spherical_aberration_mm, name="spherical_aberration_mm")
        not_negative(self.b_factor_angstrom2, name="b_factor_angstrom2")
        if not 0 <= self.amplitude_contrast <= 1:
            raise ValueError(f"amplitude_contrast must be between 0 and 1, got {self.amplitude_contrast}")
        low, high = self.defocus_angstrom
        if not -np.inf < low <= high < np.inf:
            raise ValueError(
                f"defocus_angstrom must be a finite lowest and highest value, got {self.defocus_angstrom}"
            )

    @property
    def wavelength_angstrom(self) -> float:
        """Relativistic de Broglie wavelength of the electrons."""
        volts = self.voltage_kv * 1e3
        return 12.2643 / np.sqrt(volts + 0.97845e-6 * volts**2)

    def at(self, frequency_per_angstrom: np.ndarray, defocus_angstrom: np.ndarray) -> np.ndarray:
        """The transfer function at m frequencies for n defoci: (n, m), envelope included.

        ``-sqrt(1 - A^2) sin g - A cos g``, ``g = pi lambda dz k^2 - pi / 2 Cs lambda^3 k^4``.

        Source: Rohou and Grigorieff, J. Struct. Biol. 192 (2015) 216.
        """
        k2 = np.square(frequency_per_angstrom)
        wavelength = self.wavelength_angstrom
        aberration = np.pi / 2 * self.spherical_aberration_mm * 1e7 * wavelength**3 * k2**2
        phase = np.pi * wavelength * np.asarray(defocus_angstrom)[:, None] * k2 - aberration
        # sqrt(1 - A^2) sin g + A cos g = sin(g + arcsin A)
        transfer = -np.sin(phase + np.arcsin(self.amplitude_contrast))
        return transfer * np.exp(-self.b_factor_angstrom2 * k2 / 4)


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
    noise_variance : of white noise; images without it have variance 1 over the data set, so the
        signal-to-noise ratio is ``1 / noise_variance``.
    shift_limit_px : shifts follow a triangular distribution on [-limit, limit] in x and y.
    ctf : contrast transfer, with a defocus drawn for each image; none by default.
    symmetry : point group, noted in the stack.
    rng : generator or seed.
    backend : of the projector.

    Returns
    -------
    ParticleStack of n images with their orientations, shifts and defoci.

    Raises
    ------
    ValueError : a number is out of range, the map projects to nothing, or there is no such point group.

    Source: arXiv 2104.06237, section 4.1.
    """
    not_negative(noise_variance, name="noise_variance")
    not_negative(shift_limit_px, name="shift_limit_px")
    point_group(symmetry)
    rng = np.random.default_rng(rng)
    rotations = random_rotations(n, coverage=coverage, rng=rng)
    size = max(density_map.data.shape) if image_size is None else image_size
    images = project(density_map.data, rotations, image_size=size, backend=backend)
    images /= clean_deviation(density_map, image_size=size, coverage=coverage, backend=backend)
    defocus = None
    if ctf is not None:
        defocus = rng.uniform(*ctf.defocus_angstrom, n)
        images = apply_ctf(images, ctf, defocus, pixel_size_angstrom=density_map.voxel_size_angstrom)
    shifts = (
        rng.triangular(-shift_limit_px, 0, shift_limit_px, (n, 2)) if shift_limit_px else np.zeros((n, 2))
    )
    if shift_limit_px:
        images = shift(images, shifts)
    images = add_noise(images, noise_variance, rng=rng)
    return ParticleStack(images, density_map.voxel_size_angstrom, rotations, shifts, defocus, symmetry)


def clean_deviation(
    density_map: DensityMap, *, image_size: int, coverage: str = "so3", backend: str = "auto"
) -> float:
    """Standard deviation of noise-free projections over a fixed set of orientations: the unit of ``simulate``.

    Raises
    ------
    ValueError : the map projects to a constant.
    """
    rotations = random_rotations(REFERENCE_PROJECTIONS, coverage=coverage, rng=0)
    deviation = float(project(density_map.data, rotations, image_size=image_size, backend=backend).std())
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

    ``defocus_angstrom`` is (n,), one for each image; ``pixel_size_angstrom`` the side of a pixel.

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
    frequency = np.hypot(*plane_frequencies(size).T) / pixel_size_angstrom
    transfer = change(ctf.at(frequency, defoci)).astype(np.float32)
    return images_from_half_planes(half_planes_from_images(images) * transfer, size)


def defoci_of(ctf: ContrastTransfer | None, defocus_angstrom, *, count: int) -> np.ndarray | None:
    """(count,) defoci where there is a contrast transfer, None where there is none.

    Raises
    ------
    ValueError : one of the two is given without the other, or defoci are not finite and one for each image.
    """
    if not (ctf is None or isinstance(ctf, ContrastTransfer)):
        raise ValueError(f"ctf must be a ContrastTransfer or None, got {ctf!r}")
    if (ctf is None) != (defocus_angstrom is None):
        missing = "ctf" if ctf is None else "defocus_angstrom"
        raise ValueError(f"ctf and defocus_angstrom must be given together, got no {missing}")
    if ctf is None:
        return None
    return one_each(defocus_angstrom, count=count, name="defocus_angstrom")


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
