"""Projection of a density along the microscope's z-axis, and its adjoint.

Algorithms call ``project`` and ``backproject``, or ``Projector`` to project a volume block by block, and never build
geometry.  There are two backends: ``"fourier"`` reads central slices of the volume's Fourier transform on the CPU, with
an exact adjoint; ``"astra"`` traces rays on a GPU, with an adjoint that is matched up to ASTRA's interpolation.
``"auto"`` uses ASTRA if a usable GPU is visible and the CPU otherwise, unless ``CRYOEM_DEVICE`` sets the device.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.devices import VARIABLE, chosen_device
from cryoem.images import (
    half_planes_from_images,
    hermitian_weights,
    images_from_half_planes,
    plane_frequencies,
)
from cryoem.validation import finite_array, square_images, whole_number

if TYPE_CHECKING:
    from cryoem.projection import fourier

BACKENDS = ("auto", "fourier", "astra")
BATCH = 256


def project(
    volume: np.ndarray, rotations: Rotation, *, image_size: int | None = None, backend: str = "auto"
) -> np.ndarray:
    """Project a volume along the microscope's z-axis at each orientation.

    Parameters
    ----------
    volume : (z, y, x) array
        Real density of any shape; the origin is voxel ``n // 2`` of each axis.
    rotations : Rotation
        n orientations R, ``x_microscope = R @ x_particle``.
    image_size : int, optional
        Side of the square images in pixels of one voxel; the longest side of the volume by default.
    backend : {"auto", "fourier", "astra"}
        Projection backend, see the module.

    Returns
    -------
    (n, y, x) array
        Line integrals, float32, in density times voxels; the origin is pixel ``image_size // 2``.

    Raises
    ------
    ValueError
        If the volume is not 3-D, real and finite, rotations are not a ``Rotation``, ``image_size`` is below 2, or the
        backend is unknown.
    RuntimeError
        If the backend is ``"astra"`` and no usable GPU is visible.

    Notes
    -----
    The central-slice theorem; ``docs/conventions.md`` states the accuracy.
    """
    return Projector(volume, image_size=image_size, backend=backend)(rotations)


class Projector:
    """A volume that is prepared once and projected block by block.

    Arguments, errors and results are those of ``project``.  The prepared transform, about 35 bytes per voxel, stays in
    memory.  A copy in another process prepares its own transform at the first call.
    """

    def __init__(self, volume: np.ndarray, *, image_size: int | None = None, backend: str = "auto"):
        self.volume = finite_array(volume, name="volume", ndim=3, dtype=np.float32)
        longest = max(self.volume.shape)
        self.image_size = (
            longest if image_size is None else whole_number(image_size, name="image_size", at_least=2)
        )
        self._working_size = max(self.image_size, longest)
        self._backend = backend
        resolve_backend(backend)

    def __call__(self, rotations: Rotation) -> np.ndarray:
        n, working, matrices = self.image_size, self._working_size, _matrices(rotations)
        if resolve_backend(self._backend) == "astra":
            from cryoem.projection import astra_gpu

            return astra_gpu.project(self.volume, matrices, n)
        from cryoem.projection import fourier

        frequencies = plane_frequencies(working)
        images = np.empty((len(matrices), n, n), np.float32)
        for start in range(0, len(matrices), BATCH):
            batch = slice(start, start + BATCH)
            slices = fourier.read_slices(self._spectrum, matrices[batch], frequencies)
            images[batch] = _crop(images_from_half_planes(slices, working), n)
        return images

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_spectrum"}

    @cached_property
    def _spectrum(self) -> fourier.VolumeTransform:
        from cryoem.projection import fourier

        return fourier.transform(self.volume)


def backproject(
    images: np.ndarray, rotations: Rotation, *, volume_shape: tuple[int, int, int], backend: str = "auto"
) -> np.ndarray:
    """Apply the adjoint of ``project``: smear each image along its viewing direction, and add.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Real images.
    rotations : Rotation
        n orientations.
    volume_shape : tuple of int
        Shape (z, y, x) of the result.
    backend : str
        As for ``project``.

    Returns
    -------
    (z, y, x) array
        Float32, such that ``<project(v), images> == <v, backproject(images)>`` for every v of that shape.

    Raises
    ------
    ValueError
        If images are not (n, y, y), not finite, or not one for each rotation; ``volume_shape`` is not three positive
        whole numbers; or the backend is unknown.
    RuntimeError
        If the backend is ``"astra"`` and no usable GPU is visible.
    """
    images = square_images(images)
    matrices = _matrices(rotations)
    if len(images) != len(matrices):
        raise ValueError(
            f"images must have one entry for each of the {len(matrices)} rotations, got {len(images)}"
        )
    if np.ndim(volume_shape) != 1 or len(volume_shape) != 3:
        raise ValueError(f"volume_shape must be three sizes (z, y, x), got {volume_shape}")
    volume_shape = tuple(whole_number(n, name="volume_shape", at_least=1) for n in volume_shape)
    if resolve_backend(backend) == "astra":
        from cryoem.projection import astra_gpu

        return astra_gpu.backproject(images, matrices, volume_shape)
    from cryoem.projection import fourier

    working = max(images.shape[1], *volume_shape)
    shape = fourier.GridShape(volume_shape)
    frequencies = plane_frequencies(working)
    weights = hermitian_weights(working).ravel() / (2 * working**2)
    # pad the images, transform them, and spread their slices into the grid
    half = 0
    for start in range(0, len(matrices), 8 * BATCH):
        batch = slice(start, start + 8 * BATCH)
        slices = half_planes_from_images(_pad(images[batch], working)) * weights.astype(np.float32)
        half = half + fourier.spread_slices(slices, matrices[batch], frequencies, shape)
    return fourier.untransform(half, shape)


def resolve_backend(backend: str) -> str:
    """Return the backend that a name selects on this machine: ``"fourier"`` or ``"astra"``.

    A 3-D call of ASTRA without a GPU would terminate the process, so this function raises an error first.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If the name is ``"astra"`` and ASTRA finds no usable GPU or ``CRYOEM_DEVICE`` excludes it, see ``devices``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "fourier":
        return backend
    from cryoem.projection import astra_gpu

    device = chosen_device()
    if device == "cpu" and backend == "astra":
        raise RuntimeError(f'backend="astra" needs a GPU, but {VARIABLE} is set to cpu')
    if device != "cpu" and astra_gpu.is_usable():
        return "astra"
    if backend == "astra" or device == "gpu":
        wanted = 'backend="astra"' if backend == "astra" else f"{VARIABLE}=gpu"
        raise RuntimeError(f"{wanted} needs astra-toolbox and a visible GPU, but none is usable")
    return "fourier"


def _crop(images: np.ndarray, size: int) -> np.ndarray:
    start = images.shape[1] // 2 - size // 2
    return images[:, start : start + size, start : start + size]


def _pad(images: np.ndarray, size: int) -> np.ndarray:
    before = size // 2 - images.shape[1] // 2
    after = size - images.shape[1] - before
    return np.pad(images, ((0, 0), (before, after), (before, after)))


def _matrices(rotations: Rotation) -> np.ndarray:
    """Return the matrices (n, 3, 3) of a sequence of n rotations, or of a single one."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"rotations must be a scipy Rotation, got {type(rotations).__name__}")
    return rotations.as_matrix().reshape(-1, 3, 3)
