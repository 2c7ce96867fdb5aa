"""Orientations: sampling, conversions, point groups and the geodesic distance.

An orientation is a SciPy ``Rotation`` R from particle to microscope coordinates, ``x_microscope = R @ x_particle``.
Quaternions are ordered (x, y, z, w). Angles are in radians unless the name ends in ``_deg``. Only this module converts
between representations of orientations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.validation import many_rotations, shifts_of, whole_number

BLOCK = 65_536  # orientations converted at a time
COVERAGES = ("so3", "euler", "half", "quarter", "preferred")
EulerRanges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
PREFERRED_AXES = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
PREFERRED_CONCENTRATION = 10.0


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientations of n particles and their positions in the images.

    Parameters
    ----------
    rotations : Rotation
        n orientations, from particle to microscope coordinates.
    shifts_px : (n, 2) array, optional
        Displacement (x, y) of each particle from the image centre at pixel ``size // 2``, positive towards larger
        coordinates. Default: zero.

    Raises
    ------
    ValueError
        If ``rotations`` is empty or a single rotation, or if ``shifts_px`` is not an (n, 2) array of finite numbers.
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
        """Select a subset of the poses."""
        return Poses(self.rotations[index], self.shifts_px[index])

    @classmethod
    def concatenate(cls, parts: list[Poses] | tuple[Poses, ...]) -> Poses:
        """Return the poses of several sets of particles, one after another."""
        rotations = Rotation.concatenate([part.rotations for part in parts])
        return cls(rotations, np.concatenate([part.shifts_px for part in parts]))

    def replaced(self, where: np.ndarray, others: Poses) -> Poses:
        """Return the poses, with those for which ``where`` (n,) is True replaced by those of n ``others``."""
        where = where[:, None]
        quaternions = np.where(where, others.rotations.as_quat(), self.rotations.as_quat())
        return Poses(Rotation(quaternions), np.where(where, others.shifts_px, self.shifts_px))

    def moved(self, steps: np.ndarray, *, largest_step: float, largest_shift: float) -> Poses:
        """Change the poses by (n, 3 or 5) rotation vectors and displacements, shortening those that are too long."""
        rotations = Rotation.from_rotvec(_shortened(steps[:, :3], largest_step)) * self.rotations
        if steps.shape[1] == 3:
            return Poses(rotations, self.shifts_px)
        return Poses(rotations, self.shifts_px + _shortened(steps[:, 3:], largest_shift))

    @property
    def mirrored(self) -> Poses:
        """Poses of the same images for the mirror image of the particle (z -> -z): all tilts are negated."""
        return Poses(Rotation(self.rotations.as_quat() * [-1, -1, 1, 1]), self.shifts_px)


def _shortened(steps: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1, longest / np.maximum(length, 1e-12))


def as_poses(poses: Poses | Rotation, *, count: int | None = None) -> Poses:
    """Return ``poses`` as a ``Poses`` object; a bare ``Rotation`` means that the particles are centred.

    Raises a ``ValueError`` if ``count`` is given and differs from the number of poses.
    """
    if not isinstance(poses, Poses):
        poses = Poses(many_rotations(poses, name="poses"))
    if count is not None and len(poses) != count:
        raise ValueError(f"poses must have one entry for each of the {count} images, got {len(poses)}")
    return poses


def random_rotations(
    n: int, *, coverage: str | EulerRanges = "so3", rng: np.random.Generator | int | None = None
) -> Rotation:
    """Draw ``n`` random orientations.

    Parameters
    ----------
    n : int
        Number of orientations.
    coverage : {"so3", "euler", "half", "quarter", "preferred"} or three pairs of float
        Distribution of the orientations. Three ranges (rot_range, tilt_range, psi_range), each (low, high) in degrees,
        make RELION's Euler angles uniform within these ranges. A name selects one of these distributions:

        - ``"so3"`` (default): uniform on SO(3)
        - ``"euler"``: uniform in the three Euler angles, and therefore denser at the poles
        - ``"half"``: uniform on half of the sphere (tilt < pi/2)
        - ``"quarter"``: uniform on a quarter of the sphere (tilt < pi/2 and rot in [0, pi))
        - ``"preferred"``: concentrated around the particle's z- and x-axes, as for particles that adhere to the
          air-water interface in two ways. This is an equal mixture of two von Mises-Fisher distributions with
          concentration 10. Half of the viewing directions are within 22 degrees of their axis.
    rng : Generator or int, optional
        Random number generator or seed.

    Returns
    -------
    Rotation

    Raises
    ------
    ValueError
        If ``n`` is less than 1, or if ``coverage`` is neither a known name nor three valid ranges.

    References
    ----------
    arXiv 2104.06237, section on sampling. For orientations uniform on SO(3), the cosine of the tilt angle is uniform.
    """
    n = whole_number(n, name="n", at_least=1)
    coverage = check_coverage(coverage)
    rng = np.random.default_rng(rng)
    if coverage == "preferred":
        return _preferred(n, rng)
    if isinstance(coverage, str):
        rot, psi = rng.uniform(0, 2 * np.pi, (2, n))
        cos_tilt = rng.uniform(-1, 1, n)
        tilt = np.pi * (cos_tilt + 1) / 2 if coverage == "euler" else np.arccos(cos_tilt)
        if coverage in ("half", "quarter"):
            tilt = np.minimum(tilt, np.pi - tilt)
        if coverage == "quarter":
            rot /= 2
    else:
        rot, tilt, psi = (rng.uniform(*np.deg2rad(limits), n) for limits in coverage)
    # convert in blocks: a million quaternions take 32 MB, and their conversion six times as much
    quaternions = np.empty((n, 4))
    for start in range(0, n, BLOCK):
        some = slice(start, start + BLOCK)
        angles = np.rad2deg(np.stack([rot[some], tilt[some], psi[some]], axis=1))
        quaternions[some] = from_relion_euler_deg(angles).as_quat()
    return Rotation(quaternions, normalize=False, copy=False)


def check_coverage(coverage: str | EulerRanges) -> str | EulerRanges:
    """Validate the ``coverage`` argument of ``random_rotations``, and return it with the ranges as tuples."""
    if isinstance(coverage, str):
        if coverage not in COVERAGES:
            raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
        return coverage
    limits = np.asarray(coverage, dtype=float)
    if limits.shape != (3, 2):
        raise ValueError(
            f"coverage must be three ranges (low, high) of Euler angles, got shape {limits.shape}"
        )
    for name, (low, high) in zip(("rot", "tilt", "psi"), limits, strict=True):
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(
                f"{name}_range must be two angles in degrees, the lower one first, got {low:g} and {high:g}"
            )
    return tuple(map(tuple, limits.tolist()))


def _preferred(n: int, rng: np.random.Generator) -> Rotation:
    """Draw viewing directions around ``PREFERRED_AXES`` with uniform in-plane angles.

    On the sphere, the distribution function of the cosine of a von Mises-Fisher angle has a closed-form inverse
    (Ulrich, 1984).
    """
    share, turn, psi = rng.uniform(size=n), *rng.uniform(0, 2 * np.pi, (2, n))
    cosine = 1 + np.log(share + (1 - share) * np.exp(-2 * PREFERRED_CONCENTRATION)) / PREFERRED_CONCENTRATION
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    about_z = np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine], axis=1)
    axis = PREFERRED_AXES[rng.integers(len(PREFERRED_AXES), size=n)]
    # both axes are coordinate axes, so reversing the coordinates maps z to x
    x, y, z = np.where(axis[:, 2:] == 1, about_z, about_z[:, ::-1]).T
    angles = np.stack([np.arctan2(y, x), np.arccos(np.clip(z, -1, 1)), psi], axis=1)
    return from_relion_euler_deg(np.rad2deg(angles))


def random_small_rotations(
    shape: tuple[int, ...], *, radius: float, rng: np.random.Generator | int | None = None
):
    """Draw rotation vectors uniformly from a ball: ``shape + (3,)``, in radians, with norms up to ``radius``."""
    rng = np.random.default_rng(rng)
    direction = rng.normal(size=(*shape, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return radius * rng.uniform(size=(*shape, 1)) ** (1 / 3) * direction


def from_relion_euler_deg(angles: np.ndarray) -> Rotation:
    """Convert RELION's Euler angles (rot, tilt, psi) to orientations.

    ``R = Rz(-psi) Ry(-tilt) Rz(-rot)`` with right-handed elementary rotations. The tests compare this convention with
    projections made by RELION.

    Parameters
    ----------
    angles : (n, 3) or (3,) array
        rlnAngleRot, rlnAngleTilt and rlnAnglePsi, in degrees.

    Returns
    -------
    Rotation

    Raises
    ------
    ValueError
        If the last axis does not have length 3, or if an angle is NaN or infinite.
    """
    angles = _triples(angles, name="angles")
    return Rotation.from_euler("ZYZ", -angles[..., ::-1], degrees=True)


def to_relion_euler_deg(rotations: Rotation) -> np.ndarray:
    """Convert orientations to RELION's Euler angles (rot, tilt, psi).

    At a tilt of 0 or 180 degrees, only a combination of rot and psi is determined, so psi is set to 0.

    Returns
    -------
    (n, 3) or (3,) array
        Angles in degrees, with tilt in [0, 180].
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

    cryoSPARC's rotations map microscope to particle coordinates, so R is the inverse.

    Parameters
    ----------
    pose : (n, 3) or (3,) array
        Rotation vectors from alignments3D/pose, in radians.

    Returns
    -------
    Rotation

    Raises
    ------
    ValueError
        If the last axis does not have length 3, or if a component is NaN or infinite.

    References
    ----------
    ``csparc2star`` in pyem and ``parse_pose_csparc`` in cryoDRGN, which convert these vectors to RELION's angles.
    """
    return Rotation.from_rotvec(-_triples(pose, name="pose"))


def _triples(values: np.ndarray, *, name: str) -> np.ndarray:
    """Return finite (n, 3) or (3,) values as float64."""
    values = np.asarray(values, dtype=float)
    if values.ndim not in (1, 2) or values.shape[-1] != 3:
        raise ValueError(f"{name} must be (n, 3) or (3,), got {values.shape}")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {values.size} values")
    return values


def viewing_directions(rotations: Rotation) -> np.ndarray:
    """Return the microscope's z-axis in each particle's frame: (n, 3) unit vectors, the third row of each R."""
    return rotations.as_matrix()[..., 2, :]


def point_group(symmetry: str) -> Rotation:
    """Return the rotations of a point group, starting with the identity.

    Parameters
    ----------
    symmetry : str
        ``"C1"``, ``"Cn"`` (n-fold axis along z), ``"Dn"`` (n-fold axis along z, twofold axis along x), ``"T"`` or
        ``"I"`` (twofold axes along x, y and z), or ``"O"`` (fourfold axes along x, y and z).

    Returns
    -------
    Rotation

    Raises
    ------
    ValueError
        If ``symmetry`` is not one of these groups.
    """
    match = re.fullmatch(r"([CD])([1-9]\d*)|([TOI])", str(symmetry).upper())
    if match is None:
        raise ValueError(f"symmetry must be Cn, Dn, T, O or I, got {symmetry!r}")
    name = match.group(3) or match.group(1) + match.group(2)
    group = Rotation.create_group(name, axis="Z")
    identity_first = np.argsort(group.magnitude(), kind="stable")
    return group[identity_first]


def normaliser(symmetry: str) -> tuple[Rotation, bool]:
    """Return the rotations N that map a point group G onto itself, ``N G N^-1 = G``, one for each coset ``N G``.

    These rotations relate the frames in which the group has the same elements. The second result states whether the
    normaliser is continuous. It is True only for C_n, whose normaliser contains every rotation about z. In that case,
    the first result samples one period about z by 36 rotations, each with and without a half turn about x. C1 and D1
    raise a ``ValueError``.
    """
    order = len(point_group(symmetry))
    name = str(symmetry).upper()
    if order == 1:
        raise ValueError(f"symmetry must not be C1, got {symmetry!r}")
    if name[0] == "C":
        about = Rotation.from_rotvec(
            np.linspace(0, 2 * np.pi / order, 36, endpoint=False)[:, None] * [0, 0, 1]
        )
        return Rotation.concatenate([about, about * Rotation.from_rotvec([np.pi, 0, 0])]), True
    if name == "D1":
        raise ValueError(f"symmetry must be Cn, Dn with n >= 2, T, O or I, got {symmetry!r}")
    if name in ("D2", "T"):
        whole = point_group("O")
    else:
        whole = point_group(f"D{order}" if name[0] == "D" else name)
    # for each rotation, the index of the first one in its coset
    first = (geodesic_distance(whole, whole, symmetry=name) < 1e-6).argmax(axis=1)
    return whole[np.unique(first)], False


def copies_of(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Return the quaternions of all symmetric copies ``R g``: (n, k, 4) for n orientations and k group elements."""
    each, copies = np.atleast_2d(rotations.as_quat())[:, None], group.as_quat()[None]
    return (Rotation.from_quat(each) * Rotation.from_quat(copies)).as_quat()


