"""XMIPP's columns, in the conventions of this project and back.

XMIPP has two conventions.  An alignment in the plane (anglePsi alone) moves what an image has at q to ``A q + shift``,
``A = [[cos, sin], [-sin, cos]]``: the rotation first.  An orientation (angleRot or angleTilt as well) has RELION's
Euler angles, and its shift is applied first.  Both mirror x before the shift where flip is 1.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, Contrast, ContrastColumns, contrast_of
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg

PIXEL = "samplingRate"
EULER = ("angleRot", "angleTilt", "anglePsi")
SHIFT = ("shiftX", "shiftY")
FLIP = "flip"
CONTRAST = ContrastColumns(
    "ctfVoltage",
    "ctfSphericalAberration",
    "ctfQ0",
    b_factor_angstrom2="cryoemCtfBfactor",  # XMIPP has no label for it
    phase_shift="ctfVPPphaseshift",
    defocus_u="ctfDefocusU",
    defocus_v="ctfDefocusV",
    azimuth="ctfDefocusAngle",
    radians=np.pi / 180,
)


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Pixel size (angstrom) of each particle's image by samplingRate, (n,); None where there is no such column.

    Raises
    ------
    ValueError : a value is not a finite number.
    """
    return columns.numbers(PIXEL) if PIXEL in columns else None


def rotations(columns: Columns) -> Rotation | None:
    """Orientations, particle to microscope; that of a mirrored image is the view from the opposite side.

    Raises
    ------
    ValueError : an angle is not a finite number.

    Source: XMIPP's ``geo2TransformationMatrix``.
    """
    if not any(name in columns for name in EULER):
        return None
    euler_deg = np.stack([columns.numbers(name, default=0.0) for name in EULER], axis=1)
    mirror = Rotation.from_rotvec(np.pi * _flipped(columns)[:, None] * [0.0, 1.0, 0.0])
    if _in_plane(columns):
        return from_relion_euler_deg(-euler_deg) * mirror
    return mirror * from_relion_euler_deg(euler_deg)


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Displacement (x, y) of each particle, (n, 2): where XMIPP's transformation finds the origin.

    ``pixel_size_angstrom`` is not needed, XMIPP counts in pixels.

    Raises
    ------
    ValueError : a shift or an angle is not a finite number.

    Source: XMIPP's ``geo2TransformationMatrix``.
    """
    if not any(name in columns for name in SHIFT):
        return None
    shifts = np.stack([columns.numbers(name, default=0.0) for name in SHIFT], axis=1)
    shifts[_flipped(columns)] *= [-1.0, 1.0]
    if _in_plane(columns):
        psi = from_relion_euler_deg(-_psi_alone(columns))
        shifts = (psi.as_matrix()[:, :2, :2] @ shifts[:, :, None])[:, :, 0]
    return -shifts


def contrast(columns: Columns) -> Contrast | None:
    """The contrast transfer of each particle, see ``contrast_of``."""
    return contrast_of(columns, CONTRAST)


def particle_columns(
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: Contrast | None,
    *,
    count: int,
    pixel_size_angstrom: float,
) -> dict[str, np.ndarray]:
    """What is known of n particles as XMIPP's columns, (n,) each."""
    columns: dict[str, np.ndarray] = {"enabled": np.ones(count, int)}
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(SHIFT, -np.asarray(shifts_px).T, strict=True))
    if rotations is not None or shifts_px is not None:
        columns |= {FLIP: np.zeros(count, int)}
    columns |= {PIXEL: np.full(count, pixel_size_angstrom)}
    if contrast is not None:
        u, v, azimuth = contrast.defocus_angstrom.T
        columns |= {
            CONTRAST.voltage_kv: contrast.voltage_kv,
            CONTRAST.spherical_aberration_mm: contrast.spherical_aberration_mm,
            CONTRAST.amplitude_contrast: contrast.amplitude_contrast,
            CONTRAST.defocus_u: u,
            CONTRAST.defocus_v: v,
            CONTRAST.azimuth: np.rad2deg(azimuth),
            CONTRAST.phase_shift: np.rad2deg(contrast.phase_shift_rad),
        }
        if contrast.b_factor_angstrom2.any():
            columns |= {CONTRAST.b_factor_angstrom2: contrast.b_factor_angstrom2}
    return columns


def _in_plane(columns: Columns) -> bool:
    return not any(name in columns for name in EULER[:2])


def _psi_alone(columns: Columns) -> np.ndarray:
    """(n, 3) Euler angles of which only psi is not 0."""
    psi = columns.numbers(EULER[2], default=0.0)
    return np.stack([np.zeros_like(psi), np.zeros_like(psi), psi], axis=1)


def _flipped(columns: Columns) -> np.ndarray:
    return columns.numbers(FLIP, default=0.0) != 0
