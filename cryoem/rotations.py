"""Orientations: sampling, conversions, point groups and the geodesic distance.

Only this module converts between representations.  An orientation is a SciPy ``Rotation`` R from particle to microscope
coordinates, ``x_microscope = R @ x_particle``.  Quaternions are (x, y, z, w); angles are in radians unless a name ends
in ``_deg``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.validation import many_rotations, shifts_of, whole_number

BLOCK = 65_536  # orientations drawn at a time
COVERAGES = ("so3", "euler", "half", "quarter", "preferred")
PREFERRED_AXES = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
PREFERRED_CONCENTRATION = 10.0


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientations of n particles, and their positions in their images.

    Parameters
    ----------
    rotations : Rotation
        n orientations, particle to microscope coordinates.
    shifts_px : (n, 2) array, optional
        Displacement (x, y) of each particle from pixel ``n // 2``, towards larger coordinates; zero by default.

    Raises
    ------
    ValueError
        If ``rotations`` is not a sequence of rotations, or ``shifts_px`` is not (n, 2) and finite.
    """

    rotations: Rotation
    shifts_px: np.ndarray | None = None

    def __post_init__(self):
        count = len(many_rotations(self.rotations))
        shifts = np.zeros((count, 2)) if self.shifts_px is None else shifts_of(self.shifts_px, count=count)
        object.__setattr__(self, "shifts_px", shifts)

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, index) -> Poses:
        """Select the poses of some of the particles."""
        return Poses(self.rotations[index], self.shifts_px[index])


def as_poses(poses: Poses | Rotation, *, count: int | None = None) -> Poses:
    """Return poses, ``count`` of them if given; a bare ``Rotation`` means centred particles."""
    if not isinstance(poses, Poses):
        poses = Poses(many_rotations(poses, name="poses"))
    if count is not None and len(poses) != count:
        raise ValueError(f"poses must have one entry for each of the {count} images, got {len(poses)}")
    return poses


def random_rotations(
    n: int, *, coverage: str = "so3", rng: np.random.Generator | int | None = None
) -> Rotation:
    """Draw ``n`` random orientations.

    Parameters
    ----------
    n : int
    coverage : str
        Distribution of the viewing directions: ``"so3"`` uniform on SO(3); ``"euler"`` uniform in the three Euler
        angles, denser at the poles; ``"half"`` uniform on half of the sphere (tilt < pi/2); ``"quarter"`` uniform on a
        quarter of it (tilt < pi/2 and rot in [0, pi)); ``"preferred"`` concentrated about the particle's z-axis and
        x-axis, as for particles that adhere to the air-water interface in two ways: an even mixture of two von
        Mises-Fisher distributions of concentration 10, half of each within 22 degrees of its axis.
    rng : Generator or int, optional

    Raises
    ------
    ValueError
        If ``n`` is below 1 or ``coverage`` is unknown.

    References
    ----------
    arXiv 2104.06237, section on sampling; uniform SO(3) has a uniform cosine of the tilt angle.
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
    # in blocks: a million quaternions take 32 MB, and their conversion six times as much
    quaternions = np.empty((n, 4))
    for start in range(0, n, BLOCK):
        some = slice(start, start + BLOCK)
        angles = np.rad2deg(np.stack([rot[some], tilt[some], psi[some]], axis=1))
        quaternions[some] = from_relion_euler_deg(angles).as_quat()
    return Rotation(quaternions, normalize=False, copy=False)


def _preferred(n: int, rng: np.random.Generator) -> Rotation:
    """Draw viewing directions about ``PREFERRED_AXES``, with uniform in-plane angles.

    The cosine of a von Mises-Fisher angle on the sphere has a distribution function that can be inverted (Ulrich,
    1984).
    """
    share, turn, psi = rng.uniform(size=n), *rng.uniform(0, 2 * np.pi, (2, n))
    cosine = 1 + np.log(share + (1 - share) * np.exp(-2 * PREFERRED_CONCENTRATION)) / PREFERRED_CONCENTRATION
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    about_z = np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine], axis=1)
    axis = PREFERRED_AXES[rng.integers(len(PREFERRED_AXES), size=n)]
    # both axes are coordinate axes: exchanging coordinates maps z onto x
    x, y, z = np.where(axis[:, 2:] == 1, about_z, about_z[:, ::-1]).T
    angles = np.stack([np.arctan2(y, x), np.arccos(np.clip(z, -1, 1)), psi], axis=1)
    return from_relion_euler_deg(np.rad2deg(angles))


def random_small_rotations(
    shape: tuple[int, ...], *, radius: float, rng: np.random.Generator | int | None = None
):
    """Draw rotation vectors uniformly from a ball: ``shape + (3,)``, radians, norm at most ``radius``."""
    rng = np.random.default_rng(rng)
    direction = rng.normal(size=(*shape, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return radius * rng.uniform(size=(*shape, 1)) ** (1 / 3) * direction


def from_relion_euler_deg(angles: np.ndarray) -> Rotation:
    """Convert RELION's Euler angles (rot, tilt, psi) to orientations.

    ``R = Rz(-psi) Ry(-tilt) Rz(-rot)`` with right-handed elementary rotations; the tests compare it with projections by
    RELION.

    Parameters
    ----------
    angles : (n, 3) or (3,) array
        Degrees: rlnAngleRot, rlnAngleTilt, rlnAnglePsi.

    Raises
    ------
    ValueError
        If the last axis is not 3 or a value is not finite.
    """
    angles = _triples(angles, name="angles")
    return Rotation.from_euler("ZYZ", -angles[..., ::-1], degrees=True)


def to_relion_euler_deg(rotations: Rotation) -> np.ndarray:
    """Convert orientations to RELION's Euler angles (rot, tilt, psi).

    At tilt 0 or 180 only one combination of rot and psi is determined; psi is then 0.

    Returns
    -------
    (n, 3) or (3,) array
        Degrees, tilt in [0, 180].
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
    """Convert cryoSPARC's rotation vectors to orientations.

    cryoSPARC's rotation takes microscope to particle coordinates, so R is its inverse.

    Parameters
    ----------
    pose : (n, 3) or (3,) array
        Radians: alignments3D/pose.

    Raises
    ------
    ValueError
        If the last axis is not 3 or a value is not finite.

    References
    ----------
    csparc2star of pyem and parse_pose_csparc of cryoDRGN, whose angles RELION reads.
    """
    return Rotation.from_rotvec(-_triples(pose, name="pose"))


