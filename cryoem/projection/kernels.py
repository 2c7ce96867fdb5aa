"""Compiled functions that read central slices of the Fourier transform of a volume, compare them, or add them up.

All functions that contain the interpolation kernel are in this module, because numba would not notice that its stored
machine code contains an old version of a function of another module.

A grid is half of the transform with a guard band (see ``cryoem.projection.fourier``), viewed as float32 with
alternating real and imaginary parts. ``full`` is the (z, y, x) size of the full grid, and ``table`` is
``KERNEL_TABLE``. The first two rows of each of the (3, 3) ``matrices`` span a slice, on which points have the
``frequencies`` (m, 2) in cycles per voxel.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.special import i0

OVERSAMPLING = 2.0
WIDTH = 4
RIM = WIDTH // 2  # grid points that the kernel reaches on each side
GUARD = WIDTH  # grid points around a stored half grid, which keep modulo operations out of the inner loop
TABLE_STEPS = 1024
_BETA = np.pi * np.sqrt((WIDTH / OVERSAMPLING) ** 2 * (OVERSAMPLING - 0.5) ** 2 - 0.8)
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


def roll_off(n: int, n_grid: int) -> np.ndarray:
    """Evaluate the kernel's Fourier transform at the n voxel positions along one axis: (n,) float64."""
    position = (np.arange(n) - n // 2) / n_grid
    argument = np.sqrt((_BETA**2 - (np.pi * WIDTH * position) ** 2).astype(complex))
    return WIDTH / i0(_BETA) * np.sinc(argument / np.pi * 1j).real


@numba.njit(inline="always")
def _place(fx, fy, r, nx, ny, nz):
    """Return the position of an in-plane frequency in the stored half grid, and whether its value is conjugated."""
    kx = (fx * r[0, 0] + fy * r[1, 0]) * nx
    ky = (fx * r[0, 1] + fy * r[1, 1]) * ny
    kz = (fx * r[0, 2] + fy * r[1, 2]) * nz
    kx -= nx * np.rint(kx / nx)
    if kx < 0:
        return -kx, -ky, -kz, True
    return kx, ky, kz, False


@numba.njit(inline="always")
def _kernel_weights(position, table, weights):
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
    """Write the kernel weights along x, y and z around a frequency; return the position of the first point."""
    nz, ny, _ = full
    ix = 2 * (_kernel_weights(kx, table, weights[0]) + GUARD)
    iy = (_kernel_weights(ky, table, weights[1]) + ny // 2) % ny + GUARD
    iz = (_kernel_weights(kz, table, weights[2]) + nz // 2) % nz + GUARD
    return (iz * grid.shape[1] + iy) * grid.shape[2] + ix


@numba.njit(inline="always")
def _weighted(points, weights):
    """Return the weighted sum of ``WIDTH`` complex numbers, given as alternating real and imaginary parts."""
    total = np.complex64(0)
    for i in range(WIDTH):
        total += weights[i] * complex(points[2 * i], points[2 * i + 1])
    return total


@numba.njit(inline="always")
def _sample(grid, full, table, matrix, fx, fy, weights, sums):
    """Interpolate the transform at one point of a slice; return a complex number.

    ``weights`` (3, WIDTH) and ``sums`` (2 WIDTH) are work arrays.
    """
    nz, ny, nx = full
    kx, ky, kz, conjugate = _place(fx, fy, matrix, nx, ny, nz)
    _sum_rows(grid, _first_point(grid, full, table, kx, ky, kz, weights), weights[2], weights[1], sums)
    value = _weighted(sums, weights[0])
    return value.conjugate() if conjugate else value


@numba.njit(inline="always")
def _kernel_slopes(position, table, slopes):
    """Write the derivatives of the kernel weights around a position."""
    row = int((position - np.floor(position)) * np.float32(TABLE_STEPS))
    for i in range(WIDTH):
        slopes[i] = np.float32(TABLE_STEPS) * (table[row + 1, i] - table[row, i])


@numba.njit(inline="always")
def _sample_with_slope(grid, full, table, matrix, fx, fy, weights, slopes, sums):
    """Interpolate the transform at one point of a slice, and its derivatives along the axes of the volume.

    ``weights`` and ``slopes`` (3, WIDTH) and ``sums`` (2 WIDTH) are work arrays. Return four complex numbers: the
    value, and the derivatives with respect to the x, y and z frequencies in cycles per voxel.
    """
    nz, ny, nx = full
    kx, ky, kz, conjugate = _place(fx, fy, matrix, nx, ny, nz)
    first = _first_point(grid, full, table, kx, ky, kz, weights)
    _kernel_slopes(kx, table, slopes[0])
    _kernel_slopes(ky, table, slopes[1])
    _kernel_slopes(kz, table, slopes[2])
    _sum_rows(grid, first, weights[2], weights[1], sums)
    value, x = _weighted(sums, weights[0]), nx * _weighted(sums, slopes[0])
    _sum_rows(grid, first, weights[2], slopes[1], sums)
    y = ny * _weighted(sums, weights[0])
    _sum_rows(grid, first, slopes[2], weights[1], sums)
    z = nz * _weighted(sums, weights[0])
    if conjugate:  # V(p) = conj(V(-p))
        return value.conjugate(), -x.conjugate(), -y.conjugate(), -z.conjugate()
    return value, x, y, z


@numba.njit(parallel=True, fastmath=True, cache=True)
def read_points(grid, full, table, matrices, frequencies, values):
    """Write the ``values`` (n, m) of a transform on n slices."""
    for i in numba.prange(matrices.shape[0]):
        weights, sums = np.empty((3, WIDTH), np.float32), np.empty(2 * WIDTH, np.float32)
        for j in range(frequencies.shape[0]):
            fx, fy = frequencies[j, 0], frequencies[j, 1]
            values[i, j] = _sample(grid, full, table, matrices[i], fx, fy, weights, sums)


@numba.njit(parallel=True, fastmath=True, cache=True)
def spread_points(values, full, table, matrices, frequencies, grids):
    """Add the ``values`` (n, m) of n slices to grids; each thread adds its part of the slices to one of them."""
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
                        _add_complex_row(points, at, weights[2, a] * weights[1, b], row)


@numba.njit(parallel=True, fastmath=True, cache=True)
def add_points(
    values, density, middle, full, table, planes, matrices, frequencies, weights, transfers, zones
):
    """Add the ``planes`` (n, m) of n slices, times ``weights`` (m,), and their density to a ``gridding.HalfBall``.

    The ball has k_x = 0 at ``middle`` in each row, and ``full`` is the width of the full grid. If there are
    ``transfers`` (n, m), the planes are multiplied by them, and the density by their squares. Each thread adds to the
    planes of k_z between two of the edges ``zones``, so no two threads write to the same point.
    """
    half = full // 2
    with_ctf = transfers.shape[0] > 0
    for zone in numba.prange(len(zones) - 1):
        begin, end = zones[zone], zones[zone + 1]
        wx, wy, wz = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
        row, seen = np.empty(2 * WIDTH, np.float32), np.empty(WIDTH, np.float32)
        for i in range(matrices.shape[0]):
            r = matrices[i]
            for j in range(frequencies.shape[0]):
                fx, fy = frequencies[j, 0], frequencies[j, 1]
                kz = (fx * r[0, 2] + fy * r[1, 2]) * full
                sign = np.float32(1)
                if kz < 0:
                    sign = np.float32(-1)
                kz *= sign
                if int(kz) >= end or int(kz) + WIDTH <= begin:
                    continue
                kx = sign * (fx * r[0, 0] + fy * r[1, 0]) * full
                ky = sign * (fx * r[0, 1] + fy * r[1, 1]) * full
                iz = _kernel_weights(kz, table, wz) + 1
                iy = _kernel_weights(ky, table, wy) + half + RIM
                ix = _kernel_weights(kx, table, wx)
                weight = weights[j]
                re, im, d = weight * planes[i, j].real, sign * weight * planes[i, j].imag, weight
                if with_ctf:
                    t = transfers[i, j]
                    re, im, d = re * t, im * t, d * t * t
                for k in range(WIDTH):
                    row[2 * k], row[2 * k + 1], seen[k] = wx[k] * re, wx[k] * im, wx[k] * d
                for a in range(max(0, begin - iz), min(WIDTH, end - iz)):
                    for b in range(WIDTH):
                        at = middle[iz + a, iy + b] + ix
                        _add_complex_row(values, 2 * at, wz[a] * wy[b], row)
                        _add_row(density, at, wz[a] * wy[b], seen)


@numba.njit(parallel=True, fastmath=True, cache=True)
def correlate(grid, full, table, planes, matrices, frequencies, weights, transfers, scores):
    """Correlate each of n images with slices at its own c orientations, in ``matrices`` (n, c, 3, 3)."""
    n, c = scores.shape
    for task in numba.prange(n * c):
        i, k = task // c, task % c
        kernel, sums = np.empty((3, WIDTH), np.float32), np.empty(2 * WIDTH, np.float32)
        cross = power = total = 0.0
        for j in range(len(weights)):
            fx, fy = frequencies[j]
            expected = _sample(grid, full, table, matrices[i, k], fx, fy, kernel, sums)
            transfer = transfers[np.int64(i) % len(transfers), j]
            re, im = transfer * expected.real, transfer * expected.imag
            value = planes[i, j]
            cross += weights[j] * (re * value.real + im * value.imag)
            power += weights[j] * (re * re + im * im)
            total += weights[j] * (value.real * value.real + value.imag * value.imag)
        scores[i, k] = cross / np.sqrt(max(power * total, 1e-30))


@numba.njit(parallel=True, fastmath=True, cache=True)
def normal_equations(
    grid, full, table, planes, matrices, frequencies, weights, transfers, hessians, gradients, scores
):
    """Form the normal equations of each image at its orientation in ``matrices`` (n, 3, 3), and correlate it there.

    If there are five unknowns, the last two are displacements along x and y.
    """
    n, m = planes.shape
    unknowns = gradients.shape[1]
    for i in numba.prange(n):
        kernel, slopes = np.empty((3, WIDTH), np.float32), np.empty((3, WIDTH), np.float32)
        sums = np.empty(2 * WIDTH, np.float32)
        values, r = np.empty((m, unknowns + 1), np.complex64), matrices[i]
        # fit the contrast by least squares
        cross = power = total = 0.0
        for j in range(m):
            fx, fy = frequencies[j]
            value, gx, gy, gz = _sample_with_slope(grid, full, table, r, fx, fy, kernel, slopes, sums)
            transfer = transfers[np.int64(i) % len(transfers), j]
            value = transfer * value
            # a turn about one axis of the image moves its frequency k by the cross product of axis and k
            along_x = transfer * (r[0, 0] * gx + r[0, 1] * gy + r[0, 2] * gz)
            along_y = transfer * (r[1, 0] * gx + r[1, 1] * gy + r[1, 2] * gz)
            along_z = transfer * (r[2, 0] * gx + r[2, 1] * gy + r[2, 2] * gz)
            values[j, 0] = value
            values[j, 1], values[j, 2], values[j, 3] = (
                -fy * along_z,
                fx * along_z,
                fy * along_x - fx * along_y,
            )
            for a in range(3, unknowns):
                values[j, a + 1] = complex(0, -2 * np.pi * frequencies[j, a - 3]) * value
            cross += weights[j] * (value.conjugate() * planes[i, j]).real
            power += weights[j] * (value.real**2 + value.imag**2)
            total += weights[j] * (planes[i, j].real ** 2 + planes[i, j].imag ** 2)
        scores[i] = cross / np.sqrt(max(power * total, 1e-30))
        contrast = cross / max(power, 1e-30)
        for j in range(m):
            residual = planes[i, j] - contrast * values[j, 0]
            for a in range(unknowns):
                change = weights[j] * contrast * values[j, a + 1].conjugate()
                gradients[i, a] += (change * residual).real
                for b in range(a + 1):
                    hessians[i, a, b] += contrast * (change * values[j, b + 1]).real
        for a in range(unknowns):
            for b in range(a):
                hessians[i, b, a] = hessians[i, a, b]


# --- vector instructions, which LLVM does not find in loops over so few numbers; a row has ``WIDTH`` points along x


@intrinsic
def _sum_rows(typing_context, grid, start, weights_z, weights_y, sums):
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


_add_row, _add_complex_row = _adder(WIDTH), _adder(2 * WIDTH)


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
