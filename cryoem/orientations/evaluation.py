"""Errors of recovered orientations against the truth, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.orientations.symmetric_evaluation import best_map
from cryoem.rotations import origin_displacements, point_group
from cryoem.validation import many_rotations, shifts_of

MIRROR = np.diag([1.0, 1.0, -1.0])
REWEIGHTED_ROUNDS = 30


@dataclass(frozen=True)
class FrameAlignment:
    """A map from recovered orientations onto the true ones, and the remaining error.

    Attributes
    ----------
    rotations : Rotation
        Recovered orientations in the frame of the truth.
    errors : (n,) array
        Remaining rotation angles, radians.
    inverted : bool
        Whether orientations were transposed first (``R -> A R^T B``).
    mirrored : bool
        Whether the particle was mirrored (``R -> J R J``).
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
    """Return the mean orientation error E_OR: the error after the best alignment of the gauge, a map in O(4).

    Parameters
    ----------
    true, recovered, symmetry
        As for ``align_to``.

    Returns
    -------
    float
        Radians: ``min over A, B and transposition of mean d(R_i, A R_hat_i B)``.

    Raises
    ------
    ValueError
        If the two differ in number, are empty or single rotations, or the point group is unknown.

    References
    ----------
    arXiv 2104.06237, eq. 7, solved here by Procrustes instead of descent.
    """
    return align_to(true, recovered, symmetry=symmetry).mean_error


def pose_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """Return the pose error: the mean error after the best alignment of the particle's frame and handedness.

    Parameters
    ----------
    true, recovered, symmetry
        As for ``align_frame``.

    Returns
    -------
    float
        Radians: ``min over B and mirror of mean d(R_i, R_hat_i B)``; the mirror is ``R_hat -> J R_hat J``.

    Raises
    ------
    ValueError
        If the two differ in number, are empty or single rotations, or the point group is unknown.
    """
    return align_frame(true, recovered, symmetry=symmetry).mean_error


def align_to(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> FrameAlignment:
    """Align recovered orientations with the true ones by the best ``R -> A R B`` or ``R -> A R^T B``.

    Parameters
    ----------
    true, recovered : Rotation
        n orientations each.
    symmetry : str
        Point group G of the particle, in the frame of ``rotations.point_group``.  For a symmetric particle the map is
        ``R -> A R N g``: N is a rotation that maps G onto itself, and g in G brings each image nearest.  Distances
        between symmetric particles distinguish R from R^T and fix the axes.

    Returns
    -------
    FrameAlignment

    Raises
    ------
    ValueError
        As ``recovery_error``.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        best = best_map(true, recovered, symmetry, turned=True)
        return FrameAlignment(best, _angles(true, best))
    direct = _best_two_sided(true.as_quat(), recovered.as_quat())
    inverse = _best_two_sided(true.as_quat(), recovered.inv().as_quat())
    inverted = _angles(true, inverse).mean() < _angles(true, direct).mean()
    best = inverse if inverted else direct
    return FrameAlignment(best, _angles(true, best), inverted=bool(inverted))


def align_frame(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> FrameAlignment:
    """Align recovered orientations with the true ones by the best rotation of the particle's frame, and mirror.

    Parameters
    ----------
    true, recovered : Rotation
        n orientations each.
    symmetry : str
        Point group G of the particle, in the frame of ``rotations.point_group``.  Only frames in which the particle has
        symmetry G are tried; errors are to the nearest copy ``R g``.

    Returns
    -------
    FrameAlignment

    Raises
    ------
    ValueError
        As ``pose_error``.
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
    return FrameAlignment(best, _angles(true, best), mirrored=bool(is_mirrored))


def align_shifts(
    true_px: np.ndarray, found_px: np.ndarray, rotations: Rotation, *, symmetry: str = "C1"
) -> np.ndarray:
    """Align estimated shifts with the true ones by the best translation of the origin, which images do not determine.

    Parameters
    ----------
    true_px, found_px : (n, 2) array
        Displacements (x, y) of the particles.
    rotations : Rotation
        n orientations, in the frame of the truth or in their own.
    symmetry : str
        Point group of the particle, whose origin is free only along directions that the group leaves fixed.

    Returns
    -------
    (n, 2) array
        Pixels; the remaining difference is the error of each shift.

    Raises
    ------
    ValueError
        If shifts are not (n, 2), or the point group is unknown.
    """
    many_rotations(rotations)
    true_px, found_px = (
        shifts_of(shifts, count=len(rotations), name=name)
        for name, shifts in (("true_px", true_px), ("found_px", found_px))
    )
    return found_px + origin_displacements(rotations, true_px - found_px, symmetry=symmetry)


def mirror(rotations: Rotation) -> Rotation:
    """Return ``J R J``, J = diag(1, 1, -1): orientations at which the mirrored particle gives the same images."""
    return Rotation.from_matrix(MIRROR @ rotations.as_matrix() @ MIRROR)


def _angles(a: Rotation, b: Rotation) -> np.ndarray:
    return (a.inv() * b).magnitude()


def _check(true: Rotation, recovered: Rotation) -> None:
    many_rotations(true, name="true")
    many_rotations(recovered, name="recovered")
    if len(true) != len(recovered):
        raise ValueError(f"true and recovered must be equal in number, got {len(true)} and {len(recovered)}")


def _best_right(true: Rotation, recovered: Rotation) -> Rotation:
    """Return recovered * B with the B of least mean error: a weighted average of the B that fits each image."""
    wanted = recovered.inv() * true
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        frame = wanted.mean(weights=weights)
        weights = 1 / np.maximum(_angles(wanted, frame), 1e-6)
    return recovered * frame


def _best_two_sided(true: np.ndarray, recovered: np.ndarray) -> Rotation:
    """Return A * recovered * B, a rotation T of R^4 acting on quaternions, by Procrustes with re-weighting.

    The start maximises ``sum <R_i, A R_hat_i B>`` over the best rank-one approximation of a 9 x 9 matrix, which is
    independent of the quaternions' signs.
    """
    quaternions = _two_sided_start(true, recovered)
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        # choose signs, then the rotation of R^4 that fits best, then weights that turn squares into a mean
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
