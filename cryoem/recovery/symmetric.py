"""A start for the orientations of a symmetric particle, from distances that its point group has reduced.

The distance is ``min_g d(R_i, R_j g)``.  Orientations that are closer than half of the group's smallest angle are
nearer to each other than to any other copy: between them it is the plain distance, whichever copies they are.  So a
cap of images is laid out by the Gram matrix of its quaternions, and the map grows outwards, each image at the copy
nearest to what is there, while distances beyond half of the angle are left out.  They say in the end where
the map closes on itself: how the group's axes lie in it, and whether all orientations are transposed, which plain
distances cannot tell.  The best of a grid of frames is refined, and the map turned into the frame of ``point_group``.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from cryoem.recovery.polish import polish_against
from cryoem.recovery.spectral import MIN_CAP, gram_quaternions
from cryoem.rotations import random_rotations

GROWTH = 1.4  # of the map, a ring at a time
RING_ROUNDS, MAP_ROUNDS = 15, 4
STARTS = 3
FRAMES = 3000
FAR_PAIRS = 2000
REFINED_FRAMES = 4


def symmetric_starts(distances: np.ndarray, group: Rotation, rng: np.random.Generator) -> list[np.ndarray]:
    """Quaternions (n, 4) of all images, in the frame of the group, from reduced distances (n, n) in radians.

    One start for each of the ``STARTS`` images with the most neighbours, from which the map grows.

    ValueError : no image has ``MIN_CAP`` others near enough to it.
    """
    reach = reach_of(group)
    neighbours = distances < reach / 2
    counts = neighbours.sum(axis=1)
    if counts.max() < MIN_CAP:
        raise ValueError(
            f"distances must hold an image with {MIN_CAP - 1} others within {reach / 2:.3g} rad, for this symmetry, "
            f"got {counts.max() - 1}; more images, or more landmarks, stand closer"
        )
    starts = []
    for centre in np.argsort(-counts, kind="stable")[:STARTS]:
        cap = np.flatnonzero(neighbours[centre])
        if len(cap) >= MIN_CAP:
            start = gram_quaternions(np.cos(distances[np.ix_(cap, cap)] / 2))
            laid_out = _laid_out(distances, cap, start, reach)
            starts.append(_in_the_frame_of(group, distances, laid_out, reach, rng))
    return starts


def reach_of(group: Rotation) -> float:
    """The distance, radians, up to which two orientations are certainly nearer to each other than to another copy."""
    return float(np.sort(group.magnitude())[1] / 2)


def place(distances: np.ndarray, known: np.ndarray, reach: float) -> np.ndarray:
    """Quaternions (n, 4) of images from reduced distances (n, m) to known ones (m, 4): next to the nearest of them.

    Only those are compared with that lie near enough for the copy not to matter.
    """
    nearest = distances.argmin(axis=1)
    start = known[nearest]
    farthest = _angles(start, known) + distances.min(axis=1)[:, None]
    most_certain = np.argsort(farthest, axis=1)[:, :MIN_CAP]
    certain = farthest < reach
    np.put_along_axis(certain, most_certain, True, axis=1)
    trusted = np.where(certain, distances, np.nan)
    return polish_against(trusted, start, known, rounds=RING_ROUNDS, robust_width=np.inf)[0][-1]


def _laid_out(distances: np.ndarray, cap: np.ndarray, start: np.ndarray, reach: float) -> np.ndarray:
    """The map (n, 4) that grows from the quaternions of a cap of images."""
    quaternions = np.zeros((len(distances), 4))
    placed = np.zeros(len(distances), bool)
    quaternions[cap], placed[cap] = start, True
    while True:
        known = np.flatnonzero(placed)
        quaternions[known] = _settled(distances[np.ix_(known, known)], quaternions[known], reach)
        if placed.all():
            return quaternions
        missing = np.flatnonzero(~placed)
        to_known = distances[np.ix_(missing, known)]
        ring = np.argsort(to_known.min(axis=1))[: max(MIN_CAP, int((GROWTH - 1) * len(known)))]
        quaternions[missing[ring]] = place(to_known[ring], quaternions[known], reach)
        placed[missing[ring]] = True


def _settled(distances: np.ndarray, quaternions: np.ndarray, reach: float) -> np.ndarray:
    """Images moved to agree with the distances within reach; which these are changes as they move."""
    for _ in range(MAP_ROUNDS):
        near = np.where(_angles(quaternions, quaternions) < reach, distances, np.nan)
        quaternions = polish_against(near, quaternions, None, rounds=MAP_ROUNDS, robust_width=np.inf)[0][-1]
    return quaternions


def _in_the_frame_of(group, distances, quaternions, reach, rng) -> np.ndarray:
    """Orientations, transposed or not, in the frame in which the group explains the distances beyond reach best."""
    i, j = np.triu_indices(len(distances), 1)
    far = np.flatnonzero(np.abs(np.sum(quaternions[i] * quaternions[j], axis=1)) < np.cos(reach / 2))
    chosen = rng.choice(far, min(FAR_PAIRS, len(far)), replace=False)
    i, j = i[chosen], j[chosen]
    found = []
    for rotations in (Rotation.from_quat(quaternions), Rotation.from_quat(quaternions).inv()):
        between = (rotations[i].inv() * rotations[j]).as_quat()
        loss, frame = _best_frame(group, distances[i, j], between, rng)
        found.append((loss, (rotations * frame).as_quat()))
    return min(found, key=lambda candidate: candidate[0])[1]


def _best_frame(group: Rotation, distances: np.ndarray, between: np.ndarray, rng) -> tuple[float, Rotation]:
    """The frame B, and its loss, in which the distances of pairs (p,) are those to the nearest ``R_j B g B^-1``."""

    def losses(frames: Rotation) -> np.ndarray:
        turned = np.stack([(frames * g * frames.inv()).as_quat() for g in group], axis=1)
        return _frame_losses(distances, between, turned)

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
    """Mean squared error of distances (p,) with relative orientations (p, 4) in each of f frames: groups (f, k, 4)."""
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
