"""Maximisation step: maps of a particle from its slices on rings, and slices of a map."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.orientations.rings import RingGrid
from cryoem.projection import fourier
from cryoem.projection.gridding import add_slices, grid_symmetry, half_ball, symmetrise, volume_from_sums
from cryoem.projection.kernels import OVERSAMPLING
from cryoem.rotations import viewing_directions
from cryoem.volumes.density import soft_sphere

RADIUS = 0.35  # of the sphere that contains the particle, relative to the box
EDGE = 0.06  # width of its soft edge, relative to the box
IDENTITY = np.eye(3)[None]
DAMPING = 0.05  # added to the sampling density before the signal is known, relative to its mean
NEGLIGIBLE = 1e-6  # the same once the signal is known, for points without slices
UNIT_MARGIN = 0.15  # of cosines, around an asymmetric unit of viewing directions
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
        self.frequencies = grid.frequencies / self.size
        self.mask = soft_sphere((self.size,) * 3, RADIUS * self.size, EDGE * self.size)
        self.ball = half_ball(self.size)
        self.radius = self.ball.radius * (self.size / self.ball.full)  # of each stored point, in rings

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
        transfers = np.sqrt(weights).astype(np.float32)[..., None]
        # transfers multiply the values, and their squares the density
        slices = np.divide(sums, transfers, out=np.zeros_like(sums), where=transfers > 0)
        values, density = np.zeros(self.ball.points, np.complex64), np.zeros(self.ball.points, np.float32)
        representatives, rotations = grid_symmetry(group)
        for representative in representatives:
            add_slices(
                values,
                density,
                slices.reshape(len(sums), -1),
                matrices @ representative,
                self.frequencies[: rings * self.grid.angles],
                weights=np.repeat(precision, self.grid.angles),
                transfers=np.repeat(transfers, self.grid.angles, axis=1)[..., 0],
                size=self.size,
            )
        symmetrise(values, density, rotations, size=self.size)
        first = volume_from_sums(values, density, damping=DAMPING, size=self.size) * self.mask
        some = matrices[:: max(1, len(matrices) // 100)]
        signal = (
            np.mean(np.abs(self.slices(first, some, rings)) ** 2, axis=(0, 2)) + np.finfo(np.float32).tiny
        )
        # the grid has several points per Fourier voxel, over which a spread sample has the weight ``roll_off.max()``
        voxel = (fourier.GridShape(self.mask.shape).axis_roll_offs[0].max() / OVERSAMPLING) ** 3
        penalty = voxel / len(rotations) / np.interp(self.radius, np.arange(1, rings + 1), signal)
        density += self.ball.shares * penalty
        values[self.radius > rings + 0.5] = 0
        return volume_from_sums(values, density, damping=NEGLIGIBLE, size=self.size) * self.mask

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


def asymmetric_unit(orientations: Rotation, group: np.ndarray, rng: np.random.Generator) -> Rotation:
    """Select the orientations with viewing directions that are closer to a random axis than to its symmetric copies.

    Those that are almost as close are included. The first rotation of ``group`` (k, 3, 3) is the identity.
    """
    axis = rng.normal(size=3)
    closeness = viewing_directions(orientations) @ (group @ axis).T / np.linalg.norm(axis)
    return orientations[closeness[:, 0] >= closeness.max(axis=1) - UNIT_MARGIN]
