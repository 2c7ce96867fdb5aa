"""Central lines of images in Fourier space, and their correlation along predicted common lines."""

from __future__ import annotations

import numba
import numpy as np

N_ANGLES = 360
LEAST_SIGNAL = 1e-3


def fourier_lines(images: np.ndarray) -> np.ndarray:
    """Compute central lines of each image's Fourier transform: (n, N_ANGLES, radii) complex64, angles over [0, pi).

    Each radius is weighted by the share of signal in the power spectrum; the highest frequencies give the noise floor.
    Each image is scaled to unit power.

    Raises
    ------
    ValueError
        If an image is constant.
    """
    constant = np.count_nonzero(np.ptp(images, axis=(1, 2)) == 0)
    if constant:
        raise ValueError(f"images must not be constant, got {constant} constant images of {len(images)}")
    import finufft

    n, size = len(images), images.shape[1]
    radius = np.arange(1, size // 2)  # Fourier pixels; zero frequency carries no orientation
    angle = np.pi * np.arange(N_ANGLES) / N_ANGLES
    fx = (2 * np.pi / size) * np.cos(angle)[:, None] * radius
    fy = (2 * np.pi / size) * np.sin(angle)[:, None] * radius
    plan = finufft.Plan(2, (size, size), eps=1e-4, isign=-1, n_trans=min(n, 64), dtype="complex64")
    plan.setpts(fy.ravel().astype(np.float32), fx.ravel().astype(np.float32))
    # transform block by block
    lines = np.empty((n, N_ANGLES, len(radius)), np.complex64)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    centred /= centred.std()
    for start in range(0, n, plan.n_trans):
        block = np.zeros((plan.n_trans, size, size), np.complex64)
        count = min(plan.n_trans, n - start)
        block[:count] = centred[start : start + count]
        lines[start : start + count] = plan.execute(block).reshape(-1, *lines.shape[1:])[:count]
    # weigh each radius by its share of signal
    power = np.mean(np.abs(lines) ** 2, axis=(0, 1))
    floor = power[-max(2, len(power) // 10) :].mean()
    signal = np.clip(1 - floor / power, 0, 1)
    if not (signal > LEAST_SIGNAL).any():  # no radius rises above the noise floor: weigh all alike
        signal = np.ones_like(signal)
    kept = signal > LEAST_SIGNAL
    lines = lines[..., kept] * np.sqrt(signal * radius)[kept].astype(np.float32)
    scale = np.sqrt(np.mean(np.sum(np.abs(lines) ** 2, axis=2), axis=1))
    return lines / scale[:, None, None]


@numba.njit(parallel=True, fastmath=True, cache=True)
def score_turns(lines, matrices, pairs, turns):
    """Score candidate turns A of the image axes, ``R = A @ matrices``, along common lines: (c,).

    Matrix p belongs to image ``p % n``, for n images.  The score is the sum of inner products of lines over the sum of
    their mean powers: strong lines count for more, but a candidate cannot gain by choosing them.  It is 1 if all lines
    agree.
    """
    parts = 16
    products, powers = np.zeros((len(turns), parts)), np.zeros((len(turns), parts))
    for task in numba.prange(len(turns) * parts):
        turn, part = turns[task // parts], task % parts
        total = power = 0.0
        for p in range(part * len(pairs) // parts, (part + 1) * len(pairs) // parts):
            i, j = pairs[p, 0], pairs[p, 1]
            a, b = matrices[i], matrices[j]
            # both viewing directions in the particle's frame, and the line where the slices meet
            ux, uy, uz = _combine_rows(turn[2], a)
            vx, vy, vz = _combine_rows(turn[2], b)
            x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            product, mean_power = _compare(
                lines[i % len(lines)],
                lines[j % len(lines)],
                _angle(turn, a, x, y, z),
                _angle(turn, b, x, y, z),
            )
            total += product
            power += mean_power
        products[task // parts, part] = total
        powers[task // parts, part] = power
    return products.sum(axis=1) / powers.sum(axis=1)


@numba.njit(inline="always")
def _combine_rows(weights, matrix):
    return (
        weights[0] * matrix[0, 0] + weights[1] * matrix[1, 0] + weights[2] * matrix[2, 0],
        weights[0] * matrix[0, 1] + weights[1] * matrix[1, 1] + weights[2] * matrix[2, 1],
        weights[0] * matrix[0, 2] + weights[1] * matrix[1, 2] + weights[2] * matrix[2, 2],
    )


@numba.njit(inline="always")
def _angle(turn, matrix, x, y, z):
    """Return the direction of a particle-frame vector in the image at orientation ``turn @ matrix``."""
    p = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z
    q = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z
    r = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z
    along_y = turn[1, 0] * p + turn[1, 1] * q + turn[1, 2] * r
    along_x = turn[0, 0] * p + turn[0, 1] * q + turn[0, 2] * r
    return np.arctan2(along_y, along_x)


@numba.njit(inline="always")
def _nearest_lines(angle, n_angles):
    """Return the two stored lines around an angle, the signs of their imaginary parts, and the second one's weight."""
    position = (angle / np.pi) % 2 * n_angles
    first = int(position)
    second = first + 1
    sign_first = np.float32(1 - 2 * ((first // n_angles) % 2))
    sign_second = np.float32(1 - 2 * ((second // n_angles) % 2))
    return first % n_angles, sign_first, second % n_angles, sign_second, np.float32(position - first)


@numba.njit(fastmath=True, cache=True)
def _compare(a, b, angle_a, angle_b):
    """Return the real inner product of two central lines, interpolated linearly in angle, and their mean power."""
    ia, sa, ja, ta, wa = _nearest_lines(angle_a, a.shape[0])
    ib, sb, jb, tb, wb = _nearest_lines(angle_b, b.shape[0])
    va, vb = np.float32(1) - wa, np.float32(1) - wb
    product = power = np.float32(0)
    for r in range(a.shape[1]):
        real_a = va * a[ia, r].real + wa * a[ja, r].real
        real_b = vb * b[ib, r].real + wb * b[jb, r].real
        imaginary_a = va * sa * a[ia, r].imag + wa * ta * a[ja, r].imag
        imaginary_b = vb * sb * b[ib, r].imag + wb * tb * b[jb, r].imag
        product += real_a * real_b + imaginary_a * imaginary_b
        power += real_a * real_a + imaginary_a * imaginary_a + real_b * real_b + imaginary_b * imaginary_b
    return product, power / 2
