"""Starting points for orientation recovery: spectral, enumerated for small samples, and grown for symmetric particles.

The spectral start has two steps. First, all orientations closer than pi/2 to one of them form a cap, in which the
quaternions can be signed so that all inner products are positive. Then cos(d/2) is their Gram matrix of rank 4, whose
eigenvectors give the quaternions. Second, ``(1 + cos d_ij) / 2 = <q_i, q_j>^2`` is the inner product of the lifts ``q_i
q_i^T`` and ``q_j q_j^T``, which contain 10 numbers each. The quaternions of some images therefore determine those of
all others by linear least squares. Repeating this step over all images converges.

If there are few images, or they are too far apart for a cap, signs are enumerated. Distances give the inner products of
quaternions up to sign. For four images there are only eight different sign patterns. Each of them gives a Gram matrix,
whose factor contains the four quaternions if the matrix is positive. Every other image follows from its inner products
with the four, with the sign pattern that makes it a unit vector.

For a symmetric particle, the distance is ``min_g d(R_i, R_j g)``. Orientations closer than half of the group's smallest
angle are nearer to each other than to any other copy, so the distance between them is the plain one, whichever copies
are chosen. A cap of images is placed by the Gram matrix of its quaternions, and the map grows outwards from there: each
image joins at the copy nearest to the images already on the map, and distances beyond half of that angle are ignored.
Finally, the ignored distances determine how the map closes: how the group's axes are oriented in it, and whether all
orientations are transposed, which plain distances leave undetermined. The best frames of a grid are refined, and the
map is rotated into the frame of ``rotations.point_group``.
"""

from __future__ import annotations

from itertools import product

import numba
import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from cryoem.orientations.descent import gauss_newton
from cryoem.rotations import random_rotations

MIN_CAP = 12
LEAST_SPREAD = 1e-4
ROUNDS = 12
# root mean square move (rad) at which iteration ends; noise leaves larger errors than this
CONVERGED_RAD = 5e-4
BASES = 30
NEGATIVE_TOLERANCE = 0.05  # how far below zero the smallest eigenvalue may be, because distances have errors
_ROWS, _COLUMNS = np.triu_indices(4)
_SIGN_PATTERNS = np.array([(1, *signs) for signs in product((1, -1), repeat=3)], dtype=float)
# symmetric particles
GROWTH = 1.4  # factor by which each ring enlarges the map
RING_ROUNDS, MAP_ROUNDS = 15, 4
STARTS = 3
FRAMES = 3000
FAR_PAIRS = 2000
REFINED_FRAMES = 4


def spectral_start(distances: np.ndarray) -> np.ndarray | None:
    """Find quaternions (n, 4) of all images from (n, n) distances in radians, up to an orthogonal map of R^4.

    Return None if no image has ``MIN_CAP`` neighbours (including itself) within pi/2, or if the lifts of these
    neighbours do not span all ten dimensions.
    """
    # place the largest cap by its Gram matrix
    near = distances < np.pi / 2
    cap = np.flatnonzero(near[np.argmax(near.sum(axis=1))])
    if len(cap) < MIN_CAP:
        return None
    quaternions = gram_quaternions(np.cos(distances[np.ix_(cap, cap)] / 2))
    spread = np.linalg.svd(_lift(quaternions), compute_uv=False)
    if spread[-1] < LEAST_SPREAD * spread[0]:
        return None

    # locate all images relative to the cap, then relative to each other
    overlap_squared = squared_overlaps(distances)
    quaternions = locate(overlap_squared[:, cap], quaternions)
    for _ in range(ROUNDS):
        before, quaternions = quaternions, locate(overlap_squared, quaternions)
        agreement = np.mean(np.sum(before * quaternions, axis=1) ** 2)
        if 1 - agreement < (CONVERGED_RAD / 2) ** 2:
            break
    return quaternions


