"""Orientations: sampling, conversions, point groups and the geodesic distance.

The only module that converts between representations.  An orientation is a SciPy ``Rotation`` R that takes particle
coordinates to microscope coordinates, ``x_microscope = R @ x_particle``; quaternions are (x, y, z, w); angles are
radians unless a name says ``_deg``.
"""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, shifts_of, whole_number

BLOCK = 65_536  # orientations drawn at a time
COVERAGES = ("so3", "euler", "half", "quarter", "preferred")
PREFERRED_AXES = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
PREFERRED_CONCENTRATION = 10.0


def random_rotations(
    n: int, *, coverage: str = "so3", rng: np.random.Generator | int | None = None
) -> Rotation:
    """Draw ``n`` random orientations.

    Parameters
    ----------
    n : number of orientations, at least 1.
    coverage : ``"so3"`` uniform on SO(3); ``"euler"`` uniform in the three Euler angles, denser at the poles;
        ``"half"`` uniform with viewing directions on half of the sphere (tilt < pi/2); ``"quarter"`` the same
        on a quarter of it (tilt < pi/2 and rot in [0, pi)); ``"preferred"`` viewing directions that crowd about the
        particle's z-axis and x-axis, as particles do that lie on the ice in two ways: an even mixture of two von
        Mises-Fisher distributions of concentration 10, half of each within 22 degrees of its axis.
    rng : generator or seed.

    Returns
    -------
    Rotation of length n.

    Raises
    ------
    ValueError : ``n`` is below 1 or ``coverage`` is not known.

    Source: arXiv 2104.06237, section on sampling; uniform SO(3) has a uniform cosine of the tilt angle.
    """
    n = whole_number(n, name="n", at_least=1)
    if coverage not in COVERAGES:
        raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
    rng = np.random.default_rng(rng)
    if coverage == "preferred":
        return _preferred(n, rng)
    rot, psi = rng.uniform(0, 2 * np.pi, (2, n))
    cos_tilt = rng.uniform(-1, 1, n)
    tilt = np.pi * (cos_tilt + 1) / 2 if coverage == "euler" else np.arccos(cos_tilt)
    if coverage in ("half", "quarter"):
        tilt = np.minimum(tilt, np.pi - tilt)
    if coverage == "quarter":
        rot /= 2
    quaternions = np.empty((n, 4))
    for start in range(
        0, n, BLOCK
    ):  # a million orientations are 32 MB, and would pass through six times that
        some = slice(start, start + BLOCK)
        angles = np.rad2deg(np.stack([rot[some], tilt[some], psi[some]], axis=1))
        quaternions[some] = from_relion_euler_deg(angles).as_quat()
    return Rotation(quaternions, normalize=False, copy=False)


def _preferred(n: int, rng: np.random.Generator) -> Rotation:
    """Orientations with viewing directions about ``PREFERRED_AXES`` and any in-plane angle.

    Source: the cosine of a von Mises-Fisher angle on the sphere has a distribution that can be inverted (Ulrich, 1984).
    """
    share, turn, psi = rng.uniform(size=n), *rng.uniform(0, 2 * np.pi, (2, n))
    cosine = 1 + np.log(share + (1 - share) * np.exp(-2 * PREFERRED_CONCENTRATION)) / PREFERRED_CONCENTRATION
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    about_z = np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine], axis=1)
    axis = PREFERRED_AXES[rng.integers(len(PREFERRED_AXES), size=n)]
    # the axes are ends of the coordinate axes, so exchanging coordinates turns z onto each
    x, y, z = np.where(axis[:, 2:] == 1, about_z, about_z[:, ::-1]).T
    angles = np.stack([np.arctan2(y, x), np.arccos(np.clip(z, -1, 1)), psi], axis=1)
    return from_relion_euler_deg(np.rad2deg(angles))


