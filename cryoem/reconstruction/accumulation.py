"""Gridding of image slices into the Fourier space of a volume, and the volume that they give."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from cryoem.contrast import Optics
from cryoem.images import fourier_disc, half_planes_from_images, shift_phases
from cryoem.projection import fourier
from cryoem.rotations import Poses, point_group
from cryoem.validation import square_images

DAMPING = 1e-3  # sampling density, relative to its mean, below which a frequency fades out


@dataclass(frozen=True)
class FourierAccumulator:
    """Slices gridded into the Fourier space of a cubic volume.

    ``values`` and ``density`` are half grids: sums of slice values and of sampling density.  Accumulators of disjoint
    sets of images add and subtract.
    """

    values: np.ndarray
    density: np.ndarray
    size: int

    def __add__(self, other: FourierAccumulator) -> FourierAccumulator:
        return FourierAccumulator(self.values + other.values, self.density + other.density, self.size)

    def __sub__(self, other: FourierAccumulator) -> FourierAccumulator:
        return FourierAccumulator(self.values - other.values, self.density - other.density, self.size)

    def invert(self) -> np.ndarray:
        """Reconstruct the volume whose slices were added: (size, size, size) float32."""
        shape = fourier.GridShape((self.size,) * 3)
        floor = DAMPING * self.density[self.density > 0].mean()
        average = self.values / (np.maximum(self.density, 0) + floor)
        return fourier.untransform(average, shape) * (shape.roll_off.max() / np.prod(shape.full))


def total(sums: Iterable[FourierAccumulator]) -> FourierAccumulator:
    """Add accumulators of disjoint sets of images."""
    return reduce(operator.add, sums)


def accumulate(
    images: np.ndarray, poses: Poses, optics: Optics, *, symmetry: str = "C1"
) -> FourierAccumulator:
    """Grid the slices of one block of images.

    Parameters and errors are those of ``reconstruct``, but a single image is allowed.
    """
    images = square_images(images, smallest_px=4)
    size = images.shape[1]
    disc = fourier_disc(size)
    planes = half_planes_from_images(images)[:, disc.index]
    if poses.shifts_px.any():
        planes = planes * shift_phases(-poses.shifts_px, disc.frequencies)
    return grid_slices(
        planes,
        poses.rotations.as_matrix(),
        disc.frequencies,
        size,
        weights=disc.weights,
        group=point_group(symmetry).as_matrix(),
        transfers=None if optics.ctf is None else optics.transfers(disc.frequencies),
    )


def grid_slices(
    planes: np.ndarray,
    matrices: np.ndarray,
    frequencies: np.ndarray,
    size: int,
    *,
    weights: np.ndarray,
    group: np.ndarray,
    transfers: np.ndarray | None = None,
) -> FourierAccumulator:
    """Grid (n, m) slices at (n, 3, 3) orientations into the Fourier space of a volume of ``size`` voxels a side.

    ``frequencies`` (m, 2) are in cycles per voxel, and ``weights`` (m,) those of ``images.FourierDisc``.  Each slice is
    added at all equivalent orientations under ``group`` (k, 3, 3).  Contrast ``transfers`` (n, m) multiply the values,
    and their squares the density, so that ``invert`` corrects them.
    """
    shape = fourier.GridShape((size,) * 3)
    weighted, ones = planes * weights, np.broadcast_to(weights, planes.shape)
    if transfers is not None:
        weighted, ones = weighted * transfers, weights * transfers**2
    values = density = 0
    for g in group:
        values = values + fourier.spread_slices(weighted, matrices @ g, frequencies, shape)
        density = density + fourier.spread_slices(ones, matrices @ g, frequencies, shape).real
    return FourierAccumulator(values, np.ascontiguousarray(density), size)
