"""RELION's columns (3.0, 3.1 and 5), in the conventions of this project and back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, Contrast, ContrastColumns, contrast_of, positive_sizes
from cryoem.rotations import from_relion_euler_deg, to_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

GROUP = "rlnOpticsGroup"
EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_PX = ("rlnOriginX", "rlnOriginY")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
OF_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")  # of particles in RELION 3.0
TREATED = ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped")
PARTICLE_ORDER = (  # this and the next as in RELION's own files
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnCtfBfactor",
    "rlnPhaseShift",
    *EULER,
    "rlnImageName",
    GROUP,
    *ORIGIN_ANGSTROM,
)
OPTICS_ORDER = (
    GROUP,
    "rlnOpticsGroupName",
    "rlnAmplitudeContrast",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnImagePixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
)
DISAGREE = 1e-2  # relative: another pixel size, not the same one rounded
CONTRAST = ContrastColumns(
    *OF_OPTICS,
    b_factor_angstrom2="rlnCtfBfactor",
    phase_shift="rlnPhaseShift",
    defocus_u="rlnDefocusU",
    defocus_v="rlnDefocusV",
    azimuth="rlnDefocusAngle",
    radians=np.pi / 180,
)


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Pixel size (angstrom) of each particle's image, (n,); None where the file states none.

    rlnImagePixelSize or, as in RELION 3.0, rlnDetectorPixelSize (micrometre) over rlnMagnification.

    Raises
    ------
    ValueError : a value is not a finite number, or a particle is of no group.
    """
    if "rlnImagePixelSize" in columns:
        return columns.numbers("rlnImagePixelSize")
    if not all(name in columns for name in DETECTOR):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1e4 * columns.numbers(DETECTOR[0]) / columns.numbers(DETECTOR[1])


def rotations(columns: Columns) -> Rotation | None:
    """Orientations by rlnAngleRot, rlnAngleTilt and rlnAnglePsi; an angle that is not given is 0, as in RELION.

    Raises
    ------
    ValueError : an angle is not a finite number.
    """
    if not any(name in columns for name in EULER):
        return None
    return from_relion_euler_deg(np.stack([columns.numbers(name, default=0.0) for name in EULER], axis=1))


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Displacement (x, y) of each particle, (n, 2): minus RELION's origin, which is the shift that centres an image.

    Origins in angstrom mean pixels of the size that the file states or, where it states none, of
    ``pixel_size_angstrom``.

    Raises
    ------
    ValueError : an origin is not a finite number, or a stated pixel size not positive.
    """
    if any(name in columns for name in ORIGIN_ANGSTROM):
        stated = pixel_sizes(columns)
        pixels = pixel_size_angstrom if stated is None else positive_sizes(columns, stated)[:, None]
        return -np.stack([columns.numbers(name, default=0.0) for name in ORIGIN_ANGSTROM], axis=1) / pixels
    if any(name in columns for name in ORIGIN_PX):
        return -np.stack([columns.numbers(name, default=0.0) for name in ORIGIN_PX], axis=1)
    return None


def contrast(columns: Columns) -> Contrast | None:
    """The contrast transfer of each particle, see ``contrast_of``.

    Raises
    ------
    ValueError : as ``contrast_of``; or images had their contrast transfer flipped or multiplied by before.
    """
    for name in TREATED:
        if name in columns and columns.numbers(name).any():
            raise ValueError(
                f"{columns.path} must hold images as the microscope gave them, got {name} 1: their contrast transfer "
                "was treated before, which is not supported"
            )
    return contrast_of(columns, CONTRAST)


def particle_columns(
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: Contrast | None,
    *,
    pixel_size_angstrom: float,
) -> dict[str, np.ndarray]:
    """What is known of n particles as RELION's columns, (n,) each, in the order in which RELION writes them.

    The microscope's constants are among them, as in RELION 3.0; ``optics_groups`` takes them to where they belong.
    """
    columns: dict[str, np.ndarray] = {}
    if contrast is not None:
        u, v, azimuth = contrast.defocus_angstrom.T
        columns |= {
            CONTRAST.voltage_kv: contrast.voltage_kv,
            CONTRAST.spherical_aberration_mm: contrast.spherical_aberration_mm,
            CONTRAST.amplitude_contrast: contrast.amplitude_contrast,
            CONTRAST.defocus_u: u,
            CONTRAST.defocus_v: v,
            CONTRAST.azimuth: np.rad2deg(azimuth),
            CONTRAST.b_factor_angstrom2: contrast.b_factor_angstrom2,
            CONTRAST.phase_shift: np.rad2deg(contrast.phase_shift_rad),
        }
    if rotations is not None:
        columns |= dict(zip(EULER, to_relion_euler_deg(rotations).T, strict=True))
    if shifts_px is not None:
        columns |= dict(zip(ORIGIN_ANGSTROM, -shifts_px.T * pixel_size_angstrom, strict=True))
    return columns


def optics_groups(particles: pd.DataFrame, optics: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Particles with the number of their optics group, and the groups; made where there are none.

    Groups that are made take the microscope's constants, which RELION 3.0 kept with the particles.

    Raises
    ------
    ValueError : ``optics`` has no numbers, or lacks a group of the particles.
    """
    import pandas as pd

    if optics is None:
        known = [name for name in (GROUP, *OF_OPTICS) if name in particles]
        groups = particles[known].drop_duplicates() if known else pd.DataFrame(index=[0])
        numbers = particles.groupby(known, sort=False, dropna=False).ngroup() + 1 if known else 1
        count = range(1, len(groups) + 1)
        made = {GROUP: list(count), "rlnOpticsGroupName": [f"opticsGroup{group}" for group in count]}
        particles = particles.drop(columns=[name for name in OF_OPTICS if name in particles])
        others = groups.reset_index(drop=True).drop(columns=GROUP, errors="ignore")
        return particles.assign(**{GROUP: numbers}), pd.DataFrame(made).join(others)
    if GROUP not in optics or optics.empty:
        raise ValueError(f"optics must have a column {GROUP} and a row, got {len(optics)} rows")
    if GROUP not in particles:
        if len(optics) > 1:
            raise ValueError(f"table must have a column {GROUP}, got none for {len(optics)} groups")
        particles = particles.assign(**{GROUP: optics[GROUP].iloc[0]})
    missing = set(particles[GROUP]) - set(optics[GROUP])
    if missing:
        raise ValueError(f"optics must have the groups of all particles, got none numbered {min(missing)}")
    return particles, optics


def sized(optics: pd.DataFrame, pixel_size_angstrom: float, image_size: int) -> pd.DataFrame:
    """Optics groups with the size of their images and of the pixels; columns in the order in which RELION has them.

    Warns
    -----
    UserWarning : they state another pixel size, by more than 1 %; it is replaced.
    """
    if "rlnImagePixelSize" in optics:
        stated = optics["rlnImagePixelSize"].to_numpy(float)
        off = ~np.isclose(stated, pixel_size_angstrom, rtol=DISAGREE, atol=0)
        if off.any():
            warnings.warn(
                f"optics states a pixel size of {stated[off][0]:.6g} angstrom; "
                f"replaced it by pixel_size_angstrom={pixel_size_angstrom:.6g}",
                UserWarning,
                stacklevel=3,
            )
    sizes = {"rlnImagePixelSize": pixel_size_angstrom, "rlnImageSize": image_size}
    return in_order(optics.assign(**sizes, rlnImageDimensionality=2), OPTICS_ORDER)


def in_order(table: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    """The columns that ``order`` names first, in this order, then the others as they were."""
    first = [name for name in order if name in table]
    return table[first + [name for name in table if name not in first]]