def random_small_rotations(
    shape: tuple[int, ...], *, radius: float, rng: np.random.Generator | int | None = None
):
    """Rotation vectors uniform in a ball: array of ``shape + (3,)``, radians, norm at most ``radius``."""
    rng = np.random.default_rng(rng)
    direction = rng.normal(size=(*shape, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return radius * rng.uniform(size=(*shape, 1)) ** (1 / 3) * direction


def from_relion_euler_deg(angles: np.ndarray) -> Rotation:
    """Orientations from RELION's (rot, tilt, psi).

    Parameters
    ----------
    angles : (n, 3) or (3,) degrees: rlnAngleRot, rlnAngleTilt, rlnAnglePsi.

    Returns
    -------
    Rotation taking particle to microscope coordinates, ``R = Rz(-psi) Ry(-tilt) Rz(-rot)`` with right-handed elementary
    rotations; the tests hold it against projections that RELION made.

    Raises
    ------
    ValueError : the last axis is not 3 or a value is not finite.
    """
    angles = np.asarray(angles, dtype=float)
    if angles.ndim not in (1, 2) or angles.shape[-1] != 3:
        raise ValueError(f"angles must be (n, 3) or (3,), got {angles.shape}")
    if not np.isfinite(angles).all():
        raise ValueError(
            f"angles must be finite, got {np.count_nonzero(~np.isfinite(angles))} non-finite values"
        )
    return Rotation.from_euler("ZYZ", -angles[..., ::-1], degrees=True)


def to_relion_euler_deg(rotations: Rotation) -> np.ndarray:
    """RELION's (rot, tilt, psi) of orientations: (n, 3) or (3,) degrees, tilt in [0, 180].

    At tilt 0 or 180 only one combination of rot and psi is determined; psi is then 0.
    """
    matrix = rotations.as_matrix()
    tilt = np.arccos(np.clip(matrix[..., 2, 2], -1, 1))
    rot = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 0])
    psi = np.arctan2(matrix[..., 1, 2], -matrix[..., 0, 2])
    at_pole = np.hypot(matrix[..., 2, 0], matrix[..., 2, 1]) < 1e-7
    rot_at_pole = np.arctan2(-matrix[..., 1, 0], matrix[..., 1, 1])
    rot = np.where(at_pole, rot_at_pole, rot)
    psi = np.where(at_pole, 0.0, psi)
    return np.rad2deg(np.stack([rot, tilt, psi], axis=-1))


def from_cryosparc_pose(pose: np.ndarray) -> Rotation:
    """Orientations from cryoSPARC's rotation vectors: (n, 3) or (3,) radians, alignments3D/pose.

    cryoSPARC's rotation takes microscope to particle coordinates, so R is its inverse.

    Raises
    ------
    ValueError : the last axis is not 3 or a value is not finite.

    Source: pyem's csparc2star and cryoDRGN's parse_pose_csparc, whose angles RELION reads.
    """
    pose = np.asarray(pose, dtype=float)
    if pose.ndim not in (1, 2) or pose.shape[-1] != 3:
        raise ValueError(f"pose must be (n, 3) or (3,), got {pose.shape}")
    if not np.isfinite(pose).all():
        raise ValueError(f"pose must be finite, got {np.count_nonzero(~np.isfinite(pose))} non-finite values")
    return Rotation.from_rotvec(-pose)


def viewing_directions(rotations: Rotation) -> np.ndarray:
    """Particle-frame unit vectors that point along the microscope's z-axis: (n, 3), the third row of each R."""
    return rotations.as_matrix()[..., 2, :]


def point_group(symmetry: str) -> Rotation:
    """The rotations of a point group, the identity first.

    Parameters
    ----------
    symmetry : ``"C1"``, ``"Cn"``, ``"Dn"`` (n-fold axis along z, a twofold along x), ``"T"``, ``"O"`` or ``"I"``.

    Raises
    ------
    ValueError : the name is none of these.
    """
    match = re.fullmatch(r"([CD])([1-9]\d*)|([TOI])", str(symmetry).upper())
    if match is None:
        raise ValueError(f"symmetry must be Cn, Dn, T, O or I, got {symmetry!r}")
    name = match.group(3) or match.group(1) + match.group(2)
    group = Rotation.create_group(name, axis="Z")
    identity_first = np.argsort(group.magnitude(), kind="stable")
    return group[identity_first]


