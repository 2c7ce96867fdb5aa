"""Initial orientations of a symmetric particle, from distances to the nearest equivalent orientation.

The distance is ``min_g d(R_i, R_j g)``.  Orientations closer than half of the group's smallest angle are nearer to each
other than to any other copy: between them the distance is the plain one, whichever copies they are.  So a cap of images
is placed by the Gram matrix of its quaternions, and the map grows outwards: each image joins at the copy nearest to the
images already on the map, and distances beyond half of the angle are left out.  These far distances finally determine
where the map closes on itself: how the group's axes lie in it, and whether all orientations are transposed, which plain
distances leave open.  The best of a grid of frames is refined, and the map is rotated into the frame of
``rotations.point_group``.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from cryoem.orientations.gauss_newton import gauss_newton
from cryoem.orientations.spectral import MIN_CAP, gram_quaternions
from cryoem.rotations import random_rotations

GROWTH = 1.4  # of the map, a ring at a time
RING_ROUNDS, MAP_ROUNDS = 15, 4
STARTS = 3
FRAMES = 3000
FAR_PAIRS = 2000
REFINED_FRAMES = 4


def symmetric_starts(distances: np.ndarray, group: Rotation, rng: np.random.Generator) -> list[np.ndarray]:
    """Find candidate quaternions (n, 4) in the frame of the group from (n, n) reduced distances in radians.

    There is one start for each of the ``STARTS`` images with the most neighbours, from which the map grows.

    Raises
    ------
    ValueError
        If no image has enough neighbours.
    """
    radius = unambiguous_radius(group)
    neighbours = distances < radius / 2
    counts = neighbours.sum(axis=1)
    if counts.max() < MIN_CAP:
        raise ValueError(
            f"distances must contain an image with at least {MIN_CAP - 1} neighbours within {radius / 2:.3g} rad for "
            f"this symmetry, got at most {counts.max() - 1}; use more images or more landmarks"
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
    """Distance, radians, up to which two orientations are nearer to each other than to any other copy."""
    return float(np.sort(group.magnitude())[1] / 2)


def locate_near(distances: np.ndarray, known: np.ndarray, radius: float) -> np.ndarray:
    """Find quaternions (n, 4) of images from reduced distances (n, m) to known ones (m, 4).

    Each image is placed next to the nearest known one, and compared only with those near enough for the copy not to
    matter, within ``radius``.
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
    """Grow a map (n, 4) of all images from the quaternions ``start`` of those in ``cap``."""
    quaternions = np.zeros((len(distances), 4))
    placed = np.zeros(len(distances), bool)
    quaternions[cap], placed[cap] = start, True
    while True:
        # relax the images on the map
        known = np.flatnonzero(placed)
        quaternions[known] = _relax(distances[np.ix_(known, known)], quaternions[known], radius)
        if placed.all():
            return quaternions

        # place the ring of images nearest to it
        missing = np.flatnonzero(~placed)
        to_known = distances[np.ix_(missing, known)]
        ring = np.argsort(to_known.min(axis=1))[: max(MIN_CAP, int((GROWTH - 1) * len(known)))]
        quaternions[missing[ring]] = locate_near(to_known[ring], quaternions[known], radius)
        placed[missing[ring]] = True


def _relax(distances: np.ndarray, quaternions: np.ndarray, radius: float) -> np.ndarray:
    """Move images to fit the distances within ``radius``; which these are changes as they move."""
    for _ in range(MAP_ROUNDS):
        near = np.where(_angles(quaternions, quaternions) < radius, distances, np.nan)
        quaternions = gauss_newton(near, quaternions, None, rounds=MAP_ROUNDS, robust_width=np.inf)[0][-1]
    return quaternions


def _align_with_group(group, distances, quaternions, radius, rng) -> np.ndarray:
    """Rotate, and transpose if better, into the frame in which the group fits the distances beyond ``radius`` best."""
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
    """Find the frame B, and its loss, in which distances of pairs (p,) are those to the nearest ``R_j B g B^-1``."""

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
    """Mean squared error of distances (p,) with relative orientations (p, 4) in f frames: groups (f, k, 4)."""
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
    """Rotation angles (n, m) between quaternions (n, 4) and (m, 4)."""
    return 2 * np.arccos(np.minimum(np.abs(a @ b.T), 1))
