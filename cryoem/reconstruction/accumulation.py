"""Fourier sums of images: central slices gridded block by block, and their inversion to a density map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.images import fourier_disc, half_planes_from_images, image_blocks, shift_phases
from cryoem.projection.gridding import add_slices, grid_symmetry, half_ball, symmetrise, volume_from_sums
from cryoem.rotations import Poses, as_poses, point_group
from cryoem.validation import square_images, unread_images

DAMPING = 1e-3  # sampling density, relative to its mean, below which a frequency is damped
BLOCK_BYTES = 32_000_000  # size of the images in memory at a time
# images per task for each pixel of image width; a task then reads twice as many bytes as it returns
IMAGES_PER_PX = 48
PIECE = 2**20  # points of Fourier sums that are written or read at a time


@dataclass(frozen=True)
class FourierAccumulator:
    """Sums of slices gridded into the Fourier space of a cubic volume.

    ``values`` and ``density`` are the sums of the slice values and of the sampling density at the points of
    ``gridding.HalfBall``. Before the sums are inverted, they are replaced by their averages over the rotations
    ``symmetry`` (k, 3, 3), which map the grid onto itself. Accumulators of disjoint sets of images with the same
    symmetry can be added and subtracted.
    """

    values: np.ndarray
    density: np.ndarray
    size: int
    symmetry: np.ndarray

    @classmethod
    def empty(cls, size: int, group: np.ndarray) -> FourierAccumulator:
        """Return the sums of no images, for a volume ``size`` voxels wide with the symmetry of ``group`` (k, 3, 3)."""
        points = half_ball(size).points
        arrays = np.zeros(points, np.complex64), np.zeros(points, np.float32)
        return cls(*arrays, size, grid_symmetry(group)[1])

    def __add__(self, other: FourierAccumulator) -> FourierAccumulator:
        return replace(self, values=self.values + other.values, density=self.density + other.density)

    def __sub__(self, other: FourierAccumulator) -> FourierAccumulator:
        return replace(self, values=self.values - other.values, density=self.density - other.density)

    def __iadd__(self, other: FourierAccumulator) -> FourierAccumulator:
        np.add(self.values, other.values, out=self.values)
        np.add(self.density, other.density, out=self.density)
        return self

    def write(self, scratch: BinaryIO) -> None:
        """Write the sums to a file opened for writing."""
        for part in self._pieces():
            scratch.write(part)

    def add_from(self, scratch: BinaryIO) -> None:
        """Add the next sums that ``write`` has written to a file, in place."""
        for part in self._pieces():
            part += np.frombuffer(scratch.read(part.nbytes), part.dtype)

    def _pieces(self) -> Iterator[np.ndarray]:
        """Return consecutive views of the sums."""
        for array in (self.values, self.density):
            for start in range(0, len(array), PIECE):
                yield array[start : start + PIECE]

    def invert(self, *, overwrite: bool = False) -> np.ndarray:
        """Reconstruct the volume from the accumulated slices: (size, size, size) float32.

        If ``overwrite`` is true, the sums are used as working memory, and cannot be used afterwards.
        """
        symmetrise(self.values, self.density, self.symmetry, size=self.size)
        options = {"damping": DAMPING, "size": self.size, "overwrite": overwrite}
        return volume_from_sums(self.values, self.density, **options)


def memory_bytes(size: int, *, half_maps: bool, workers: int = 1) -> int:
    """Return the memory in bytes that reconstructing a map ``size`` voxels wide takes, without the images.

    Half-maps are those of ``reconstruct_halves`` with a scratch file. Each worker in addition to this process holds,
    and sends, the sums of one task.
    """
    sums, volume = half_ball(size).points * (8 + 4), 4 * size**3
    # the inverse transform takes a complex half volume, unless it can overwrite the sums, and the result
    inverse = 3 * volume if half_maps else volume
    return sums + inverse + 2 * sums * (workers if workers > 1 else 0)


def accumulate(
    images: np.ndarray,
    poses: Poses,
    optics: Optics,
    *,
    symmetry: str = "C1",
    sums: FourierAccumulator | None = None,
) -> FourierAccumulator:
    """Grid one block of images as central slices in Fourier space.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images of the block, at least 4 px wide.
    poses : Poses
        Poses of the n images.
    optics : Optics
        Optics of the n images.
    symmetry : str
        Point group of the particle, in the frame of ``rotations.point_group``. Default: ``"C1"``.
    sums : FourierAccumulator, optional
        Sums of other images with the same symmetry, to which the block is added in place. Default: start with empty
        sums.

    Returns
    -------
    FourierAccumulator
        Sums over the block, and ``sums``. To reconstruct a volume, accumulate all blocks and call
        ``FourierAccumulator.invert``.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too small, or contain NaN or infinity; or if the point group is
        unknown.
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
        sums=sums,
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
    sums: FourierAccumulator | None = None,
) -> FourierAccumulator:
    """Grid (n, m) slices at (n, 3, 3) orientations into the Fourier space of a volume ``size`` voxels wide.

    ``frequencies`` (m, 2) are in cycles per voxel, inside the Nyquist circle, and ``weights`` (m,) are those of
    ``images.FourierDisc``. The orientations that are equivalent under ``group`` (k, 3, 3) count equally. The CTF values
    ``transfers`` (n, m) multiply the slice values, and their squares multiply the density, so that ``invert`` corrects
    for the CTF. The slices are added to ``sums`` in place, if given.
    """
    sums = FourierAccumulator.empty(size, group) if sums is None else sums
    options = {"weights": weights, "transfers": transfers, "size": size}
    for representative in grid_symmetry(group)[0]:
        add_slices(sums.values, sums.density, planes, matrices @ representative, frequencies, **options)
    return sums


