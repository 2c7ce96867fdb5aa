"""Maximisation step: maps of a particle from its slices on rings, and slices of a map."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.orientations.rings import RingGrid
from cryoem.projection import fourier
from cryoem.volumes.density import soft_sphere

RADIUS = 0.35  # of the sphere that contains the particle, relative to the box
EDGE = 0.06  # width of its soft edge, relative to the box
IDENTITY = np.eye(3)[None]
DAMPING = 0.05  # added to the sampling density before the signal is known, relative to its mean
NOISE_SIGMAS = 2.0  # density below this many standard deviations of the noise counts as solvent


class CoarseMaps:
    """Conversion between maps and slices on rings.

    The maps are cubes of ``size`` voxels, as wide as the images, with voxels that just resolve the outermost ring.

    Parameters
    ----------
    grid : RingGrid
    coverage : float
        Number of independent Fourier pixels of the images, relative to that of images without a mask.
    """

    def __init__(self, grid: RingGrid, coverage: float):
        self.grid, self.coverage, self.size = grid, coverage, 2 * (grid.rings + 2)
        self.shape = fourier.GridShape((self.size,) * 3)
        self.frequencies = grid.frequencies / self.size
        self.mask = soft_sphere(self.shape.volume, RADIUS * self.size, EDGE * self.size)
        nz, ny, nx = self.shape.full
        z, y, x = (np.arange(m) / m for m in (nz, ny, nx))
        self.radius = self.size * np.sqrt(
            (z[:, None, None] - 0.5) ** 2 + (y[:, None] - 0.5) ** 2 + x[: nx // 2 + 1] ** 2
        ).astype(np.float32)

    def slices(self, volume: np.ndarray, matrices: np.ndarray, rings: int) -> np.ndarray:
        """Return the central slices of a map on the first rings: (d, rings, angles) complex64."""
        points = self.frequencies[: rings * self.grid.angles]
        values = fourier.read_slices(fourier.transform(volume), matrices, points)
        return values.reshape(len(matrices), rings, self.grid.angles)

    def volume(
        self,
        sums: np.ndarray,
        weights: np.ndarray,
        noise: np.ndarray,
        matrices: np.ndarray,
        group: np.ndarray = IDENTITY,
    ) -> np.ndarray:
        """Reconstruct a map from sums (d, rings, angles) of slices with weights (d, rings), by Wiener division.

        The signal power is measured on a first map with little regularisation. ``noise`` is the variance of each ring.
        The map is symmetric under the matrices (k, 3, 3) of ``group``.
        """
        rings = sums.shape[1]
        precision = (self.coverage * self.grid.areas[:rings] / noise[:rings]).astype(np.float32)
        points = self.frequencies[: rings * self.grid.angles]
        values = (sums * precision[:, None]).reshape(len(sums), -1)
        ones = np.repeat(weights * precision, self.grid.angles, axis=1)
        copies = [matrices @ element for element in group]
        total = sum(fourier.spread_slices(values, copy, points, self.shape) for copy in copies)
        density = sum(fourier.spread_slices(ones, copy, points, self.shape).real for copy in copies)
        density = np.maximum(density, 0)
        first = self._real(total / (density + DAMPING * density[density > 0].mean()))
        some = matrices[:: max(1, len(matrices) // 100)]
        signal = (
            np.mean(np.abs(self.slices(first, some, rings)) ** 2, axis=(0, 2)) + np.finfo(np.float32).tiny
        )
        # the grid has several points per Fourier voxel, and the weights of a spread sample sum to ``roll_off.max()``
        voxel = self.shape.roll_off.max() / fourier.OVERSAMPLING**3
        penalty = voxel / np.interp(self.radius, np.arange(1, rings + 1), signal)
        return self._real(np.where(self.radius <= rings + 0.5, total / (density + penalty), 0))

    def without_solvent(self, volume: np.ndarray) -> np.ndarray:
        """Remove the negative density of a map, and reduce its positive density to what noise does not explain.

        A particle is denser than the solvent, so the negative density measures the noise. The map of a dark particle,
        which has a negative third moment, is returned unchanged, as is a map that could be noise everywhere. The
        reduction is the non-negative garrote (Gao, J. Comput. Graph. Stat. 7 (1998) 469).
        """
        if np.mean(volume.astype(float) ** 3) <= 0:
            return volume
        negative = volume[(volume < 0) & (self.mask == 1)]
        variance = np.sum(negative**2) / max(1, len(negative))
        explained = NOISE_SIGMAS**2 * variance / np.maximum(volume**2, np.finfo(np.float32).tiny)
        cleared = volume * np.where(volume > 0, np.maximum(1 - explained, 0), 0)
        return cleared if cleared.any() else volume

    def _real(self, half: np.ndarray) -> np.ndarray:
        kernel = self.shape.roll_off.max()
        return fourier.untransform(half, self.shape) * (kernel / np.prod(self.shape.full)) * self.mask


def even_directions(count: int, rng: np.random.Generator) -> Rotation:
    """Return ``count`` orientations whose viewing directions cover the sphere evenly, in a random frame."""
    i = np.arange(count) + 0.5
    tilt, rot = np.arccos(1 - 2 * i / count), np.pi * (1 + np.sqrt(5)) * i
    return Rotation.from_euler("ZYZ", np.stack([0 * rot, -tilt, -rot], axis=1)) * Rotation.random(rng=rng)
