"""Sums of central slices in the Fourier space of a cubic volume, stored only inside the ball that slices can reach.

The grid is the oversampled one of ``cryoem.projection.fourier``, with the same interpolation kernel. Slices that end at
the Nyquist circle reach only a ball, which is about half of the grid, and the half k_z >= 0 of this ball is enough for
a real volume. Each row along x is stored from one side of the ball to the other, one row after another, so that a
sum takes about 26 bytes per voxel of the volume. The inverse transform goes through the axes one by one and crops each
of them at once, so that the padded volume never exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numba
import numpy as np
import scipy.fft

from cryoem.projection import kernels
from cryoem.projection.fourier import GridShape, cropped
from cryoem.projection.kernels import KERNEL_TABLE, RIM

SLAB_BYTES = 8_000_000  # size of the planes that are transformed at a time


@dataclass(frozen=True, eq=False)
class HalfBall:
    """Rows of the half ball in Fourier space for a cubic volume ``size`` voxels wide.

    Row [k_z + 1, k_y + full // 2 + RIM] consists of the points with k_x from ``-reach`` to ``reach``. The one with k_x
    = 0 has the index ``middle`` among all stored points. Rows outside the ball have a negative ``reach``.
    """

    size: int

    @property
    def full(self) -> int:
        """Width of the full grid."""
        return GridShape((self.size,) * 3).full[0]

    @cached_property
    def reach(self) -> np.ndarray:
        """Last k_x of each row: (planes, rows) int32."""
        half = self.full // 2
        kz = np.arange(-1, half + RIM + 1)[:, None]
        ky = np.arange(-half - RIM, half + RIM + 1)
        # the kernel reaches RIM points along each axis; the rest is for rounding
        squared = (half + RIM * np.sqrt(3) + 0.1) ** 2 - kz**2 - ky**2
        return np.where(squared >= 0, np.sqrt(np.maximum(squared, 0)), -1).astype(np.int32)

    @cached_property
    def middle(self) -> np.ndarray:
        """Index of k_x = 0 in each row: (planes, rows) int64."""
        lengths = self._lengths.ravel()
        return (np.cumsum(lengths) - lengths).reshape(self.reach.shape) + np.maximum(self.reach, 0)

    @cached_property
    def points(self) -> int:
        """Number of stored points."""
        return int(self._lengths.sum())

    @cached_property
    def radius(self) -> np.ndarray:
        """Distance of each stored point from zero frequency, in grid points: (points,) float32."""
        rows, lengths = np.indices(self.reach.shape).reshape(2, -1), self._lengths.ravel()
        kx = np.arange(self.points) - np.repeat(self.middle.ravel(), lengths)
        squared = (rows[0] - 1) ** 2 + (rows[1] - self.full // 2 - RIM) ** 2
        return np.sqrt(kx**2 + np.repeat(squared, lengths)).astype(np.float32)

    @cached_property
    def shares(self) -> np.ndarray:
        """One half for points that are stored together with their Hermitian twins, otherwise 1: (points,) float32."""
        of_planes = np.where(np.arange(-1, len(self.reach) - 1) <= 1, 0.5, 1).astype(np.float32)
        return np.repeat(of_planes, self._lengths.sum(axis=1))

    @property
    def _lengths(self) -> np.ndarray:
        return np.where(self.reach >= 0, 2 * self.reach.astype(np.int64) + 1, 0)


@lru_cache(maxsize=8)
def half_ball(size: int) -> HalfBall:
    """Return the half ball for a volume ``size`` voxels wide."""
    return HalfBall(size)


def add_slices(
    values: np.ndarray,
    density: np.ndarray,
    planes: np.ndarray,
    matrices: np.ndarray,
    frequencies: np.ndarray,
    *,
    weights: np.ndarray,
    transfers: np.ndarray | None,
    size: int,
) -> None:
    """Add (n, m) slices at (n, 3, 3) orientations to the ``values`` and the ``density`` of a half ball, in place.

    Slice values are multiplied by ``weights`` (m,) and by the CTF ``transfers`` (n, m); the density is the sum of the
    weights times the squared CTF. The (m, 2) ``frequencies``, in cycles per voxel, must lie inside the Nyquist circle.
    The result does not depend on the number of threads.
    """
    ball = half_ball(size)
    if transfers is None:
        transfers = np.empty((0, 0), np.float32)
    kernels.add_points(
        values.view(np.float32),
        density,
        ball.middle,
        ball.full,
        KERNEL_TABLE,
        np.ascontiguousarray(planes, np.complex64),
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        np.ascontiguousarray(weights, np.float32),
        np.ascontiguousarray(transfers, np.float32),
        _zones(matrices, frequencies, ball, numba.get_num_threads()),
    )


def _zones(matrices: np.ndarray, frequencies: np.ndarray, ball: HalfBall, count: int) -> np.ndarray:
    """Divide the planes of a half ball into zones that receive about equally many samples: (count + 1,) edges.

    The numbers of samples are estimated from some of the slices and of the frequencies.
    """
    few, sparse = matrices[:: 1 + len(matrices) // 100], frequencies[:: 1 + len(frequencies) // 500]
    heights = np.abs(few[:, :2, 2] @ sparse.T) * ball.full
    # a sample adds to the planes around it, and the first plane is the one at k_z = -1
    edges = np.quantile(heights, np.linspace(0, 1, count + 1)).astype(np.int64) + 2
    edges[0], edges[-1] = 0, len(ball.reach)
    return edges


def grid_symmetry(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factorise the elements of a point group (k, 3, 3) as ``r h``, where each h maps the grid onto itself.

    Returns the m representatives r of the left cosets, (m, 3, 3), and the rotations h, (k / m, 3, 3) integers. Slices
    need to be added only for each representative: ``symmetrise`` then takes the average over the rotations.
    """

    def on_grid(matrices: np.ndarray) -> np.ndarray:
        return np.isclose(matrices, np.rint(matrices), atol=1e-6).all(axis=(-2, -1))

    representatives: list[np.ndarray] = []
    for g in group:
        if not any(on_grid(r.T @ g) for r in representatives):
            representatives.append(g)
    return np.array(representatives), np.rint(group[on_grid(group)]).astype(np.int64)


def symmetrise(values: np.ndarray, density: np.ndarray, rotations: np.ndarray, *, size: int) -> None:
    """Average the ``values`` and the ``density`` of a half ball over a group of rotations, in place.

    The ``rotations`` (k, 3, 3), integers, map the grid onto itself, so this is exact.
    """
    if len(rotations) > 1:
        ball = half_ball(size)
        _symmetrise(values, density, ball.middle, ball.reach, rotations)


def volume_from_sums(
    values: np.ndarray, density: np.ndarray, *, damping: float, size: int, overwrite: bool = False
) -> np.ndarray:
    """Divide the ``values`` of a half ball by their ``density`` and transform back: (size, size, size) float32.

    ``damping`` is the density, relative to its mean, that is added to all densities. The roll-off of the kernel is
    divided out. If ``overwrite`` is true, ``values`` serves as working memory, and its content is lost.
    """
    ball = half_ball(size)
    full, half = ball.full, ball.full // 2
    roll_off = GridShape((size,) * 3).axis_roll_offs[0]
    floor = np.float32(max(damping * _positive_mean(density), np.finfo(np.float32).tiny))
    # transform x and y, plane by plane
    count = 2 * (half + 1) * size**2
    memory = values.view(np.float32)[:count] if overwrite else np.empty(count, np.float32)
    planes = memory.view(np.complex64).reshape(half + 1, size, size)
    # the first slab includes both planes that need the stored plane at k_z = -1, which it may overwrite; later planes
    # of the result lie before the stored planes that are still needed
    count = max(2, SLAB_BYTES // (8 * full**2))
    for start in range(0, half + 1, count):
        slab = np.zeros((min(count, half + 1 - start), full, full), np.complex64)
        _averages(values, density, ball.middle, ball.reach, start, floor, slab)
        for axis in (2, 1):
            slab = cropped(
                scipy.fft.ifft(slab, axis=axis, workers=-1, norm="forward", overwrite_x=True), size, axis
            )
        planes[start : start + count] = slab
    # transform z, some rows at a time, into the memory of the rows that are done
    volume = memory.reshape(half + 1, size, 2 * size)[:size, :, :size]
    count = max(1, SLAB_BYTES // (8 * full * size))
    scale = np.float32(roll_off.max() ** 3 / full**3)
    for start in range(0, size, count):
        rows = slice(start, start + count)
        padded = scipy.fft.irfft(planes[:, rows], n=full, axis=0, workers=-1, norm="forward")
        kernel = roll_off[:, None, None] * roll_off[rows, None] * roll_off
        volume[:, rows] = cropped(padded, size, 0) * (scale / kernel)
    # move the voxels together, and give the rest of the memory back
    if overwrite:
        return np.ascontiguousarray(volume)
    for z in range(size):
        memory[z * size**2 : (z + 1) * size**2] = volume[z].ravel()
    del planes, volume
    memory.resize(size**3, refcheck=False)  # no other array uses it
    return memory.reshape(size, size, size)


@numba.njit(parallel=True, cache=True)
def _symmetrise(values, density, middle, reach, rotations):
    top, n = middle.shape[0] - 2, len(rotations)
    # each orbit is averaged when its first point is reached
    for kz in numba.prange(top + 1):
        for ky in range(-top if kz > 0 else 0, top + 1):
            furthest = min(reach[kz + 1, ky + top], top)
            for kx in range(-furthest if kz > 0 or ky > 0 else 0, furthest + 1):
                value, seen, first = 0j, 0.0, True
                for r in rotations:
                    x, y, z, opposite = _rotated(kx, ky, kz, r)
                    if (z, y, x) < (kz, ky, kx):
                        first = False
                        break
                    at, twin = _stored(middle, x, y, z)
                    total = values[at] + (np.conj(values[twin]) if twin >= 0 else 0)
                    value += np.conj(total) if opposite else total
                    seen += density[at] + (density[twin] if twin >= 0 else 0)
                if not first:
                    continue
                value, seen = value / n, seen / n
                for r in rotations:
                    x, y, z, opposite = _rotated(kx, ky, kz, r)
                    at, twin = _stored(middle, x, y, z)
                    share = 0.5 if twin >= 0 else 1.0
                    values[at] = share * (np.conj(value) if opposite else value)
                    density[at] = share * seen
                    if twin >= 0:
                        values[twin], density[twin] = np.conj(values[at]), density[at]


@numba.njit(inline="always")
def _rotated(kx, ky, kz, r):
    """Return a rotated grid point or, if that is in the other half, the opposite one, and which of the two it is."""
    x = kx * r[0, 0] + ky * r[1, 0] + kz * r[2, 0]
    y = kx * r[0, 1] + ky * r[1, 1] + kz * r[2, 1]
    z = kx * r[0, 2] + ky * r[1, 2] + kz * r[2, 2]
    if (z, y, x) < (0, 0, 0):
        return -x, -y, -z, True
    return x, y, z, False


@numba.njit(inline="always")
def _stored(middle, x, y, z):
    """Return the index of a point with k_z >= 0, and that of its Hermitian twin, or -1 if this is not stored."""
    top = middle.shape[0] - 2
    return middle[z + 1, top + y] + x, middle[1 - z, top - y] - x if z <= 1 else -1


@numba.njit(nogil=True, cache=True)
def _positive_mean(density):
    total, count = 0.0, 0
    for value in density:
        if value > 0:
            total += value
            count += 1
    return total / max(count, 1)


@numba.njit(nogil=True, cache=True)
def _averages(values, density, middle, reach, start, floor, slab):
    """Write the averages in the planes from k_z = ``start`` to ``slab``, as periodic planes without shift."""
    full = slab.shape[1]
    for index in range(slab.shape[0]):
        kz = start + index
        sums, seen = slab[index], np.zeros((full, full), np.float32)
        _collect(values, density, middle, reach, kz, False, sums, seen)
        # every sample also counts at the opposite frequency, which may be outside the grid
        for opposite in (-kz, full - kz):
            if -1 <= opposite < middle.shape[0] - 1:
                _collect(values, density, middle, reach, opposite, True, sums, seen)
        for y in range(full):
            for x in range(full):
                sums[y, x] /= max(seen[y, x], np.float32(0)) + floor


@numba.njit(cache=True)
def _collect(values, density, middle, reach, kz, opposite, sums, seen):
    """Add one stored plane, or its Hermitian twin, to a periodic plane."""
    full = sums.shape[0]
    for row in range(middle.shape[1]):
        furthest, at = reach[kz + 1, row], middle[kz + 1, row]
        y = row - middle.shape[1] // 2
        if opposite:
            y = -y
        y += full if y < 0 else 0
        for x in range(-furthest, furthest + 1):
            if opposite:
                to = full - x if x > 0 else -x
                sums[y, to] += np.conj(values[at + x])
            else:
                to = full + x if x < 0 else x
                sums[y, to] += values[at + x]
            seen[y, to] += density[at + x]
