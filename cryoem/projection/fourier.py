"""Central slices of a volume's Fourier transform, evaluated off the grid, and the exact adjoint operation.

The transform of the volume is computed on an oversampled grid (``OVERSAMPLING``) and interpolated with a Kaiser-Bessel
kernel that is ``WIDTH`` points wide. The roll-off of the kernel in real space is divided out beforehand. This is a
non-uniform FFT specialised to rotated half-planes of a real volume: a single pass with a tabulated kernel, without a
plan or sorting, parallelised over images. For a real volume, only the half of the grid with k_x >= 0 is needed. A guard
band around it keeps modulo operations out of the inner loop.

Frequencies are in cycles per voxel. The origin of real space is voxel ``n // 2`` along every axis.

References: Jackson et al., IEEE Trans. Med. Imaging 10 (1991) 473; Beatty et al., ibid. 24 (2005) 799 (kernel shape).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.special import i0

OVERSAMPLING = 2.0
WIDTH = 4
TABLE_STEPS = 1024
_BETA = np.pi * np.sqrt((WIDTH / OVERSAMPLING) ** 2 * (OVERSAMPLING - 0.5) ** 2 - 0.8)
_GUARD = WIDTH
_FAST = ("fast",)
_INT = ir.IntType(32)


def _kernel_table() -> np.ndarray:
    """Tabulate kernel weights of the ``WIDTH`` nearest grid points by fractional position: (steps, WIDTH) float32."""
    fraction = np.arange(TABLE_STEPS + 2)[:, None] / TABLE_STEPS
    distance = np.arange(WIDTH)[None, :] - (WIDTH // 2 - 1) - fraction
    inside = np.clip(1 - (2 * distance / WIDTH) ** 2, 0, None)
    return np.where(np.abs(distance) <= WIDTH / 2, i0(_BETA * np.sqrt(inside)) / i0(_BETA), 0).astype(
        np.float32
    )


KERNEL_TABLE = _kernel_table()


def _roll_off(n: int, n_grid: int) -> np.ndarray:
    """Evaluate the kernel's Fourier transform at the n voxel positions along one axis: (n,) float64."""
    position = (np.arange(n) - n // 2) / n_grid
    argument = np.sqrt((_BETA**2 - (np.pi * WIDTH * position) ** 2).astype(complex))
    return WIDTH / i0(_BETA) * np.sinc(argument / np.pi * 1j).real


@dataclass(frozen=True)
class GridShape:
    """Shape of the oversampled Fourier grid of a (z, y, x) volume; only one half, with a guard band, is stored."""

    volume: tuple[int, int, int]

    @property
    def full(self) -> tuple[int, int, int]:
        """Numbers of grid points (z, y, x): even, with small prime factors, and large enough for the guard band."""
        halves = (max(int(np.ceil(OVERSAMPLING * n / 2)), 2 * _GUARD) for n in self.volume)
        return tuple(2 * scipy.fft.next_fast_len(half, real=True) for half in halves)

    @property
    def stored(self) -> tuple[int, int, int]:
        """Shape of the half grid k_x >= 0, including a guard band on each side."""
        nz, ny, nx = self.full
        return nz + 2 * _GUARD, ny + 2 * _GUARD, nx // 2 + 1 + 2 * _GUARD

    @property
    def axis_roll_offs(self) -> list[np.ndarray]:
        """Roll-off of the interpolation kernel in real space along each axis (z, y, x): float32."""
        return [_roll_off(n, m).astype(np.float32) for n, m in zip(self.volume, self.full, strict=True)]

    @property
    def roll_off(self) -> np.ndarray:
        """Roll-off of the interpolation kernel in real space: float32, with the shape of the volume."""
        z, y, x = (_roll_off(n, m) for n, m in zip(self.volume, self.full, strict=True))
        return (z[:, None, None] * y[:, None] * x).astype(np.float32)


@dataclass(frozen=True)
class VolumeTransform:
    """Oversampled half of the Fourier transform of a real volume, with a guard band, for interpolation.

    ``values`` is complex64 with the shape ``shape.stored``. Zero frequency is at index GUARD plus half of the full grid
    along z and y, and at index GUARD along x.
    """

    values: np.ndarray
    shape: GridShape


def transform(volume: np.ndarray) -> VolumeTransform:
    """Transform a real (z, y, x) volume for evaluation off the grid."""
    shape = GridShape(volume.shape)
    half = np.asarray(volume, np.float32) / shape.roll_off
    # pad one axis at a time, so that the padding of the other axes is neither stored nor transformed
    for axis in (2, 1, 0):
        half = _padded_transform(half, shape.full[axis], axis)
    return VolumeTransform(_guarded(half), shape)


def _padded_transform(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Pad one axis to ``length`` and transform it, with position n // 2 as the origin.

    The transform is real along the last axis and complex along the others.
    """
    n = values.shape[axis]
    padded = np.zeros((*values.shape[:axis], length, *values.shape[axis + 1 :]), values.dtype)
    placed, given = np.moveaxis(padded, axis, 0), np.moveaxis(values, axis, 0)
    placed[: n - n // 2] = given[n // 2 :]
    placed[length - n // 2 :] = given[: n // 2]
    if axis == 2:
        return scipy.fft.rfft(padded, axis=axis, workers=-1)
    return scipy.fft.fft(padded, axis=axis, workers=-1, overwrite_x=True)


def _negate(half: np.ndarray) -> np.ndarray:
    """Return the conjugate at (-k_z, -k_y) of an array whose first two axes are even and shifted."""
    return np.roll(half[::-1, ::-1], (1, 1), axis=(0, 1)).conj()


def _guarded(half: np.ndarray) -> np.ndarray:
    """Shift a half grid along z and y, and extend it periodically along z and y and by Hermitian symmetry along x."""
    nz, ny, nx = half.shape
    guarded = np.empty((nz + 2 * _GUARD, ny + 2 * _GUARD, nx + 2 * _GUARD), half.dtype)
    inner = guarded[_GUARD:-_GUARD, _GUARD:-_GUARD]
    middle = inner[..., _GUARD:-_GUARD]
    # shift by half a grid in z and y
    for to_z, from_z in (
        (slice(nz // 2, None), slice(None, nz // 2)),
        (slice(None, nz // 2), slice(nz // 2, None)),
    ):
        middle[to_z, ny // 2 :] = half[from_z, : ny // 2]
        middle[to_z, : ny // 2] = half[from_z, ny // 2 :]
    # fill the guard band
    inner[..., :_GUARD] = _negate(middle[..., _GUARD:0:-1])
    inner[..., -_GUARD:] = _negate(middle[..., -2 : -2 - _GUARD : -1])
    for axis in (1, 0):
        around = np.moveaxis(guarded, axis, 0)
        around[:_GUARD], around[-_GUARD:] = around[-2 * _GUARD : -_GUARD], around[_GUARD : 2 * _GUARD]
    return guarded


def _fold_guard(guarded: np.ndarray) -> np.ndarray:
    """Fold the guard band back into the half grid, and add the Hermitian twins of its samples near k_x = 0 and Nyquist.

    The result is a view.
    """
    rows = guarded[_GUARD:-_GUARD]
    rows[:_GUARD] += guarded[-_GUARD:]
    rows[-_GUARD:] += guarded[:_GUARD]
    wide = rows[:, _GUARD:-_GUARD]
    wide[:, :_GUARD] += rows[:, -_GUARD:]
    wide[:, -_GUARD:] += rows[:, :_GUARD]
    first, last = _negate(wide[..., : _GUARD + 1]), _negate(wide[..., -_GUARD - 1 :])
    half = wide[..., _GUARD:-_GUARD]
    half[..., : _GUARD + 1] += first[..., ::-1]
    half[..., -_GUARD - 1 :] += last[..., ::-1]
    return half


def read_slices(spectrum: VolumeTransform, matrices: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Evaluate the transform on central slices: (n, m) complex64.

    Each slice is spanned by the first two rows of one of the (n, 3, 3) orientations. The m points have (m, 2)
    ``frequencies`` in cycles per voxel, within [-0.5, 0.5].
    """
    values = np.empty((len(matrices), len(frequencies)), np.complex64)
    _read(
        spectrum.values.view(np.float32),
        np.array(spectrum.shape.full),
        KERNEL_TABLE,
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        values,
    )
    return values


def zero_grids(shape: GridShape, count: int) -> np.ndarray:
    """Return a Fourier grid without slices for each of k threads, k <= ``count``: (k, *shape.stored) complex64."""
    return np.zeros((min(numba.get_num_threads(), count), *shape.stored), np.complex64)


def spread_slices(
    grids: np.ndarray, values: np.ndarray, matrices: np.ndarray, frequencies: np.ndarray, shape: GridShape
) -> None:
    """Add (n, m) slice values to Fourier grids, at the points of ``read_slices``, in place.

    ``grids`` (k, *shape.stored) are complex64. Each of k threads adds its part of the slices to one of them.
    """
    _spread(
        np.ascontiguousarray(values, np.complex64),
        np.array(shape.full),
        KERNEL_TABLE,
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        grids.view(np.float32),
    )


def untransform(grids: np.ndarray, shape: GridShape) -> np.ndarray:
    """Transform the sum of grids of slices back, crop it and divide by the kernel's roll-off: (z, y, x) float32.

    The inverse transform is not normalised. Applied after ``spread_slices``, this function gives twice the adjoint of
    ``transform`` followed by ``read_slices``. The content of ``grids`` is lost.
    """
    volume = grids[0]
    for grid in grids[1:]:
        volume += grid
    volume = _fold_guard(volume)
    for axis, n in enumerate(
        shape.volume
    ):  # crop one axis at a time, so that the rest of it is not transformed
        if axis < 2:
            volume = scipy.fft.ifft(volume, axis=axis, workers=-1, norm="forward")
        else:
            volume = scipy.fft.irfft(volume, shape.full[2], axis=2, workers=-1, norm="forward")
        volume = cropped(volume, n, axis)
    z, y, x = shape.axis_roll_offs
    # frequencies are shifted by half a grid along z and y, so every other voxel has the wrong sign
    z, y = (each * (-1.0) ** (np.arange(len(each)) - len(each) // 2) for each in (z, y))
    volume /= (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return volume


def cropped(padded: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Crop one axis with the origin at index 0 to ``size`` voxels with the origin at voxel ``size // 2``."""
    before, after = size // 2, size - size // 2
    ahead = (slice(None),) * axis
    parts = padded[(*ahead, slice(padded.shape[axis] - before, None))], padded[(*ahead, slice(after))]
    return np.concatenate(parts, axis=axis)


@numba.njit(inline="always")
def _place(fx, fy, r, nx, ny, nz):
    """Return the position of an in-plane frequency in the stored half grid, and whether its value is conjugated."""
    kx = (fx * r[0, 0] + fy * r[1, 0]) * nx
    ky = (fx * r[0, 1] + fy * r[1, 1]) * ny
    kz = (fx * r[0, 2] + fy * r[1, 2]) * nz
    kx -= nx * np.round(kx / nx)
    if kx < 0:
        return -kx, -ky, -kz, True
    return kx, ky, kz, False


@numba.njit(inline="always")
def kernel_weights(position, table, weights):
    """Write the kernel weights around a position; return the index of the first grid point."""
    base = np.floor(position)
    scaled = (position - base) * np.float32(TABLE_STEPS)
    row = int(scaled)
    t = np.float32(scaled - row)
    for i in range(WIDTH):
        weights[i] = table[row, i] + t * (table[row + 1, i] - table[row, i])
    return int(base) - (WIDTH // 2 - 1)


@numba.njit(inline="always")
def _first_point(grid, full, table, kx, ky, kz, weights):
    """Write the kernel weights along x, y and z around a frequency; return the position of the first point in a grid.

    ``grid`` (z, y, x) is a stored half grid, viewed as float32 with alternating real and imaginary parts.
    """
    nz, ny, _ = full
    ix = 2 * (kernel_weights(kx, table, weights[0]) + _GUARD)
    iy = (kernel_weights(ky, table, weights[1]) + ny // 2) % ny + _GUARD
    iz = (kernel_weights(kz, table, weights[2]) + nz // 2) % nz + _GUARD
    return (iz * grid.shape[1] + iy) * grid.shape[2] + ix


@numba.njit(inline="always")
def _weighted(points, weights):
    """Return the weighted sum of ``WIDTH`` complex numbers, given as alternating real and imaginary parts."""
    total = np.complex64(0)
    for i in range(WIDTH):
        total += weights[i] * complex(points[2 * i], points[2 * i + 1])
    return total


@numba.njit(inline="always")
def sample(grid, full, table, matrix, fx, fy, weights, sums):
    """Interpolate the transform at one point of a slice; return a complex number.

    ``grid`` is the half grid with its guard band, viewed as float32 with alternating real and imaginary parts. ``full``
    is the (z, y, x) size of the full grid, and ``table`` is ``KERNEL_TABLE``. ``weights`` (3, WIDTH) and ``sums`` (2
    WIDTH) are work arrays.
    """
    nz, ny, nx = full
    kx, ky, kz, conjugate = _place(fx, fy, matrix, nx, ny, nz)
    sum_rows(grid, _first_point(grid, full, table, kx, ky, kz, weights), weights[2], weights[1], sums)
    value = _weighted(sums, weights[0])
    return value.conjugate() if conjugate else value


@numba.njit(inline="always")
def _kernel_slopes(position, table, slopes):
    """Write the derivatives of the kernel weights around a position."""
    row = int((position - np.floor(position)) * np.float32(TABLE_STEPS))
    for i in range(WIDTH):
        slopes[i] = np.float32(TABLE_STEPS) * (table[row + 1, i] - table[row, i])


@numba.njit(inline="always")
def sample_with_slope(grid, full, table, matrix, fx, fy, weights, slopes, sums):
    """Interpolate the transform at one point of a slice, and its derivatives along the axes of the volume.

    The arguments are those of ``sample``, except that ``weights`` and ``slopes`` (3, WIDTH) and ``sums`` (2 WIDTH) are
    work arrays. Return four complex numbers: the value, and the derivatives with respect to the x, y and z frequencies
    in cycles per voxel.
    """
    nz, ny, nx = full
    kx, ky, kz, conjugate = _place(fx, fy, matrix, nx, ny, nz)
    first = _first_point(grid, full, table, kx, ky, kz, weights)
    _kernel_slopes(kx, table, slopes[0])
    _kernel_slopes(ky, table, slopes[1])
    _kernel_slopes(kz, table, slopes[2])
    sum_rows(grid, first, weights[2], weights[1], sums)
    value, x = _weighted(sums, weights[0]), nx * _weighted(sums, slopes[0])
    sum_rows(grid, first, weights[2], slopes[1], sums)
    y = ny * _weighted(sums, weights[0])
    sum_rows(grid, first, slopes[2], weights[1], sums)
    z = nz * _weighted(sums, weights[0])
    if conjugate:  # V(p) = conj(V(-p))
        return value.conjugate(), -x.conjugate(), -y.conjugate(), -z.conjugate()
    return value, x, y, z


@numba.njit(parallel=True, fastmath=True, cache=True)
def _read(grid, full, table, matrices, frequencies, values):
    for i in numba.prange(matrices.shape[0]):
        weights, sums = np.empty((3, WIDTH), np.float32), np.empty(2 * WIDTH, np.float32)
        for j in range(frequencies.shape[0]):
            fx, fy = frequencies[j, 0], frequencies[j, 1]
            values[i, j] = sample(grid, full, table, matrices[i], fx, fy, weights, sums)


@numba.njit(parallel=True, fastmath=True, cache=True)
def _spread(values, full, table, matrices, frequencies, grids):
    nz, ny, nx = full
    n, chunks = matrices.shape[0], grids.shape[0]
    for chunk in numba.prange(chunks):
        grid = grids[chunk]
        points = grid.reshape(-1)
        weights, row = np.empty((3, WIDTH), np.float32), np.empty(2 * WIDTH, np.float32)
        for i in range(chunk * n // chunks, (chunk + 1) * n // chunks):
            for j in range(frequencies.shape[0]):
                kx, ky, kz, conjugate = _place(frequencies[j, 0], frequencies[j, 1], matrices[i], nx, ny, nz)
                first = _first_point(grid, full, table, kx, ky, kz, weights)
                value = values[i, j].conjugate() if conjugate else values[i, j]
                for k in range(WIDTH):
                    row[2 * k], row[2 * k + 1] = weights[0, k] * value.real, weights[0, k] * value.imag
                for a in range(WIDTH):
                    for b in range(WIDTH):
                        at = first + (a * grid.shape[1] + b) * grid.shape[2]
                        add_complex_row(points, at, weights[2, a] * weights[1, b], row)


# --- vector instructions, which LLVM does not find in loops over so few numbers; a row has ``WIDTH`` points along x


@intrinsic
def sum_rows(typing_context, grid, start, weights_z, weights_y, sums):
    """Add the rows of ``WIDTH`` x ``WIDTH`` points with weights along z and y, and write them to ``sums`` (2 WIDTH).

    The first row begins at the position ``start`` in ``grid`` (z, y, x), float32, in which real and imaginary parts
    alternate.
    """

    def generate(context, builder, signature, arguments):
        grid, weights_z, weights_y, sums = (
            cgutils.create_struct_proxy(signature.args[i])(context, builder, value=arguments[i])
            for i in (0, 2, 3, 4)
        )
        _, rows, row = cgutils.unpack_tuple(builder, grid.shape, 3)
        plane = builder.mul(rows, row)
        along_y = [_repeated(builder, _item(builder, weights_y.data, b), 2 * WIDTH) for b in range(WIDTH)]
        total, first = None, arguments[1]
        for a in range(WIDTH):
            inner, at = None, first
            for weight in along_y:
                values = builder.load(_vector(builder, grid.data, at, 2 * WIDTH), align=4)
                inner = _sum(builder, inner, weight, values)
                at = builder.add(at, row)
            along_z = _repeated(builder, _item(builder, weights_z.data, a), 2 * WIDTH)
            total, first = _sum(builder, total, along_z, inner), builder.add(first, plane)
        builder.store(total, _vector(builder, sums.data, ir.Constant(_INT, 0), 2 * WIDTH), align=4)
        return context.get_dummy_value()

    return types.void(grid, types.intp, weights_z, weights_y, sums), generate


def _adder(length: int):
    @intrinsic
    def add_row(typing_context, array, start, scale, row):
        """Add ``scale`` times the numbers of a ``row`` to those that begin at the position ``start`` in an array."""

        def generate(context, builder, signature, arguments):
            array, row = (
                cgutils.create_struct_proxy(signature.args[i])(context, builder, value=arguments[i])
                for i in (0, 3)
            )
            added = builder.load(_vector(builder, row.data, ir.Constant(_INT, 0), length), align=4)
            place = _vector(builder, array.data, arguments[1], length)
            scale = _repeated(builder, arguments[2], length)
            builder.store(_sum(builder, builder.load(place, align=4), scale, added), place, align=4)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.float32, row), generate

    return add_row


add_row, add_complex_row = _adder(WIDTH), _adder(2 * WIDTH)


def _item(builder, data, index: int):
    return builder.load(builder.gep(data, [ir.Constant(_INT, index)]))


def _vector(builder, data, start, length: int):
    """Return a pointer to consecutive numbers as one vector."""
    kind = ir.VectorType(ir.FloatType(), length)
    return builder.bitcast(builder.gep(data, [start]), kind.as_pointer())


def _repeated(builder, value, length: int):
    """Return a vector that contains one number in each place."""
    undefined = ir.Constant(ir.VectorType(ir.FloatType(), length), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, length), [0] * length))


def _sum(builder, total, weight, values):
    """Return ``total + weight * values``, where a ``total`` of None is zero."""
    product = builder.fmul(weight, values, flags=_FAST)
    return product if total is None else builder.fadd(total, product, flags=_FAST)
