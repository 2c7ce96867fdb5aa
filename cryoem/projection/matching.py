"""Comparison of images with central slices, which are evaluated on the fly and never stored.

Images are half-planes: Fourier transforms at m in-plane frequencies. ``weights`` states how many elements of the full
plane each of these represents. Orientations change by multiplication from the left, ``R -> exp(delta) R``, so the third
component of delta is an in-plane rotation. A displacement (x, y) of the image content multiplies the transform by a
phase. The CTF multiplies each slice by a real number at each frequency.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.images import shift_phases
from cryoem.projection import kernels
from cryoem.projection.fourier import VolumeTransform
from cryoem.projection.kernels import KERNEL_TABLE
from cryoem.rotations import Poses

BLOCK = 256  # images displaced at a time, to bound the memory for their phases


def correlate_candidates(
    spectrum: VolumeTransform,
    planes: np.ndarray,
    matrices: np.ndarray,
    frequencies: np.ndarray,
    weights: np.ndarray,
    transfers: np.ndarray | None = None,
) -> np.ndarray:
    """Correlate each image with the slices at its own candidate orientations: (n, c) float32 in [-1, 1].

    ``planes`` (n, m) are the transforms of the images at ``frequencies`` (m, 2) in cycles per pixel. ``matrices`` (n,
    c, 3, 3) are the candidate orientations. ``transfers`` (n, m) multiply the slices.
    """
    scores = np.empty(matrices.shape[:2], np.float32)
    kernels.correlate(*_arguments(spectrum, planes, matrices, frequencies, weights, transfers), scores)
    return scores


def displaced(planes: np.ndarray, frequencies: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Displace the content of images, given as (n, m) transforms, by (n, 2) shifts (x, y) in pixels."""
    moved = np.empty(planes.shape, np.complex64)
    for start in range(0, len(planes), BLOCK):
        some = slice(start, start + BLOCK)
        np.multiply(planes[some], shift_phases(shifts_px[some], frequencies), out=moved[some])
    return moved


def gauss_newton_steps(
    spectrum: VolumeTransform,
    planes: np.ndarray,
    rotations: Rotation,
    frequencies: np.ndarray,
    weights: np.ndarray,
    transfers: np.ndarray | None = None,
    *,
    with_shifts: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute Gauss-Newton steps of orientations, and optionally shifts, towards the images.

    Each step minimises ``|F - a S(exp(delta) R)|^2`` over delta for a linearised slice S. The contrast a is fitted by
    least squares. If ``with_shifts`` is True, the step also includes a displacement of the slice.

    The first result contains the steps (n, 3 or 5): rotation vectors in radians, followed by displacements (x, y) in
    pixels. The second is the inverse (n, 3 or 5, 3 or 5) of the damped normal matrices. Its product with the noise
    variance of an element's real or imaginary part is the covariance of each pose. The third contains the correlations
    (n,) of the images with the slices before the step.
    """
    unknowns = 5 if with_shifts else 3
    hessians = np.zeros((len(planes), unknowns, unknowns))
    gradients = np.zeros((len(planes), unknowns))
    scores = np.empty(len(planes), np.float32)
    kernels.normal_equations(
        *_arguments(spectrum, planes, rotations.as_matrix(), frequencies, weights, transfers),
        hessians,
        gradients,
        scores,
    )
    # damp angles and displacements separately, each by its own mean curvature
    alike = np.equal.outer(np.arange(unknowns) < 3, np.arange(unknowns) < 3)
    damping = 1e-3 * np.einsum("naa->na", hessians) @ alike + 1e-30
    hessians += damping[:, :, None] * np.eye(unknowns)
    inverse = np.linalg.inv(hessians)
    return (inverse @ gradients[..., None])[..., 0], inverse, scores


def take_steps(
    spectrum: VolumeTransform,
    planes: np.ndarray,
    poses: Poses,
    frequencies: np.ndarray,
    weights: np.ndarray,
    transfers: np.ndarray | None = None,
    *,
    steps: int,
    with_shifts: bool,
    largest_step: float,
    largest_shift: float,
) -> tuple[Poses, np.ndarray, np.ndarray]:
    """Take at least one Gauss-Newton step of n poses, and keep those steps that increase the correlation.

    The steps are at most ``largest_step`` radians and ``largest_shift`` pixels long. After a step that does not
    increase the correlation, half of it is tried. If ``with_shifts`` is False, the particles are centred and stay so.
    Returns the poses, their correlations (n,), and the inverse matrices of ``gauss_newton_steps`` where the last steps
    began.
    """
    comparison = frequencies, weights, transfers

    def seen_from(poses: Poses) -> np.ndarray:
        return displaced(planes, frequencies, -poses.shifts_px) if with_shifts else planes

    def step_from(poses: Poses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        changes, inverse, scores = gauss_newton_steps(
            spectrum, seen_from(poses), poses.rotations, *comparison, with_shifts=with_shifts
        )
        for part, longest in ((changes[:, :3], largest_step), (changes[:, 3:], largest_shift)):
            length = np.linalg.norm(part, axis=1, keepdims=True)
            part *= np.minimum(1, longest / np.maximum(length, 1e-12))
        return changes, inverse, scores

    changes, inverse, scores = step_from(poses)
    for remaining in reversed(range(steps)):
        tried = poses.moved(changes)
        if remaining:
            next_changes, next_inverse, tried_scores = step_from(tried)
        else:
            matrices = tried.rotations.as_matrix()[:, None]
            tried_scores = correlate_candidates(spectrum, seen_from(tried), matrices, *comparison)[:, 0]
        better = tried_scores > scores
        poses, scores = poses.replaced(better, tried), np.maximum(scores, tried_scores)
        if remaining:
            changes = np.where(better[:, None], next_changes, changes / 2)
            inverse = np.where(better[:, None, None], next_inverse, inverse)
    return poses, scores, inverse


def _arguments(spectrum, planes, matrices, frequencies, weights, transfers):
    if transfers is None:
        transfers = np.ones((1, len(weights)))
    return (
        spectrum.values.view(np.float32),
        np.array(spectrum.shape.full),
        KERNEL_TABLE,
        np.ascontiguousarray(planes, np.complex64),
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        np.ascontiguousarray(weights, np.float32),
        np.ascontiguousarray(transfers, np.float32),
    )
