"""One step of every image towards the slice that it resembles most."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.projectors.fourier import VolumeTransform
from cryoem.projectors.matching import correlate_candidates, gauss_newton_steps
from cryoem.refinement.poses import Poses
from cryoem.refinement.working_set import WorkingSet
from cryoem.rotations import random_small_rotations

LARGEST_STEP = 0.15  # radians
LARGEST_SHIFT = 1.0  # coarse pixels


def search(
    reference: VolumeTransform,
    work: WorkingSet,
    rotations: Rotation,
    *,
    candidates: int,
    radius: float,
    moves: bool,
    rng,
) -> tuple[Poses, np.ndarray]:
    """The best of the current orientation and random ones within ``radius`` around it, and its correlation (n,);
    where particles may move, followed by one step of ``descend``.
    """
    n = len(work.planes)
    around = random_small_rotations((n, candidates), radius=radius, rng=rng)
    turns = np.concatenate([np.zeros((n, 1, 3)), around], axis=1)
    matrices = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(n, -1, 3, 3)
    matrices = matrices @ rotations.as_matrix()[:, None]
    scores = correlate_candidates(
        reference, work.planes, matrices, work.frequencies, work.weights, work.transfers
    )
    best = np.argmax(scores, axis=1)
    found = Rotation.from_matrix(matrices[np.arange(n), best])
    if moves:
        return descend(reference, work, found, steps=1, moves=True)
    return Poses(found, np.zeros((n, 2))), scores[np.arange(n), best]


def descend(
    reference: VolumeTransform, work: WorkingSet, rotations: Rotation, *, steps: int, moves: bool
) -> tuple[Poses, np.ndarray]:
    """Gauss-Newton steps, each kept only where the correlation grows: orientations, displacements from where the images
    were centred, in coarse pixels, and the correlation (n,).
    """
    finest = np.hypot(*work.frequencies.T).max() * reference.shape.volume[0]  # Fourier pixels
    difference = 0.5 / (np.pi * finest)

    def correlation(centred: WorkingSet, oriented: Rotation) -> np.ndarray:
        matrices = oriented.as_matrix()[:, None]
        return correlate_candidates(
            reference, centred.planes, matrices, work.frequencies, work.weights, work.transfers
        )[:, 0]

    shifts, centred = np.zeros((len(work.planes), 2)), work
    score = correlation(centred, rotations)
    for _ in range(steps):
        step = gauss_newton_steps(
            reference,
            centred.planes,
            rotations,
            work.frequencies,
            work.weights,
            work.transfers,
            difference=difference,
            with_shifts=moves,
        )
        moved = Rotation.from_rotvec(_shortened(step[:, :3], LARGEST_STEP)) * rotations
        moved_shifts = shifts + _shortened(step[:, 3:], LARGEST_SHIFT) if moves else shifts
        moved_score = correlation(work.moved(-moved_shifts) if moves else work, moved)
        better = moved_score > score
        rotations = Rotation.from_matrix(
            np.where(better[:, None, None], moved.as_matrix(), rotations.as_matrix())
        )
        shifts = np.where(better[:, None], moved_shifts, shifts)
        centred = work.moved(-shifts) if moves else work
        score = np.maximum(score, moved_score)
    return Poses(rotations, shifts), score


def _shortened(steps: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1, longest / np.maximum(length, 1e-12))
