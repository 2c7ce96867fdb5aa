"""Density maps from images and their poses: direct Fourier inversion, and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.images import fourier_disc, half_planes_from_images, image_blocks, shift, shift_phases
from cryoem.projection import fourier
from cryoem.projection.projectors import backproject, project
from cryoem.rotations import Poses, as_poses, point_group
from cryoem.validation import finite_array, square_images, unread_images, whole_number
from cryoem.volumes.density import DensityMap

METHODS = ("fourier", "cgls")
DAMPING = 1e-3  # sampling density, relative to its mean, below which a frequency fades out
BLOCK_BYTES = 128_000_000  # images in memory at a time
# images of a task per pixel of their side: the bytes read are then twice those of the accumulators returned
IMAGES_PER_PX = 48


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


@dataclass(frozen=True)
class Reconstruction:
    """``map`` of all images and ``half_maps`` of its two halves."""

    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]


def reconstruct(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    symmetry: str = "C1",
    method: str = "fourier",
    iterations: int = 20,
    backend: str = "auto",
    callback: Callable[[int, float], None] | None = None,
) -> DensityMap:
    """Reconstruct the density whose projections the images are.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        An array, or particles that are read block by block, such as a ``ParticleFile``.
    poses : Poses or Rotation
        n orientations, particle to microscope coordinates, and the shifts to undo; a bare Rotation means centred
        particles.
    pixel_size_angstrom : float, optional
        Side of a pixel, and of a voxel of the result; that of the optics by default.
    optics : Optics, optional
        Contrast transfer of the images, which ``"fourier"`` corrects: each frequency of an image is weighted by its
        transfer.  By default ``images.optics``, if it exists.
    symmetry : str
        Point group of the particle in the frame of ``rotations.point_group``; every image is added at all equivalent
        orientations.
    method : {"fourier", "cgls"}
        Direct Fourier inversion: every slice is gridded, and the sum is divided by the sampling density.  Or conjugate
        gradients on the least-squares problem, through ``project`` and its adjoint.
    iterations : int
        Iterations of ``"cgls"``.
    backend : str
        Projector of ``"cgls"``, see ``projection.project``.
    callback : callable, optional
        Called after each iteration of ``"cgls"`` with its number and the relative residual.

    Returns
    -------
    DensityMap
        (y, y, y) voxels, the particle's origin at voxel ``y // 2``.

    Raises
    ------
    ValueError
        If images are not (n, y, y), fewer than 2, smaller than 4 px or not finite; the number of poses or optics is not
        that of the images; the pixel size is unknown; the method or the point group is unknown; or images for
        ``"cgls"`` have a contrast transfer.

    References
    ----------
    Direct Fourier inversion: Penczek, Methods Enzymol. 482 (2010) 1.  CGLS: Björck, Numerical Methods for Least Squares
    Problems (1996), 7.4.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    iterations = whole_number(iterations, name="iterations", at_least=1)
    images, poses, optics = _checked(images, poses, pixel_size_angstrom, optics)
    if method == "fourier":
        parts = (
            accumulate(images[block], poses[block], optics[block], symmetry=symmetry)
            for block in image_blocks(images, block_bytes=BLOCK_BYTES)
        )
        volume = reduce(add, parts).invert()
    else:
        if optics.ctf is not None:
            raise ValueError("method must be 'fourier' for images with a contrast transfer, got 'cgls'")
        group = point_group(symmetry)
        # centre the images, and repeat them at all copies of their orientations
        centred = shift(images, -poses.shifts_px)
        copies = Rotation.concatenate([poses.rotations * g for g in group])
        volume = _cgls(np.concatenate([centred] * len(group)), copies, iterations, backend, callback)
    return DensityMap(volume.astype(np.float32), optics.pixel_size_angstrom)


