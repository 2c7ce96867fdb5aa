"""Images turned and displaced by cubic B-spline interpolation, threads over images.

Coordinates are those of ``docs/conventions.md``: x is the second array axis, y the first, the origin pixel ``n // 2``.
A positive angle takes the x axis to the y axis.

A cubic spline passes through all pixels: coefficients come from them by a recursion of one pole along each axis, and a
point between pixels is a sum over the 4 x 4 coefficients around it.

Source: Unser, IEEE Signal Process. Mag. 16(6) (1999) 22.
"""

from __future__ import annotations

import numba
import numpy as np

from cryoem.checks import one_each, shifts_of, square_images

OUTSIDE = ("zero", "edge-mean")
MARGIN_PX = 12  # the spline of an image that ends abruptly rings by a factor 0.27 a pixel: 1e-7 here
_POLE = np.float32(np.sqrt(3) - 2)
_START = 24  # terms of the recursion's first value, again to float32 precision
_GAIN = np.float32(6)
_END = _POLE / (_POLE * _POLE - np.float32(1))


def rotate_images(
    images: np.ndarray,
    angles_rad: np.ndarray,
    shifts_px: np.ndarray | None = None,
    *,
    outside: str = "zero",
) -> np.ndarray:
    """Turn images anticlockwise about pixel n // 2, then displace them.

    What is at (x, y) of an image comes to (x cos a - y sin a, x sin a + y cos a) plus the shift.

    Parameters
    ----------
    images : (n, y, x), y == x.
    angles_rad : (n,) angles.
    shifts_px : (n, 2) displacement (x, y) towards larger coordinates, after the rotation; none by default.
    outside : what surrounds each image, ``"zero"`` or ``"edge-mean"``, the mean of its outermost pixels.

    Returns
    -------
    (n, y, x) float32.

    Raises
    ------
    ValueError : images are not (n, y, y), angles or shifts are not one for each, any is not finite, or ``outside`` is
        unknown.
    """
    images = square_images(images)
    angles_rad = one_each(angles_rad, count=len(images), name="angles_rad")
    if shifts_px is None:
        shifts_px = np.zeros((len(images), 2))
    shifts_px = shifts_of(shifts_px, count=len(images))
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, got {outside!r}")
    level = _edge_mean(images) if outside == "edge-mean" else np.zeros(len(images), np.float32)
    turned = np.empty_like(images)
    _rotate(images, turned_back(angles_rad), shifts_px, level, turned)
    return turned


def turned_back(angles_rad: np.ndarray) -> np.ndarray:
    """Matrices that take coordinates (x, y) of a turned image to those of the image before: (n, 2, 2) float64."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def _edge_mean(images: np.ndarray) -> np.ndarray:
    """Mean of each image's outermost pixels: (n,) float32."""
    inner = np.zeros(images.shape[1:], bool)
    inner[1:-1, 1:-1] = True
    return images[:, ~inner].mean(axis=1)


@numba.njit(fastmath=True, cache=True)
def to_coefficients(values):
    """Cubic spline coefficients of (y, x) float32 pixels, at least 2 x 2, mirrored about the outermost ones."""
    across = _filtered_down(values.T.copy())
    return _filtered_down(across.T.copy())


@numba.njit(fastmath=True, cache=True)
def _filtered_down(values):
    """The recursion down and up all columns at once, in place; returns its argument."""
    height, width = values.shape
    first = values[0].copy()
    power = np.float32(1)
    for k in range(1, _START):
        power *= _POLE
        first += power * values[_mirrored(k, height)]
    values[0] = _GAIN * first
    for y in range(1, height):
        for x in range(width):
            values[y, x] = _GAIN * values[y, x] + _POLE * values[y - 1, x]
    values[-1] = _END * (values[-1] + _POLE * values[-2])
    for y in range(height - 2, -1, -1):
        for x in range(width):
            values[y, x] = _POLE * (values[y + 1, x] - values[y, x])
    return values


@numba.njit(inline="always")
def _mirrored(k, n):
    """Index k >= 0 of a line of n values mirrored about its ends without repeating them."""
    k %= 2 * n - 2
    return min(k, 2 * n - 2 - k)


@numba.njit(inline="always")
def _weights(t):
    """Weights of the four coefficients around a point a fraction t beyond the second."""
    sixth = np.float32(1 / 6)
    u = np.float32(1) - t
    w0, w3 = u * u * u * sixth, t * t * t * sixth
    w1 = np.float32(2 / 3) - t * t * (np.float32(1) - np.float32(0.5) * t)
    return w0, w1, np.float32(1) - w0 - w1 - w3, w3


@numba.njit(inline="always")
def read_spline(coefficients, x, y):
    """The spline of (y, x) coefficients at array position (x, y); zero where coefficients around it are missing."""
    base_x, base_y = np.floor(x), np.floor(y)
    left, top = int(base_x) - 1, int(base_y) - 1
    if left < 0 or top < 0 or left + 4 > coefficients.shape[1] or top + 4 > coefficients.shape[0]:
        return np.float32(0)
    a0, a1, a2, a3 = _weights(np.float32(x - base_x))
    b0, b1, b2, b3 = _weights(np.float32(y - base_y))
    c = coefficients[top : top + 4, left : left + 4]
    return (
        b0 * (a0 * c[0, 0] + a1 * c[0, 1] + a2 * c[0, 2] + a3 * c[0, 3])
        + b1 * (a0 * c[1, 0] + a1 * c[1, 1] + a2 * c[1, 2] + a3 * c[1, 3])
        + b2 * (a0 * c[2, 0] + a1 * c[2, 1] + a2 * c[2, 2] + a3 * c[2, 3])
        + b3 * (a0 * c[3, 0] + a1 * c[3, 1] + a2 * c[3, 2] + a3 * c[3, 3])
    )


@numba.njit(parallel=True, fastmath=True, cache=True)
def _rotate(images, matrices, shifts_px, level, turned):
    n, size = images.shape[0], images.shape[1]
    origin = size // 2
    for i in numba.prange(n):
        grid = np.zeros((size + 2 * MARGIN_PX, size + 2 * MARGIN_PX), np.float32)
        grid[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = images[i] - level[i]
        coefficients = to_coefficients(grid)
        m = matrices[i]
        for row in range(size):
            v = row - origin - shifts_px[i, 1]
            for column in range(size):
                u = column - origin - shifts_px[i, 0]
                x = m[0, 0] * u + m[0, 1] * v + origin + MARGIN_PX
                y = m[1, 0] * u + m[1, 1] * v + origin + MARGIN_PX
                turned[i, row, column] = read_spline(coefficients, x, y) + level[i]