def accumulate_blocks(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    symmetry: str = "C1",
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> FourierAccumulator:
    """Grid images as central slices in Fourier space, block by block.

    Parameters and errors are the same as for ``reconstruct_halves``. The result is the same as that of ``accumulate``
    for all images at once.
    """
    images, poses, optics = checked_images(images, poses, pixel_size_angstrom, optics)
    rows = np.arange(images.shape[0])
    return sum_images(
        images, poses, optics, rows, symmetry=symmetry, map_blocks=map_blocks, callback=callback
    )


def checked_images(images, poses, pixel_size_angstrom, optics) -> tuple:
    """Return the images, still unread, with their poses and optics."""
    images = unread_images(images, at_least=2, smallest_px=4)
    n = images.shape[0]
    optics = optics_of(known_optics(images, optics), pixel_size_angstrom, count=n)
    return images, as_poses(poses, count=n), optics


def sum_images(
    images,
    poses: Poses,
    optics: Optics,
    rows: np.ndarray,
    *,
    symmetry: str,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> FourierAccumulator:
    """Accumulate the images in ``rows``, task by task."""
    count = IMAGES_PER_PX * images.shape[1]
    tasks = [rows[start : start + count] for start in range(0, len(rows), count)]
    items = ((images[task], poses[task], optics[task]) for task in tasks)
    sums, done = None, 0
    for task, part in zip(
        tasks, map_blocks(partial(_accumulate_task, symmetry=symmetry), items), strict=True
    ):
        if sums is None:
            sums = part
        else:
            sums += part
        done += len(task)
        if callback is not None:
            callback(done)
    return sums


def _accumulate_task(item: tuple, *, symmetry: str) -> FourierAccumulator:
    """Accumulate the images of one task, reading one block at a time."""
    images, poses, optics = item
    sums = None
    for block in image_blocks(images, block_bytes=BLOCK_BYTES):
        sums = accumulate(images[block], poses[block], optics[block], symmetry=symmetry, sums=sums)
    return sums