def small_sample_starts(distances: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Enumerate candidate quaternions (n, 4) of all images from (n, n) distances in radians.

    There is one candidate for each of ``BASES`` random sets of four images and each sign pattern that their distances
    allow.
    """
    overlaps = np.cos(distances / 2)
    starts = []
    for _ in range(BASES):
        base = rng.choice(len(distances), 4, replace=False)
        gram = np.abs(overlaps[np.ix_(base, base)])
        np.fill_diagonal(gram, 1)
        for a, b, c in _SIGN_PATTERNS[:, 1:]:
            signs = np.array([[1, 1, 1, 1], [1, 1, a, b], [1, a, 1, c], [1, b, c, 1]])
            values, vectors = np.linalg.eigh(signs * gram)
            if values[0] > -NEGATIVE_TOLERANCE:
                starts.append(_extend(overlaps[:, base], vectors * np.sqrt(np.maximum(values, 0))))
    return starts


@numba.njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def squared_overlaps(distances):
    """Compute (1 + cos d) / 2 for (n, m) distances: (n, m).

    This is cos^2 of half the distance. The half distance is reduced to [-pi / 2, pi / 2], where a power series gives
    the cosine to double precision. The series uses only arithmetic, so the loops vectorise.
    """
    n, m = distances.shape
    overlaps = np.empty((n, m))
    for i in numba.prange(n):
        for j in range(m):
            turns = distances[i, j] / (2 * np.pi)
            x = (np.pi * (turns - np.rint(turns))) ** 2
            cosine = 1.0
            for k in range(22, 0, -2):
                cosine = 1 - x / ((k - 1) * k) * cosine
            overlaps[i, j] = cosine * cosine
    return overlaps


def locate(overlap_squared: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """Find quaternions (n, 4) of images from their (n, m) squared overlaps with m known quaternions (m, 4)."""
    # solve for the lift of each image by least squares, then take its leading eigenvector
    lifts = _lift(quaternions)
    coefficients = np.linalg.lstsq(lifts.T @ lifts, lifts.T @ overlap_squared.T, rcond=1e-10)[0].T
    matrices = np.zeros((len(coefficients), 4, 4))
    matrices[:, _ROWS, _COLUMNS] = coefficients
    matrices[:, _COLUMNS, _ROWS] = coefficients
    return np.linalg.eigh(matrices)[1][:, :, -1]


def gram_quaternions(gram: np.ndarray) -> np.ndarray:
    """Return the quaternions (n, 4) whose inner products are nearest to an (n, n) Gram matrix."""
    values, vectors = np.linalg.eigh(gram)
    quaternions = vectors[:, -4:] * np.sqrt(np.maximum(values[-4:], 0))
    return quaternions / np.maximum(np.linalg.norm(quaternions, axis=1, keepdims=True), 1e-12)


def _lift(quaternions: np.ndarray) -> np.ndarray:
    """Return the 10 numbers whose inner product with those of a symmetric matrix X is q^T X q: (n, 10)."""
    products = quaternions[:, _ROWS] * quaternions[:, _COLUMNS]
    return products * np.where(_ROWS == _COLUMNS, 1, 2)


def _extend(overlaps: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Find quaternions (n, 4) from their unsigned overlaps (n, 4) with four known quaternions (4, 4)."""
    signed = np.abs(overlaps)[:, None] * _SIGN_PATTERNS  # (n, 8, 4)
    candidates = signed @ np.linalg.pinv(base, rcond=1e-5).T
    misfit = np.linalg.norm(candidates @ base.T - signed, axis=2)
    best = np.argmin(misfit + np.abs(np.linalg.norm(candidates, axis=2) - 1), axis=1)
    chosen = candidates[np.arange(len(candidates)), best]
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)


# --- symmetric particles


def symmetric_starts(distances: np.ndarray, group: Rotation, rng: np.random.Generator) -> list[np.ndarray]:
    """Find candidate quaternions (n, 4) in the frame of the group, from (n, n) distances to nearest copies in radians.

    The ``STARTS`` images with the most neighbours are each used once as the origin from which the map grows.
    """
    radius = unambiguous_radius(group)
    neighbours = distances < radius / 2
    counts = neighbours.sum(axis=1)
    if counts.max() < MIN_CAP:
        raise ValueError(
            f"for this symmetry, at least one image must have {MIN_CAP - 1} neighbours within {radius / 2:.3g} rad, "
            f"but none has more than {counts.max() - 1}; use more images or more landmarks, train longer for more "
            "accurate distances, or use the ab initio search (orientation_method=ab_initio)"
        )
    starts = []
    for centre in np.argsort(-counts, kind="stable")[:STARTS]:
        cap = np.flatnonzero(neighbours[centre])
        if len(cap) >= MIN_CAP:
            start = gram_quaternions(np.cos(distances[np.ix_(cap, cap)] / 2))
            quaternions = grow_map(distances, cap, start, radius)
            starts.append(_align_with_group(group, distances, quaternions, radius, rng))
    return starts


def unambiguous_radius(group: Rotation) -> float:
    """Return the distance in radians up to which two orientations are nearer to each other than to other copies."""
    return float(np.sort(group.magnitude())[1] / 2)


def locate_near(distances: np.ndarray, known: np.ndarray, radius: float) -> np.ndarray:
    """Find quaternions (n, 4) of images from their (n, m) distances to known ones (m, 4), for a symmetric particle.

    Each image starts at its nearest known orientation. It is then compared mainly with those that are certainly within
    ``radius``, where the choice of copy does not matter.
    """
    nearest = distances.argmin(axis=1)
    start = known[nearest]
    farthest = _angles(start, known) + distances.min(axis=1)[:, None]
    most_certain = np.argsort(farthest, axis=1)[:, :MIN_CAP]
    certain = farthest < radius
    np.put_along_axis(certain, most_certain, True, axis=1)
    kept = np.where(certain, distances, np.nan)
    return gauss_newton(kept, start, known, rounds=RING_ROUNDS, robust_width=np.inf)[0][-1]


