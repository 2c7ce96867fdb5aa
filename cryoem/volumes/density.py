"""Density maps, centred on voxel ``n // 2`` of each axis: boxes, sampling, filters, and masks with soft edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from cryoem.validation import finite_array, not_negative, positive_number

LOW_PASS_EDGE = 0.1  # width of the fall-off as a fraction of the cut-off frequency


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
        data = finite_array(self.data, name="data", ndim=3, dtype=np.float32)
        positive_number(self.voxel_size_angstrom, name="voxel_size_angstrom")
        origin = finite_array(self.origin, name="origin", ndim=1, dtype=float)
        if len(origin) != 3:
            raise ValueError(f"origin must be three numbers (x, y, z), got {self.origin}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "voxel_size_angstrom", float(self.voxel_size_angstrom))
        object.__setattr__(self, "origin", tuple(origin.tolist()))


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


# --- filters and masks


def low_pass(density_map: DensityMap, resolution_angstrom: float) -> DensityMap:
    """Remove detail finer than a resolution from a map, treated as periodic; its mean is kept.

    The amplitude is halved at the resolution, in the middle of a raised cosine that is a tenth of this frequency wide.

    Raises
    ------
    ValueError
        ``resolution_angstrom`` is not positive.
    """
    positive_number(resolution_angstrom, name="resolution_angstrom")
    *leading, last = density_map.data.shape
    spacing = density_map.voxel_size_angstrom
    axes = [fft.fftfreq(n, spacing) for n in leading] + [fft.rfftfreq(last, spacing)]
    frequency = np.sqrt(sum(np.square(axis) for axis in np.ix_(*axes)))
    transfer = _cosine_step((frequency * resolution_angstrom - 1) / LOW_PASS_EDGE + 0.5)
    data = fft.irfftn(fft.rfftn(density_map.data) * transfer.astype(np.float32), s=density_map.data.shape)
    return DensityMap(data, spacing, density_map.origin)


def soft_mask(
    density_map: DensityMap, *, threshold: float | None = None, extend_px: float = 2.0, edge_px: float = 4.0
) -> np.ndarray:
    """Return a mask of the particle, (z, y, x) float32: 1 inside, falling smoothly to 0 around it.

    Parameters
    ----------
    density_map : DensityMap
    threshold : float, optional
        Density above which a voxel belongs to the particle; by default that of Otsu, which separates the voxels into
        the two classes of least variance. Pieces smaller than a tenth of the largest are discarded as noise.
    extend_px : float
        Distance from these voxels up to which the mask is 1.
    edge_px : float
        Width of the raised-cosine edge beyond.

    Raises
    ------
    ValueError
        No voxel is above ``threshold``, or a width is negative.
    """
    not_negative(extend_px, name="extend_px")
    not_negative(edge_px, name="edge_px")
    if threshold is None:
        threshold = _otsu_threshold(density_map.data)
    inside = density_map.data > threshold
    if not inside.any():
        raise ValueError(
            f"threshold must be below the map's maximum {density_map.data.max()}, got {threshold}"
        )
    pieces, _ = ndimage.label(inside)
    volumes = np.bincount(pieces.ravel())
    volumes[0] = 0
    inside = (volumes >= volumes.max() / 10)[pieces] & inside
    distance = ndimage.distance_transform_edt(~inside)
    return _soft_edge(distance, extend_px, edge_px)


def soft_sphere(shape: tuple[int, ...], radius_px: float, edge_px: float) -> np.ndarray:
    """Return a ball (a disc in two dimensions) about voxel n // 2: 1 up to ``radius_px``, 0 from ``edge_px`` beyond.

    The edge is a raised cosine. The result is float32 of ``shape`` in [0, 1].

    Raises
    ------
    ValueError
        ``radius_px`` or ``edge_px`` is negative or not finite.
    """
    not_negative(radius_px, name="radius_px")
    not_negative(edge_px, name="edge_px")
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    return _soft_edge(np.sqrt(sum(np.square(axis) for axis in axes)), radius_px, edge_px)


def _soft_edge(distance: np.ndarray, inner: float, width: float) -> np.ndarray:
    """Return 1 up to the distance ``inner``, 0 from ``inner + width`` on."""
    if width == 0:
        return (distance <= inner).astype(np.float32)
    return _cosine_step((distance - inner) / width).astype(np.float32)


def _cosine_step(t: np.ndarray) -> np.ndarray:
    """Return a raised cosine from 1 (t <= 0) to 0 (t >= 1)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(t, 0, 1))


def _otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold with the largest variance between the classes below and above it (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    n_below = np.cumsum(counts)[:-1]
    n_above = values.size - n_below
    sum_below = np.cumsum(counts * middle)[:-1]
    sum_above = (counts * middle).sum() - sum_below
    between = n_below * n_above * (sum_below / n_below - sum_above / n_above) ** 2
    return float(edges[1:-1][np.argmax(between)])
