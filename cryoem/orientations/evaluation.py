"""Errors of recovered orientations against the truth.

Without symmetry the best map is found in closed form.  Symmetry leaves less undetermined, and errors are to the nearest
copy ``R g`` of the truth.  The axes fix the particle's frame up to the rotations N that map the point group onto itself
(its normaliser): the 24 of the octahedron for D2; any rotation about the axis, and the half turns about axes
perpendicular to it, for C_n with n >= 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of, normaliser, origin_displacements, point_group
from cryoem.validation import many_rotations, shifts_of

MIRROR = np.diag([1.0, 1.0, -1.0])
REWEIGHTED_ROUNDS = 30
# of the search with symmetry
SEEDS = 12
SAMPLE = 200
FARTHEST_RAD = 0.6  # errors beyond this count as this while maps are compared


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

    It is ``min over A, B and transposition of mean d(R_i, A R_hat_i B)``, radians.  Parameters and errors are those of
    ``align_to``.

    References
    ----------
    arXiv 2104.06237, eq. 7, solved here by Procrustes instead of descent.
    """
    return align_to(true, recovered, symmetry=symmetry).mean_error


def pose_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """Return the pose error: the mean error after the best alignment of the particle's frame and handedness.

    It is ``min over B and mirror of mean d(R_i, R_hat_i B)``, radians; the mirror is ``R_hat -> J R_hat J``.
    Parameters and errors are those of ``align_frame``.
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

    Raises
    ------
    ValueError
        If the two differ in number, are empty or single rotations, or the point group is unknown.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        best = _best_symmetric(true, recovered, symmetry, turned=True)
        return FrameAlignment(best, _angles(true, best))
    aligned = [_best_two_sided(true.as_quat(), moved.as_quat()) for moved in (recovered, recovered.inv())]
    inverted = _nearer(true, *aligned)
    return FrameAlignment(aligned[inverted], _angles(true, aligned[inverted]), inverted=inverted)


def align_frame(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> FrameAlignment:
    """Align recovered orientations with the true ones by the best rotation of the particle's frame, and mirror.

    Parameters
    ----------
    true, recovered : Rotation
        n orientations each.
    symmetry : str
        Point group G of the particle, in the frame of ``rotations.point_group``.  Only frames in which the particle has
        symmetry G are tried; errors are to the nearest copy ``R g``.

    Raises
    ------
    ValueError
        As ``align_to``.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        fit = partial(_best_symmetric, symmetry=symmetry, turned=False)
    else:
        fit = _best_right
    aligned = [fit(true, moved) for moved in (recovered, mirror(recovered))]
    mirrored = _nearer(true, *aligned)
    return FrameAlignment(aligned[mirrored], _angles(true, aligned[mirrored]), mirrored=mirrored)


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


def _nearer(true: Rotation, first: Rotation, second: Rotation) -> bool:
    """Whether the second alignment has the lower mean error."""
    return bool(_angles(true, second).mean() < _angles(true, first).mean())


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


# --- symmetric particles


def _best_symmetric(true: Rotation, recovered: Rotation, symmetry: str, *, turned: bool) -> Rotation:
    """Return the n orientations ``A recovered N g`` of least mean error; A is free only if ``turned``."""
    group = point_group(symmetry)
    frames, about_axis = normaliser(symmetry)
    sample = np.random.default_rng(0).permutation(len(true))[:SAMPLE]
    best = (np.inf, None)
    for frame in frames:
        # try every frame with the turns that match one image exactly
        moved = recovered * frame
        turns = Rotation.identity(1)
        if turned:
            turns = Rotation.concatenate(
                [true[int(i)] * g * moved[int(i)].inv() for i in sample[:SEEDS] for g in group]
            )
        for turn in turns:
            errors = _angles(true[sample], _nearest_copies(true[sample], turn * moved[sample], group))
            score = np.minimum(errors, FARTHEST_RAD).mean()
            if score < best[0]:
                best = (score, turn * moved)

    # fit the continuous freedom to all images; outliers count less
    moved = best[1]
    for _ in range(REWEIGHTED_ROUNDS):
        moved = _nearest_copies(true, moved, group)
        if turned:
            moved = (true * moved.inv()).mean(weights=_weights(true, moved)) * moved
        if about_axis:
            wanted = (moved.inv() * true).as_rotvec()[:, 2]
            angle = np.average(wanted, weights=_weights(true, moved))
            moved = moved * Rotation.from_rotvec([0, 0, angle])
    return _nearest_copies(true, moved, group)


def _nearest_copies(true: Rotation, recovered: Rotation, group: Rotation) -> Rotation:
    """Return the copy of each recovered orientation that is nearest to the true one."""
    copies = copies_of(recovered, group)  # (n, k, 4)
    overlaps = np.abs(np.einsum("na,nka->nk", true.as_quat(), copies))
    return Rotation.from_quat(copies[np.arange(len(copies)), overlaps.argmax(axis=1)])


def _weights(true: Rotation, moved: Rotation) -> np.ndarray:
    return 1 / np.maximum(_angles(true, moved), 1e-6)