def _triples(values: np.ndarray, *, name: str) -> np.ndarray:
    """Return finite (n, 3) or (3,) values as float64."""
    values = np.asarray(values, dtype=float)
    if values.ndim not in (1, 2) or values.shape[-1] != 3:
        raise ValueError(f"{name} must be (n, 3) or (3,), got {values.shape}")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} non-finite values")
    return values


def viewing_directions(rotations: Rotation) -> np.ndarray:
    """Return the unit vectors of the microscope's z-axis in the particle's frame: (n, 3), the third row of each R."""
    return rotations.as_matrix()[..., 2, :]


def point_group(symmetry: str) -> Rotation:
    """Return the rotations of a point group, the identity first.

    Parameters
    ----------
    symmetry : str
        ``"C1"``, ``"Cn"``, ``"Dn"`` (n-fold axis along z, a twofold along x), ``"T"``, ``"O"`` or ``"I"``.

    Raises
    ------
    ValueError
        If the name is none of these.
    """
    match = re.fullmatch(r"([CD])([1-9]\d*)|([TOI])", str(symmetry).upper())
    if match is None:
        raise ValueError(f"symmetry must be Cn, Dn, T, O or I, got {symmetry!r}")
    name = match.group(3) or match.group(1) + match.group(2)
    group = Rotation.create_group(name, axis="Z")
    identity_first = np.argsort(group.magnitude(), kind="stable")
    return group[identity_first]


def normaliser(symmetry: str) -> tuple[Rotation, bool]:
    """Return the rotations N that map a point group onto itself, ``N G N^-1 = G``, one for each set ``N g``.

    They relate the frames in which a symmetric particle has the same description.  The normaliser of C_n contains every
    rotation about z: the second result is then True, and 36 rotations sample a period of the group.  C1 and D1, which
    have no finite number of frames, are an error.
    """
    order = len(point_group(symmetry))
    name = str(symmetry).upper()
    if order == 1:
        raise ValueError(f"symmetry must be higher than C1, got {symmetry!r}")
    if name[0] == "C":
        about = Rotation.from_rotvec(
            np.linspace(0, 2 * np.pi / order, 36, endpoint=False)[:, None] * [0, 0, 1]
        )
        return Rotation.concatenate([about, about * Rotation.from_rotvec([np.pi, 0, 0])]), True
    if name == "D1":
        raise ValueError(f"symmetry must be Cn, Dn from D2 on, T, O or I, got {symmetry!r}")
    if name in ("D2", "T"):
        whole = point_group("O")
    else:
        whole = point_group(f"D{order}" if name[0] == "D" else name)
    # number of the first rotation in the set of each
    first = (geodesic_distance(whole, whole, symmetry=name) < 1e-6).argmax(axis=1)
    return whole[np.unique(first)], False


def copies_of(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Return the quaternions of all ``R g``: (n, k, 4) for n orientations and the k rotations of a group."""
    each, copies = np.atleast_2d(rotations.as_quat())[:, None], group.as_quat()[None]
    return (Rotation.from_quat(each) * Rotation.from_quat(copies)).as_quat()


def geodesic_distance(a: Rotation, b: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Compute the rotation angle between every pair of orientations.

    Parameters
    ----------
    a, b : Rotation
        n_a and n_b orientations.
    symmetry : str
        Point group G of the particle; the distance is ``min over g of d(a, b g)``.

    Returns
    -------
    (n_a, n_b) array
        Radians in [0, pi], float64, exact at both ends.

    """
    qa, qb = np.atleast_2d(a.as_quat()), b.as_quat().reshape(-1, 4)
    nearest = np.zeros((len(qa), len(qb)))
    for g in point_group(symmetry):
        overlap = np.abs(qa @ np.atleast_2d((Rotation.from_quat(qb) * g).as_quat()).T)
        np.maximum(nearest, overlap, out=nearest)
    # near 0 the arccosine loses half of the digits: take the angle of the relative rotation, an arctangent
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
    """Project image displacements onto those that a translation of the particle's origin causes.

    Parameters
    ----------
    rotations : Rotation
    displacements_px : (n, 2) array
        Displacements (x, y).
    symmetry : str
        Point group of the particle, whose origin may move only along directions that the group leaves fixed.

    Returns
    -------
    (n, 2) array
        ``(R t)_xy`` with the least-squares t.

    Raises
    ------
    ValueError
        If the point group is unknown, or displacements are not (n, 2).
    """
    displacements_px = shifts_of(
        displacements_px, count=len(many_rotations(rotations)), name="displacements_px"
    )
    # projector onto the directions that all rotations of the group leave fixed; rounding makes zeros exact
    fixed = np.round(point_group(symmetry).as_matrix().mean(axis=0), 12)
    seen = rotations.as_matrix()[:, :2] @ fixed  # (n, 2, 3)
    origin = np.linalg.lstsq(seen.reshape(-1, 3), np.ravel(displacements_px), rcond=1e-9)[0]
    return seen @ origin
