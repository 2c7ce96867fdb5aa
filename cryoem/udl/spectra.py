"""Power spectra of particle images, on polar grids and on pixels.

The magnitude of a Fourier transform does not depend on the particle's position, and rotates with the particle. On a
polar grid a rotation is a shift along the angle. The magnitude is centrosymmetric, so angles are known modulo half a
turn. For a class with an n-fold axis along the view the period is shorter, and the equal sectors are averaged.

Source: arXiv 2205.11829, section 3 (rotation from centred log power spectra); the polar grid is our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from cryoem.udl.natural import crop_mask
from cryoem.udl.registration import constant_images, particle_mask
from cryoem.validation import square_images, whole_number

SMALLEST_PX = 16
MOST_ANGLES = 1024  # the network compares each angle with each
BLOCK = 256
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class PolarGrid:
    """Sampling points of polar spectra; a ValueError if one is not a whole number in its range.

    Parameters
    ----------
    image_size : int
        Side of the images, pixels, at least 16.
    n_angles : int
        Samples over one period, at most 1024.
    lowest, n_radii : int
        Frequency of the first ring, in units of 1 / image_size per pixel, and number of rings, one frequency apart.
    fold : int
        Number of rotations within half a turn that leave the spectra unchanged.
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
                f"n_radii must leave all rings at or below the Nyquist frequency {self.image_size // 2}, "
                f"got {self.n_radii} from {self.lowest}"
            )

    @property
    def periods(self) -> int:
        """Number of periods of a spectrum in a full turn: twice the fold."""
        return 2 * self.fold

    @property
    def period_rad(self) -> float:
        """Period of angles from spectra: pi / fold."""
        return 2 * np.pi / self.periods


def polar_grid(image_size: int, *, symmetry: str = "C1") -> PolarGrid:
    """Return the default grid for images of a size: rings from 2 to 3/8 of the sampling frequency.

    Parameters
    ----------
    image_size : int
        Side of the images, pixels, at least 16.
    symmetry : str
        In-plane symmetry of the class, ``"C1"``, ``"C2"``, ... The spectra of C_n repeat every 360 / n degrees for
        even n, and every 180 / n degrees for odd n.
    """
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    order = cyclic_order(symmetry)
    fold = order // 2 if order % 2 == 0 else order
    return PolarGrid(image_size, n_radii=max(4, round(0.375 * image_size) - 2), fold=fold)


def cyclic_order(symmetry: str) -> int:
    """Return the n of ``"Cn"``, or raise a ValueError for anything else."""
    match = re.fullmatch(r"[Cc]([1-9]\d*)", symmetry) if isinstance(symmetry, str) else None
    if match is None:
        raise ValueError(f"symmetry must be a cyclic group C1, C2, ..., got {symmetry!r}")
    return int(match[1])


def polar_spectra(images: np.ndarray, grid: PolarGrid) -> np.ndarray:
    """Compute the logarithms of Fourier magnitudes on a polar grid, minus their mean.

    Parameters
    ----------
    images : (n, y, x) array
        Images of ``grid.image_size`` pixels a side.
    grid : PolarGrid

    Returns
    -------
    (n, n_angles, n_radii) float32 array
        A particle rotated anticlockwise by ``period_rad / n_angles`` has its spectrum shifted by one angle.

    Raises
    ------
    ValueError
        If images are not of the grid's size, not finite, or constant inside the largest circle.
    """
    images = square_images(images)
    if images.shape[1] != grid.image_size:
        raise ValueError(
            f"images must have {grid.image_size} px a side for this model, got {images.shape[1]}"
        )
    constant = constant_images(images)
    if constant.any():
        raise ValueError(
            f"images must not be constant inside the largest circle, got {constant.sum()} such images, "
            f"the first at index {constant.argmax()}"
        )
    elements, weights, columns = _interpolation(grid)
    mask, side = particle_mask(grid.image_size), 2 * grid.image_size
    spectra = np.empty((len(images), grid.fold * grid.n_angles * grid.n_radii), np.float32)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        # standardise in double precision: squares of values of any scale
        block = block - block.mean(axis=(1, 2), keepdims=True)
        deviation = block.std(axis=(1, 2), keepdims=True, dtype=np.float64)
        block = (block / deviation).astype(np.float32)
        # transform the masked images padded to twice their side; only low columns are needed
        rows = scipy.fft.rfft(block * mask, n=side, axis=2, workers=-1)[:, :, :columns]
        transform = np.ascontiguousarray(scipy.fft.fft(rows, n=side, axis=1, workers=-1))  # (b, 2 y, columns)
        _log_magnitudes(transform.reshape(len(block), -1), elements, weights, spectra[start : start + BLOCK])
    # average the sectors that symmetry makes equal
    spectra = spectra.reshape(len(images), grid.fold, grid.n_angles, grid.n_radii).mean(axis=1)
    return spectra - spectra.mean(axis=(1, 2), keepdims=True)


def subtract_ring_means(spectra: np.ndarray) -> np.ndarray:
    """Subtract the mean of each ring of (n, n_angles, n_radii) polar spectra, which no rotation changes."""
    return spectra - spectra.mean(axis=-2, keepdims=True)


def power_spectra(images: np.ndarray) -> np.ndarray:
    """Compute centred log(1 + magnitude) of images, scaled to [0, 1] and constant outside the largest circle.

    They rotate as their images do, modulo 180 degrees; the zero frequency is at pixel n // 2.

    Parameters
    ----------
    images : (n, y, x) array
        At least 8 px a side.

    Returns
    -------
    (n, y, x) float32 array
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
    """Indices and weights, (4, samples) each, of the half-plane elements around each sample; the columns needed."""
    side, columns = 2 * grid.image_size, 2 * (grid.lowest + grid.n_radii)
    n = grid.fold * grid.n_angles
    angle = np.pi * np.arange(n)[:, None] / n
    radius = 2.0 * (grid.lowest + np.arange(grid.n_radii))
    kx, ky = np.cos(angle) * radius, np.sin(angle) * radius
    # samples at negative kx are read from their Hermitian twins
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