def grow_map(distances: np.ndarray, cap: np.ndarray, start: np.ndarray, radius: float) -> np.ndarray:
    """Grow a map (n, 4) of all images from the quaternions ``start`` of the images in ``cap``."""
    quaternions = np.zeros((len(distances), 4))
    placed = np.zeros(len(distances), bool)
    quaternions[cap], placed[cap] = start, True
    while True:
        # move the images on the map to fit their distances
        known = np.flatnonzero(placed)
        quaternions[known] = _relax(distances[np.ix_(known, known)], quaternions[known], radius)
        if placed.all():
            return quaternions

        # place the ring of images nearest to the map
        missing = np.flatnonzero(~placed)
        to_known = distances[np.ix_(missing, known)]
        ring = np.argsort(to_known.min(axis=1))[: max(MIN_CAP, int((GROWTH - 1) * len(known)))]
        quaternions[missing[ring]] = locate_near(to_known[ring], quaternions[known], radius)
        placed[missing[ring]] = True


def _relax(distances: np.ndarray, quaternions: np.ndarray, radius: float) -> np.ndarray:
    """Move images to fit the distances within ``radius``, selecting these distances again after each round."""
    for _ in range(MAP_ROUNDS):
        near = np.where(_angles(quaternions, quaternions) < radius, distances, np.nan)
        quaternions = gauss_newton(near, quaternions, None, rounds=MAP_ROUNDS, robust_width=np.inf)[0][-1]
    return quaternions


def _align_with_group(group, distances, quaternions, radius, rng) -> np.ndarray:
    """Rotate, and if better transpose, into the frame in which the group best fits the distances beyond ``radius``."""
    i, j = np.triu_indices(len(distances), 1)
    far = np.flatnonzero(np.abs(np.sum(quaternions[i] * quaternions[j], axis=1)) < np.cos(radius / 2))
    chosen = rng.choice(far, min(FAR_PAIRS, len(far)), replace=False)
    i, j = i[chosen], j[chosen]
    found = []
    for rotations in (Rotation.from_quat(quaternions), Rotation.from_quat(quaternions).inv()):
        between = (rotations[i].inv() * rotations[j]).as_quat()
        loss, frame = _best_frame(group, distances[i, j], between, rng)
        found.append((loss, (rotations * frame).as_quat()))
    return min(found, key=lambda candidate: candidate[0])[1]


def _best_frame(group: Rotation, distances: np.ndarray, between: np.ndarray, rng) -> tuple[float, Rotation]:
    """Find the frame B in which distances of pairs (p,) best fit the nearest ``R_j B g B^-1``.

    Return the loss and the frame.
    """

    def losses(frames: Rotation) -> np.ndarray:
        copies = np.stack([(frames * g * frames.inv()).as_quat() for g in group], axis=1)
        return _frame_losses(distances, between, copies)

    # score a grid of frames, then descend from the best few
    frames = random_rotations(FRAMES, rng=rng)
    best = (np.inf, None)
    for number in np.argsort(losses(frames))[:REFINED_FRAMES]:
        frame = frames[int(number)]
        refined = minimize(
            lambda turn, frame=frame: losses(frame * Rotation.from_rotvec(turn[None]))[0],
            np.zeros(3),
            method="Nelder-Mead",
            options={"initial_simplex": 0.1 * np.eye(4, 3, -1), "xatol": 1e-5, "fatol": 1e-12},
        )
        best = min(best, (refined.fun, frame * Rotation.from_rotvec(refined.x)), key=lambda b: b[0])
    return best


@numba.njit(parallel=True, cache=True)
def _frame_losses(distances, between, groups):
    """Compute the mean squared error of (p,) distances in each of f frames: (f,).

    ``between`` (p, 4) are the relative orientations of the pairs, and ``groups`` (f, k, 4) the rotations of the group
    in each frame.
    """
    losses = np.zeros(len(groups))
    for f in numba.prange(len(groups)):
        for p in range(len(distances)):
            x, y, z, w = between[p]
            nearest = 0.0
            for k in range(groups.shape[1]):
                g = groups[f, k]
                nearest = max(nearest, abs(w * g[3] - x * g[0] - y * g[1] - z * g[2]))
            losses[f] += (distances[p] - 2 * np.arccos(min(nearest, 1.0))) ** 2
    return losses / len(distances)


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return rotation angles (n, m) between quaternions (n, 4) and (m, 4)."""
    return 2 * np.arccos(np.minimum(np.abs(a @ b.T), 1))
