"""Reconstruct density maps from images and poses by direct Fourier inversion or conjugate gradients."""

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
DAMPING = 1e-3  # sampling density, relative to its mean, below which a frequency is damped
BLOCK_BYTES = 128_000_000  # size of the images in memory at a time
# images per task for each pixel of image width; a task then reads twice as many bytes as it returns
IMAGES_PER_PX = 48


@dataclass(frozen=True)
class FourierAccumulator:
    """Sums of slices gridded into the Fourier space of a cubic volume.

    ``values`` and ``density`` are half grids with the sums of the slice values and of the sampling density.
    Accumulators of disjoint sets of images can be added and subtracted.
    """

    values: np.ndarray
    density: np.ndarray
    size: int

    def __add__(self, other: FourierAccumulator) -> FourierAccumulator:
        return FourierAccumulator(self.values + other.values, self.density + other.density, self.size)

    def __sub__(self, other: FourierAccumulator) -> FourierAccumulator:
        return FourierAccumulator(self.values - other.values, self.density - other.density, self.size)

    def invert(self) -> np.ndarray:
        """Reconstruct the volume from the accumulated slices: (size, size, size) float32."""
        shape = fourier.GridShape((self.size,) * 3)
        floor = DAMPING * self.density[self.density > 0].mean()
        average = self.values / (np.maximum(self.density, 0) + floor)
        return fourier.untransform(average, shape) * (shape.roll_off.max() / np.prod(shape.full))


def accumulate(
    images: np.ndarray, poses: Poses, optics: Optics, *, symmetry: str = "C1"
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

    Returns
    -------
    FourierAccumulator
        Sums over the block. To reconstruct a volume, add the accumulators of all blocks and call
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
    """Grid (n, m) slices at (n, 3, 3) orientations into the Fourier space of a volume ``size`` voxels wide.

    ``frequencies`` (m, 2) are in cycles per voxel, and ``weights`` (m,) are those of ``images.FourierDisc``. Each slice
    is added at all orientations that are equivalent under ``group`` (k, 3, 3). The CTF values ``transfers`` (n, m)
    multiply the slice values, and their squares multiply the density, so that ``invert`` corrects for the CTF.
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
    """Density ``map`` reconstructed from all images, and ``half_maps`` from the two halves of the images."""

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
    """Reconstruct the density map from images with known poses.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least 2 images, at least 4 px wide. With ``"fourier"``, particles in files, such as a ``ParticleFile``, are
        read block by block.
    poses : Poses or Rotation
        n orientations, from particle to microscope coordinates, and the shifts to be undone. A bare ``Rotation`` means
        that the particles are centred.
    pixel_size_angstrom : float, optional
        Pixel size, which is also the voxel size of the result. Default: the pixel size in ``optics``.
    optics : Optics, optional
        Optics of the images. ``"fourier"`` corrects for the CTF by weighting each frequency of an image with its CTF
        value. Default: ``images.optics`` if available, otherwise no CTF.
    symmetry : str
        Point group of the particle, in the frame of ``rotations.point_group``. Every image is added at all equivalent
        orientations. Default: ``"C1"``.
    method : {"fourier", "cgls"}
        Reconstruction method:

        - ``"fourier"`` (default): direct Fourier inversion, which grids every slice and divides the sum by the sampling
          density
        - ``"cgls"``: conjugate gradients on the least-squares problem, using ``project`` and its adjoint
    iterations : int
        Number of iterations for ``"cgls"``. Default: 20.
    backend : str
        Projection backend for ``"cgls"``, as in ``projection.project``. Default: ``"auto"``.
    callback : callable, optional
        Function called after each iteration of ``"cgls"`` with the index of the iteration and the relative residual.

    Returns
    -------
    DensityMap
        Map of (y, y, y) voxels, with the particle's origin at voxel ``y // 2``.

    Raises
    ------
    ValueError
        If there are fewer than 2 images; if the images do not have shape (n, y, y), are too small, or contain NaN or
        infinity; if ``poses`` or ``optics`` describes a different number of images; if the pixel size, the method, the
        backend or the point group is unknown; or if ``"cgls"`` is used for images with a CTF.

    References
    ----------
    Direct Fourier inversion: Penczek, Methods Enzymol. 482 (2010) 1. CGLS: Björck, Numerical Methods for Least Squares
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
            raise ValueError("method must be 'fourier' for images with a CTF, got 'cgls'")
        group = point_group(symmetry)
        # centre the images, and repeat them for all copies of their orientations
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
        Same as for ``reconstruct``.
    subset : (n,) array, optional
        Half to which each image belongs, 0 or 1. Default: images are assigned to the two halves alternately.
    map_blocks : callable
        Function like the built-in ``map``, which may distribute the blocks over the workers of a cluster. Default:
        ``map``.
    callback : callable, optional
        Function called after each block with the number of images processed so far.

    Returns
    -------
    Reconstruction

    Raises
    ------
    ValueError
        Under the same conditions as for ``reconstruct``, or if ``subset`` does not contain 0 or 1 for each image, with
        each value at least once.
    """
    images, poses, optics = _checked(images, poses, pixel_size_angstrom, optics)
    n, size = images.shape[:2]
    subset = np.arange(n) % 2 if subset is None else finite_array(subset, name="subset", ndim=1)
    if len(subset) != n or set(np.unique(subset)) != {0, 1}:
        raise ValueError(
            f"subset must contain 0 or 1 for each of the {n} images, and both at least once, "
            f"got {len(subset)} values {np.unique(subset)[:5].tolist()}"
        )
    # accumulate both halves, task by task
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
    """Return the images, still unread, with their poses and optics."""
    images = unread_images(images, at_least=2, smallest_px=4)
    n = images.shape[0]
    optics = optics_of(known_optics(images, optics), pixel_size_angstrom, count=n)
    return images, as_poses(poses, count=n), optics


def _accumulate_halves(item: tuple, *, symmetry: str) -> dict[int, FourierAccumulator]:
    """Accumulate the images of each half, reading one block at a time."""
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
    """Minimise ``|project(v) - images|^2`` by conjugate gradients, starting from zero."""
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
        # compute the new gradient and conjugate direction
        gradient = backproject(residual, rotations, volume_shape=volume.shape, backend=backend)
        energy, previous = float(np.vdot(gradient, gradient)), energy
        direction = gradient + energy / max(previous, 1e-30) * direction
        if callback is not None:
            callback(iteration, float(np.linalg.norm(residual)) / start)
    return volume
