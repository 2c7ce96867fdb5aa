"""Power spectra of particle images on polar grids: shifts leave them alone, rotations move them along the angle.

The magnitude of a Fourier transform does not know where the particle stands, and it is centrosymmetric: half a
turn is the whole circle of angles.  The image is masked softly and padded to twice its side, so that the
spectrum is read between its frequencies without loss, then its logarithm is sampled along rays.  A class with
an n-fold axis along the view repeats itself even sooner, and its sectors are averaged.

Source: arXiv 2205.11829, section 3 (rotation from centred log power spectra); the polar grid is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from cryoem.checks import square_images, whole_number
from cryoem.udl.registration import circular_mask, flat_images

SMALLEST_PX = 16
MOST_ANGLES = 1024  # the network compares each with each
BLOCK = 256
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class PolarGrid:
    """Where polar spectra are sampled.

    ``image_size`` pixels; ``n_angles`` samples over one period; ``n_radii`` rings from ``lowest`` on, one frequency
    (1 / image_size per pixel) apart; ``fold``: the number of rotations in half a turn that leave spectra alike.

    Raises
    ------
    ValueError : a count is not a positive whole number, the images are below 16 px, angles are more than 1024, or rings
        pass the Nyquist frequency.
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
                f"n_radii must leave rings below the Nyquist frequency {self.image_size // 2}, "
                f"got {self.n_radii} from {self.lowest}"
            )

    @property
    def periods(self) -> int:
        """Periods of a spectrum in a full turn: 2, times the fold."""
        return 2 * self.fold

    @property
    def period_rad(self) -> float:
        """What angles from spectra are known modulo: pi over the fold."""
        return 2 * np.pi / self.periods


def polar_grid(image_size: int, *, symmetry: str = "C1", n_angles: int = 128) -> PolarGrid:
    """The grid that suits images of a size: rings from 2 up to 3/8 of the sampling frequency.

    ``symmetry`` is the class's own in the plane, ``"C1"``, ``"C2"``, ...: C_n repeats spectra every 360 / n degrees for
    even n, every 180 / n for odd n.

    Raises
    ------
    ValueError : the images are too small or the symmetry is no cyclic group.
    """
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    order = cyclic_order(symmetry)
    fold = order // 2 if order % 2 == 0 else order
    return PolarGrid(image_size, n_angles, 2, max(4, round(0.375 * image_size) - 2), fold)


def cyclic_order(symmetry: str) -> int:
    """The n of ``"Cn"``; ValueError for anything else."""
    match = re.fullmatch(r"[Cc]([1-9]\d*)", symmetry) if isinstance(symmetry, str) else None
    if match is None:
        raise ValueError(f"symmetry must be a cyclic group C1, C2, ..., got {symmetry!r}")
    return int(match[1])


def polar_spectra(images: np.ndarray, grid: PolarGrid) -> np.ndarray:
    """Logarithms of Fourier magnitudes on a polar grid, the mean of each image's at zero.

    Parameters
    ----------
    images : (n, y, x), y == x == ``grid.image_size``.

    Returns
    -------
    (n, n_angles, n_radii) float32.  A particle turned anticlockwise by ``period_rad / n_angles`` moves its spectrum
    on by one angle.

    Raises
    ------
    ValueError : images are not of the grid's size or not finite, or one is constant inside the largest circle.
    """
    images = square_images(images)
    if images.shape[1] != grid.image_size:
        raise ValueError(f"images must be {grid.image_size} px a side for this model, got {images.shape[1]}")
    flat = flat_images(images)
    if flat.any():
        raise ValueError(f"images must have structure, got {flat.sum()} constant ones, first {flat.argmax()}")
    pixels, weights = _samples(grid)
    mask = circular_mask(grid.image_size)
    side = 2 * grid.image_size
    columns = _columns(grid)
    spectra = np.empty((len(images), grid.fold * grid.n_angles * grid.n_radii), np.float32)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        block = block - block.mean(axis=(1, 2), keepdims=True)
        deviation = block.std(axis=(1, 2), keepdims=True, dtype=np.float64)  # squares of any scale
        block = (block / deviation).astype(np.float32)
        rows = scipy.fft.rfft(block * mask, n=side, axis=2, workers=-1)[:, :, :columns]
        transform = np.ascontiguousarray(scipy.fft.fft(rows, n=side, axis=1, workers=-1))  # (b, 2 y, columns)
        _read(transform.reshape(len(block), -1), pixels, weights, spectra[start : start + BLOCK])
    spectra = spectra.reshape(len(images), grid.fold, grid.n_angles, grid.n_radii).mean(axis=1)
    return spectra - spectra.mean(axis=(1, 2), keepdims=True)


def without_rings(spectra: np.ndarray) -> np.ndarray:
    """Polar spectra less the mean of each ring, which no rotation changes: (n, n_angles, n_radii)."""
    return spectra - spectra.mean(axis=-2, keepdims=True)


def _columns(grid: PolarGrid) -> int:
    """How many columns of the padded half-plane the rings reach into."""
    return 2 * (grid.lowest + grid.n_radii - 1) + 2


def _samples(grid: PolarGrid) -> tuple[np.ndarray, np.ndarray]:
    """For every polar sample the four elements of the padded half-plane around it, and their weights: (4, samples)."""
    side = 2 * grid.image_size
    n = grid.fold * grid.n_angles
    angle = np.pi * np.arange(n)[:, None] / n
    radius = 2.0 * (grid.lowest + np.arange(grid.n_radii))
    kx, ky = np.cos(angle) * radius, np.sin(angle) * radius
    other_half = kx < 0
    kx, ky = np.where(other_half, -kx, kx), np.where(other_half, -ky, ky)
    left, low = np.floor(kx).astype(int), np.floor(ky).astype(int)
    tx, ty = kx - left, ky - low
    pixels = [((low + j) % side) * _columns(grid) + left + i for j in (0, 1) for i in (0, 1)]
    weights = [(ty if j else 1 - ty) * (tx if i else 1 - tx) for j in (0, 1) for i in (0, 1)]
    return np.stack(pixels).reshape(4, -1), np.stack(weights).reshape(4, -1).astype(np.float32)


@numba.njit(parallel=True, fastmath=True, cache=True)
def _read(transform, pixels, weights, out):
    """Log of the power interpolated at each sample: (n, elements) complex -> (n, samples)."""
    for i in numba.prange(transform.shape[0]):
        for s in range(pixels.shape[1]):
            power = np.float32(0)
            for corner in range(4):
                value = transform[i, pixels[corner, s]]
                power += weights[corner, s] * (value.real * value.real + value.imag * value.imag)
            out[i, s] = np.float32(0.5) * np.log(power + TINY)
