"""RELION's tables (3.0, 3.1 and 5), in the conventions of this project and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, Contrast, ContrastColumns, contrast_of, positive_sizes
from cryoem.particles.star import RELION_IMAGE
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg

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
DISAGREE = 1e-2  # relative difference of pixel sizes that is no rounding
CONTRAST = ContrastColumns(
    *OPTICS_COLUMNS,
    b_factor_angstrom2="rlnCtfBfactor",
    phase_shift="rlnPhaseShift",
    defocus_u="rlnDefocusU",
    defocus_v="rlnDefocusV",
    azimuth="rlnDefocusAngle",
    radians=np.pi / 180,
)


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
        pixels = pixel_size_angstrom if stated is None else positive_sizes(columns, stated)[:, None]
        return -columns.stacked(ORIGIN_ANGSTROM) / pixels
    return -columns.stacked(ORIGIN_PX) if columns.has_any(ORIGIN_PX) else None


def contrast(columns: Columns) -> Contrast | None:
    """Return the contrast transfer of each particle, see ``contrast_of``; raise an error for CTF-corrected images."""
    for name in TREATED:
        if name in columns and columns.numbers(name).any():
            raise ValueError(
                f"{columns.path} has {name} 1: CTF-corrected images are not supported; use the original images"
            )
    return contrast_of(columns, CONTRAST)


def particle_columns(
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: Contrast | None,
    *,
    pixel_size_angstrom: float,
) -> dict[str, np.ndarray]:
    """Return the known properties of n particles as RELION columns, (n,) each.

    They include the microscope's constants, as in RELION 3.0; ``relion_table`` moves these to the optics groups.
    """
    columns: dict[str, np.ndarray] = {} if contrast is None else contrast.as_columns(CONTRAST)
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(ORIGIN_ANGSTROM, -np.asarray(shifts_px).T * pixel_size_angstrom, strict=True))
    return columns


def relion_table(
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
    dropped = {*without, *ORIGIN_PX, *DETECTOR, PIXEL}
    table = table.drop(columns=[name for name in table if name in dropped])
    table = table.assign(**{RELION_IMAGE: image_names}, **columns)
    table, optics_groups = _grouped(table, optics_groups)
    optics_groups = optics_groups[optics_groups[GROUP].isin(table[GROUP])]
    optics_groups = _with_sizes(optics_groups, pixel_size_angstrom, image_size)
    return _in_order(table, PARTICLE_ORDER), _in_order(optics_groups, OPTICS_ORDER)


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
        table = table.drop(columns=[name for name in OPTICS_COLUMNS if name in table])
        return table.assign(**{GROUP: numbers}), groups
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


def _with_sizes(groups: pd.DataFrame, pixel_size_angstrom: float, image_size: int) -> pd.DataFrame:
    """Return optics groups with the size of the images and of their pixels."""
    if PIXEL in groups:
        stated = groups[PIXEL].to_numpy(float)
        off = ~np.isclose(stated, pixel_size_angstrom, rtol=DISAGREE, atol=0)
        if off.any():
            warnings.warn(
                f"the optics groups state a pixel size of {stated[off][0]:.6g} angstrom; "
                f"replaced with {pixel_size_angstrom:.6g}",
                UserWarning,
                stacklevel=4,
            )
    sizes = {PIXEL: pixel_size_angstrom, "rlnImageSize": image_size}
    return groups.assign(**sizes, rlnImageDimensionality=2)


def _in_order(table: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    """Sort the columns named in ``order`` to the front."""
    first = [name for name in order if name in table]
    return table[first + [name for name in table if name not in first]]
