"""Sums over rows of a Fourier grid with vector instructions, which LLVM does not find in loops over so few numbers.

A row consists of the ``WIDTH`` neighbouring points that the interpolation kernel covers along x. The functions are
called from compiled code, and check nothing.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDTH = 4
_FAST = ("fast",)
_INT = ir.IntType(32)


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
