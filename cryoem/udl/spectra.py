"""Power spectra of particle images, on polar grids and on pixels.

The magnitude of an image's Fourier transform does not depend on the position of the particle, and it rotates with the
particle. On a polar grid, a rotation is a shift along the angle. The magnitude is centrosymmetric, so angles are
determined modulo half a turn. For a class with an n-fold axis along the view, n > 2, the period is shorter, and
equivalent sectors are averaged.

Source: arXiv 2205.11829, section 3 (rotation from centred log power spectra). The polar grid is not part of that work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from cryoem.udl.natural import crop_mask
from cryoem.udl.registration import constant_images, image_mask
from cryoem.validation import square_images, whole_number

SMALLEST_PX = 16
MOST_ANGLES = 1024  # the network compares all pairs of angles
BLOCK = 256
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class PolarGrid:
    """Sampling points of polar spectra.

    Parameters
    ----------
    image_size : int
        Side length of the images in pixels, at least 16.
    n_angles : int
        Number of sampled angles in one period, at most 1024. Default: 128.
    lowest, n_radii : int
        Frequency of the first ring in units of 1 / ``image_size`` cycles per pixel, and number of rings, which are one
        unit apart. Default: 2 and 46.
    fold : int
        Number of periods of the spectra in half a turn. Default: 1.

    Raises
    ------
    ValueError
        If a value is not an integer or is out of range.
    """

    image_size: int
    n_angles: int = 128
    lowest: int = 2
    n_radii: int = 46
    fold: int = 1

    def __post_init__(self):
        for name in ("image_size", "n_angles", "lowest", "n_radii", "fold"):
            least = SMALLEST_PX if name == "image_size" else 1
            object.__setattr__(self, name, whole_number(getattr(self, name), name=name, at_least=least))
        if self.n_angles > MOST_ANGLES:
            raise ValueError(f"n_angles must be at most {MOST_ANGLES}, got {self.n_angles}")
        if self.lowest + self.n_radii > self.image_size // 2 + 1:
            raise ValueError(
                f"the last ring, lowest + n_radii - 1, must be at or below the Nyquist frequency "
                f"{self.image_size // 2}, got {self.lowest + self.n_radii - 1}"
            )

    @property
    def periods(self) -> int:
        """Number of periods of a spectrum in a full turn: 2 * ``fold``."""
        return 2 * self.fold

    @property
    def period_rad(self) -> float:
        """Period of the angles in radians: pi / ``fold``."""
        return 2 * np.pi / self.periods


def polar_grid(image_size: int, *, symmetry: str = "C1") -> PolarGrid:
    """Return the default polar grid for images of the given size.

    The rings extend from a frequency of 2 / ``image_size`` cycles per pixel to just below 3/8 of the sampling
    frequency.

    Parameters
    ----------
    image_size : int
        Side length of the images in pixels, at least 16.
    symmetry : str
        Cyclic in-plane symmetry of the class: ``"C1"``, ``"C2"``, ... The spectra of a class with symmetry C_n repeat
        every 360 / n degrees for even n and every 180 / n degrees for odd n. Default: ``"C1"``.

    Returns
    -------
    PolarGrid
        Grid with 128 angles in one period.

    Raises
    ------
    ValueError
        If ``image_size`` is not an integer of at least 16, or if the symmetry is not cyclic.
    """
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    order = cyclic_order(symmetry)
    fold = order // 2 if order % 2 == 0 else order
    return PolarGrid(image_size, n_radii=max(4, round(0.375 * image_size) - 2), fold=fold)


def cyclic_order(symmetry: str) -> int:
    """Return the n of the symmetry ``"Cn"``; raise a ValueError for any other symmetry."""
    match = re.fullmatch(r"[Cc]([1-9]\d*)", symmetry) if isinstance(symmetry, str) else None
    if match is None:
        raise ValueError(f"symmetry must be a cyclic group C1, C2, ..., got {symmetry!r}")
    return int(match[1])


def polar_spectra(images: np.ndarray, grid: PolarGrid) -> np.ndarray:
    """Compute the log Fourier magnitudes of images on a polar grid, and subtract the mean of each spectrum.

    Parameters
    ----------
    images : (n, y, x) array
        Images that are ``grid.image_size`` pixels wide.
    grid : PolarGrid
        Sampling points.

    Returns
    -------
    (n, n_angles, n_radii) float32 array
        Spectra. Rotating a particle anticlockwise by ``period_rad / n_angles`` shifts its spectrum by one sample along
        the angle axis.

    Raises
    ------
    ValueError
        If the images do not have the size of the grid, are constant inside the inscribed circle, or contain NaN or
        infinity.
    """
    images = square_images(images)
    if images.shape[1] != grid.image_size:
        raise ValueError(f"images must be {grid.image_size} px wide for this model, got {images.shape[1]}")
    constant = constant_images(images)
    if constant.any():
        raise ValueError(
            f"images[{constant.argmax()}] is constant inside the inscribed circle; "
            f"number of constant images: {constant.sum()}"
        )
    elements, weights, columns = _interpolation(grid)
    mask, side = image_mask(grid.image_size), 2 * grid.image_size
    spectra = np.empty((len(images), grid.fold * grid.n_angles * grid.n_radii), np.float32)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        # standardise in double precision, so that squares do not overflow
        block = block - block.mean(axis=(1, 2), keepdims=True)
        deviation = block.std(axis=(1, 2), keepdims=True, dtype=np.float64)
        block = (block / deviation).astype(np.float32)
        # transform the masked images, padded to twice their side; only low columns are needed
        rows = scipy.fft.rfft(block * mask, n=side, axis=2, workers=-1)[:, :, :columns]
        transform = np.ascontiguousarray(scipy.fft.fft(rows, n=side, axis=1, workers=-1))  # (b, 2 y, columns)
        _log_magnitudes(transform.reshape(len(block), -1), elements, weights, spectra[start : start + BLOCK])
    # average the sectors that are equal by symmetry
    spectra = spectra.reshape(len(images), grid.fold, grid.n_angles, grid.n_radii).mean(axis=1)
    return spectra - spectra.mean(axis=(1, 2), keepdims=True)


def subtract_ring_means(spectra: np.ndarray) -> np.ndarray:
    """Subtract from each ring of (n, n_angles, n_radii) polar spectra its mean, which rotations do not change."""
    return spectra - spectra.mean(axis=-2, keepdims=True)


def power_spectra(images: np.ndarray) -> np.ndarray:
    """Compute log(1 + magnitude) of the Fourier transform of each image.

    The spectra are scaled to [0, 1] and are constant outside the inscribed circle. A spectrum rotates with its image
    and is unchanged by a rotation of half a turn. The zero frequency is at pixel n // 2.

    Parameters
    ----------
    images : (n, y, x) array
        Images that are at least 8 px wide.

    Returns
    -------
    (n, y, x) float32 array
        Spectra in [0, 1].
    """
    images = square_images(images, smallest_px=8)
    magnitude = np.abs(scipy.fft.fftshift(scipy.fft.fft2(images, workers=-1), axes=(1, 2)))
    spectra = np.log1p(magnitude).astype(np.float32)
    mask = crop_mask(images.shape[1])
    mean = np.einsum("nyx,yx->n", spectra, mask)[:, None, None] / mask.sum()
    spectra = (spectra - mean) * mask
    low = spectra.min(axis=(1, 2), keepdims=True)
    return (spectra - low) / np.maximum(np.ptp(spectra, axis=(1, 2), keepdims=True), 1e-6)


def _interpolation(grid: PolarGrid) -> tuple[np.ndarray, np.ndarray, int]:
    """Return indices and weights, (4, samples) each, of the half-plane elements around each sample; columns needed."""
    side, columns = 2 * grid.image_size, 2 * (grid.lowest + grid.n_radii)
    n = grid.fold * grid.n_angles
    angle = np.pi * np.arange(n)[:, None] / n
    radius = 2.0 * (grid.lowest + np.arange(grid.n_radii))
    kx, ky = np.cos(angle) * radius, np.sin(angle) * radius
    # samples at negative kx are read from their Friedel mates
    other_half = kx < 0
    kx, ky = np.where(other_half, -kx, kx), np.where(other_half, -ky, ky)
    left, low = np.floor(kx).astype(int), np.floor(ky).astype(int)
    tx, ty = kx - left, ky - low
    elements = [((low + j) % side) * columns + left + i for j in (0, 1) for i in (0, 1)]
    weights = [(ty if j else 1 - ty) * (tx if i else 1 - tx) for j in (0, 1) for i in (0, 1)]
    return np.stack(elements).reshape(4, -1), np.stack(weights).reshape(4, -1).astype(np.float32), columns


@numba.njit(parallel=True, fastmath=True, cache=True)
def _log_magnitudes(transform, elements, weights, out):
    """Interpolate the power at each sample and write the log of its root: (n, elements) -> (n, samples)."""
    for i in numba.prange(transform.shape[0]):
        for s in range(elements.shape[1]):
            power = np.float32(0)
            for corner in range(4):
                value = transform[i, elements[corner, s]]
                power += weights[corner, s] * (value.real * value.real + value.imag * value.imag)
            out[i, s] = np.float32(0.5) * np.log(power + TINY)
