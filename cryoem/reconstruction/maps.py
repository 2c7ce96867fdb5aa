"""Reconstruct density maps from images and poses by direct Fourier inversion or conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.images import shift
from cryoem.reconstruction.accumulation import FourierAccumulator, checked_images, sum_images
from cryoem.rotations import Poses, point_group
from cryoem.validation import finite_array, whole_number
from cryoem.volumes.density import DensityMap

METHODS = ("fourier", "cgls")


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
    images, poses, optics = checked_images(images, poses, pixel_size_angstrom, optics)
    if method == "fourier":
        volume = sum_images(images, poses, optics, np.arange(len(images)), symmetry=symmetry).invert(
            overwrite=True
        )
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
    scratch: BinaryIO | None = None,
) -> Reconstruction:
    """Reconstruct a map and two half-maps by direct Fourier inversion, block by block, one half after the other.

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
    scratch : binary file, optional
        Empty file, opened for reading and writing, in which the Fourier sums of the two halves are kept: 53 bytes per
        voxel. Default: keep them in memory.

    Returns
    -------
    Reconstruction

    Raises
    ------
    ValueError
        Under the same conditions as for ``reconstruct``, or if ``subset`` does not contain 0 or 1 for each image, with
        each value at least once.
    """
    images, poses, optics = checked_images(images, poses, pixel_size_angstrom, optics)
    n = images.shape[0]
    subset = checked_subset(np.arange(n) % 2 if subset is None else subset, count=n)

    def gridded(half: int) -> FourierAccumulator:
        before = half * np.count_nonzero(subset == 0)
        report = None if callback is None else lambda count: callback(int(before + count))
        rows, options = np.flatnonzero(subset == half), {"symmetry": symmetry, "map_blocks": map_blocks}
        return sum_images(images, poses, optics, rows, callback=report, **options)

    kept, half_volumes = [], []
    for half in (0, 1):
        sums = gridded(half)
        if scratch is None:
            kept.append(sums)
        else:
            sums.write(scratch)
        half_volumes.append(sums.invert(overwrite=scratch is not None))
        del sums  # free the memory before the next sums if these are in the file
    if scratch is None:
        sums = kept[0]
        sums += kept.pop()
    else:
        scratch.seek(0)
        sums = FourierAccumulator.empty(images.shape[1], point_group(symmetry).as_matrix())
        for _ in half_volumes:
            sums.add_from(scratch)
    volumes = (sums.invert(overwrite=True), *half_volumes)
    whole, first, second = (DensityMap(volume, optics.pixel_size_angstrom) for volume in volumes)
    return Reconstruction(whole, (first, second))


def checked_subset(subset: np.ndarray, *, count: int, at_least: int = 1) -> np.ndarray:
    """Return the half to which each image belongs; each half must have ``at_least`` images."""
    subset = finite_array(subset, name="subset", ndim=1)
    if len(subset) != count or not set(np.unique(subset)) <= {0, 1}:
        raise ValueError(
            f"subset must contain 0 or 1 for each of the {count} images, "
            f"got {len(subset)} values {np.unique(subset)[:5].tolist()}"
        )
    counts = np.bincount(subset.astype(int), minlength=2)
    if counts.min() < at_least:
        images = "image" if at_least == 1 else "images"
        raise ValueError(
            f"each half-set must have at least {at_least} {images}, got {counts[0]} and {counts[1]}"
        )
    return subset.astype(int)


def _cgls(images: np.ndarray, rotations: Rotation, iterations: int, backend: str, callback) -> np.ndarray:
    """Minimise ``|project(v) - images|^2`` by conjugate gradients, starting from zero."""
    # direct Fourier inversion does not need the projectors
    from cryoem.projection.projectors import backproject, project

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
