"""What the tests of maps share: small densities of known values and the place of their centre."""

import numpy as np

from cryoem.volumes import DensityMap

FLOAT32_TOLERANCE = 1e-5


def random_map(shape=(5, 6, 7), voxel_size_angstrom=2.5, origin=(1.0, -2.0, 3.0), seed=0):
    data = np.random.default_rng(seed).normal(size=shape)
    return DensityMap(data, voxel_size_angstrom, origin)


def gaussian_ball(shape, voxel_size_angstrom, sigma_angstrom, offset_angstrom=(0, 0, 0)):
    """Gaussian about voxel n // 2, displaced by ``offset_angstrom`` (z, y, x)."""
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    squared = sum(
        (axis * voxel_size_angstrom - d) ** 2 for axis, d in zip(axes, offset_angstrom, strict=True)
    )
    return DensityMap(np.exp(-squared / (2 * sigma_angstrom**2)), voxel_size_angstrom)


def centre_position(density_map):
    """Position (x, y, z) in space of voxel n // 2."""
    index = np.array([n // 2 for n in density_map.data.shape[::-1]])
    return np.array(density_map.origin) + index * density_map.voxel_size_angstrom