def normaliser(symmetry: str) -> tuple[Rotation, bool]:
    """Rotations N that map a point group onto itself, ``N G N^-1 = G``: the frames in which a symmetric particle can be
    described alike.

    Parameters
    ----------
    symmetry : as for ``point_group``, more than C1.

    Returns
    -------
    rotations, and whether any rotation about z belongs to them too (C_n); these are then sampled 36 times within
    a period of the group.

    Raises
    ------
    ValueError : the name is none of these, or C1, whose normaliser is every rotation.
    """
    order = len(point_group(symmetry))
    name = str(symmetry).upper()
    if order == 1:
        raise ValueError(f"symmetry must be more than C1, got {symmetry!r}")
    if name[0] == "C":
        about = Rotation.from_rotvec(
            np.linspace(0, 2 * np.pi / order, 36, endpoint=False)[:, None] * [0, 0, 1]
        )
        return Rotation.concatenate([about, about * Rotation.from_rotvec([np.pi, 0, 0])]), True
    if name in ("D2", "T"):
        return point_group("O"), False
    if name == "D1":
        raise ValueError(f"symmetry must be Cn, Dn from D2 on, T, O or I, got {symmetry!r}")
    return point_group(f"D{order}" if name[0] == "D" else name), False


def copies_of(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Quaternions of all ``R g``: (n, k, 4) for n orientations and the k rotations of a group."""
    each, copies = np.atleast_2d(rotations.as_quat())[:, None], group.as_quat()[None]
    return (Rotation.from_quat(each) * Rotation.from_quat(copies)).as_quat()


def geodesic_distance(a: Rotation, b: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Rotation angle between every pair of orientations.

    Parameters
    ----------
    a, b : Rotations of length n_a and n_b.
    symmetry : point group G of the particle; the distance is then ``min over g of d(a, b g)``.

    Returns
    -------
    (n_a, n_b) float64 radians in [0, pi].

    Raises
    ------
    ValueError : ``symmetry`` is not a known point group.

    The angle is ``2 arctan2(|vector part|, |scalar part|)`` of ``a^-1 b g``, exact at 0 and pi where an
    arccosine is not.
    """
    qa, qb = np.atleast_2d(a.as_quat()), b.as_quat().reshape(-1, 4)
    nearest = np.zeros((len(qa), len(qb)))
    for g in point_group(symmetry):
        overlap = np.abs(qa @ np.atleast_2d((Rotation.from_quat(qb) * g).as_quat()).T)
        np.maximum(nearest, overlap, out=nearest)
    # near 0 the arccosine loses half the digits: |qa - s qb| = 2 sin(d/4) keeps them
    distance = 2 * np.arccos(np.minimum(nearest, 1))
    close = np.argwhere(nearest > 1 - 1e-6)
    if len(close):
        relative = Rotation.from_quat(qa[close[:, 0]]).inv() * Rotation.from_quat(qb[close[:, 1]])
        orbit = [(relative * g).magnitude() for g in point_group(symmetry)]
        distance[close[:, 0], close[:, 1]] = np.min(orbit, axis=0)
    return distance


def origin_displacements(
    rotations: Rotation, displacements_px: np.ndarray, *, symmetry: str = "C1"
) -> np.ndarray:
    """What a move of the particle's origin explains of the displacements seen in its images.

    Parameters
    ----------
    rotations : n orientations.
    displacements_px : (n, 2) along x and y.
    symmetry : point group of the particle, whose origin may move along what all of its rotations leave alone.

    Returns
    -------
    (n, 2): ``(R t)_xy`` with the t that fits best.

    Raises
    ------
    ValueError : there is no such point group, or displacements are not (n, 2) for n orientations.
    """
    displacements_px = shifts_of(
        displacements_px, count=len(many_rotations(rotations)), name="displacements_px"
    )
    # projects onto what all rotations leave alone; exactly nothing, where that is so
    left_alone = np.round(point_group(symmetry).as_matrix().mean(axis=0), 12)
    seen = rotations.as_matrix()[:, :2] @ left_alone  # (n, 2, 3)
    origin = np.linalg.lstsq(seen.reshape(-1, 3), np.ravel(displacements_px), rcond=1e-9)[0]
    return seen @ origin
