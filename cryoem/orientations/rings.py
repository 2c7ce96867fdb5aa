"""Images on rings in Fourier space, and their expansion in circular harmonics.

An image is sampled in Fourier space on rings of radius r = 1, 2, ... (in units of 1 / box width) and expanded in
circular harmonics, ``c(r, m)``. Rotating the image by psi multiplies ``c(r, m)`` by ``exp(-i m psi)``. The correlation
of images with references at all in-plane angles is therefore one matrix product per harmonic, followed by a transform
over m (see ``expectation``). The CTF is radial: for an astigmatic image, the mean defocus is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numba
import numpy as np
import scipy.fft

from cryoem.contrast import Optics
from cryoem.images import circular_mask, distance_from_origin, image_blocks, subtract_background
from cryoem.validation import finite_array

NUFFT_TOLERANCE = 1e-4
EDGE = 0.1  # width of the soft edge of the mask, relative to the image
CONSTANT = 1e-3  # spread of the pixels around a particle below which they are constant, relative to the image


@dataclass(frozen=True)
class RingGrid:
    """Rings 1 to ``rings``, each sampled at ``angles`` directions on the half circle [0, pi)."""

    rings: int
    angles: int

    @property
    def harmonics(self) -> int:
        """Number of harmonics 0, 1, ... that are used; the others are negligible or follow from these."""
        return self.angles * 3 // 4 + 1

    @property
    def frequencies(self) -> np.ndarray:
        """Points (rings * angles, 2) in units of 1 / box width."""
        angle = np.pi * np.arange(self.angles) / self.angles
        radius = np.arange(1, self.rings + 1)[:, None]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)

    @property
    def areas(self) -> np.ndarray:
        """Number of independent Fourier pixels for each point of a ring: (rings,) float32."""
        return (np.pi * np.arange(1, self.rings + 1) / self.angles).astype(np.float32)


@dataclass(frozen=True)
class RingImages:
    """Images on the points of a ``RingGrid``.

    Parameters
    ----------
    values : (n, rings, angles) complex64 array
        Fourier transforms, scaled so that white noise of variance s2 has variance s2 at every point.
    transfers : (n, rings) float32 array
        CTF of each image on each ring.
    grid : RingGrid
    image_size : int
        Side length of the images in pixels.
    coverage : float
        Mean of the squared mask. The number of independent Fourier pixels is smaller by this factor.
    """

    values: np.ndarray
    transfers: np.ndarray
    grid: RingGrid
    image_size: int
    coverage: float

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index) -> RingImages:
        return replace(self, values=self.values[index], transfers=self.transfers[index])


def image_mask(size: int) -> np.ndarray:
    """Return the soft circular mask (size, size) that keeps the particle and removes its surroundings."""
    return circular_mask(size, edge_px=EDGE * size, profile="cosine")


def ring_images(
    images, grid: RingGrid, *, optics: Optics | None = None, mask: np.ndarray | None = None
) -> RingImages:
    """Apply a mask (y, x) to images (n, y, x), y == x, and sample them on rings in Fourier space.

    The default mask is ``image_mask``. Images in files are read block by block. Raises a ValueError if they contain
    NaN or infinity.
    """
    import finufft

    n, size, _ = images.shape
    points = (2 * np.pi / size * grid.frequencies).astype(np.float32)
    plan = finufft.Plan(2, (size, size), eps=NUFFT_TOLERANCE, isign=-1, n_trans=min(n, 64), dtype="complex64")
    plan.setpts(points[:, 1].copy(), points[:, 0].copy())
    values = np.empty((n, len(points)), np.complex64)
    mask = image_mask(size) if mask is None else mask
    coverage = float(np.mean(mask**2))
    for block in image_blocks(images):
        masked = (
            subtract_background(finite_array(images[block], name="images", ndim=3, dtype=np.float32)) * mask
        )
        for start in range(0, len(masked), plan.n_trans):
            some = masked[start : start + plan.n_trans]
            padded = np.zeros((plan.n_trans, size, size), np.complex64)
            padded[: len(some)] = some
            values[block.start + start :][: len(some)] = plan.execute(padded)[: len(some)]
    transfers = np.ones((n, grid.rings), np.float32)
    if optics is not None and optics.ctf is not None:
        transfers = optics.isotropic().transfers(np.arange(1, grid.rings + 1) / size)
    values = values.reshape(n, grid.rings, grid.angles) / np.float32(size * np.sqrt(coverage))
    return RingImages(values, transfers, grid, size, coverage)


def surroundings_vary(images: np.ndarray) -> np.ndarray:
    """Return which of n images have noise around the particle, instead of constant pixels: (n,)."""
    size = images.shape[1]
    outside = images[:, distance_from_origin(size) > size / 2 - 1]
    spread = np.median(np.abs(outside - np.median(outside, axis=1, keepdims=True)), axis=1)
    return spread > CONSTANT * images.std(axis=(1, 2), dtype=float)


def power_around(images: np.ndarray, grid: RingGrid) -> np.ndarray:
    """Return the mean power of the surroundings of the particles on rings: (n, rings)."""
    around = ring_images(images, grid, mask=1 - image_mask(images.shape[1])).values
    return np.mean(np.abs(around) ** 2, axis=2)


def undo_displacements(
    values: np.ndarray, displacements_px: np.ndarray, grid: RingGrid, size: int
) -> np.ndarray:
    """Move images (k, rings, angles) back by each of their displacements (k, s, 2): (k, s, rings, angles) complex64.

    ``size`` is the side length of the images in pixels, and the rings are the first ones of the grid.
    """
    of_first_ring = np.exp(2j * np.pi / size * (displacements_px @ grid.frequencies[: grid.angles].T))
    return _times_powers(values, of_first_ring.astype(np.complex64))


@numba.njit(nogil=True, cache=True)
def _times_powers(values, factors):
    """Multiply ring r of values (k, rings, angles) by factors (k, s, angles) to the power of r."""
    k, rings, angles = values.shape
    s = factors.shape[1]
    out = np.empty((k, s, rings, angles), np.complex64)
    for i in range(k):
        for j in range(s):
            power = factors[i, j].copy()
            for r in range(rings):
                for a in range(angles):
                    out[i, j, r, a] = values[i, r, a] * power[a]
                    power[a] *= factors[i, j, a]
    return out


class Survey(NamedTuple):
    """How all displacements of an image are tried.

    Attributes
    ----------
    rings : (int, int)
        Fewest and most rings; between these, as many are used as the spacing of the coarsest grid resolves.
    directions, angles : int
        Numbers of viewing directions and of angles in the plane.
    largest : float
        Largest displacement, relative to the standard deviation of the displacements.
    offsets : int
        Most displacements on the coarsest grid.
    cells : int
        Number of cells of the grid that are divided.
    """

    rings: tuple[int, int]
    directions: int
    angles: int
    largest: float
    offsets: int
    cells: int


def disc_of_displacements(step: float, radius: float) -> np.ndarray:
    """Return the points (s, 2) of a square grid within a disc."""
    most = int(np.ceil(radius / step))
    axis = step * np.arange(-most, most + 1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return points[np.hypot(*points.T) <= radius * 1.0001]


def harmonics_of(values: np.ndarray, count: int) -> np.ndarray:
    """Expand (k, rings, angles) values on the half circle in harmonics 0 to count - 1: (count, k, rings) complex64."""
    circle = np.concatenate([values, values.conj()], axis=-1)
    harmonics = scipy.fft.fft(circle, axis=-1)[..., :count] / np.float32(circle.shape[-1])
    return np.ascontiguousarray(np.moveaxis(harmonics, -1, 0), np.complex64)


def values_of(harmonics: np.ndarray, angles: int) -> np.ndarray:
    """Evaluate (count, k, rings) harmonics on the half circle: (k, rings, angles) complex64."""
    count = len(harmonics)
    circle = np.zeros((2 * angles, *harmonics.shape[1:]), np.complex64)
    circle[:count] = harmonics
    # values at opposite points are conjugate, so c(-m) = (-1)^m c(m)*
    signs = (-1.0) ** np.arange(1, count)
    circle[2 * angles - np.arange(1, count)] = signs[:, None, None] * harmonics[1:].conj()
    values = scipy.fft.ifft(circle, axis=0)[:angles] * (2 * angles)
    return np.ascontiguousarray(np.moveaxis(values, 0, -1), np.complex64)
