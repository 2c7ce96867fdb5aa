"""Convert RELION's tables (3.0, 3.1 and 5) to the conventions of this project, and back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import DISAGREE, Columns, read_contrast, write_contrast
from cryoem.particles.star import RELION_IMAGE
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg
from cryoem.validation import one_each, positive_number, shifts_of, whole_number

if TYPE_CHECKING:
    import pandas as pd

GROUP, PIXEL, SUBSET = "rlnOpticsGroup", "rlnImagePixelSize", "rlnRandomSubset"
IMAGE_SIZE = ("rlnImageSize",)
PIXELS = (PIXEL, "rlnPixelSize")
EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_PX = ("rlnOriginX", "rlnOriginY")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
OPTICS_COLUMNS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
)  # stored with the particles in RELION 3.0
TREATED = ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped")
POSE_COLUMNS = (  # poses, their priors and fit statistics, which do not apply to new poses
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
PARTICLE_ORDER = (  # column order in RELION's own files, here and below
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
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
    *IMAGE_SIZE,
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
    "scale": "rlnCtfScalefactor",
}
DEGREE = np.pi / 180


def pixel_sizes(columns: Columns) -> dict[str, np.ndarray]:
    """Return the pixel sizes of the images in angstrom, (n,), by column, the most important first.

    These are rlnImagePixelSize, rlnPixelSize, and rlnDetectorPixelSize (micrometres) divided by rlnMagnification.
    """
    sizes = {}
    for name in PIXELS:
        if name in columns:
            sizes[name] = columns.numbers(name)
        if name in columns.table and columns.optics is not None and name in columns.optics:
            sizes[f"{name} in data_optics"] = columns.of_groups_as_numbers(name)
    if all(name in columns for name in DETECTOR):
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes[" / ".join(DETECTOR)] = 1e4 * columns.numbers(DETECTOR[0]) / columns.numbers(DETECTOR[1])
    return sizes


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations in rlnAngleRot, rlnAngleTilt and rlnAnglePsi. Missing angles are 0, as in RELION."""
    return from_relion_euler_deg(columns.stacked(EULER)) if columns.has_any(EULER) else None


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle in pixels, (n, 2).

    The displacement is minus RELION's origin, which is the shift that centres the image. Origins in angstrom are
    converted with the pixel size in the file or, if it has none, with ``pixel_size_angstrom``.
    """
    if columns.has_any(ORIGIN_ANGSTROM):
        pixels = pixel_size_angstrom
        for name, sizes in list(pixel_sizes(columns).items())[:1]:
            pixels = columns.checked_pixels(sizes, name)[:, None]
        return -columns.stacked(ORIGIN_ANGSTROM) / pixels
    return -columns.stacked(ORIGIN_PX) if columns.has_any(ORIGIN_PX) else None


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the CTF parameters of each particle, as in ``read_contrast``. Reject CTF-corrected images."""
    for name in TREATED:
        if name in columns and columns.numbers(name).any():
            raise ValueError(
                f"{columns.path} contains CTF-corrected images ({name} is 1); use the original images"
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

    The columns include the constants of the microscope, as in RELION 3.0. ``with_optics_groups`` moves them to the
    optics groups.
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
    """Convert a two-dimensional alignment to RELION tables, which ``write_star`` can write.

    An alignment assigns an angle and a shift to each image: **the particle in the image is the reference, rotated
    anticlockwise by the angle and then displaced by the shift.** Let x be the second axis of an image and y the first,
    with the origin at pixel ``image_size // 2``. The value of the reference at p = (x, y) then appears in the image at

        q = R(angle) p + shift,    R(angle) = [[cos, -sin], [sin, cos]].

    Anticlockwise is as seen in the figures of this package, where x points right and y points up. To align an image,
    apply the inverse, p = R(-angle) (q - shift), which undoes the shift first. The corresponding orientation, from
    particle to microscope coordinates, is ``Rz(angle)``.

    RELION shifts an image by its origin and compares it with the reference at (rot, tilt, psi) = (0, 0, psi), which is
    ``Rz(-psi)``. Hence rlnAnglePsi is minus the angle, and rlnOriginXAngst and rlnOriginYAngst are minus the shift in
    angstrom.

    Parameters
    ----------
    image_names : sequence of str
        Names of the n images in the form 'number@stack'.
    angles_rad : array
        (n,) angles in radians.
    shifts_px : array
        (n, 2) shifts (x, y) in pixels.
    pixel_size_angstrom : float
        Side length of a pixel in angstrom.
    image_size : int
        Side length of the images in pixels.
    scores : mapping, optional
        Additional columns: a mapping from column name to (n,) array of numbers.
    table : pandas.DataFrame, optional
        Particle table of these images from a STAR file, with one row per image in the same order. Its columns are kept,
        except for the old poses, pose priors, classes and probabilities, which do not apply to the new alignment.
    optics_groups : pandas.DataFrame, optional
        Optics groups of ``table``. Default: one group for each distinct set of microscope constants in ``table``, where
        RELION 3.0 stores them.

    Returns
    -------
    particles : pandas.DataFrame
        Table with one row per image.
    optics_groups : pandas.DataFrame
        Table with one row per optics group.

    Warns
    -----
    UserWarning
        The pixel size in the optics groups differs from ``pixel_size_angstrom`` by more than 1 %. It is replaced so
        that the origins in angstrom match the shifts in pixels.

    Raises
    ------
    ValueError
        An array does not have n entries or is not finite, a number is out of range, ``table`` is not a STAR table with
        n rows, ``optics_groups`` lacks the group of a particle, or a column name in ``scores`` is invalid or is that of
        a column of the alignment.

    References
    ----------
    ``Euler_angles2matrix`` in RELION's projector, and ``relion_stack_create --apply_transformation``.
    """
    names = [str(name) for name in image_names]
    angles_rad = one_each(angles_rad, count=len(names), name="angles_rad")
    shifts_px = shifts_of(shifts_px, count=len(names))
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    image_size = whole_number(image_size, name="image_size", at_least=1)
    if table is not None and (RELION_IMAGE not in table or len(table) != len(names)):
        raise ValueError(
            f"table must have a column {RELION_IMAGE} and one row for each of the {len(names)} images, "
            f"got {len(table)} rows with the columns {', '.join(map(str, table))}"
        )
    # Without a tilt, only the sum of rot and psi matters.
    euler_deg = to_relion_euler_deg(Rotation.from_euler("z", angles_rad[:, None]))
    columns = {
        "rlnAnglePsi": euler_deg[:, 0] + euler_deg[:, 2],
        "rlnClassNumber": 1,
        **particle_columns(None, shifts_px, None, pixel_size_angstrom=pixel_size_angstrom),
    }
    for name, values in (scores or {}).items():
        if name in {*columns, RELION_IMAGE, GROUP} or not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ValueError(
                f"column names in scores must be new and consist of letters, digits and underscores, got {name!r}"
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
    """Return the tables of particles and optics groups for a RELION 3.1 file.

    The columns of ``table`` are kept, except those in ``without`` and the origins in pixels and pixel sizes of RELION
    3.0. The (n,) arrays in ``columns`` are added. Without ``optics_groups``, the table contains one group for each set
    of microscope constants. The pixel size in the groups is replaced, with a warning if it differs by more than 1 %.
    """
    import pandas as pd

    table = pd.DataFrame(index=range(len(image_names))) if table is None else table.reset_index(drop=True)
    table = table.drop(columns=[*without, *ORIGIN_PX, *DETECTOR, *PIXELS], errors="ignore")
    table = table.assign(**{RELION_IMAGE: image_names}, **columns)
    table, groups = _grouped(table, optics_groups)
    groups = groups[groups[GROUP].isin(table[GROUP])].drop(columns=[*DETECTOR, *PIXELS[1:]], errors="ignore")
    if PIXEL in groups:
        stated = groups[PIXEL].to_numpy(float)
        off = ~np.isclose(stated, pixel_size_angstrom, rtol=DISAGREE, atol=0)
        if off.any():
            warnings.warn(
                f"the optics groups state a pixel size of {stated[off][0]:.6g} angstrom; "
                f"replacing it with {pixel_size_angstrom:.6g}",
                UserWarning,
                stacklevel=3,
            )
    sizes = {PIXEL: pixel_size_angstrom, "rlnImageSize": image_size, "rlnImageDimensionality": 2}
    return _in_order(table, PARTICLE_ORDER), _in_order(groups.assign(**sizes), OPTICS_ORDER)


def _grouped(table: pd.DataFrame, groups: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the particles with the numbers of their optics groups, and the optics groups."""
    import pandas as pd

    if groups is None:
        # RELION 3.0 stored the constants with the particles: make one group for each set of constants.
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
            raise ValueError(f"table must have a column {GROUP} if there are {len(groups)} optics groups")
        table = table.assign(**{GROUP: groups[GROUP].iloc[0]})
    missing = set(table[GROUP]) - set(groups[GROUP])
    if missing:
        raise ValueError(
            f"optics_groups must contain the optics group of each particle, but has no group {min(missing)}"
        )
    return table, groups


def _in_order(table: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    """Move the columns in ``order`` to the front, in that order."""
    first = [name for name in order if name in table]
    return table[first + [name for name in table if name not in first]]
