"""A density map from images and their orientations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, positive_number, shifts_of, square_images, whole_number
from cryoem.contrast import ContrastTransfer, defoci_of
from cryoem.imaging import shift
from cryoem.projectors import backproject, fourier, half_planes_from_images, plane_frequencies, project
from cryoem.rotations import point_group
from cryoem.volumes import DensityMap

METHODS = ("fourier", "cgls")
DAMPING = 1e-3
IDENTITY = np.eye(3)[None]


def reconstruct(
    images: np.ndarray,
    rotations: Rotation,
    *,
    pixel_size_angstrom: float,
    shifts_px: np.ndarray | None = None,
    ctf: ContrastTransfer | None = None,
    defocus_angstrom: np.ndarray | None = None,
    symmetry: str = "C1",
    method: str = "fourier",
    iterations: int = 20,
    damping: float = DAMPING,
    backend: str = "auto",
    callback: Callable[[int, float], None] | None = None,
) -> DensityMap:
    """Reconstruct the density whose projections the images are.

    Parameters
    ----------
    images : (n, y, x) real, y == x.
    rotations : n orientations, particle to microscope coordinates.
    pixel_size_angstrom : side of a pixel, and of a voxel of the result.
    shifts_px : (n, 2) displacement (x, y) of each particle, which is taken off; none by default.
    ctf, defocus_angstrom : the microscope's constants and the defocus of each image, (n,) or (n, 3), where images were
        seen through a contrast transfer; ``"fourier"`` takes it off, weighting each image by what the transfer lets
        through.
    symmetry : point group of the particle, in the frame of ``rotations.point_group``: every image counts at all of its
        copies ``R g``, so that the map has the symmetry.
    method : ``"fourier"`` direct inversion, every slice gridded and divided by the sampling density;
        ``"cgls"`` conjugate gradients on the least-squares problem, through ``project`` and its adjoint on
        any backend.
    iterations : of ``"cgls"``.
    damping : of ``"fourier"``, the sampling density, relative to its mean, below which a frequency fades out.
    backend : of the projector that ``"cgls"`` uses.
    callback : called with the iteration and the relative residual of ``"cgls"``.

    Returns
    -------
    DensityMap of (y, y, y) voxels, the particle's origin at voxel y // 2.

    Raises
    ------
    ValueError : images are not (n, y, y), fewer than 2, smaller than 4 px, not finite, or not as many as rotations; the
        pixel size, the damping or the iterations are not positive; the method or the point group is unknown; shifts
        or defoci are not one for each image, or a contrast transfer is given to ``"cgls"``.

    Source: direct Fourier inversion after Penczek, Methods Enzymol. 482 (2010) 1; CGLS after Björck, Numerical Methods
    for Least Squares Problems (1996), 7.4.
    """
    images = square_images(images, at_least=2, smallest_px=4)
    many_rotations(rotations, count=len(images))
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    positive_number(damping, name="damping")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    iterations = whole_number(iterations, name="iterations", at_least=1)
    if method == "cgls" and ctf is not None:
        raise ValueError("method must be fourier where there is a ctf, got 'cgls'")
    if method == "fourier":
        sums = slice_sums(
            images,
            rotations,
            pixel_size_angstrom=pixel_size_angstrom,
            shifts_px=shifts_px,
            ctf=ctf,
            defocus_angstrom=defocus_angstrom,
            symmetry=symmetry,
        )
        volume = sums.invert(damping=damping)
    else:
        defoci_of(ctf, defocus_angstrom, count=len(images))
        if shifts_px is not None:
            images = shift(images, -shifts_of(shifts_px, count=len(images)))
        group = point_group(symmetry)
        copies = Rotation.concatenate([rotations * g for g in group])
        volume = _cgls(np.concatenate([images] * len(group)), copies, iterations, backend, callback)
    return DensityMap(volume.astype(np.float32), pixel_size_angstrom)


def slice_sums(
    images: np.ndarray,
    rotations: Rotation,
    *,
    pixel_size_angstrom: float,
    shifts_px: np.ndarray | None = None,
    ctf: ContrastTransfer | None = None,
    defocus_angstrom: np.ndarray | None = None,
    symmetry: str = "C1",
) -> SliceSums:
    """What a block of images gives to a map: sums over blocks of images, inverted, are ``reconstruct`` of all of them.

    Parameters, raises: as ``reconstruct`` by ``"fourier"``, but a single image will do.
    """
    images = square_images(images, smallest_px=4)
    many_rotations(rotations, count=len(images))
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    defoci = defoci_of(ctf, defocus_angstrom, count=len(images))
    if shifts_px is not None:
        images = shift(images, -shifts_of(shifts_px, count=len(images)))
    size = images.shape[1]
    inside, frequencies = disc_frequencies(size)
    transfers = None
    if ctf is not None:
        transfers = ctf.at(frequencies / pixel_size_angstrom, defoci).astype(np.float32)
    return grid_slices(
        half_planes_from_images(images)[:, inside],
        rotations.as_matrix(),
        frequencies,
        size,
        group=point_group(symmetry).as_matrix(),
        transfers=transfers,
    )


def disc_frequencies(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The half-plane elements of an image inside its Nyquist circle: (m,) indices and (m, 2) cycles per pixel."""
    frequencies = plane_frequencies(size)
    inside = np.flatnonzero(np.hypot(*frequencies.T) < 0.5)
    return inside, frequencies[inside]


