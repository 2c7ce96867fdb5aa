"""Errors of recovered orientations against the truth, in closed form, for when there is a truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, shifts_of
from cryoem.rotations import origin_displacements, point_group
from cryoem.symmetric_evaluation import best_map

MIRROR = np.diag([1.0, 1.0, -1.0])
REWEIGHTED_ROUNDS = 30


@dataclass(frozen=True)
class Alignment:
    """A map from recovered orientations onto the true ones and the error that remains.

    ``rotations``: the recovered orientations in the frame of the truth; ``errors``: (n,) radians;
    ``inverted``: whether they were transposed first (``R -> A R^T B``); ``mirrored``: whether the particle
    was mirrored (``R -> J R J``).
    """

    rotations: Rotation
    errors: np.ndarray
    inverted: bool = False
    mirrored: bool = False

    @property
    def mean_error(self) -> float:
        """Mean rotation angle between aligned and true orientations, radians."""
        return float(self.errors.mean())


def recovery_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """E_OR: the mean error after the best map in O(4), what distances alone can determine.

    Parameters
    ----------
    true, recovered : n orientations each.
    symmetry : point group G of the particle; see ``align_to``.

    Returns
    -------
    radians: ``min over A, B and transposition of mean d(R_i, A R_hat_i B)``.

    Raises
    ------
    ValueError : the two are not equally many, empty, or a single rotation.

    Source: arXiv 2104.06237, eq. 7, solved by Procrustes instead of by descent.
    """
    return align_to(true, recovered, symmetry=symmetry).mean_error


def pose_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """Mean error where only the particle's frame and its handedness are free, what images can determine.

    Parameters
    ----------
    true, recovered : n orientations each.
    symmetry : point group G of the particle; see ``align_frame``.

    Returns
    -------
    radians: ``min over B and mirror of mean d(R_i, R_hat_i B)``, the mirror being ``R_hat -> J R_hat J``.

    Raises
    ------
    ValueError : the two are not equally many, empty, or a single rotation.
    """
    return align_frame(true, recovered, symmetry=symmetry).mean_error


def align_to(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> Alignment:
    """The recovered orientations moved onto the true ones by the best ``R -> A R B`` or ``R -> A R^T B``.

    With ``symmetry``, of a group G as ``rotations.point_group`` has it, by ``R -> A R N g`` instead, N a rotation that
    maps G onto itself and g in G the one that brings this image nearest: distances between symmetric particles
    tell R from R^T and say how the axes lie.

    Shapes, errors raised: as ``recovery_error``.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        best = best_map(true, recovered, symmetry, turned=True)
        return Alignment(best, _angles(true, best))
    direct = _best_two_sided(true.as_quat(), recovered.as_quat())
    inverse = _best_two_sided(true.as_quat(), recovered.inv().as_quat())
    inverted = _angles(true, inverse).mean() < _angles(true, direct).mean()
    best = inverse if inverted else direct
    return Alignment(best, _angles(true, best), inverted=bool(inverted))


