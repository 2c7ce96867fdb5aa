"""One step of every image towards the slice that it resembles most, and how far off it may still be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.projectors.fourier import VolumeTransform
from cryoem.projectors.matching import correlate_candidates, gauss_newton_steps
from cryoem.refinement.poses import Poses
from cryoem.refinement.working_set import WorkingSet
from cryoem.rotations import random_small_rotations

LARGEST_STEP = 0.15  # radians
LARGEST_SHIFT = 1.0  # coarse pixels


@dataclass(frozen=True)
class Found:
    """``poses``: orientations, and displacements from where the images were centred, in coarse pixels; ``scores`` (n,)
    correlation of image and slice; ``covariances`` (n, 3 or 5, 3 or 5) of the poses, radians and coarse pixels.
    """

    poses: Poses
    scores: np.ndarray
    covariances: np.ndarray

    def drawn(self, rng) -> Poses:
        """Poses as they may be as well, given the noise of the images: each drawn from its own uncertainty."""
        factors = np.linalg.cholesky(self.covariances)
        draws = np.einsum("nab,nb->na", factors, rng.standard_normal(factors.shape[:2]))
        return _moved(self.poses, draws, largest_step=np.pi, largest_shift=np.inf)


def search(
    reference: VolumeTransform,
    work: WorkingSet,
    rotations: Rotation,
    *,
    candidates: int,
    radius: float,
    moves: bool,
    rng,
) -> Found:
    """The best of the current orientation and random ones within ``radius`` around it, followed by one step of
    ``descend``.
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
    return descend(reference, work, found, steps=1, moves=moves)


def descend(
    reference: VolumeTransform, work: WorkingSet, rotations: Rotation, *, steps: int, moves: bool
) -> Found:
    """Gauss-Newton steps, at least one, of orientations and, if the particle ``moves``, of shifts; each is kept only
    where the correlation grows.
    """
    finest = np.hypot(*work.frequencies.T).max() * reference.shape.volume[0]  # Fourier pixels
    poses, centred = Poses(rotations, np.zeros((len(work.planes), 2))), work
    scores = _correlations(reference, centred, poses)
    for _ in range(steps):
        step, inverse = gauss_newton_steps(
            reference,
            centred.planes,
            poses.rotations,
            work.frequencies,
            work.weights,
            work.transfers,
            difference=0.5 / (np.pi * finest),
            with_shifts=moves,
        )
        tried = _moved(poses, step)
        tried_scores = _correlations(reference, work.moved(-tried.shifts_px) if moves else work, tried)
        better = tried_scores > scores
        matrices = np.where(better[:, None, None], tried.rotations.as_matrix(), poses.rotations.as_matrix())
        shifts = np.where(better[:, None], tried.shifts_px, poses.shifts_px)
        poses, scores = Poses(Rotation.from_matrix(matrices), shifts), np.maximum(scores, tried_scores)
        centred = work.moved(-shifts) if moves else work
    unexplained = np.mean(np.abs(work.planes) ** 2, axis=1) / 2 * np.clip(1 - scores**2, 0, 1)
    return Found(poses, scores, unexplained[:, None, None] * inverse + 1e-16 * np.eye(inverse.shape[-1]))


def _correlations(reference: VolumeTransform, work: WorkingSet, poses: Poses) -> np.ndarray:
    """Of each image with its slice: (n,)."""
    matrices = poses.rotations.as_matrix()[:, None]
    return correlate_candidates(
        reference, work.planes, matrices, work.frequencies, work.weights, work.transfers
    )[:, 0]


def _moved(
    poses: Poses,
    steps: np.ndarray,
    *,
    largest_step: float = LARGEST_STEP,
    largest_shift: float = LARGEST_SHIFT,
) -> Poses:
    """Poses changed by (n, 3 or 5) rotation vectors and displacements, the longest of them shortened."""
    rotations = Rotation.from_rotvec(_shortened(steps[:, :3], largest_step)) * poses.rotations
    if steps.shape[1] == 3:
        return Poses(rotations, poses.shifts_px)
    return Poses(rotations, poses.shifts_px + _shortened(steps[:, 3:], largest_shift))


def _shortened(steps: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1, longest / np.maximum(length, 1e-12))
