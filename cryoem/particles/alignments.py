"""A two-dimensional alignment as tables for RELION and XMIPP.

An alignment gives each image an angle and a shift: **the particle in the image is the reference, rotated anticlockwise
by the angle and then displaced by the shift.** With x along the second axis of an image, y along the first and both
counted from pixel ``n // 2``, the value of the reference at p is in the image at

    q = R(angle) p + shift,    R(angle) = [[cos, -sin], [sin, cos]].

Anticlockwise is as in the figures of this package, x to the right and y up. Aligning an image is the inverse,
p = R(-angle) (q - shift), the shift first. As an orientation this is ``Rz(angle)``, particle to microscope coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles import relion
from cryoem.particles.star import RELION_IMAGE, XMIPP_IMAGE
from cryoem.rotations import to_relion_euler_deg
from cryoem.validation import one_each, positive_number, shifts_of, whole_number

if TYPE_CHECKING:
    import pandas as pd


def relion_tables(
    image_names: Sequence[str],
    angles_rad: np.ndarray,
    shifts_px: np.ndarray,
    *,
    pixel_size_angstrom: float,
    image_size: int,
    class_numbers: np.ndarray | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
    table: pd.DataFrame | None = None,
    optics_groups: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a two-dimensional alignment as RELION tables, for ``write_star``.

    RELION shifts an image by its origin and compares it with the reference at (rot, tilt, psi) = (0, 0, psi), which is
    ``Rz(-psi)``. Hence rlnAnglePsi is minus the angle, and rlnOriginXAngst and rlnOriginYAngst are minus the shift.

    Parameters
    ----------
    image_names : sequence of str
        n names, number@stack.
    angles_rad, shifts_px : array
        (n,) angles and (n, 2) displacements (x, y), see the module.
    pixel_size_angstrom, image_size : float, int
        Side of a pixel, and side of the images in pixels.
    class_numbers : array, optional
        (n,) numbers from 1; all 1 by default.
    scores : mapping, optional
        Further columns by name, (n,) numbers each.
    table : pandas.DataFrame, optional
        The STAR table of these images, one row per image in the same order. Its columns are kept, except those of older
        poses, their probabilities, classes and priors, which a new alignment invalidates.
    optics_groups : pandas.DataFrame, optional
        The optics groups of ``table``. By default they are derived from the microscope's constants that RELION 3.0
        stores with the particles.

    Warns
    -----
    UserWarning
        The optics groups state another pixel size, by more than 1 %; it is replaced, so that origins in angstrom mean
        the shifts in pixels.

    Raises
    ------
    ValueError
        Arrays are not n long or not finite, a number is out of range, ``table`` is not a STAR table of n rows,
        ``optics_groups`` lacks a group of its particles, or a score has the name of a column of the pose.

    References
    ----------
    RELION's projector (``Euler_angles2matrix``) and relion_stack_create --apply_transformation.
    """
    names, angles_rad, shifts_px = _checked(image_names, angles_rad, shifts_px)
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    image_size = whole_number(image_size, name="image_size", at_least=1)
    classes = np.ones(len(names)) if class_numbers is None else class_numbers
    classes = one_each(classes, count=len(names), name="class_numbers")
    if (classes < 1).any() or (classes % 1).any():
        raise ValueError(f"class_numbers must be whole numbers from 1, got {classes.min():g} as the lowest")
    if table is not None and (RELION_IMAGE not in table or len(table) != len(names)):
        raise ValueError(
            f"table must have a column {RELION_IMAGE} and {len(names)} rows, one per image, "
            f"got {len(table)} rows of {', '.join(map(str, table))}"
        )
    # Without a tilt, rot and psi are one angle.
    euler_deg = to_relion_euler_deg(Rotation.from_euler("z", angles_rad[:, None]))
    columns = {
        "rlnAnglePsi": euler_deg[:, 0] + euler_deg[:, 2],
        "rlnClassNumber": classes.astype(int),
        **relion.particle_columns(None, shifts_px, None, pixel_size_angstrom=pixel_size_angstrom),
    }
    for name, values in (scores or {}).items():
        if name in {*columns, RELION_IMAGE, relion.GROUP} or not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ValueError(
                f"scores must have names of letters and digits that no other column has, got {name!r}"
            )
        columns[name] = one_each(values, count=len(names), name=f"scores[{name!r}]")
    return relion.relion_table(
        names,
        columns,
        pixel_size_angstrom=pixel_size_angstrom,
        image_size=image_size,
        table=table,
        optics_groups=optics_groups,
        without=relion.POSE_COLUMNS,
    )


def xmipp_table(
    image_names: Sequence[str], angles_rad: np.ndarray, shifts_px: np.ndarray, *, max_cc: np.ndarray
) -> pd.DataFrame:
    """Return a two-dimensional alignment as an XMIPP table, for ``write_xmd``.

    XMIPP maps the value of an image at q to ``A q + (shiftX, shiftY)``, ``A = [[cos, sin], [-sin, cos]]`` of anglePsi;
    the result is the aligned image. Hence anglePsi is the angle, and (shiftX, shiftY) is minus the shift rotated by A,
    because XMIPP rotates first.

    Parameters
    ----------
    image_names : sequence of str
        n names, number@stack.
    angles_rad, shifts_px : array
        (n,) angles and (n, 2) displacements (x, y), see the module.
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

    References
    ----------
    XMIPP's ``geo2TransformationMatrix`` and ``rotation2DMatrix``, applied with IS_NOT_INV.
    """
    import pandas as pd

    names, angles_rad, shifts_px = _checked(image_names, angles_rad, shifts_px)
    aligning = Rotation.from_euler("z", -angles_rad[:, None])
    shift = -(aligning.as_matrix()[:, :2, :2] @ shifts_px[:, :, None])[:, :, 0]  # (n, 2)
    return pd.DataFrame(
        {
            XMIPP_IMAGE: names,
            "enabled": 1,
            "anglePsi": -np.rad2deg(aligning.as_euler("zyx")[:, 0]),
            "shiftX": shift[:, 0],
            "shiftY": shift[:, 1],
            "flip": 0,
            "maxCC": one_each(max_cc, count=len(names), name="max_cc"),
        }
    )


def _checked(image_names, angles_rad, shifts_px) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = [str(name) for name in image_names]
    if not names:
        raise ValueError("image_names must name at least one image, got none")
    angles_rad = one_each(angles_rad, count=len(names), name="angles_rad")
    return names, angles_rad, shifts_of(shifts_px, count=len(names))