def align_frame(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> Alignment:
    """The recovered orientations moved onto the true ones by the best rotation of the particle's frame, and mirror.

    With ``symmetry``, of a group G as ``rotations.point_group`` has it, only frames in which the particle has G are
    possible, and of the copies ``R g`` the nearest counts.

    Shapes, errors raised: as ``pose_error``.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        plain, mirrored = (
            best_map(true, moved, symmetry, turned=False) for moved in (recovered, mirror(recovered))
        )
    else:
        plain, mirrored = _best_right(true, recovered), _best_right(true, mirror(recovered))
    is_mirrored = _angles(true, mirrored).mean() < _angles(true, plain).mean()
    best = mirrored if is_mirrored else plain
    return Alignment(best, _angles(true, best), mirrored=bool(is_mirrored))


def align_shifts(
    true_px: np.ndarray, found_px: np.ndarray, rotations: Rotation, *, symmetry: str = "C1"
) -> np.ndarray:
    """Found shifts about the origin of the true ones, which images cannot tell.

    Parameters
    ----------
    true_px, found_px : (n, 2) displacements (x, y) of the particles.
    rotations : n orientations, in the frame of the truth or in their own.
    symmetry : point group of the particle, whose origin is free only along what it leaves alone.

    Returns
    -------
    (n, 2) pixels; what is left of the difference is the error of each shift.

    Raises
    ------
    ValueError : shifts are not (n, 2) for n orientations, or the point group is unknown.
    """
    many_rotations(rotations)
    true_px, found_px = (
        shifts_of(shifts, count=len(rotations), name=name)
        for name, shifts in (("true_px", true_px), ("found_px", found_px))
    )
    return found_px + origin_displacements(rotations, true_px - found_px, symmetry=symmetry)


def mirror(rotations: Rotation) -> Rotation:
    """Orientations under which the mirror image of the particle gives the same images: ``J R J``, J = diag(1,
    1, -1).
    """
    return Rotation.from_matrix(MIRROR @ rotations.as_matrix() @ MIRROR)


def _angles(a: Rotation, b: Rotation) -> np.ndarray:
    return (a.inv() * b).magnitude()


def _check(true: Rotation, recovered: Rotation) -> None:
    many_rotations(true, name="true")
    many_rotations(recovered, name="recovered")
    if len(true) != len(recovered):
        raise ValueError(f"true and recovered must be equally many, got {len(true)} and {len(recovered)}")


def _best_right(true: Rotation, recovered: Rotation) -> Rotation:
    """recovered * B with the B of least mean error: weighted averages of the B that each image alone asks for."""
    wanted = recovered.inv() * true
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        frame = wanted.mean(weights=weights)
        weights = 1 / np.maximum(_angles(wanted, frame), 1e-6)
    return recovered * frame


def _best_two_sided(true: np.ndarray, recovered: np.ndarray) -> Rotation:
    """A * recovered * B, a rotation T of R^4 acting on quaternions, by Procrustes with re-weighting.

    The start maximises ``sum <R_i, A R_hat_i B>`` over the best rank-one approximation of a 9 x 9 matrix, in which the
    quaternions' signs do not enter.
    """
    quaternions = _two_sided_start(true, recovered)
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        overlap = np.sum(true * quaternions, axis=1)
        signed = quaternions * np.sign(np.where(overlap == 0, 1, overlap))[:, None]
        u, _, vt = np.linalg.svd(true.T @ (weights[:, None] * signed))
        turn = u @ np.diag([1, 1, 1, np.linalg.det(u @ vt)]) @ vt
        quaternions = signed @ turn.T
        gap = np.linalg.norm(true - quaternions, axis=1)
        weights = 1 / np.maximum(gap, 1e-9)
    return Rotation.from_quat(quaternions)


def _two_sided_start(true: np.ndarray, recovered: np.ndarray) -> np.ndarray:
    target, moving = Rotation.from_quat(true).as_matrix(), Rotation.from_quat(recovered).as_matrix()
    # sum_i tr(R_i^T A M_i B) = sum A_ab B_cd K_(ab)(cd), K = sum_i R_i,ad M_i,bc
    coupling = np.einsum("nad,nbc->abcd", target, moving).reshape(9, 9)
    u, _, vt = np.linalg.svd(coupling)
    candidates = []
    for sign in (1, -1):
        left = _nearest_rotation(sign * u[:, 0].reshape(3, 3))
        right = _nearest_rotation(sign * vt[0].reshape(3, 3))
        for _ in range(20):
            left = _nearest_rotation(np.einsum("nad,nbc,cd->ab", target, moving, right))
            right = _nearest_rotation(np.einsum("nad,nbc,ab->cd", target, moving, left))
        candidates.append(left @ moving @ right)
    best = max(candidates, key=lambda moved: np.sum(moved * target))
    return Rotation.from_matrix(best).as_quat()


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
