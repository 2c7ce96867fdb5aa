"""Errors of recovered orientations relative to the true ones.

Without symmetry, the best alignment is found in closed form. With symmetry, less is undetermined, and errors are
measured to the nearest copy ``R g`` of the true orientation. The symmetry axes fix the particle's frame up to the
rotations N that map the point group onto itself (its normaliser). For D2, these are the 24 rotations of the octahedral
group. For C_n with n >= 2, they are all rotations about the axis, and the half turns about axes perpendicular to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of, mirror, normaliser, origin_displacements, point_group
from cryoem.validation import many_rotations, shifts_of

REWEIGHTED_ROUNDS = 30
# search for symmetric particles
SEEDS = 12
SAMPLE = 200
FARTHEST_RAD = 0.6  # larger errors count as this value while candidates are compared


@dataclass(frozen=True)
class FrameAlignment:
    """Recovered orientations aligned with the true ones, and the remaining errors.

    Attributes
    ----------
    rotations : Rotation
        Recovered orientations in the frame of the true ones.
    errors : (n,) array
        Remaining rotation angles in radians.
    inverted : bool
        Whether the orientations were transposed first (``R -> A R^T B``).
    mirrored : bool
        Whether the particle was mirrored first (``R -> J R J``).
    """

    rotations: Rotation
    errors: np.ndarray
    inverted: bool = False
    mirrored: bool = False

    @property
    def mean_error(self) -> float:
        """Mean rotation angle between aligned and true orientations in radians."""
        return float(self.errors.mean())

    @property
    def median_error(self) -> float:
        """Median rotation angle between aligned and true orientations in radians; the alignment minimises the mean."""
        return float(np.median(self.errors))


def recovery_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """Return the mean orientation error E_OR, which is measured after the best alignment of the gauge.

    The error is ``min over A, B and transposition of mean d(R_i, A R_hat_i B)`` in radians. The alignment acts on the
    unit quaternions as an element of O(4). Parameters and errors are the same as for ``align_to``.

    References
    ----------
    arXiv 2104.06237, eq. 7, solved here by the Procrustes method instead of descent.
    """
    return align_to(true, recovered, symmetry=symmetry).mean_error


def pose_error(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> float:
    """Return the mean pose error, which is measured after the best alignment of the particle's frame and handedness.

    The error is ``min over B and mirror of mean d(R_i, R_hat_i B)`` in radians, where mirroring replaces ``R_hat`` by
    ``J R_hat J``. Parameters and errors are the same as for ``align_frame``.
    """
    return align_frame(true, recovered, symmetry=symmetry).mean_error


def align_to(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> FrameAlignment:
    """Align recovered orientations with the true ones by the best ``R -> A R B`` or ``R -> A R^T B``.

    Parameters
    ----------
    true, recovered : Rotation
        True and recovered orientations of the same n images.
    symmetry : str
        Point group G of the particle, in the frame of ``rotations.point_group``. For a symmetric particle, the
        transformation is ``R -> A R N g``, where the rotation N maps G onto itself and g in G selects the nearest copy
        for each image.
        Distances between orientations of symmetric particles distinguish R from R^T and fix the axes. Default:
        ``"C1"``.

    Returns
    -------
    FrameAlignment

    Raises
    ------
    ValueError
        If ``true`` and ``recovered`` differ in length, are empty or single rotations, or the point group is unknown.
    """
    _check(true, recovered)
    if len(point_group(symmetry)) > 1:
        best = _best_symmetric(true, recovered, symmetry, turned=True)
        return FrameAlignment(best, _angles(true, best))
    aligned = [_best_two_sided(true.as_quat(), moved.as_quat()) for moved in (recovered, recovered.inv())]
    inverted = _nearer(true, *aligned)
    return FrameAlignment(aligned[inverted], _angles(true, aligned[inverted]), inverted=inverted)


def align_frame(true: Rotation, recovered: Rotation, *, symmetry: str = "C1") -> FrameAlignment:
    """Align recovered orientations, mirrored if that fits better, with the true ones by rotating the particle's frame.

    Parameters
    ----------
    true, recovered : Rotation
        True and recovered orientations of the same n images.
    symmetry : str
        Point group G of the particle, in the frame of ``rotations.point_group``. Only frames in which the particle has
        symmetry G are tried, and errors are measured to the nearest copy ``R g``. Default: ``"C1"``.

    Returns
    -------
    FrameAlignment

    Raises
    ------
    ValueError
        If ``true`` and ``recovered`` differ in length, are empty or single rotations, or the point group is unknown.
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
    """Align estimated shifts with the true ones by the best translation of the particle's origin.

    This translation cannot be determined from the images.

    Parameters
    ----------
    true_px, found_px : (n, 2) array
        True and estimated displacements (x, y) of the particles.
    rotations : Rotation
        n orientations, true or estimated.
    symmetry : str
        Point group of the particle. The origin may move only along directions that the group leaves fixed. Default:
        ``"C1"``.

    Returns
    -------
    (n, 2) array
        Aligned shifts in pixels. The difference from ``true_px`` is the error of each shift.

    Raises
    ------
    ValueError
        If the shifts do not have shape (n, 2), or if the point group is unknown.
    """
    many_rotations(rotations)
    true_px, found_px = (
        shifts_of(shifts, count=len(rotations), name=name)
        for name, shifts in (("true_px", true_px), ("found_px", found_px))
    )
    return found_px + origin_displacements(rotations, true_px - found_px, symmetry=symmetry)


def _angles(a: Rotation, b: Rotation) -> np.ndarray:
    return (a.inv() * b).magnitude()


def _nearer(true: Rotation, first: Rotation, second: Rotation) -> bool:
    """Return whether the second alignment has the lower mean error."""
    return bool(_angles(true, second).mean() < _angles(true, first).mean())


def _check(true: Rotation, recovered: Rotation) -> None:
    many_rotations(true, name="true")
    many_rotations(recovered, name="recovered")
    if len(true) != len(recovered):
        raise ValueError(
            f"true and recovered must have the same length, got {len(true)} and {len(recovered)}"
        )


def _best_right(true: Rotation, recovered: Rotation) -> Rotation:
    """Return recovered * B for the B with the lowest mean error.

    B is a weighted average of the rotations that fit each single image.
    """
    wanted = recovered.inv() * true
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        frame = wanted.mean(weights=weights)
        weights = 1 / np.maximum(_angles(wanted, frame), 1e-6)
    return recovered * frame


def _best_two_sided(true: np.ndarray, recovered: np.ndarray) -> Rotation:
    """Return A * recovered * B, a rotation of R^4 acting on quaternions, by a reweighted Procrustes method.

    The start maximises ``sum <R_i, A R_hat_i B>`` through the best rank-one approximation of a 9 x 9 matrix, which does
    not depend on the signs of the quaternions.
    """
    quaternions = _two_sided_start(true, recovered)
    weights = np.ones(len(true))
    for _ in range(REWEIGHTED_ROUNDS):
        # choose signs, then the best rotation of R^4, then weights that turn the squared error into the mean error
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
    """Return the n orientations ``A recovered N g`` with the lowest mean error; A is the identity unless ``turned``."""
    group = point_group(symmetry)
    frames, about_axis = normaliser(symmetry)
    sample = np.random.default_rng(0).permutation(len(true))[:SAMPLE]
    best = (np.inf, None)
    for frame in frames:
        # try every frame with each turn that matches one image exactly
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

    # fit the continuous parameters to all images, giving outliers less weight
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
