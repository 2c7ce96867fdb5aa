"""Density maps, their boxes and their sampling, centred on voxel ``n // 2`` of each axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoem.validation import positive_number


@dataclass(frozen=True, eq=False)
class DensityMap:
    """Density on a regular grid.

    Parameters
    ----------
    data : array
        (z, y, x) real numbers, stored as float32.
    voxel_size_angstrom : float
        Edge of the cubic voxels.
    origin : tuple of float
        (x, y, z) in angstrom, the position of the centre of voxel [0, 0, 0] in the frame of the model.

    Raises
    ------
    ValueError
        ``data`` is not three-dimensional, empty, complex or not finite; ``voxel_size_angstrom`` is not positive; or
        ``origin`` is not three finite numbers.
    """

    data: np.ndarray
    voxel_size_angstrom: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self):
        data = np.asarray(self.data)
        if data.ndim != 3 or data.size == 0:
            raise ValueError(f"data must be (z, y, x) with at least one voxel, got shape {data.shape}")
        if data.dtype.kind not in "biuf":
            raise ValueError(f"data must be real numbers, got {data.dtype}")
        with np.errstate(over="ignore"):  # values that overflow float32 are reported below
            data = data.astype(np.float32, copy=False)
        if not np.isfinite(data).all():
            n_nan, n_infinite = np.count_nonzero(np.isnan(data)), np.count_nonzero(np.isinf(data))
            raise ValueError(
                f"data must be finite, got {n_nan} NaN and {n_infinite} infinite voxels of {data.size}"
            )
        positive_number(self.voxel_size_angstrom, name="voxel_size_angstrom")
        origin = tuple(float(value) for value in self.origin)
        if len(origin) != 3 or not np.isfinite(origin).all():
            raise ValueError(f"origin must be three finite numbers (x, y, z), got {self.origin}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "voxel_size_angstrom", float(self.voxel_size_angstrom))
        object.__setattr__(self, "origin", origin)


def centre(density_map: DensityMap, *, threshold: float = 0.0) -> DensityMap:
    """Shift a map by whole voxels so that its centre of mass falls on voxel ``n // 2``.

    Only density above ``threshold`` is used, weighted by its excess. Density that leaves the box is lost (pad first to
    keep it) and replaced with zeros. The origin changes too, so that the density keeps its position in space.

    Raises
    ------
    ValueError
        No voxel is above ``threshold``.
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
    """Crop or zero-pad a map to ``shape`` (z, y, x) voxels, or to a cube of that edge.

    Voxel ``n // 2`` of the map becomes voxel ``m // 2``. The origin is updated so that all voxels keep their position
    in space.

    Raises
    ------
    ValueError
        ``shape`` is not one or three positive integers.
    """
    wanted = three_sizes("shape", shape)
    start = [n // 2 - m // 2 for n, m in zip(density_map.data.shape, wanted, strict=True)]
    return _window(density_map, start, wanted)


def cube(density_map: DensityMap, size: int | None = None) -> DensityMap:
    """Crop or zero-pad a map to a cube of edge ``size`` voxels, by default its longest edge."""
    return crop_or_pad(density_map, max(density_map.data.shape) if size is None else size)


def enclosing_image_size(density_map: DensityMap) -> int:
    """Return the side, in pixels of one voxel, of images that contain a map's projections from every direction.

    A cubic box is assumed to leave room around its particle; the result is its edge. Another box is assumed to fit
    tightly; the result is its diagonal, rounded down to an even number.
    """
    shape = density_map.data.shape
    if len(set(shape)) == 1:
        return shape[0]
    return int(np.hypot.reduce(np.array(shape, float)) // 2 * 2)


def resample(density_map: DensityMap, voxel_size_angstrom: float) -> DensityMap:
    """Resample a periodic map to a voxel size by its Fourier series, up to the lower of the two Nyquist frequencies.

    An edge of n voxels becomes m, the nearest integer to n times the ratio of the voxel sizes; the new voxel size is
    met exactly. Voxel n // 2 becomes voxel m // 2, at the same position in space. Densities are preserved, not their
    sum.

    Raises
    ------
    ValueError
        The voxel size is not positive, or so large that an axis would have no voxels.
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
        data = np.tensordot(
            data, _fourier_interpolation(n, m, step), axes=(0, 1)
        )  # the interpolated axis becomes the last
    origin = [
        start + (n // 2) * density_map.voxel_size_angstrom - (m // 2) * voxel_size_angstrom
        for start, n, m in zip(density_map.origin, density_map.data.shape[::-1], sizes[::-1], strict=True)
    ]
    return DensityMap(data, voxel_size_angstrom, tuple(origin))


def _fourier_interpolation(n: int, m: int, step: float) -> np.ndarray:
    """Return the (m, n) matrix from n periodic samples to m values ``step`` apart, band-limited by both grids."""
    position = (np.arange(m) - m // 2) * step + n // 2
    offset = position[:, None] - np.arange(n)  # (m, n)
    kernel = np.ones_like(offset)
    nyquist = n / (2 * max(step, 1.0))
    for k in range(1, int(nyquist * (1 + 1e-9)) + 1):
        at_nyquist = abs(k - nyquist) < 1e-6 * nyquist
        kernel += (1 if at_nyquist else 2) * np.cos(2 * np.pi * k * offset / n)
    return (kernel / n).astype(np.float32)


def _window(density_map: DensityMap, start, shape) -> DensityMap:
    """Return voxels [start, start + shape) of a map (z, y, x); voxels outside the map are zero."""
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
    """Return one or three edges as three, or raise a ValueError if they are not positive integers."""
    sizes = np.atleast_1d(value)
    if sizes.size not in (1, 3) or sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise ValueError(f"{name} must be one or three positive integers, got {value}")
    return tuple(int(size) for size in np.broadcast_to(sizes, 3))
