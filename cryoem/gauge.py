"""What distances leave open, settled from the images themselves.

Distances between orientations do not change under ``R -> A R B`` nor under ``R -> R^T``.  B only redraws the particle's
frame; A turns every image's own axes, and with it wrong no reconstruction works.  A and the transposition show in the
images: the slices of two images meet in a common line, a direction in each image's Fourier transform along
which the two must agree.  The score of a candidate is the mean correlation along the lines that it predicts.

A and Rz(pi) A score the same: turning every image by half a turn gives the mirror image of the particle, which no
projection can tell from the particle.

Of a symmetric particle, every image is a slice at all copies ``R g`` of its orientation, and so meets every other
image, and itself, in more lines.  Its distances have told R from R^T already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, square_images, whole_number
from cryoem.rotations import point_group

N_ANGLES = 360
CANDIDATES = 20_000
SHORTLIST = 12
COARSE_RADII = 16
LEAST_SIGNAL = 1e-3
SEARCH_RADII = (0.12, 0.06, 0.03)
SUMMIT_RADII = (0.02, 0.01, 0.005, 0.005)
_ROWS, _COLUMNS = np.triu_indices(3)
_AXES = np.vstack([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
_EDGES = np.array([v for v in np.ndindex(3, 3, 3) if sum(x != 1 for x in v) == 2]) - 1
_STENCIL = np.vstack([_AXES, _EDGES / np.sqrt(2)])
_BALL = np.vstack([_STENCIL, _STENCIL[1:] / 2])


@dataclass(frozen=True)
class Gauge:
    """Orientations in a gauge that fits the images.

    ``rotations``: n orientations, ``turn * R_hat`` or ``turn * R_hat^T``; ``score``: mean correlation along
    common lines, 1 for a perfect match; ``inverted``: whether the transpose was taken; ``turn``: the rotation
    A of the image axes; ``runner_up``: score of the best candidate of the other inversion, after the same
    refinement: how clear the choice was; NaN with symmetry, where there is none to make.
    """

    rotations: Rotation
    score: float
    inverted: bool
    turn: Rotation
    runner_up: float


def fix_gauge(
    images: np.ndarray,
    rotations: Rotation,
    *,
    symmetry: str = "C1",
    pairs: int = 600,
    refinement_pairs: int = 200_000,
    rng: np.random.Generator | int | None = None,
) -> Gauge:
    """Find the rotation of the image axes, and whether to transpose, from common lines between the images.

    Parameters
    ----------
    images : (n, y, x) real, y == x, the origin at pixel y // 2.
    rotations : n orientations known up to ``R -> A R B`` and ``R -> R^T``, as recovered from distances.
    symmetry : point group G of the particle; orientations are then known up to ``R -> A R``, in its frame.
    pairs : pairs of images that score each of the candidates of the coarse search over SO(3).
    refinement_pairs : pairs that score the local refinement of the best candidates.
    rng : generator or seed of the choice of pairs.

    Returns
    -------
    Gauge.

    Raises
    ------
    ValueError : images are not (n, y, y), fewer than 3, not finite, constant, or not as many as rotations,
        or the point group is unknown.

    Source: van Heel, Ultramicroscopy 21 (1987) 111, for common lines.
    """
    images = _checked(images, rotations)
    pairs = whole_number(pairs, name="pairs", at_least=1)
    refinement_pairs = whole_number(refinement_pairs, name="refinement_pairs", at_least=1)
    rng = np.random.default_rng(rng)
    lines = _fourier_lines(images)
    group = point_group(symmetry)
    n = len(images) * len(group)
    coarse, fine = _pairs(n, pairs, rng), _pairs(n, refinement_pairs, rng)
    candidates = (rotations, rotations.inv()) if len(group) == 1 else (rotations,)
    best = [_search(lines, _copies(oriented, group), coarse, fine) for oriented in candidates]
    if len(best) == 1:
        score, turn = best[0]
        return Gauge(turn * rotations, score, False, turn, float("nan"))
    inverted = bool(best[1][0] > best[0][0])
    score, turn = best[inverted]
    oriented = rotations.inv() if inverted else rotations
    return Gauge(turn * oriented, score, inverted, turn, best[not inverted][0])


def common_line_score(
    images: np.ndarray, rotations: Rotation, *, symmetry: str = "C1", pairs: int = 2000, rng=None
) -> float:
    """Agreement along the common lines that orientations predict, in [-1, 1]; parameters as ``fix_gauge``."""
    images = _checked(images, rotations)
    pairs = whole_number(pairs, name="pairs", at_least=1)
    group = point_group(symmetry)
    chosen = _pairs(len(images) * len(group), pairs, np.random.default_rng(rng))
    identity = np.eye(3, dtype=np.float32)[None]
    return float(_score(_fourier_lines(images), _copies(rotations, group), chosen, identity)[0])


def _search(lines, matrices, coarse, fine) -> tuple[float, Rotation]:
    """Best score and turn over SO(3): a covering grid, then closer and closer around the best few, then a summit."""
    smooth = np.ascontiguousarray(lines[..., :COARSE_RADII])
    grid = covering_rotations(CANDIDATES)
    scores = _score(smooth, matrices, coarse, _float_matrices(grid))
    shortlist = _distinct(grid[np.argsort(-scores)[: 40 * SHORTLIST]], SHORTLIST)
    for radius in SEARCH_RADII:
        around = Rotation.from_rotvec(radius * _BALL)
        clouds = Rotation.concatenate([around * turn for turn in shortlist])
        scores = _score(smooth, matrices, coarse, _float_matrices(clouds)).reshape(len(shortlist), -1)
        shortlist = [around[k] * turn for k, turn in zip(scores.argmax(axis=1), shortlist, strict=True)]
    turn = shortlist[int(scores.max(axis=1).argmax())]
    for radius in SUMMIT_RADII:
        turn = _climb(lines, matrices, fine, turn, radius)
    return float(_score(lines, matrices, fine, _float_matrices(turn)[None])[0]), turn


def _climb(lines, matrices, pairs, turn: Rotation, radius: float) -> Rotation:
    """One step to the summit of the quadratic through 19 scores around ``turn``; the best of them if it has none."""
    steps = radius * _STENCIL
    scores = _score(lines, matrices, pairs, _float_matrices(Rotation.from_rotvec(steps) * turn))
    terms = np.column_stack([np.ones(len(steps)), steps, steps[:, _ROWS] * steps[:, _COLUMNS]])
    fit = np.linalg.lstsq(terms, scores, rcond=None)[0]
    curvature = np.zeros((3, 3))
    curvature[_ROWS, _COLUMNS] = fit[4:]
    curvature = curvature + curvature.T
    best = steps[scores.argmax()]
    if np.linalg.eigvalsh(curvature)[-1] < 0:
        summit = np.linalg.solve(curvature, -fit[1:4])
        best = summit * min(1, 1.5 * radius / max(np.linalg.norm(summit), 1e-12))
    return Rotation.from_rotvec(best) * turn


def _copies(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Matrices of all orientations, then of all their copies by the next rotation of the group, and so on."""
    return np.concatenate([_float_matrices(rotations * g) for g in group])


