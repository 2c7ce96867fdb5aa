"""A two-dimensional alignment as the tables that RELION and XMIPP read.

An alignment gives each image an angle and a shift: **the particle appears in the image as the reference, rotated
anticlockwise by the angle and then displaced by the shift.**  With x along the second axis of an image, y along the
first and both counted from pixel ``n // 2``, what the reference has at p lies in the image at

    q = R(angle) p + shift,    R(angle) = [[cos, -sin], [sin, cos]].

Anticlockwise is as figures are drawn here, x to the right and y up.  Aligning an image undoes it: p = R(-angle) (q -
shift), the shift first.  As an orientation this is ``Rz(angle)``, particle to microscope coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import one_each, positive_number, shifts_of, whole_number
from cryoem.particles.relion import optics_groups, sized
from cryoem.particles.tables import RELION_IMAGE, XMIPP_IMAGE
from cryoem.rotations import to_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

OLD_POSE = (
    *(f"rlnAngle{angle}{kind}" for angle in ("Rot", "Tilt", "Psi") for kind in ("", "Prior", "FlipRatio")),
    *(f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst", "Prior", "PriorAngst")),
    "rlnAnglePsiFlip",
    "rlnIsFlip",
    "rlnOrientationsID",
    "rlnClassNumber",
    "rlnMaxValueProbDistribution",  # these three: how well the older pose suited
    "rlnNrOfSignificantSamples",
    "rlnLogLikeliContribution",
)


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
    optics: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An alignment in RELION's convention: the tables of particles and of optics groups, for ``write_star``.

    RELION shifts an image by its origin and compares it with the reference seen at (rot, tilt, psi) = (0, 0, psi), that
    is ``Rz(-psi)``.  So rlnAnglePsi is minus the angle and rlnOriginXAngst, rlnOriginYAngst are minus the shift; the
    angle goes through ``rotations``, as orientations do.

    Parameters
    ----------
    image_names : n names, number@stack.
    angles_rad : (n,) see the module.
    shifts_px : (n, 2) displacement (x, y), see the module.
    pixel_size_angstrom : side of a pixel of these images.
    image_size : side of these images in pixels.
    class_numbers : (n,) from 1; all 1 by default.
    scores : more columns by name, (n,) numbers each.
    table : the STAR table that the images come from, one row an image in the same order.  Its columns are kept, but for
        those of older poses, their probabilities, classes and priors, which another alignment made void.
    optics : the optics groups of ``table``, kept; without them groups are made from ``table``, with the microscope's
        constants that RELION 3.0 kept with the particles.

    Returns
    -------
    Tables of particles (n rows) and of optics groups.

    Warns
    -----
    UserWarning : the optics groups state another pixel size, by more than 1 %; it is replaced, so that origins in
        angstrom mean the shifts in pixels.

    Raises
    ------
    ValueError : arrays are not n long or not finite, a number is out of range, ``table`` is not a STAR table of n rows,
        ``optics`` lacks a group of its particles, or a score has the name of a column of the pose.

    Source: RELION's projector (``Euler_angles2matrix``) and relion_stack_create --apply_transformation.
    """
    import pandas as pd

    names, angles_rad, shifts_px = _checked(image_names, angles_rad, shifts_px)
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    image_size = whole_number(image_size, name="image_size", at_least=1)
    if table is not None and (RELION_IMAGE not in table or len(table) != len(names)):
        raise ValueError(
            f"table must have a column {RELION_IMAGE} and {len(names)} rows, one an image, "
            f"got {len(table)} rows of {', '.join(map(str, table))}"
        )
    particles = pd.DataFrame(index=range(len(names))) if table is None else table.reset_index(drop=True)
    particles = particles.drop(columns=[name for name in OLD_POSE if name in particles])
    particles, optics = optics_groups(particles, optics)
    euler_deg = to_relion_euler_deg(Rotation.from_euler("z", angles_rad[:, None]))
    pose = {
        RELION_IMAGE: names,
        "rlnAnglePsi": euler_deg[:, 0] + euler_deg[:, 2],  # without a tilt, rot and psi are one angle
        "rlnOriginXAngst": -shifts_px[:, 0] * pixel_size_angstrom,
        "rlnOriginYAngst": -shifts_px[:, 1] * pixel_size_angstrom,
        "rlnClassNumber": _classes(class_numbers, len(names)),
    }
    scores = _checked_scores(scores or {}, {*pose, "rlnOpticsGroup"}, len(names))
    return particles.assign(**pose, **scores), sized(optics, pixel_size_angstrom, image_size)


def xmipp_table(
    image_names: Sequence[str], angles_rad: np.ndarray, shifts_px: np.ndarray, *, max_cc: np.ndarray
) -> pd.DataFrame:
    """An alignment in XMIPP's convention, for ``write_xmd``.

    XMIPP moves what an image has at q to

        A q + (shiftX, shiftY),    A = [[cos, sin], [-sin, cos]] of anglePsi,

    with x and y as here and about pixel ``n // 2``; the result is the aligned image.  So anglePsi is the angle, and
    (shiftX, shiftY) is minus the shift, rotated by A, since XMIPP shifts after it has rotated.

    Parameters
    ----------
    image_names : n names, number@stack.
    angles_rad : (n,) see the module.
    shifts_px : (n, 2) displacement (x, y), see the module.
    max_cc : (n,) correlation of each aligned image with the reference.

    Returns
    -------
    Table of n rows: image, enabled (1), anglePsi (degrees), shiftX, shiftY (pixels), flip (0), maxCC.

    Raises
    ------
    ValueError : arrays are not n long or not finite.

    Source: XMIPP's ``geo2TransformationMatrix`` and ``rotation2DMatrix``, applied with IS_NOT_INV.
    """
    import pandas as pd

    names, angles_rad, shifts_px = _checked(image_names, angles_rad, shifts_px)
    max_cc = one_each(max_cc, count=len(names), name="max_cc")
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
            "maxCC": max_cc,
        }
    )


def _checked(image_names, angles_rad, shifts_px) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = [str(name) for name in image_names]
    if not names:
        raise ValueError("image_names must name at least one image, got none")
    angles_rad = one_each(angles_rad, count=len(names), name="angles_rad")
    return names, angles_rad, shifts_of(shifts_px, count=len(names))


def _classes(class_numbers, n: int) -> np.ndarray:
    if class_numbers is None:
        return np.ones(n, int)
    numbers = one_each(class_numbers, count=n, name="class_numbers")
    if (numbers < 1).any() or (numbers % 1).any():
        raise ValueError(f"class_numbers must be whole numbers from 1, got {numbers.min():g} as the least")
    return numbers.astype(int)


def _checked_scores(scores, taken: set[str], n: int) -> dict[str, np.ndarray]:
    for name in scores:
        if name in taken or not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ValueError(
                f"scores must have names of letters and digits that no other column has, got {name!r}"
            )
    return {name: one_each(values, count=n, name=f"scores[{name!r}]") for name, values in scores.items()}
