"""RELION's tables (3.0, 3.1 and 5), in the conventions of this project and back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, read_contrast, write_contrast
from cryoem.particles.star import RELION_IMAGE
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg
from cryoem.validation import one_each, positive_number, shifts_of, whole_number

if TYPE_CHECKING:
    import pandas as pd

GROUP, PIXEL = "rlnOpticsGroup", "rlnImagePixelSize"
EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_PX = ("rlnOriginX", "rlnOriginY")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
OPTICS_COLUMNS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
)  # of particles in RELION 3.0
TREATED = ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped")
POSE_COLUMNS = (  # a pose, its priors, and how well it fits; a new pose invalidates them
    *(f"rlnAngle{angle}{kind}" for angle in ("Rot", "Tilt", "Psi") for kind in ("", "Prior", "FlipRatio")),
    *(f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst", "Prior", "PriorAngst")),
    "rlnAnglePsiFlip",
    "rlnIsFlip",
    "rlnOrientationsID",
    "rlnClassNumber",
    "rlnMaxValueProbDistribution",
    "rlnNrOfSignificantSamples",
    "rlnLogLikeliContribution",
)
PARTICLE_ORDER = (  # the order of columns in RELION's own files, here and below
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnCtfBfactor",
    "rlnPhaseShift",
    *EULER,
    RELION_IMAGE,
    GROUP,
    *ORIGIN_ANGSTROM,
)
OPTICS_ORDER = (
    GROUP,
    "rlnOpticsGroupName",
    "rlnAmplitudeContrast",
    "rlnSphericalAberration",
    "rlnVoltage",
    PIXEL,
    "rlnMicrographOriginalPixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
)
CONTRAST = {
    "voltage_kv": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "defocus_u_angstrom": "rlnDefocusU",
    "defocus_v_angstrom": "rlnDefocusV",
    "azimuth_rad": "rlnDefocusAngle",
    "b_factor_angstrom2": "rlnCtfBfactor",
    "phase_shift_rad": "rlnPhaseShift",
}
DEGREE = np.pi / 180
DISAGREE = 1e-2  # relative difference of pixel sizes that is no rounding


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Return the pixel size (angstrom) of each particle's image, (n,); None if the file states none.

    It is rlnImagePixelSize or, as in RELION 3.0, rlnDetectorPixelSize (micrometre) over rlnMagnification.
    """
    if PIXEL in columns:
        return columns.numbers(PIXEL)
    if not all(name in columns for name in DETECTOR):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1e4 * columns.numbers(DETECTOR[0]) / columns.numbers(DETECTOR[1])


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations by rlnAngleRot, rlnAngleTilt and rlnAnglePsi; a missing angle is 0, as in RELION."""
    return from_relion_euler_deg(columns.stacked(EULER)) if columns.has_any(EULER) else None


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle, (n, 2): minus RELION's origin, the shift that centres an image.

    Origins in angstrom refer to the pixel size that the file states or, without one, to ``pixel_size_angstrom``.
    """
    if columns.has_any(ORIGIN_ANGSTROM):
        stated = pixel_sizes(columns)
        pixels = pixel_size_angstrom if stated is None else columns.checked_pixels(stated)[:, None]
        return -columns.stacked(ORIGIN_ANGSTROM) / pixels
    return -columns.stacked(ORIGIN_PX) if columns.has_any(ORIGIN_PX) else None


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the contrast transfer of each particle, see ``read_contrast``; refuse CTF-corrected images."""
    for name in TREATED:
        if name in columns and columns.numbers(name).any():
            raise ValueError(
                f"{columns.path} has {name} 1: CTF-corrected images are not supported; use the original images"
            )
    return read_contrast(columns, CONTRAST, angle_unit_rad=DEGREE)


def particle_columns(
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: pd.DataFrame | None,
    *,
    pixel_size_angstrom: float,
) -> dict[str, np.ndarray]:
    """Return the known properties of n particles as RELION columns, (n,) each.

    They include the microscope's constants, as in RELION 3.0; ``with_optics_groups`` moves these to the groups.
    """
    columns = {} if contrast is None else write_contrast(contrast, CONTRAST, angle_unit_rad=DEGREE)
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(ORIGIN_ANGSTROM, -shifts_px.T * pixel_size_angstrom, strict=True))
    return columns


def relion_tables(
    image_names: Sequence[str],
    angles_rad: np.ndarray,
    shifts_px: np.ndarray,
    *,
    pixel_size_angstrom: float,
    image_size: int,
    scores: Mapping[str, np.ndarray] | None = None,
    table: pd.DataFrame | None = None,
    optics_groups: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a two-dimensional alignment as RELION tables, for ``write_star``.

    An alignment gives each image an angle and a shift: **the particle in the image is the reference, rotated
    anticlockwise by the angle and then displaced by the shift.** With x along the second axis of an image, y along the
    first and both counted from pixel ``n // 2``, the value of the reference at p is in the image at

        q = R(angle) p + shift,    R(angle) = [[cos, -sin], [sin, cos]].

    Anticlockwise is as in the figures of this package, x to the right and y up. Aligning an image is the inverse,
    p = R(-angle) (q - shift), the shift first. As an orientation this is ``Rz(angle)``, particle to microscope
    coordinates.

    RELION shifts an image by its origin and compares it with the reference at (rot, tilt, psi) = (0, 0, psi), which is
    ``Rz(-psi)``. Hence rlnAnglePsi is minus the angle, and rlnOriginXAngst and rlnOriginYAngst are minus the shift.

    Parameters
    ----------
    image_names : sequence of str
        n names, number@stack.
    angles_rad, shifts_px : array
        (n,) angles and (n, 2) displacements (x, y).
    pixel_size_angstrom, image_size : float, int
        Side of a pixel, and side of the images in pixels.
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
    names = [str(name) for name in image_names]
    angles_rad = one_each(angles_rad, count=len(names), name="angles_rad")
    shifts_px = shifts_of(shifts_px, count=len(names))
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    image_size = whole_number(image_size, name="image_size", at_least=1)
    if table is not None and (RELION_IMAGE not in table or len(table) != len(names)):
        raise ValueError(
            f"table must have a column {RELION_IMAGE} and {len(names)} rows, one per image, "
            f"got {len(table)} rows of {', '.join(map(str, table))}"
        )
    # Without a tilt, rot and psi are one angle.
    euler_deg = to_relion_euler_deg(Rotation.from_euler("z", angles_rad[:, None]))
    columns = {
        "rlnAnglePsi": euler_deg[:, 0] + euler_deg[:, 2],
        "rlnClassNumber": 1,
        **particle_columns(None, shifts_px, None, pixel_size_angstrom=pixel_size_angstrom),
    }
    for name, values in (scores or {}).items():
        if name in {*columns, RELION_IMAGE, GROUP} or not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ValueError(
                f"scores must have names of letters and digits that no other column has, got {name!r}"
            )
        columns[name] = one_each(values, count=len(names), name=f"scores[{name!r}]")
    return with_optics_groups(
        names,
        columns,
        pixel_size_angstrom=pixel_size_angstrom,
        image_size=image_size,
        table=table,
        optics_groups=optics_groups,
        without=POSE_COLUMNS,
    )


def with_optics_groups(
    image_names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    *,
    pixel_size_angstrom: float,
    image_size: int,
    table: pd.DataFrame | None = None,
    optics_groups: pd.DataFrame | None = None,
    without: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of n particles and of optics groups of a RELION 3.1 file.

    Columns of ``table`` are kept, except those in ``without``, and the origins in pixels and pixel sizes of RELION 3.0;
    ``columns`` (n,) by name are added. Without ``optics_groups``, there is one group for each set of the microscope's
    constants in the table. Warn if the groups state another pixel size, by more than 1 %; it is replaced.
    """
    import pandas as pd

    table = pd.DataFrame(index=range(len(image_names))) if table is None else table.reset_index(drop=True)
    table = table.drop(columns=[*without, *ORIGIN_PX, *DETECTOR, PIXEL], errors="ignore")
    table = table.assign(**{RELION_IMAGE: image_names}, **columns)
    table, groups = _grouped(table, optics_groups)
    groups = groups[groups[GROUP].isin(table[GROUP])]
    if PIXEL in groups:
        stated = groups[PIXEL].to_numpy(float)
        off = ~np.isclose(stated, pixel_size_angstrom, rtol=DISAGREE, atol=0)
        if off.any():
            warnings.warn(
                f"the optics groups state a pixel size of {stated[off][0]:.6g} angstrom; "
                f"replaced with {pixel_size_angstrom:.6g}",
                UserWarning,
                stacklevel=3,
            )
    sizes = {PIXEL: pixel_size_angstrom, "rlnImageSize": image_size, "rlnImageDimensionality": 2}
    return _in_order(table, PARTICLE_ORDER), _in_order(groups.assign(**sizes), OPTICS_ORDER)