def _float_matrices(rotations: Rotation) -> np.ndarray:
    return np.ascontiguousarray(rotations.as_matrix(), np.float32)


def _distinct(rotations: Rotation, count: int, apart: float = 0.25) -> list[Rotation]:
    """The first few of a ranked list that are at least ``apart`` radians from one another."""
    kept: list[Rotation] = []
    for candidate in rotations:
        if all((candidate.inv() * other).magnitude() > apart for other in kept):
            kept.append(candidate)
        if len(kept) == count:
            break
    return kept


def covering_rotations(n: int) -> Rotation:
    """n rotations that cover SO(3) evenly, always the same.

    Source: super-Fibonacci spirals, Alexa, CVPR 2022.
    """
    phi, psi = np.sqrt(2), 1.533751168755204288118041
    s = np.arange(n) + 0.5
    inner, outer = np.sqrt(s / n), np.sqrt(1 - s / n)
    a, b = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    return Rotation.from_quat(
        np.stack([inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)], axis=1)
    )


def _pairs(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random pairs of different images, or every pair where there are not more: (count, 2) int."""
    every = n * (n - 1) // 2
    if count >= every:
        return np.stack(np.triu_indices(n, 1), axis=1)
    first = rng.integers(n, size=count)
    second = (first + rng.integers(1, n, size=count)) % n
    return np.stack([first, second], axis=1)


def _fourier_lines(images: np.ndarray) -> np.ndarray:
    """Central lines of each image's Fourier transform: (n, N_ANGLES, radii) complex64, angles over [0, pi).

    Each radius is weighted by the share of signal in the power spectrum, with the noise floor read off at the highest
    frequencies, and each image is scaled to unit power.
    """
    import finufft

    n, size = len(images), images.shape[1]
    radius = np.arange(1, size // 2)  # Fourier pixels; zero frequency says nothing of orientation
    angle = np.pi * np.arange(N_ANGLES) / N_ANGLES
    fx = (2 * np.pi / size) * np.cos(angle)[:, None] * radius
    fy = (2 * np.pi / size) * np.sin(angle)[:, None] * radius
    plan = finufft.Plan(2, (size, size), eps=1e-4, isign=-1, n_trans=min(n, 64), dtype="complex64")
    plan.setpts(fy.ravel().astype(np.float32), fx.ravel().astype(np.float32))
    lines = np.empty((n, N_ANGLES, len(radius)), np.complex64)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    centred /= centred.std()
    for start in range(0, n, plan.n_trans):
        block = np.zeros((plan.n_trans, size, size), np.complex64)
        count = min(plan.n_trans, n - start)
        block[:count] = centred[start : start + count]
        lines[start : start + count] = plan.execute(block).reshape(-1, *lines.shape[1:])[:count]
    power = np.mean(np.abs(lines) ** 2, axis=(0, 1))
    floor = power[-max(2, len(power) // 10) :].mean()
    signal = np.clip(1 - floor / power, 0, 1)
    if not (
        signal > LEAST_SIGNAL
    ).any():  # nothing rises above the highest frequencies: no reason to prefer any radius
        signal = np.ones_like(signal)
    kept = signal > LEAST_SIGNAL
    lines = lines[..., kept] * np.sqrt(signal * radius)[kept].astype(np.float32)
    scale = np.sqrt(np.mean(np.sum(np.abs(lines) ** 2, axis=2), axis=1))
    return lines / scale[:, None, None]


@numba.njit(parallel=True, fastmath=True, cache=True)
def _score(lines, matrices, pairs, turns):
    """Agreement along common lines for each candidate turn A of the image axes, ``R = A @ matrices``: (c,).

    Matrix p is that of image ``p % n``, for n images.

    Inner products of all lines over the mean power of all lines, so that strong lines count for more but a candidate
    gains nothing by choosing them; 1 where every line agrees.
    """
    parts = 16
    products, powers = np.zeros((len(turns), parts)), np.zeros((len(turns), parts))
    for task in numba.prange(len(turns) * parts):
        turn, part = turns[task // parts], task % parts
        total = power = 0.0
        for p in range(part * len(pairs) // parts, (part + 1) * len(pairs) // parts):
            i, j = pairs[p, 0], pairs[p, 1]
            a, b = matrices[i], matrices[j]
            # the two viewing directions in the particle's frame, and the line in which the slices meet
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
    """Direction of a particle-frame vector in the image of orientation ``turn @ matrix``."""
    p = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z
    q = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z
    r = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z
    along_y = turn[1, 0] * p + turn[1, 1] * q + turn[1, 2] * r
    along_x = turn[0, 0] * p + turn[0, 1] * q + turn[0, 2] * r
    return np.arctan2(along_y, along_x)


@numba.njit(inline="always")
def _nearest_lines(angle, n_angles):
    """Indices and signs of the imaginary part of the two stored lines around an angle, and the second one's weight."""
    position = (angle / np.pi) % 2 * n_angles
    first = int(position)
    second = first + 1
    sign_first = np.float32(1 - 2 * ((first // n_angles) % 2))
    sign_second = np.float32(1 - 2 * ((second // n_angles) % 2))
    return first % n_angles, sign_first, second % n_angles, sign_second, np.float32(position - first)


@numba.njit(fastmath=True, cache=True)
def _compare(a, b, angle_a, angle_b):
    """Real inner product of two central lines and the mean of their powers, interpolated linearly in angle."""
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


def _checked(images: np.ndarray, rotations: Rotation) -> np.ndarray:
    images = square_images(images, at_least=3, smallest_px=8)
    many_rotations(rotations, count=len(images))
    constant = np.count_nonzero(np.ptp(images, axis=(1, 2)) == 0)
    if constant:
        raise ValueError(f"images must not be constant, got {constant} constant ones of {len(images)}")
    return images
