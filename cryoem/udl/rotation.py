"""In-plane rotation of images, by cubic B-spline interpolation, and of vectors; angles modulo a period.

The x axis is the second array axis, the y axis is the first, and the origin is pixel ``n // 2``. A positive angle
rotates the x axis towards the y axis, which is anticlockwise if y points up.

A cubic spline passes through all pixels. Its coefficients are computed by a recursion with a single pole along each
axis. A value between pixels is a weighted sum of the 4 x 4 coefficients around it (Unser, IEEE Signal Process. Mag.
16(6) (1999) 22).
"""

from __future__ import annotations

import numba
import numpy as np

from cryoem.validation import one_each, shifts_of, square_images

OUTSIDE = ("zero", "edge-mean")
# The spline rings at abrupt borders; the ringing decays by a factor of 0.27 per pixel, to 1e-7 over this margin.
MARGIN_PX = 12
_POLE = np.float32(np.sqrt(3) - 2)
_START_TERMS = 24  # terms in the recursion's first value, for float32 precision
_GAIN = np.float32(6)
_END = _POLE / (_POLE * _POLE - np.float32(1))


def rotate_images(
    images: np.ndarray,
    angles_rad: np.ndarray,
    shifts_px: np.ndarray | None = None,
    *,
    outside: str = "zero",
) -> np.ndarray:
    """Rotate images anticlockwise about pixel n // 2, then displace them.

    The content at (x, y) moves to (x cos a - y sin a, x sin a + y cos a) plus the shift.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to rotate.
    angles_rad : (n,) array
        Rotation of each image.
    shifts_px : (n, 2) array, optional
        Displacement (x, y) of each image, positive towards larger coordinates. Default: no displacement.
    outside : str
        Value assumed outside each image: ``"zero"``, or ``"edge-mean"`` for the mean of the outermost pixels of the
        image. Default: ``"zero"``.

    Returns
    -------
    (n, y, x) float32 array
        Rotated and displaced images.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y); if the number of angles or shifts differs from the number of images;
        if any value is NaN or infinite; or if ``outside`` is unknown.
    """
    images = square_images(images)
    angles_rad = one_each(angles_rad, count=len(images), name="angles_rad")
    shifts_px = shifts_of(np.zeros((len(images), 2)) if shifts_px is None else shifts_px, count=len(images))
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, got {outside!r}")
    level = np.zeros(len(images), np.float32)
    if outside == "edge-mean":
        edge = np.ones(images.shape[1:], bool)
        edge[1:-1, 1:-1] = False
        level = images[:, edge].mean(axis=1)
    rotated = np.empty_like(images)
    _rotate(images, inverse_matrices(angles_rad), shifts_px, level, rotated)
    return rotated


def rotate_vectors(vectors: np.ndarray, angles_rad: np.ndarray) -> np.ndarray:
    """Rotate (n, 2) vectors (x, y) anticlockwise by (n,) angles."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def inverse_matrices(angles_rad: np.ndarray) -> np.ndarray:
    """Return the matrices from coordinates (x, y) in a rotated image to those in the original: (n, 2, 2) float64."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def wrap_angles(angles_rad: np.ndarray, period_rad: float) -> np.ndarray:
    """Wrap angles to [-period / 2, period / 2)."""
    return np.mod(angles_rad + period_rad / 2, period_rad) - period_rad / 2


def unit_vectors(angles_rad: np.ndarray, *, periods: int = 1) -> np.ndarray:
    """Return the cosine and sine of ``periods * angles``, which are equal for angles a period apart: (..., 2)."""
    phases = periods * np.asarray(angles_rad)
    return np.stack([np.cos(phases), np.sin(phases)], axis=-1)


def angle_errors_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, periods: int = 1) -> np.ndarray:
    """Return the absolute differences between (n,) angles in degrees, modulo a full turn divided by ``periods``.

    Parameters
    ----------
    estimated_rad, true_rad : (n,) array
        Estimated and true angles in radians.
    periods : int
        Number of periods of the angles in a full turn. Default: 1.
    """
    difference = np.asarray(estimated_rad, dtype=float) - np.asarray(true_rad, dtype=float)
    return np.degrees(np.abs(wrap_angles(difference, 2 * np.pi / periods)))


