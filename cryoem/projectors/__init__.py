"""Projection of a density along the microscope's z-axis, and its adjoint: exact on the CPU, matched up to ASTRA's
interpolation on a GPU.

``project`` and ``backproject`` are the only doors, with ``Projector`` where a volume is projected block by block;
algorithms call them and never build geometry.  Two backends:
``"fourier"`` reads central slices of the volume's Fourier transform on the CPU; ``"astra"`` traces rays on a GPU.
``"auto"`` takes ASTRA where a usable GPU is visible and the CPU otherwise, or what ``CRYOEM_DEVICE`` asks for.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, square_images, whole_number
from cryoem.devices import VARIABLE, chosen_device

if TYPE_CHECKING:
    from cryoem.projectors import fourier

BACKENDS = ("auto", "fourier", "astra")
BATCH = 256


def project(
    volume: np.ndarray, rotations: Rotation, *, image_size: int | None = None, backend: str = "auto"
) -> np.ndarray:
    """Project a volume along the microscope's z-axis at each orientation.

    Parameters
    ----------
    volume : (z, y, x) real density, any shape; the origin is voxel ``n // 2`` of each axis.
    rotations : n orientations R, ``x_microscope = R @ x_particle``.
    image_size : side of the square images in pixels of one voxel; the longest side of the volume by default.
    backend : ``"auto"``, ``"fourier"`` or ``"astra"``.

    Returns
    -------
    (n, y, x) float32 line integrals in density times voxels; the origin is pixel ``image_size // 2``.

    Raises
    ------
    ValueError : the volume is not 3-D, real and finite, rotations are no ``Rotation``, ``image_size`` is below 2, or
        ``backend`` is unknown.
    RuntimeError : ``backend="astra"`` where no usable GPU is visible.

    Source: the central-slice theorem; accuracy is stated in ``docs/conventions.md``.
    """
    return Projector(volume, image_size=image_size, backend=backend)(rotations)


class Projector:
    """A volume made ready once, to be projected block by block.

    Arguments, errors and what a call with n orientations returns are those of ``project``.  What was made ready,
    some 35 bytes a voxel, stays in memory with the projector; it is not sent along to another process, but made again
    there at the first call.
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
            from cryoem.projectors import astra_gpu

            return astra_gpu.project(self.volume, matrices, n)
        from cryoem.projectors import fourier

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
        from cryoem.projectors import fourier

        return fourier.transform(self.volume)


def backproject(
    images: np.ndarray, rotations: Rotation, *, volume_shape: tuple[int, int, int], backend: str = "auto"
) -> np.ndarray:
    """The exact adjoint of ``project``: smear each image along its viewing direction and add.

    Parameters
    ----------
    images : (n, y, x) real, y == x.
    rotations : n orientations.
    volume_shape : (z, y, x) of the result.
    backend : as in ``project``.

    Returns
    -------
    (z, y, x) float32, such that ``<project(v), images> == <v, backproject(images)>`` for every v of that shape.

    Raises
    ------
    ValueError : images are not (n, y, y), not finite, or not as many as rotations; ``volume_shape`` is not three
        positive numbers; ``backend`` is unknown.
    RuntimeError : ``backend="astra"`` where no usable GPU is visible.
    """
    images = square_images(images)
    matrices = _matrices(rotations)
    if len(images) != len(matrices):
        raise ValueError(f"images must be one for each of the {len(matrices)} rotations, got {len(images)}")
    if np.ndim(volume_shape) != 1 or len(volume_shape) != 3:
        raise ValueError(f"volume_shape must be three sizes (z, y, x), got {volume_shape}")
    volume_shape = tuple(whole_number(n, name="volume_shape", at_least=1) for n in volume_shape)
    if resolve_backend(backend) == "astra":
        from cryoem.projectors import astra_gpu

        return astra_gpu.backproject(images, matrices, volume_shape)
    from cryoem.projectors import fourier

    working = max(images.shape[1], *volume_shape)
    shape = fourier.GridShape(volume_shape)
    frequencies = plane_frequencies(working)
    weights = _twin_count(working) / (2 * working**2)
    half = 0
    for start in range(0, len(matrices), 8 * BATCH):
        batch = slice(start, start + 8 * BATCH)
        slices = half_planes_from_images(_pad(images[batch], working)) * weights.astype(np.float32)
        half = half + fourier.spread_slices(slices, matrices[batch], frequencies, shape)
    return fourier.untransform(half, shape)


def resolve_backend(backend: str) -> str:
    """The backend that a name stands for on this machine: ``"fourier"`` or ``"astra"``.

    Raises ValueError for an unknown name, RuntimeError for ``"astra"`` where ASTRA sees no usable GPU, or is not to use
    it: the toolbox has no CPU projector in 3-D, and calling it without a GPU would end the process.  See ``devices``
    for the switch.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "fourier":
        return backend
    from cryoem.projectors import astra_gpu

    device = chosen_device()
    if device == "cpu" and backend == "astra":
        raise RuntimeError(f'backend="astra" needs a GPU, and {VARIABLE}=cpu forbids one')
    if device != "cpu" and astra_gpu.is_usable():
        return "astra"
    if backend == "astra" or device == "gpu":
        wanted = 'backend="astra"' if backend == "astra" else f"{VARIABLE}=gpu"
        raise RuntimeError(f"{wanted} needs astra-toolbox and a visible GPU, and none is usable here")
    return "fourier"


def plane_frequencies(size: int) -> np.ndarray:
    """(f_x, f_y) in cycles per pixel of every element of ``rfft2`` of a square image: (size * (size // 2 + 1), 2)."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    return np.stack([fx.ravel(), fy.ravel()], axis=1).astype(np.float32)


def half_planes_from_images(images: np.ndarray) -> np.ndarray:
    """Centred ``rfft2`` of (n, y, y) images, origin at pixel y // 2: (n, y * (y // 2 + 1)) complex64."""
    shifted = scipy.fft.ifftshift(np.asarray(images, np.float32), axes=(1, 2))
    return scipy.fft.rfft2(shifted, workers=-1).reshape(len(images), -1)


def images_from_half_planes(planes: np.ndarray, size: int) -> np.ndarray:
    """Inverse of ``half_planes_from_images``: (n, size, size) float32."""
    spectra = planes.reshape(len(planes), size, size // 2 + 1)
    return scipy.fft.fftshift(scipy.fft.irfft2(spectra, s=(size, size), workers=-1), axes=(1, 2))


def _twin_count(size: int) -> np.ndarray:
    """How many elements of the full plane each half-plane element stands for, 1 or 2: (size * (size // 2 + 1),)."""
    count = np.full((size, size // 2 + 1), 2)
    count[:, 0] = 1
    if size % 2 == 0:
        count[:, -1] = 1
    return count.ravel()


def _crop(images: np.ndarray, size: int) -> np.ndarray:
    start = images.shape[1] // 2 - size // 2
    return images[:, start : start + size, start : start + size]


def _pad(images: np.ndarray, size: int) -> np.ndarray:
    before = size // 2 - images.shape[1] // 2
    after = size - images.shape[1] - before
    return np.pad(images, ((0, 0), (before, after), (before, after)))


def _matrices(rotations: Rotation) -> np.ndarray:
    """(n, 3, 3) of one rotation or a sequence of n."""
    if not isinstance(rotations, Rotation):
        raise ValueError(f"rotations must be a scipy Rotation, got {type(rotations).__name__}")
    return rotations.as_matrix().reshape(-1, 3, 3)
