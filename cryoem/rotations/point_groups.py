"""Point groups, and distances between the orientations of symmetric particles."""

from __future__ import annotations

import re

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.validation import many_rotations, shifts_of


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
