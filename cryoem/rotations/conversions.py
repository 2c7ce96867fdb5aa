"""Conversions: angles of other packages, viewing directions, and orientations of the mirrored particle."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


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


def mirror(rotations: Rotation) -> Rotation:
    """Return ``J R J`` with J = diag(1, 1, -1), the orientations at which the mirrored particle has the same images."""
    return Rotation.from_quat(rotations.as_quat() * [-1, -1, 1, 1])
