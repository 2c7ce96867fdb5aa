"""Helpers for testing maps: small densities with known values, the position of their centre, RELION's ribosome."""

import numpy as np
import pytest

from cryoem import volumes
from cryoem.volumes.density import DensityMap

FLOAT32_TOLERANCE = 1e-5


def random_map(shape=(5, 6, 7), voxel_size_angstrom=2.5, origin=(1.0, -2.0, 3.0), seed=0):
    data = np.random.default_rng(seed).normal(size=shape)
    return DensityMap(data, voxel_size_angstrom, origin)


def gaussian_ball(shape, voxel_size_angstrom, sigma_angstrom, offset_angstrom=(0, 0, 0)):
    """Return a Gaussian about voxel n // 2, displaced by ``offset_angstrom`` (z, y, x)."""
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    squared = sum(
        (axis * voxel_size_angstrom - d) ** 2 for axis, d in zip(axes, offset_angstrom, strict=True)
    )
    return DensityMap(np.exp(-squared / (2 * sigma_angstrom**2)), voxel_size_angstrom)


def centre_position(density_map):
    """Return the position (x, y, z) of voxel n // 2 in space."""
    index = np.array([n // 2 for n in density_map.data.shape[::-1]])
    return np.array(density_map.origin) + index * density_map.voxel_size_angstrom


def ribosome(folder) -> np.ndarray:
    with pytest.warns(UserWarning, match="no cell in its header"):
        return volumes.read_map(folder / "maps" / "ribosome-70S_65px.mrc").data


def cropped_to_64(volume) -> np.ndarray:
    """Return the map as cropped for RELION: in Fourier space, about voxel 0 instead of the centre."""
    spectrum = np.fft.fftshift(np.fft.fftn(volume))[:-1, :-1, :-1]  # frequencies -32 ... 31
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real * (64 / 65) ** 3
