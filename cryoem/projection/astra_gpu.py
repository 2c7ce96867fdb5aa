"""Ray-traced projection on a GPU through the ASTRA toolbox (``parallel3d_vec``).

ASTRA has no 3-D projector for the CPU, and a 3-D call without a GPU terminates the Python process.  Call ``is_usable``
first.

References: van Aarle et al., Optics Express 24 (2016) 25129; https://astra-toolbox.com/docs/geom3d.html.
"""

from __future__ import annotations

import numpy as np


def is_usable() -> bool:
    """Return whether astra-toolbox imports and reports a CUDA device."""
    try:
        import astra
    except ImportError:
        return False
    return bool(astra.use_cuda())


def detector_vectors(matrices: np.ndarray) -> np.ndarray:
    """Describe orientations as ASTRA does: (n, 12) rows of ray direction, detector centre, and detector steps u and v.

    All vectors are in the particle's frame, in (x, y, z) order and in voxels: rays run along the third row of R, image
    x along the first, image y along the second.  ASTRA's origin is the middle of the voxel array and of the detector,
    while that of this package is voxel ``n // 2``; ``_geometries`` shifts by the half voxel.
    """
    centre = np.zeros((len(matrices), 3))
    return np.concatenate([matrices[:, 2], centre, matrices[:, 0], matrices[:, 1]], axis=1)


def _geometries(matrices: np.ndarray, volume_shape: tuple[int, int, int], size: int):
    import astra

    # place the window of the volume, (x, y, z), so that the middle of voxel n // 2 is the origin
    sizes = volume_shape[::-1]
    low = [-0.5 - n // 2 for n in sizes]
    high = [edge + n for edge, n in zip(low, sizes, strict=True)]
    nx, ny, nz = sizes
    volume = astra.create_vol_geom(ny, nx, nz, low[0], high[0], low[1], high[1], low[2], high[2])
    # move the detector by half a pixel for the same reason
    vectors = detector_vectors(matrices)
    half_pixel = (size - 1) / 2 - size // 2
    vectors[:, 3:6] += half_pixel * (vectors[:, 6:9] + vectors[:, 9:12])
    return volume, astra.create_proj_geom("parallel3d_vec", size, size, vectors)


def project(volume: np.ndarray, matrices: np.ndarray, size: int) -> np.ndarray:
    """Compute line integrals of a (z, y, x) volume: (n, size, size) float32."""
    import astra

    volume_geometry, projection_geometry = _geometries(matrices, volume.shape, size)
    sinogram_id, sinogram = astra.create_sino3d_gpu(
        np.ascontiguousarray(volume), projection_geometry, volume_geometry
    )
    astra.data3d.delete(sinogram_id)
    return np.ascontiguousarray(sinogram.swapaxes(0, 1))  # ASTRA stores (v, view, u)


def backproject(images: np.ndarray, matrices: np.ndarray, volume_shape: tuple[int, int, int]) -> np.ndarray:
    """Apply the adjoint of ``project``, up to ASTRA's interpolation: (z, y, x) float32."""
    import astra

    volume_geometry, projection_geometry = _geometries(matrices, volume_shape, images.shape[1])
    sinogram = np.ascontiguousarray(images.swapaxes(0, 1))
    volume_id, volume = astra.create_backprojection3d_gpu(sinogram, projection_geometry, volume_geometry)
    astra.data3d.delete(volume_id)
    return volume
