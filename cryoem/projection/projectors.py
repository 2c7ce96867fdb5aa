"""Projection of a density along the microscope's z-axis, and its adjoint.

Algorithms call ``project`` and ``backproject``, or use ``Projector`` to project a volume block by block; they do not
build geometry themselves. There are two backends. ``"fourier"`` evaluates central slices of the volume's Fourier
transform on the CPU and has an exact adjoint. ``"astra"`` traces rays on a GPU (``parallel3d_vec``); its adjoint is
exact up to ASTRA's interpolation. ``"auto"`` uses ASTRA if a usable GPU is visible and the CPU otherwise, unless
``CRYOEM_DEVICE`` sets the device.

ASTRA: van Aarle et al., Optics Express 24 (2016) 25129; https://astra-toolbox.com/docs/geom3d.html.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
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
        Real density of any shape. The origin is voxel ``n // 2`` along each axis.
    rotations : Rotation
        n orientations R, with ``x_microscope = R @ x_particle``.
    image_size : int, optional
        Width of the square images in pixels. A pixel is as wide as a voxel. Default: the longest side of the volume.
    backend : {"auto", "fourier", "astra"}
        Projection backend; see the module docstring.

    Returns
    -------
    (n, y, x) array
        Line integrals in density times voxels, as float32. The origin is pixel ``image_size // 2``.

    Raises
    ------
    ValueError
        If ``volume`` is not a 3-D array of finite real numbers, if ``rotations`` is not a ``Rotation``, if
        ``image_size`` is less than 2, or if the backend is unknown.
    RuntimeError
        If a GPU is required, by the backend ``"astra"`` or by ``CRYOEM_DEVICE``, and none is usable.

    Notes
    -----
    The ``"fourier"`` backend is based on the central-slice theorem. For its accuracy, see ``docs/conventions.md``.
    """
    return Projector(volume, image_size=image_size, backend=backend)(rotations)


class Projector:
    """A volume that is prepared once and then projected block by block.

    Parameters, results and errors are the same as for ``project``. The prepared transform takes about 35 bytes of
    memory per voxel. A copy sent to a different process prepares its own transform when it is first called.
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
    """Apply the adjoint of ``project``: smear each image along its viewing direction and add the results.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to back-project.
    rotations : Rotation
        Orientations of the n images.
    volume_shape : tuple of int
        Shape (z, y, x) of the result.
    backend : {"auto", "fourier", "astra"}
        Projection backend; see the module docstring.

    Returns
    -------
    (z, y, x) array
        Float32 volume that satisfies ``<project(v), images> == <v, backproject(images)>`` for every volume v of the
        same shape.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity; if the number of images differs from the
        number of rotations; if ``volume_shape`` is not three positive integers; or if the backend is unknown.
    RuntimeError
        If a GPU is required, by the backend ``"astra"`` or by ``CRYOEM_DEVICE``, and none is usable.
    """
    images = square_images(images)
    matrices = _matrices(rotations)
    if len(images) != len(matrices):
        raise ValueError(
            f"images and rotations must be equal in number, got {len(images)} images and {len(matrices)} rotations"
        )
    if np.ndim(volume_shape) != 1 or len(volume_shape) != 3:
        raise ValueError(f"volume_shape must be three sizes (z, y, x), got {volume_shape}")
    volume_shape = tuple(whole_number(n, name="each size in volume_shape", at_least=1) for n in volume_shape)
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
    grids = fourier.zero_grids(shape, len(matrices))
    for start in range(0, len(matrices), 8 * BATCH):
        batch = slice(start, start + 8 * BATCH)
        padded = np.pad(images[batch], ((0, 0), border, border))
        slices = half_planes_from_images(padded) * weights.astype(np.float32)
        fourier.spread_slices(grids, slices, matrices[batch], frequencies, shape)
    return fourier.untransform(grids, shape)


def resolve_backend(backend: str) -> str:
    """Return the backend that is used for the given name on this machine: ``"fourier"`` or ``"astra"``.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If ``"astra"`` or ``CRYOEM_DEVICE`` requires a GPU and none is usable, or if the name is ``"astra"`` and
        ``CRYOEM_DEVICE`` is ``cpu``.
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


def describe_backend(backend: str = "auto") -> str:
    """Return one line that states which projector is used on this machine and, if it is not ASTRA, why.

    Raises
    ------
    ValueError, RuntimeError
        Under the same conditions as for ``resolve_backend``.
    """
    if resolve_backend(backend) == "astra":
        return "ASTRA on the GPU"
    if backend == "fourier":
        reason = 'backend is "fourier"'
    elif chosen_device() == "cpu":
        reason = f"{VARIABLE} is set to cpu"
    elif find_spec("astra") is None:
        reason = "astra-toolbox is not installed"
    else:
        reason = "astra-toolbox finds no usable GPU"
    return f"Fourier slices on the CPU, because {reason}"


def _matrices(rotations: Rotation) -> np.ndarray:
    """Return the (n, 3, 3) matrices of a sequence of n rotations or of a single rotation."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"rotations must be a scipy Rotation, got {type(rotations).__name__}")
    return rotations.as_matrix().reshape(-1, 3, 3)


# --- ASTRA


def astra_is_usable() -> bool:
    """Return whether astra-toolbox can be imported and reports a CUDA device.

    ASTRA has no 3-D projector for the CPU, and a 3-D call without a GPU terminates the Python process.
    """
    try:
        import astra
    except ImportError:
        return False
    return bool(astra.use_cuda())


def detector_vectors(matrices: np.ndarray) -> np.ndarray:
    """Describe orientations in ASTRA's form: ray direction, detector centre, and detector steps u and v, (n, 12).

    All vectors are in the particle's frame, in (x, y, z) order and in voxels. Rays run along the third row of R, image
    x along the first and image y along the second.
    """
    centre = np.zeros((len(matrices), 3))
    return np.concatenate([matrices[:, 2], centre, matrices[:, 0], matrices[:, 1]], axis=1)


def astra_geometries(matrices: np.ndarray, volume_shape: tuple[int, int, int], size: int):
    """Place voxel and pixel ``n // 2`` at ASTRA's origin, the middle of the volume and of the detector."""
    import astra

    # bounds of the volume in (x, y, z)
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

    volume_geometry, projection_geometry = astra_geometries(matrices, volume.shape, size)
    sinogram_id, sinogram = astra.create_sino3d_gpu(
        np.ascontiguousarray(volume), projection_geometry, volume_geometry
    )
    astra.data3d.delete(sinogram_id)
    return np.ascontiguousarray(sinogram.swapaxes(0, 1))  # ASTRA stores (v, view, u)


def _backproject_with_astra(images: np.ndarray, matrices: np.ndarray, volume_shape: tuple) -> np.ndarray:
    import astra

    volume_geometry, projection_geometry = astra_geometries(matrices, volume_shape, images.shape[1])
    sinogram = np.ascontiguousarray(images.swapaxes(0, 1))
    volume_id, volume = astra.create_backprojection3d_gpu(sinogram, projection_geometry, volume_geometry)
    astra.data3d.delete(volume_id)
    return volume
