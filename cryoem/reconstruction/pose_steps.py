"""Steps of poses towards the best-matching slices, and the uncertainty of the new poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.projection.fourier import VolumeTransform
from cryoem.projection.matching import correlate_candidates, gauss_newton_steps
from cryoem.reconstruction.working_images import WorkingImages
from cryoem.rotations import Poses, random_small_rotations

LARGEST_STEP = 0.15  # radians
LARGEST_SHIFT = 1.0  # coarse pixels


@dataclass(frozen=True)
class MatchResult:
    """Result of one step of n images.

    ``poses``: orientations, and displacements from the current centres, coarse pixels; ``scores`` (n,):
    correlation of image and slice; ``covariances`` (n, 3 or 5, 3 or 5) of the poses, radians and coarse pixels.
    """

    poses: Poses
    scores: np.ndarray
    covariances: np.ndarray

    def sample(self, rng: np.random.Generator) -> Poses:
        """Sample each pose from its own uncertainty."""
        factors = np.linalg.cholesky(self.covariances)
        draws = np.einsum("nab,nb->na", factors, rng.standard_normal(factors.shape[:2]))
        return _moved(self.poses, draws, largest_step=np.pi, largest_shift=np.inf)


def search(
    reference: VolumeTransform,
    work: WorkingImages,
    rotations: Rotation,
    *,
    candidates: int,
    radius: float,
    refine_shifts: bool,
    rng,
) -> MatchResult:
    """Take the best of the current orientation and random ones within ``radius`` of it, then one ``descend`` step."""
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
    return descend(reference, work, found, steps=1, refine_shifts=refine_shifts)


def descend(
    reference: VolumeTransform, work: WorkingImages, rotations: Rotation, *, steps: int, refine_shifts: bool
) -> MatchResult:
    """Take Gauss-Newton steps of orientations and, with ``refine_shifts``, of shifts.

    At least one step is taken; it is kept only for images whose correlation increases.
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
            with_shifts=refine_shifts,
        )
        tried = _moved(poses, step)
        tried_scores = _correlations(
            reference, work.moved(-tried.shifts_px) if refine_shifts else work, tried
        )
        better = tried_scores > scores
        matrices = np.where(better[:, None, None], tried.rotations.as_matrix(), poses.rotations.as_matrix())
        shifts = np.where(better[:, None], tried.shifts_px, poses.shifts_px)
        poses, scores = Poses(Rotation.from_matrix(matrices), shifts), np.maximum(scores, tried_scores)
        centred = work.moved(-shifts) if refine_shifts else work
    unexplained = np.mean(np.abs(work.planes) ** 2, axis=1) / 2 * np.clip(1 - scores**2, 0, 1)
    return MatchResult(
        poses, scores, unexplained[:, None, None] * inverse + 1e-16 * np.eye(inverse.shape[-1])
    )


def _correlations(reference: VolumeTransform, work: WorkingImages, poses: Poses) -> np.ndarray:
    """Correlation of each image with its slice: (n,)."""
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
    """Change poses by (n, 3 or 5) rotation vectors and displacements, shortening those that are too long."""
    rotations = Rotation.from_rotvec(_shortened(steps[:, :3], largest_step)) * poses.rotations
    if steps.shape[1] == 3:
        return Poses(rotations, poses.shifts_px)
    return Poses(rotations, poses.shifts_px + _shortened(steps[:, 3:], largest_shift))


def _shortened(steps: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1, longest / np.maximum(length, 1e-12))
