"""Density maps centred on voxel ``n // 2`` of each axis: boxes, resampling, filters and soft masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from cryoem.validation import finite_array, not_negative, positive_number

SOLVENT_SHARE = 0.01  # smallest solvent level, relative to the largest deviation from it, that matters
SOLVENT_ERRORS = 20  # and smallest multiple of its approximate standard error; noise in maps is correlated
SLAB_PX = 32  # thickness of the slabs in which distances are computed
LOW_PASS_EDGE = 0.1  # width of the edge as a fraction of the cut-off frequency


@dataclass(frozen=True, eq=False)
class DensityMap:
    """Density on a regular grid.

    Parameters
    ----------
    data : array
        (z, y, x) density values, stored as float32.
    voxel_size_angstrom : float
        Edge length of the cubic voxels in angstrom.
    origin : tuple of float
        Position (x, y, z) of the centre of voxel [0, 0, 0] in angstrom, in the coordinates of the atomic model.
        Default: (0, 0, 0).

    Raises
    ------
    ValueError
        ``data`` is empty, complex, not finite or not three-dimensional; ``voxel_size_angstrom`` is not positive; or
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
    """Shift a map by whole voxels so that its centre of mass is at voxel ``n // 2``.

    The centre of mass is computed from the density in excess of ``threshold``. Density that is shifted out of the box
    is lost, and vacated voxels are set to zero; pad the map first to keep all of its density. The origin is updated, so
    the density keeps its position in space.

    Raises
    ------
    ValueError
        No voxel is above ``threshold``.
    """
    weight = np.maximum(density_map.data.astype(float) - threshold, 0)
    if not weight.any():
        raise ValueError(
            f"threshold must be below the maximum of the map, {density_map.data.max()}, got {threshold}"
        )
    start = []
    for axis, n in enumerate(weight.shape):
        profile = weight.sum(axis=tuple(other for other in range(3) if other != axis))
        start.append(round(float(profile @ np.arange(n) / profile.sum())) - n // 2)
    return _window(density_map, start, weight.shape)


def crop_or_pad(density_map: DensityMap, shape: int | tuple[int, int, int]) -> DensityMap:
    """Crop or zero-pad a map to ``shape`` (z, y, x) voxels, or to a cube if ``shape`` is one number.

    Along each axis, voxel ``n // 2`` of the map becomes voxel ``m // 2`` of the result. The origin is updated, so all
    voxels keep their position in space.

    Raises
    ------
    ValueError
        ``shape`` is not one or three positive integers.
    """
    wanted = three_sizes("shape", shape)
    start = [n // 2 - m // 2 for n, m in zip(density_map.data.shape, wanted, strict=True)]
    return _window(density_map, start, wanted)


def cube(density_map: DensityMap, size: int | None = None) -> DensityMap:
    """Crop or zero-pad a map to a cube with edges of ``size`` voxels, by default the longest edge of the map."""
    return crop_or_pad(density_map, max(density_map.data.shape) if size is None else size)


def enclosing_image_size(density_map: DensityMap) -> int:
    """Return an image width in pixels that is large enough for the projections of a map in every direction.

    The pixel size is the voxel size. A cubic box is assumed to leave room around the particle, so the result is its
    edge length. Any other box is assumed to fit tightly, so the result is its diagonal, rounded down to an even number.
    """
    shape = density_map.data.shape
    if len(set(shape)) == 1:
        return shape[0]
    return int(np.hypot.reduce(np.array(shape, float)) // 2 * 2)


def share_beyond(density_map: DensityMap, radius_px: float) -> float:
    """Return the fraction of a map's squared density that lies further than ``radius_px`` voxels from the origin."""
    power = np.square(density_map.data - np.float32(solvent_level(density_map)), dtype=float)
    total = power.sum()
    return float(1 - (power * soft_sphere(power.shape, radius_px, 0)).sum() / total) if total else 0.0


def solvent_level(density_map: DensityMap) -> float:
    """Return the density of the solvent around the particle, or 0 if it does not differ clearly from 0.

    The level is the median on the six faces of the box. It counts as 0 if it is less than 1 % of the largest deviation
    from it, or cannot be distinguished from 0 in the noise on the faces.
    """
    data = density_map.data
    faces = np.concatenate([data.take([0, -1], axis).ravel() for axis in range(3)]).astype(float)
    level = float(np.median(faces))
    error = np.median(np.abs(faces - level)) / np.sqrt(faces.size)
    largest = float(np.abs(data - level).max())
    return level if abs(level) > max(SOLVENT_SHARE * largest, SOLVENT_ERRORS * error) and largest > 0 else 0.0


def subtract_solvent(density_map: DensityMap) -> DensityMap:
    """Subtract the solvent level of a map, so that its projections show the particle but not the box."""
    data = density_map.data - np.float32(solvent_level(density_map))
    return DensityMap(data, density_map.voxel_size_angstrom, density_map.origin)


def resample(density_map: DensityMap, voxel_size_angstrom: float) -> DensityMap:
    """Resample a periodic map to a different voxel size, using its Fourier series.

    Frequencies up to the lower of the two Nyquist frequencies are kept. An axis of n voxels becomes an axis of m
    voxels, where m is n times the ratio of the old to the new voxel size, rounded to an integer. The new voxel size is
    exact. Voxel ``n // 2`` becomes voxel ``m // 2`` at the same position in space. Density values are preserved, but
    not their sum.

    Raises
    ------
    ValueError
        The voxel size is not positive, or is so large that an axis would have no voxels.
    """
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    step = voxel_size_angstrom / density_map.voxel_size_angstrom
    sizes = [round(n / step) for n in density_map.data.shape]
    if min(sizes) < 1:
        extent = min(density_map.data.shape) * density_map.voxel_size_angstrom
        raise ValueError(
            f"voxel_size_angstrom must be below the shortest box edge of {extent:g} angstrom, got {voxel_size_angstrom}"
        )
    data = density_map.data
    for n, m in zip(density_map.data.shape, sizes, strict=True):
        data = np.tensordot(
            data, _fourier_interpolation(n, m, step), axes=(0, 1)
        )  # the interpolated axis becomes the last one
    origin = [
        start + (n // 2) * density_map.voxel_size_angstrom - (m // 2) * voxel_size_angstrom
        for start, n, m in zip(density_map.origin, density_map.data.shape[::-1], sizes[::-1], strict=True)
    ]
    return DensityMap(data, voxel_size_angstrom, tuple(origin))


def _fourier_interpolation(n: int, m: int, step: float) -> np.ndarray:
    """Return the (m, n) matrix that interpolates n periodic samples at m points ``step`` apart, within both bands."""
    position = (np.arange(m) - m // 2) * step + n // 2
    offset = position[:, None] - np.arange(n)  # (m, n)
    kernel = np.ones_like(offset)
    nyquist = n / (2 * max(step, 1.0))
    for k in range(1, int(nyquist * (1 + 1e-9)) + 1):
        at_nyquist = abs(k - nyquist) < 1e-6 * nyquist
        kernel += (1 if at_nyquist else 2) * np.cos(2 * np.pi * k * offset / n)
    return (kernel / n).astype(np.float32)


def _window(density_map: DensityMap, start, shape) -> DensityMap:
    """Return voxels [start, start + shape) of a map (z, y, x). Voxels outside the map are zero."""
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
    """Return one or three edge lengths as three, or raise a ValueError if they are not positive integers."""
    sizes = np.atleast_1d(value)
    if sizes.size not in (1, 3) or sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise ValueError(f"{name} must be one or three positive integers, got {value}")
    return tuple(int(size) for size in np.broadcast_to(sizes, 3))


# --- filters and masks


def low_pass(density_map: DensityMap, resolution_angstrom: float) -> DensityMap:
    """Low-pass filter a map to a given resolution.

    The map is treated as periodic, and its mean is preserved. The filter has a raised-cosine edge whose width is a
    tenth of the cut-off frequency. The filter halves the amplitudes at the given resolution.

    Raises
    ------
    ValueError
        ``resolution_angstrom`` is not positive.
    """
    positive_number(resolution_angstrom, name="resolution_angstrom")
    *leading, last = density_map.data.shape
    spacing = density_map.voxel_size_angstrom
    axes = [fft.fftfreq(n, spacing) for n in leading] + [fft.rfftfreq(last, spacing)]
    spectrum = fft.rfftn(density_map.data)
    for plane, z in zip(spectrum, axes[0], strict=True):
        frequency = np.sqrt(z**2 + np.square(axes[1])[:, None] + np.square(axes[2]))
        plane *= _cosine_step((frequency * resolution_angstrom - 1) / LOW_PASS_EDGE + 0.5).astype(np.float32)
    data = fft.irfftn(spectrum, s=density_map.data.shape, overwrite_x=True)
    return DensityMap(data, spacing, density_map.origin)


def soft_mask(
    density_map: DensityMap, *, threshold: float | None = None, extend_px: float = 2.0, edge_px: float = 4.0
) -> np.ndarray:
    """Return a soft mask of the particle, (z, y, x) float32: 1 inside, falling smoothly to 0 outside.

    Parameters
    ----------
    density_map : DensityMap
        Density map of the particle.
    threshold : float, optional
        Density above which a voxel belongs to the particle. Connected pieces with less than a tenth of the volume of
        the largest piece are discarded as noise. Default: Otsu's threshold, which minimises the variance within the two
        classes of voxels.
    extend_px : float
        Distance in voxels by which the mask is extended beyond the particle before its edge begins. Default: 2.
    edge_px : float
        Width of the raised-cosine edge in voxels. Default: 4.

    Raises
    ------
    ValueError
        No voxel is above ``threshold``, or a distance or width is negative.
    """
    not_negative(extend_px, name="extend_px")
    not_negative(edge_px, name="edge_px")
    if threshold is None:
        threshold = _otsu_threshold(density_map.data)
    inside = density_map.data > threshold
    if not inside.any():
        raise ValueError(
            f"threshold must be below the maximum of the map, {density_map.data.max()}, got {threshold}"
        )
    pieces, _ = ndimage.label(inside)
    volumes = np.bincount(pieces.ravel())
    volumes[0] = 0
    inside = (volumes >= volumes.max() / 10)[pieces] & inside
    del pieces  # four times as large as the result
    return _soft_edge_around(inside, extend_px, edge_px)


def _soft_edge_around(inside: np.ndarray, inner: float, width: float) -> np.ndarray:
    """Return ``_soft_edge`` of the distances to the voxels inside.

    Distances take some 60 bytes per voxel, so they are computed slab by slab, in the box around the voxels inside.
    """
    margin = int(np.ceil(inner + width)) + 1
    (found,) = ndimage.find_objects(inside.view(np.uint8))
    box = [slice(max(s.start - margin, 0), s.stop + margin) for s in found]
    edge = np.zeros(inside.shape, np.float32)
    for start in range(box[0].start, min(box[0].stop, len(inside)), SLAB_PX):
        low = max(start - margin, 0)
        part = inside[(slice(low, start + SLAB_PX + margin), *box[1:])]
        if part.any():
            target = edge[(slice(start, start + SLAB_PX), *box[1:])]
            distance = ndimage.distance_transform_edt(~part)[start - low :][: len(target)]
            target[:] = _soft_edge(distance, inner, width)
    return edge


def soft_sphere(shape: tuple[int, ...], radius_px: float, edge_px: float) -> np.ndarray:
    """Return a ball, or a disc in two dimensions, centred on voxel ``n // 2`` of each axis, with a raised-cosine edge.

    The result is a float32 array with the given shape. It is 1 within ``radius_px`` of the centre and 0 beyond
    ``radius_px + edge_px``.

    Raises
    ------
    ValueError
        ``radius_px`` or ``edge_px`` is negative or not finite.
    """
    not_negative(radius_px, name="radius_px")
    not_negative(edge_px, name="edge_px")
    axes = np.ix_(*(np.square(np.arange(n, dtype=np.float32) - n // 2) for n in shape))
    return _soft_edge(np.sqrt(sum(axes)), radius_px, edge_px)


def _soft_edge(distance: np.ndarray, inner: float, width: float) -> np.ndarray:
    """Return 1 for distances up to ``inner`` and 0 beyond ``inner + width``, with a raised cosine in between."""
    if width == 0:
        return (distance <= inner).astype(np.float32)
    return _cosine_step((distance - inner) / width).astype(np.float32)


def _cosine_step(t: np.ndarray) -> np.ndarray:
    """Return a raised cosine from 1 (t <= 0) to 0 (t >= 1)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(t, 0, 1))


def _otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold that maximises the variance between the classes below and above it (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    n_below = np.cumsum(counts)[:-1]
    n_above = values.size - n_below
    sum_below = np.cumsum(counts * middle)[:-1]
    sum_above = (counts * middle).sum() - sum_below
    between = n_below * n_above * (sum_below / n_below - sum_above / n_above) ** 2
    return float(edges[1:-1][np.argmax(between)])


def mirror(density_map: DensityMap) -> DensityMap:
    """Return the map of the other hand: mirrored along z about voxel ``n // 2``, which stays in place.

    If the number of sections is even, the first section, which has no mirror image in the box, also stays in place.
    """
    data = density_map.data[::-1]
    if len(data) % 2 == 0:
        data = np.roll(data, 1, axis=0)
    return replace(density_map, data=np.ascontiguousarray(data))
