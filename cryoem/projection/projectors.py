"""Projection of a density along the microscope's z-axis, and its adjoint.

Algorithms call ``project`` and ``backproject``, or ``Projector`` to project a volume block by block, and never build
geometry.  There are two backends: ``"fourier"`` reads central slices of the volume's Fourier transform on the CPU, with
an exact adjoint; ``"astra"`` traces rays on a GPU (``parallel3d_vec``), with an adjoint that is matched up to ASTRA's
interpolation.  ``"auto"`` uses ASTRA if a usable GPU is visible and the CPU otherwise, unless ``CRYOEM_DEVICE`` sets
the device.

ASTRA: van Aarle et al., Optics Express 24 (2016) 25129; https://astra-toolbox.com/docs/geom3d.html.
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
            return _project_with_astra(self.volume, matrices, n)
        from cryoem.projection import fourier

        frequencies = plane_frequencies(working)
        window = slice(working // 2 - n // 2, working // 2 - n // 2 + n)
        images = np.empty((len(matrices), n, n), np.float32)
        for start in range(0, len(matrices), BATCH):
            batch = slice(start, start + BATCH)
            slices = fourier.read_slices(self._spectrum, matrices[batch], frequencies)
            images[batch] = images_from_half_planes(slices, working)[:, window, window]
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
    rotations : Rotation
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
        return _backproject_with_astra(images, matrices, volume_shape)
    from cryoem.projection import fourier

    size = images.shape[1]
    working = max(size, *volume_shape)
    before = working // 2 - size // 2
    border = (before, working - size - before)
    shape = fourier.GridShape(volume_shape)
    frequencies = plane_frequencies(working)
    weights = hermitian_weights(working).ravel() / (2 * working**2)
    # pad the images, transform them, and spread their slices into the grid
    half = 0
    for start in range(0, len(matrices), 8 * BATCH):
        batch = slice(start, start + 8 * BATCH)
        padded = np.pad(images[batch], ((0, 0), border, border))
        slices = half_planes_from_images(padded) * weights.astype(np.float32)
        half = half + fourier.spread_slices(slices, matrices[batch], frequencies, shape)
    return fourier.untransform(half, shape)


def resolve_backend(backend: str) -> str:
    """Return the backend that a name selects on this machine: ``"fourier"`` or ``"astra"``.

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
    device = chosen_device()
    if device == "cpu" and backend == "astra":
        raise RuntimeError(f'backend="astra" needs a GPU, but {VARIABLE} is set to cpu')
    if device != "cpu" and astra_is_usable():
        return "astra"
    if backend == "astra" or device == "gpu":
        wanted = 'backend="astra"' if backend == "astra" else f"{VARIABLE}=gpu"
        raise RuntimeError(f"{wanted} needs astra-toolbox and a visible GPU, but none is usable")
    return "fourier"


def _matrices(rotations: Rotation) -> np.ndarray:
    """Return the matrices (n, 3, 3) of a sequence of n rotations, or of a single one."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"rotations must be a scipy Rotation, got {type(rotations).__name__}")
    return rotations.as_matrix().reshape(-1, 3, 3)


# --- ASTRA


def astra_is_usable() -> bool:
    """Return whether astra-toolbox imports and reports a CUDA device.

    ASTRA has no 3-D projector for the CPU, and a 3-D call without a GPU terminates the Python process.
    """
    try:
        import astra
    except ImportError:
        return False
    return bool(astra.use_cuda())


def detector_vectors(matrices: np.ndarray) -> np.ndarray:
    """Describe orientations as ASTRA does: (n, 12) rows of ray direction, detector centre, and detector steps u and v.

    All vectors are in the particle's frame, in (x, y, z) order and in voxels: rays run along the third row of R, image
    x along the first, image y along the second.
    """
    centre = np.zeros((len(matrices), 3))
    return np.concatenate([matrices[:, 2], centre, matrices[:, 0], matrices[:, 1]], axis=1)


def _astra_geometries(matrices: np.ndarray, volume_shape: tuple[int, int, int], size: int):
    """Place voxel and pixel ``n // 2`` at ASTRA's origin, which is the middle of the volume and of the detector."""
    import astra

    # window of the volume, (x, y, z)
    sizes = volume_shape[::-1]
    low = [-0.5 - n // 2 for n in sizes]
    high = [edge + n for edge, n in zip(low, sizes, strict=True)]
    nx, ny, nz = sizes
    volume = astra.create_vol_geom(ny, nx, nz, low[0], high[0], low[1], high[1], low[2], high[2])
    # centre of the detector
    vectors = detector_vectors(matrices)
    half_pixel = (size - 1) / 2 - size // 2
    vectors[:, 3:6] += half_pixel * (vectors[:, 6:9] + vectors[:, 9:12])
    return volume, astra.create_proj_geom("parallel3d_vec", size, size, vectors)


def _project_with_astra(volume: np.ndarray, matrices: np.ndarray, size: int) -> np.ndarray:
    import astra

    volume_geometry, projection_geometry = _astra_geometries(matrices, volume.shape, size)
    sinogram_id, sinogram = astra.create_sino3d_gpu(
        np.ascontiguousarray(volume), projection_geometry, volume_geometry
    )
    astra.data3d.delete(sinogram_id)
    return np.ascontiguousarray(sinogram.swapaxes(0, 1))  # ASTRA stores (v, view, u)


def _backproject_with_astra(images: np.ndarray, matrices: np.ndarray, volume_shape: tuple) -> np.ndarray:
    import astra

    volume_geometry, projection_geometry = _astra_geometries(matrices, volume_shape, images.shape[1])
    sinogram = np.ascontiguousarray(images.swapaxes(0, 1))
    volume_id, volume = astra.create_backprojection3d_gpu(sinogram, projection_geometry, volume_geometry)
    astra.data3d.delete(volume_id)
    return volume
