"""XMIPP's columns, in the conventions of this project and back.

XMIPP has two conventions. An alignment in the plane (anglePsi alone) maps q in an image to ``A q + shift``,
``A = [[cos, sin], [-sin, cos]]``: the rotation comes first. An orientation (angleRot or angleTilt as well) has RELION's
Euler angles, and its shift comes first. Both mirror x before the shift if flip is 1. Source: XMIPP's
``geo2TransformationMatrix`` and ``rotation2DMatrix``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, Contrast, ContrastColumns, contrast_of
from cryoem.particles.star import XMIPP_IMAGE
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

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


def contrast(columns: Columns) -> Contrast | None:
    """Return the contrast transfer of each particle, see ``contrast_of``."""
    return contrast_of(columns, CONTRAST)


def particle_table(
    image_names: Sequence[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: Contrast | None,
    *,
    pixel_size_angstrom: float,
) -> pd.DataFrame:
    """Return the known properties of n particles as a table for ``write_xmd``."""
    import pandas as pd

    columns = {XMIPP_IMAGE: image_names, "enabled": 1}
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(SHIFT, -np.asarray(shifts_px).T, strict=True))
    if rotations is not None or shifts_px is not None:
        columns[FLIP] = 0
    columns[PIXEL] = pixel_size_angstrom
    if contrast is not None:
        columns |= contrast.as_columns(CONTRAST)
        if not contrast.b_factor_angstrom2.any():
            del columns[CONTRAST.b_factor_angstrom2]
    return pd.DataFrame(columns)


def _in_plane(columns: Columns) -> bool:
    """Return whether the table describes an alignment in the plane, with anglePsi alone."""
    return not columns.has_any(EULER[:2])


def _flipped(columns: Columns) -> np.ndarray:
    return columns.numbers(FLIP, default=0.0) != 0