def pair_error_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, period_rad: float = np.pi) -> float:
    """Return the mean error in degrees, modulo the period, of the angles between consecutive images of a stack.

    Parameters
    ----------
    estimated_rad, true_rad : (n,) array
        Estimated and true angles in radians.
    period_rad : float
        Period of the angles in radians. Default: pi, because magnitude spectra determine angles modulo 180 degrees.
    """
    error = wrap_angles(np.diff(estimated_rad) - np.diff(true_rad), period_rad)
    return float(np.degrees(np.abs(error).mean()))


def joint_error_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, period_rad: float = np.pi) -> float:
    """Return the mean error of angles in degrees, modulo the period.

    An offset that is the same for all angles is not counted as an error.

    Parameters
    ----------
    estimated_rad, true_rad : (n,) array
        Estimated and true angles in radians.
    period_rad : float
        Period of the angles in radians. Default: pi, because magnitude spectra determine angles modulo 180 degrees.
    """
    return float(joint_errors_deg(estimated_rad, true_rad, period_rad=period_rad).mean())


def joint_errors_deg(
    estimated_rad: np.ndarray, true_rad: np.ndarray, *, period_rad: float = np.pi
) -> np.ndarray:
    """Return the (n,) errors of angles in degrees, modulo the period, with the parameters of ``joint_error_deg``.

    An offset that is the same for all angles is not counted as an error.
    """
    error = np.asarray(estimated_rad) - np.asarray(true_rad)
    # find the constant on a grid, then refine it by the median of the remainder
    constants = np.linspace(0, period_rad, 361)[:-1]
    costs = [np.abs(wrap_angles(error - constant, period_rad)).mean() for constant in constants]
    remaining = wrap_angles(error - constants[int(np.argmin(costs))], period_rad)
    return np.degrees(np.abs(wrap_angles(remaining - np.median(remaining), period_rad)))


@numba.njit(fastmath=True, cache=True)
def to_coefficients(values):
    """Compute the cubic spline coefficients of (y, x) float32 pixels, at least 2 x 2, with mirrored borders."""
    across = _filtered_down(values.T.copy())
    return _filtered_down(across.T.copy())


@numba.njit(fastmath=True, cache=True)
def _filtered_down(values):
    """Run the recursion down and then up all columns at once, in place; return the argument."""
    height, width = values.shape
    first = values[0].copy()
    power = np.float32(1)
    for k in range(1, _START_TERMS):
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
    """Map an index k >= 0 into a line of n values with mirrored ends."""
    k %= 2 * n - 2
    return min(k, 2 * n - 2 - k)


@numba.njit(inline="always")
def _weights(t):
    """Return the weights of the four coefficients around a point that is a fraction t beyond the second."""
    sixth = np.float32(1 / 6)
    u = np.float32(1) - t
    w0, w3 = u * u * u * sixth, t * t * t * sixth
    w1 = np.float32(2 / 3) - t * t * (np.float32(1) - np.float32(0.5) * t)
    return w0, w1, np.float32(1) - w0 - w1 - w3, w3


@numba.njit(inline="always")
def read_spline(coefficients, x, y):
    """Evaluate the spline with (y, x) coefficients at (x, y); zero where a neighbouring coefficient is missing."""
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
def _rotate(images, matrices, shifts_px, level, rotated):
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
                rotated[i, row, column] = read_spline(coefficients, x, y) + level[i]


@numba.njit(parallel=True, fastmath=True, cache=True)
def read_crops(values, starts, shapes, index, matrices, centres, points, radius, crops):
    """Sample splines in n circular ``crops``, at ``centres + matrices @ (x, y)``.

    ``values`` contains the coefficients of all splines, which begin at ``starts`` and have ``shapes``; ``index`` is the
    spline of each crop. Each pixel of a crop is the average over ``points`` x ``points`` samples.
    """
    n, size = crops.shape[0], crops.shape[1]
    origin = size // 2
    for i in numba.prange(n):
        p = index[i]
        height, width = shapes[p]
        grid = values[starts[p] : starts[p] + height * width].reshape(height, width)
        m, k = matrices[i], points[i]
        for row in range(size):
            for column in range(size):
                total = np.float32(0)
                if (row - origin) ** 2 + (column - origin) ** 2 < radius**2:
                    for a in range(k):
                        v = row - origin + (a + 0.5) / k - 0.5
                        for b in range(k):
                            u = column - origin + (b + 0.5) / k - 0.5
                            x = m[0, 0] * u + m[0, 1] * v + centres[i, 0]
                            y = m[1, 0] * u + m[1, 1] * v + centres[i, 1]
                            total += read_spline(grid, x, y)
                crops[i, row, column] = total / np.float32(k * k)
