"""Change the box or the sampling of a map; voxel ``n // 2`` of each axis stays the centre."""

from __future__ import annotations

import numpy as np

from cryoem.checks import positive_number
from cryoem.volumes.maps import DensityMap


def centre(density_map: DensityMap, *, threshold: float = 0.0) -> DensityMap:
    """Shift a map by whole voxels so that its centre of mass falls on voxel ``n // 2``.

    Parameters
    ----------
    density_map : (z, y, x) map.
    threshold : only density above it counts, by the amount that it is above.

    Returns
    -------
    DensityMap of the same shape.  Nothing wraps: what leaves the box is lost (pad first to keep it), what
    enters is zero.  The origin moves along, so that the density stays where it was in space.

    Raises
    ------
    ValueError : no voxel is above ``threshold``.
    """
    weight = np.maximum(density_map.data.astype(float) - threshold, 0)
    if not weight.any():
        raise ValueError(
            f"threshold must be below the map's maximum {density_map.data.max()}, got {threshold}"
        )
    start = []
    for axis, n in enumerate(weight.shape):
        profile = weight.sum(axis=tuple(other for other in range(3) if other != axis))
        start.append(round(float(profile @ np.arange(n) / profile.sum())) - n // 2)
    return _window(density_map, start, weight.shape)


def crop_or_pad(density_map: DensityMap, shape: int | tuple[int, int, int]) -> DensityMap:
    """Cut or zero-pad a map to ``shape`` (z, y, x) voxels, or to a cube of that edge.

    Voxel ``n // 2`` of the map becomes voxel ``m // 2``; the origin is updated so that every voxel kept stays
    where it was in space.

    Raises
    ------
    ValueError : ``shape`` is not one or three positive integers.
    """
    wanted = three_sizes("shape", shape)
    start = [n // 2 - m // 2 for n, m in zip(density_map.data.shape, wanted, strict=True)]
    return _window(density_map, start, wanted)


def cube(density_map: DensityMap, size: int | None = None) -> DensityMap:
    """``crop_or_pad`` to a cube of edge ``size`` voxels, by default the longest edge of the map."""
    return crop_or_pad(density_map, max(density_map.data.shape) if size is None else size)


def enclosing_image_size(density_map: DensityMap) -> int:
    """Side, in pixels of one voxel, of images that hold a map's projections from every direction.

    A cubic box is taken to leave room around its particle, and gives its own side; another box is taken to fit tightly,
    and gives its diagonal, rounded down to an even number.
    """
    shape = density_map.data.shape
    if len(set(shape)) == 1:
        return shape[0]
    return int(np.hypot.reduce(np.array(shape, float)) // 2 * 2)


def resample(density_map: DensityMap, voxel_size_angstrom: float) -> DensityMap:
    """Sample a map at another voxel size: its Fourier series, cut off at the lower of the two Nyquist frequencies.

    Parameters
    ----------
    density_map : (z, y, x) map of edge n voxels, taken as periodic.
    voxel_size_angstrom : the new voxel size, met exactly.

    Returns
    -------
    DensityMap of edge m, the nearest integer to n times the ratio of the voxel sizes.  Voxel n // 2 of the
    map becomes voxel m // 2, at the same place in space.  Values are densities: they, not their sum, are
    kept.

    Raises
    ------
    ValueError : the voxel size is not positive, or so large that an axis would have no voxel left.
    """
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    step = voxel_size_angstrom / density_map.voxel_size_angstrom
    sizes = [round(n / step) for n in density_map.data.shape]
    if min(sizes) < 1:
        extent = min(density_map.data.shape) * density_map.voxel_size_angstrom
        raise ValueError(
            f"voxel_size_angstrom must be below the box edge of {extent:g}, got {voxel_size_angstrom}"
        )
    data = density_map.data
    for n, m in zip(density_map.data.shape, sizes, strict=True):
        data = np.tensordot(data, _fourier_interpolation(n, m, step), axes=(0, 1))  # the axis done goes last
    origin = [
        start + (n // 2) * density_map.voxel_size_angstrom - (m // 2) * voxel_size_angstrom
        for start, n, m in zip(density_map.origin, density_map.data.shape[::-1], sizes[::-1], strict=True)
    ]
    return DensityMap(data, voxel_size_angstrom, tuple(origin))


def _fourier_interpolation(n: int, m: int, step: float) -> np.ndarray:
    """Matrix (m, n) from n periodic samples to m values ``step`` apart, band-limited by both grids."""
    position = (np.arange(m) - m // 2) * step + n // 2
    offset = position[:, None] - np.arange(n)  # (m, n)
    kernel = np.ones_like(offset)
    nyquist = n / (2 * max(step, 1.0))
    for k in range(1, int(nyquist * (1 + 1e-9)) + 1):
        at_nyquist = abs(k - nyquist) < 1e-6 * nyquist
        kernel += (1 if at_nyquist else 2) * np.cos(2 * np.pi * k * offset / n)
    return (kernel / n).astype(np.float32)


def _window(density_map: DensityMap, start, shape) -> DensityMap:
    """Voxels [start, start + shape) of a map (z, y, x); those outside of it are zero."""
    data = np.zeros(shape, np.float32)
    source, target = [], []
    for first, m, n in zip(start, shape, density_map.data.shape, strict=True):
        low, high = max(first, 0), max(min(first + m, n), 0)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - first, max(low, high) - first))
    data[tuple(target)] = density_map.data[tuple(source)]
    shift_angstrom = [first * density_map.voxel_size_angstrom for first in reversed(start)]
    origin = tuple(a + b for a, b in zip(density_map.origin, shift_angstrom, strict=True))
    return DensityMap(data, density_map.voxel_size_angstrom, origin)


def three_sizes(name: str, value) -> tuple[int, int, int]:
    """One edge or three, as three; raises a ValueError that names the argument."""
    sizes = np.atleast_1d(value)
    if sizes.size not in (1, 3) or sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise ValueError(f"{name} must be one or three positive integers, got {value}")
    return tuple(int(size) for size in np.broadcast_to(sizes, 3))