def once_each(frequencies: np.ndarray) -> np.ndarray:
    """Weights that count every Hermitian pair of a half-plane once: 0.5 where the half-plane holds both twins, (m,)."""
    return np.where(frequencies[:, 0] == 0, 0.5, 1).astype(np.float32)


@dataclass(frozen=True)
class SliceSums:
    """Slices gridded into Fourier space: sums of values and of sampling density, half grids of a cubic volume.

    Sums of disjoint sets of images add and subtract.
    """

    values: np.ndarray
    density: np.ndarray
    size: int

    def __add__(self, other: SliceSums) -> SliceSums:
        return SliceSums(self.values + other.values, self.density + other.density, self.size)

    def __sub__(self, other: SliceSums) -> SliceSums:
        return SliceSums(self.values - other.values, self.density - other.density, self.size)

    def invert(self, *, damping: float = DAMPING) -> np.ndarray:
        """The volume whose slices these are: (size, size, size) float32."""
        shape = fourier.GridShape((self.size,) * 3)
        floor = damping * self.density[self.density > 0].mean()
        average = self.values / (np.maximum(self.density, 0) + floor)
        return fourier.untransform(average, shape) * (shape.roll_off.max() / np.prod(shape.full))


def grid_slices(
    planes: np.ndarray,
    matrices: np.ndarray,
    frequencies: np.ndarray,
    size: int,
    *,
    group: np.ndarray = IDENTITY,
    transfers: np.ndarray | None = None,
) -> SliceSums:
    """Grid (n, m) slices at (n, 3, 3) orientations and (m, 2) in-plane frequencies for a volume of ``size``
    voxels a side; each at all copies by the (k, 3, 3) rotations of a group.  Slices seen through (n, m) contrast
    transfers count by them, and so do their densities, so that ``invert`` takes the transfer off.
    """
    shape = fourier.GridShape((size,) * 3)
    once = once_each(frequencies)
    weighted, ones = planes * once, np.broadcast_to(once, planes.shape)
    if transfers is not None:
        weighted, ones = weighted * transfers, once * transfers**2
    values = density = 0
    for g in group:
        values = values + fourier.spread_slices(weighted, matrices @ g, frequencies, shape)
        density = density + fourier.spread_slices(ones, matrices @ g, frequencies, shape).real
    return SliceSums(values, np.ascontiguousarray(density), size)


def _cgls(images: np.ndarray, rotations: Rotation, iterations: int, backend: str, callback) -> np.ndarray:
    """Conjugate gradients on ``min |project(v) - images|^2`` from zero."""
    n = images.shape[1]
    volume = np.zeros((n, n, n), np.float32)
    residual = images.copy()
    gradient = backproject(residual, rotations, volume_shape=volume.shape, backend=backend)
    direction, energy = gradient.copy(), float(np.vdot(gradient, gradient))
    start = max(float(np.linalg.norm(images)), 1e-30)
    for iteration in range(iterations):
        projected = project(direction, rotations, image_size=n, backend=backend)
        step = energy / max(float(np.vdot(projected, projected)), 1e-30)
        volume += step * direction
        residual -= step * projected
        gradient = backproject(residual, rotations, volume_shape=volume.shape, backend=backend)
        energy, previous = float(np.vdot(gradient, gradient)), energy
        direction = gradient + energy / max(previous, 1e-30) * direction
        if callback is not None:
            callback(iteration, float(np.linalg.norm(residual)) / start)
    return volume
