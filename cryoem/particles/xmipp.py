"""XMIPP's columns, in the conventions of this project and back.

XMIPP has two conventions. An alignment in the plane (anglePsi alone) maps q in an image to ``A q + shift``,
``A = [[cos, sin], [-sin, cos]]``: the rotation comes first. An orientation (angleRot or angleTilt as well) has RELION's
Euler angles, and its shift comes first. Both mirror x before the shift if flip is 1. Source: XMIPP's
``geo2TransformationMatrix`` and ``rotation2DMatrix``, applied with IS_NOT_INV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, read_contrast, write_contrast
from cryoem.particles.star import XMIPP_IMAGE
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg
from cryoem.validation import one_each, shifts_of

if TYPE_CHECKING:
    import pandas as pd

PIXEL = "samplingRate"
EULER = ("angleRot", "angleTilt", "anglePsi")
SHIFT = ("shiftX", "shiftY")
FLIP = "flip"
B_FACTOR = "cryoemCtfBfactor"  # XMIPP has no label for it
CONTRAST = {
    "voltage_kv": "ctfVoltage",
    "spherical_aberration_mm": "ctfSphericalAberration",
    "amplitude_contrast": "ctfQ0",
    "defocus_u_angstrom": "ctfDefocusU",
    "defocus_v_angstrom": "ctfDefocusV",
    "azimuth_rad": "ctfDefocusAngle",
    "b_factor_angstrom2": B_FACTOR,
    "phase_shift_rad": "ctfVPPphaseshift",
}
DEGREE = np.pi / 180


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Return the pixel size (angstrom) of each particle's image by samplingRate, (n,); None if it is missing."""
    return columns.numbers(PIXEL) if PIXEL in columns else None


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations, particle to microscope; a mirrored image is the view from the opposite side."""
    if not columns.has_any(EULER):
        return None
    euler_deg = columns.stacked(EULER)
    mirror = Rotation.from_rotvec(np.pi * _flipped(columns)[:, None] * [0.0, 1.0, 0.0])
    if _in_plane(columns):
        return from_relion_euler_deg(-euler_deg) * mirror
    return mirror * from_relion_euler_deg(euler_deg)


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle, (n, 2): the position that XMIPP's transform maps to the origin.

    XMIPP counts in pixels, so that ``pixel_size_angstrom`` has no effect.
    """
    if not columns.has_any(SHIFT):
        return None
    shifts = columns.stacked(SHIFT)
    shifts[_flipped(columns)] *= [-1.0, 1.0]
    if _in_plane(columns):
        psi = from_relion_euler_deg(-columns.stacked(EULER))  # rot and tilt are 0
        shifts = (psi.as_matrix()[:, :2, :2] @ shifts[:, :, None])[:, :, 0]
    return -shifts


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the contrast transfer of each particle, see ``read_contrast``."""
    return read_contrast(columns, CONTRAST, angle_unit_rad=DEGREE)


def _in_plane(columns: Columns) -> bool:
    """Return whether the table describes an alignment in the plane, with anglePsi alone."""
    return not columns.has_any(EULER[:2])


def _flipped(columns: Columns) -> np.ndarray:
    return columns.numbers(FLIP, default=0.0) != 0


def particle_table(
    image_names: Sequence[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: pd.DataFrame | None,
    *,
    pixel_size_angstrom: float,
) -> pd.DataFrame:
    """Return the known properties of n particles as a table for ``write_xmd``."""
    import pandas as pd

    columns = {XMIPP_IMAGE: image_names, "enabled": 1}
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(SHIFT, -shifts_px.T, strict=True))
    if rotations is not None or shifts_px is not None:
        columns[FLIP] = 0
    columns[PIXEL] = pixel_size_angstrom
    if contrast is not None:
        columns |= write_contrast(contrast, CONTRAST, angle_unit_rad=DEGREE)
        if not columns[B_FACTOR].any():
            del columns[B_FACTOR]
    return pd.DataFrame(columns)


def xmipp_table(
    image_names: Sequence[str], angles_rad: np.ndarray, shifts_px: np.ndarray, *, max_cc: np.ndarray
) -> pd.DataFrame:
    """Return a two-dimensional alignment as an XMIPP table, for ``write_xmd``.

    XMIPP aligns an image by ``A q + (shiftX, shiftY)``, see the module. Hence anglePsi is the angle, and (shiftX,
    shiftY) is minus the shift rotated by A, because XMIPP rotates first.

    Parameters
    ----------
    image_names : sequence of str
        n names, number@stack.
    angles_rad, shifts_px : array
        (n,) angles and (n, 2) displacements (x, y), as for ``relion_tables``.
    max_cc : array
        (n,) correlation of each aligned image with the reference.

    Returns
    -------
    pandas.DataFrame
        n rows: image, enabled (1), anglePsi (degrees), shiftX, shiftY (pixels), flip (0), maxCC.

    Raises
    ------
    ValueError
        Arrays are not n long or not finite.
    """
    import pandas as pd

    names = [str(name) for name in image_names]
    angles_rad = one_each(angles_rad, count=len(names), name="angles_rad")
    aligning = Rotation.from_euler("z", -angles_rad[:, None])
    position = shifts_of(shifts_px, count=len(names))
    shift = -(aligning.as_matrix()[:, :2, :2] @ position[:, :, None])[:, :, 0]  # (n, 2)
    return pd.DataFrame(
        {
            XMIPP_IMAGE: names,
            "enabled": 1,
            "anglePsi": -np.rad2deg(aligning.as_euler("zyx")[:, 0]),
            "shiftX": shift[:, 0],
            "shiftY": shift[:, 1],
            FLIP: 0,
            "maxCC": one_each(max_cc, count=len(names), name="max_cc"),
        }
    )