def geodesic_distance(a: Rotation, b: Rotation, *, symmetry: str = "C1") -> np.ndarray:
    """Compute the rotation angle between each orientation in ``a`` and each orientation in ``b``.

    Parameters
    ----------
    a, b : Rotation
        n_a and n_b orientations.
    symmetry : str
        Point group G of the particle. The distance is to the nearest symmetric copy, ``min over g of d(a, b g)``.
        Default: ``"C1"``.

    Returns
    -------
    (n_a, n_b) array
        Angles in radians, float64 in [0, pi], accurate even near 0 and pi.
    """
    qa, qb = np.atleast_2d(a.as_quat()), b.as_quat().reshape(-1, 4)
    nearest = np.zeros((len(qa), len(qb)))
    for g in point_group(symmetry):
        overlap = np.abs(qa @ np.atleast_2d((Rotation.from_quat(qb) * g).as_quat()).T)
        np.maximum(nearest, overlap, out=nearest)
    # near 0 the arccosine loses half of its digits, so compute the relative rotation's angle by an arctangent
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
    """Project image displacements onto those that a translation of the particle's origin can cause.

    Parameters
    ----------
    rotations : Rotation
        n orientations.
    displacements_px : (n, 2) array
        Displacements (x, y).
    symmetry : str
        Point group of the particle. The origin may move only along directions that the group leaves fixed. Default:
        ``"C1"``.

    Returns
    -------
    (n, 2) array
        ``(R t)_xy`` for the least-squares translation t.

    Raises
    ------
    ValueError
        If the point group is unknown, or if ``displacements_px`` is not an (n, 2) array of finite numbers.
    """
    displacements_px = shifts_of(
        displacements_px, count=len(many_rotations(rotations)), name="displacements_px"
    )
    # projector onto the directions that the group leaves fixed, rounded to make zeros exact
    fixed = np.round(point_group(symmetry).as_matrix().mean(axis=0), 12)
    seen = rotations.as_matrix()[:, :2] @ fixed  # (n, 2, 3)
    origin = np.linalg.lstsq(seen.reshape(-1, 3), np.ravel(displacements_px), rcond=1e-9)[0]
    return seen @ origin