def reconstruct_halves(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    symmetry: str = "C1",
    subset: np.ndarray | None = None,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Reconstruct a map and two half-maps by direct Fourier inversion, block by block.

    Parameters
    ----------
    images, poses, pixel_size_angstrom, optics, symmetry
        As for ``reconstruct``.
    subset : (n,) array, optional
        Half that each image belongs to, 0 or 1; every other image by default.
    map_blocks : callable
        Like the builtin ``map``, for example over the workers of a cluster.
    callback : callable, optional
        Called with the number of images done, after each block.

    Raises
    ------
    ValueError
        As ``reconstruct``, or if a half has no images.
    """
    images, poses, optics = _checked(images, poses, pixel_size_angstrom, optics)
    n, size = images.shape[:2]
    subset = np.arange(n) % 2 if subset is None else finite_array(subset, name="subset", ndim=1)
    if len(subset) != n or set(np.unique(subset)) != {0, 1}:
        raise ValueError(
            f"subset must be 0 or 1 for each of the {n} images, and both must occur, "
            f"got {len(subset)} values {np.unique(subset)[:5].tolist()}"
        )
    # accumulate both halves task by task, and add
    count = IMAGES_PER_PX * size
    blocks = [slice(start, start + count) for start in range(0, n, count)]
    items = ((images[block], poses[block], optics[block], subset[block]) for block in blocks)
    halves: dict[int, FourierAccumulator] = {}
    for block, part in zip(
        blocks, map_blocks(partial(_accumulate_halves, symmetry=symmetry), items), strict=True
    ):
        _add(halves, part)
        if callback is not None:
            callback(min(block.stop, n))
    volumes = [sums.invert() for sums in (halves[0] + halves[1], halves[0], halves[1])]
    whole, first, second = (DensityMap(v.astype(np.float32), optics.pixel_size_angstrom) for v in volumes)
    return Reconstruction(whole, (first, second))


def _checked(images, poses, pixel_size_angstrom, optics) -> tuple:
    """Return unread images with as many poses and optics."""
    images = unread_images(images, at_least=2, smallest_px=4)
    n = images.shape[0]
    optics = optics_of(known_optics(images, optics), pixel_size_angstrom, count=n)
    return images, as_poses(poses, count=n), optics


def _accumulate_halves(item: tuple, *, symmetry: str) -> dict[int, FourierAccumulator]:
    """Accumulate the images of each half, reading a block at a time."""
    images, poses, optics, subset = item
    halves: dict[int, FourierAccumulator] = {}
    for block in image_blocks(images, block_bytes=BLOCK_BYTES):
        read = np.asarray(images[block])
        for half in np.unique(subset[block]):
            members = np.flatnonzero(subset[block] == half)
            part = accumulate(read[members], poses[block][members], optics[block][members], symmetry=symmetry)
            _add(halves, {int(half): part})
    return halves


def _add(halves: dict[int, FourierAccumulator], part: dict[int, FourierAccumulator]) -> None:
    for half, sums in part.items():
        halves[half] = halves[half] + sums if half in halves else sums


def _cgls(images: np.ndarray, rotations: Rotation, iterations: int, backend: str, callback) -> np.ndarray:
    """Minimise ``|project(v) - images|^2`` by conjugate gradients from zero."""
    n = images.shape[1]
    volume = np.zeros((n, n, n), np.float32)
    residual = images.copy()
    gradient = backproject(residual, rotations, volume_shape=volume.shape, backend=backend)
    direction, energy = gradient.copy(), float(np.vdot(gradient, gradient))
    start = max(float(np.linalg.norm(images)), 1e-30)
    for iteration in range(iterations):
        # step along the search direction
        projected = project(direction, rotations, image_size=n, backend=backend)
        step = energy / max(float(np.vdot(projected, projected)), 1e-30)
        volume += step * direction
        residual -= step * projected
        # new gradient and conjugate direction
        gradient = backproject(residual, rotations, volume_shape=volume.shape, backend=backend)
        energy, previous = float(np.vdot(gradient, gradient)), energy
        direction = gradient + energy / max(previous, 1e-30) * direction
        if callback is not None:
            callback(iteration, float(np.linalg.norm(residual)) / start)
    return volume