def _grouped(table: pd.DataFrame, groups: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the particles with the number of their optics group, and the groups."""
    import pandas as pd

    if groups is None:
        # Make one group for each set of constants, which RELION 3.0 stored with the particles.
        known = [name for name in (GROUP, *OPTICS_COLUMNS) if name in table]
        constants = table[known].drop_duplicates() if known else pd.DataFrame(index=[0])
        numbers = table.groupby(known, sort=False, dropna=False).ngroup() + 1 if known else 1
        count = range(1, len(constants) + 1)
        groups = pd.DataFrame(
            {GROUP: list(count), "rlnOpticsGroupName": [f"opticsGroup{group}" for group in count]}
        ).join(constants.reset_index(drop=True).drop(columns=GROUP, errors="ignore"))
        return table.drop(columns=[*OPTICS_COLUMNS], errors="ignore").assign(**{GROUP: numbers}), groups
    if GROUP not in groups or groups.empty:
        raise ValueError(
            f"optics_groups must have a column {GROUP} and at least one row, got {len(groups)} rows"
        )
    if GROUP not in table:
        if len(groups) > 1:
            raise ValueError(f"table must have a column {GROUP} for its {len(groups)} optics groups")
        table = table.assign(**{GROUP: groups[GROUP].iloc[0]})
    missing = set(table[GROUP]) - set(groups[GROUP])
    if missing:
        raise ValueError(
            f"optics_groups must have the group of each particle, got none with number {min(missing)}"
        )
    return table, groups


def _in_order(table: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    """Sort the columns named in ``order`` to the front."""
    first = [name for name in order if name in table]
    return table[first + [name for name in table if name not in first]]
