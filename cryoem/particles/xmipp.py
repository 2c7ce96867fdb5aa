"""Convert XMIPP's columns to the conventions of this project, and back.

XMIPP has two conventions. An in-plane alignment (anglePsi alone) maps a position q in an image to ``A q + shift`` with
``A = [[cos, sin], [-sin, cos]]``, so the rotation comes first. An orientation (with angleRot or angleTilt) consists of
RELION's Euler angles, and the shift comes first. In both conventions, x is mirrored before the shift if flip is 1.
Source: ``geo2TransformationMatrix`` and ``rotation2DMatrix`` in XMIPP, applied with IS_NOT_INV.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.files.writing import path_with_suffix, write_text
from cryoem.particles.columns import Columns, read_contrast, write_contrast
from cryoem.particles.star import XMIPP_IMAGE, xmd_text
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg
from cryoem.validation import one_each, shifts_of

if TYPE_CHECKING:
    import pandas as pd

PIXEL = "samplingRate"
IMAGE_SIZE = ()  # XMIPP states none
EULER = ("angleRot", "angleTilt", "anglePsi")
SHIFT = ("shiftX", "shiftY")
FLIP, SCALE = "flip", "scale"
B_FACTOR = "cryoemCtfBfactor"  # XMIPP has no column for the B factor
CONTRAST = {
    "voltage_kv": "ctfVoltage",
    "spherical_aberration_mm": "ctfSphericalAberration",
    "amplitude_contrast": "ctfQ0",
    "defocus_u_angstrom": "ctfDefocusU",
    "defocus_v_angstrom": "ctfDefocusV",
    "azimuth_rad": "ctfDefocusAngle",
    "b_factor_angstrom2": B_FACTOR,
    "phase_shift_rad": "ctfVPPphaseshift",
    "scale": "ctfK",
}
EMAF_COLUMNS = (XMIPP_IMAGE, *SHIFT, "anglePsi", FLIP, "maxCC")  # in the order that EMAF expects
DEGREE = np.pi / 180


def pixel_sizes(columns: Columns) -> dict[str, np.ndarray]:
    """Return the pixel size of each image in angstrom, (n,), by column. Empty if samplingRate is missing."""
    return {PIXEL: columns.numbers(PIXEL)} if PIXEL in columns else {}


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations, from particle to microscope coordinates.

    A mirrored image is a view from the opposite side.
    """
    if not columns.has_any(EULER):
        return None
    euler_deg = columns.stacked(EULER)
    mirror = Rotation.from_rotvec(np.pi * _flipped(columns)[:, None] * [0.0, 1.0, 0.0])
    if _in_plane(columns):
        return from_relion_euler_deg(-euler_deg) * mirror
    return mirror * from_relion_euler_deg(euler_deg)


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle in pixels, (n, 2).

    The displacement is the position that XMIPP's transformation maps to the origin. XMIPP's shifts are in pixels, so
    ``pixel_size_angstrom`` is not used. Images are not scaled, but a scale that is not positive is refused.
    """
    columns.positive(SCALE, default=1.0)
    if not columns.has_any(SHIFT):
        return None
    shifts = columns.stacked(SHIFT)
    shifts[_flipped(columns)] *= [-1.0, 1.0]
    if _in_plane(columns):
        psi = from_relion_euler_deg(-columns.stacked(EULER))  # rot and tilt are 0
        shifts = (psi.as_matrix()[:, :2, :2] @ shifts[:, :, None])[:, :, 0]
    return -shifts


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the CTF parameters of each particle, as in ``read_contrast``."""
    return read_contrast(columns, CONTRAST, angle_unit_rad=DEGREE)


def _in_plane(columns: Columns) -> bool:
    """Return whether the table contains in-plane alignments, with anglePsi alone."""
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
    """Convert a two-dimensional alignment to an XMIPP table, which ``write_xmd`` can write.

    XMIPP aligns an image by mapping each position q to ``A q + (shiftX, shiftY)``, where A is
    ``[[cos, sin], [-sin, cos]]`` for the angle anglePsi. Hence anglePsi equals the angle of the alignment. Because
    XMIPP rotates before it shifts, (shiftX, shiftY) is minus the shift of the alignment, rotated by A.

    Parameters
    ----------
    image_names : sequence of str
        Names of the n images in the form 'number@stack'.
    angles_rad : array
        (n,) angles in radians, as in ``relion_tables``.
    shifts_px : array
        (n, 2) shifts (x, y) in pixels, as in ``relion_tables``.
    max_cc : array
        (n,) correlations between the aligned images and the reference.

    Returns
    -------
    pandas.DataFrame
        Table with n rows and the columns image, enabled (1), anglePsi (degrees), shiftX and shiftY (pixels), flip (0)
        and maxCC.

    Raises
    ------
    ValueError
        An array does not have n entries or is not finite.
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


def write_emaf(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a two-dimensional alignment as an XMD file for EMAF, the evaluation program from arXiv 2205.11829.

    EMAF ignores the first nine lines. Each subsequent line has six tab-separated values: image, shiftX, shiftY,
    anglePsi, flip and maxCC. The file is also a valid STAR file.

    Parameters
    ----------
    path : path-like
        Path of the file, ending in ``.xmd``.
    table : pandas.DataFrame
        Alignment from ``xmipp_table``, with one row per image.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The suffix is not ``.xmd``, or the table is empty or lacks a column.
    """
    missing = [name for name in EMAF_COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"table must have the columns {', '.join(EMAF_COLUMNS)}, but {missing[0]} is missing"
        )
    text = xmd_text(table[[*EMAF_COLUMNS]])
    # without the empty comment, three lines precede the six labels
    write_text(path_with_suffix(path, ".xmd"), text.replace("# \n", "", 1))
