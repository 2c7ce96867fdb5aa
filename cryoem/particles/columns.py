"""Numeric columns of particle tables, and the CTF parameters in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.contrast import LARGEST_DEFOCUS_ANGSTROM, LIMITS, OWN, ContrastTransfer, Optics

if TYPE_CHECKING:
    import pandas as pd

DISAGREE = 1e-2  # smallest relative difference between contradictory values
SAME = 1e-6  # largest relative difference between rounded values of the same constant
NECESSARY = {  # with their names and units for messages
    "voltage_kv": ("voltage", " kV"),
    "spherical_aberration_mm": ("spherical aberration", " mm"),
    "amplitude_contrast": ("amplitude contrast", ""),
}
CONSTANTS = (*NECESSARY, "b_factor_angstrom2", "phase_shift_rad", "inverted")
DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "azimuth_rad")
POSSIBLE = LIMITS | dict.fromkeys(DEFOCUS[:2], (-LARGEST_DEFOCUS_ANGSTROM, LARGEST_DEFOCUS_ANGSTROM))
LEAST_LARGEST_DEFOCUS_ANGSTROM = 100.0  # below it, the largest defocus of a file is in another unit
SMALLEST_FITTED_B_FACTOR = -30.0  # angstrom^2; the default limit of RELION's fit
# 1 in tables of images that were simulated without a CTF; cryoSPARC groups its fields by prefix
WITHOUT_CTF, WITHOUT_CTF_FIELD = "cryoemWithoutCtf", "cryoem/without_ctf"
MISSING = ("nan", "none", "<na>", "null")  # values of optional columns, in lower case
UNUSED = {  # optical effects that no step corrects for, with their columns and the values that mean no effect
    "anisotropic magnification": {
        **{f"rlnMagMat{i}{j}": float(i == j) for i in (0, 1) for j in (0, 1)},
        **{f"ctf/anisomag/{k}": 0.0 for k in range(4)},
    },
    "beam tilt": {"rlnBeamTiltX": 0.0, "rlnBeamTiltY": 0.0, "ctf/tilt_A/0": 0.0, "ctf/tilt_A/1": 0.0},
    "higher-order aberrations": {
        "rlnOddZernike": 0.0,
        "rlnEvenZernike": 0.0,
        **{f"ctf/{kind}_A/{k}": 0.0 for kind in ("shift", "trefoil", "tetra") for k in range(4)},
    },
    "constant term of the CTF": {"ctf/scale_const": 0.0},
    "scale of the alignment": {"scale": 1.0, "alignments3D/alpha": 1.0},
}


class DoubtfulValue(UserWarning):
    """A value that was read from a particle file is possible but almost certainly wrong."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of a particle file, looked up by name. Errors state the file, the column and the row.

    ``table`` has one row per particle. ``optics`` is RELION's table of optics groups; rlnOpticsGroup links the two
    tables. If a column exists in both, the one in ``table`` takes precedence, as in RELION.
    """

    path: Path
    table: pd.DataFrame
    optics: pd.DataFrame | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.table or (self.optics is not None and name in self.optics)

    def has_any(self, names: tuple[str, ...]) -> bool:
        return any(name in self for name in names)

    def numbers(self, name: str, *, default: float | None = None) -> np.ndarray:
        """Return a column as (n,) finite float64. If the column is missing, return ``default`` for each row."""
        if name not in self:
            if default is None:
                raise ValueError(f"{self.path} has no column {name}")
            return np.full(len(self.table), default)
        return self._finite(self.table[name] if name in self.table else self.of_groups(name), name)

    def of_groups_as_numbers(self, name: str) -> np.ndarray:
        """Return a column of the optics groups as (n,) finite float64, even if the table has the same column."""
        return self._finite(self.of_groups(name), name)

    def _finite(self, column: pd.Series, name: str) -> np.ndarray:
        import pandas as pd

        values = pd.to_numeric(column, errors="coerce").to_numpy(float)
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.path}: the column {name} must contain finite numbers, "
                f"got {column.iloc[row]!s} in row {row + 1}"
            )
        return values

    def positive(self, name: str, *, default: float | None = None) -> np.ndarray:
        """Return a column of scale factors, as in ``numbers``; raise a ValueError unless all are positive."""
        values = self.numbers(name, default=default)
        if not (values > 0).all():
            row = int(np.argmin(values > 0))
            raise ValueError(
                f"{self.path}: the column {name} must contain positive numbers, got {values[row]:g} in row {row + 1}"
            )
        return values

    def stacked(self, names: tuple[str, ...]) -> np.ndarray:
        """Return several columns as (n, k) float64. Missing columns are zero."""
        return np.stack([self.numbers(name, default=0.0) for name in names], axis=1)

    def checked_pixels(self, sizes: np.ndarray, name: str) -> np.ndarray:
        """Return the (n,) pixel sizes used to convert shifts to pixels; raise a ValueError unless all are positive."""
        bad = ~(np.isfinite(sizes) & (sizes > 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.path}: pixel sizes must be positive to convert shifts to pixels ({name}), "
                f"got {sizes[row]:g} angstrom in row {row + 1}"
            )
        return sizes

    def of_groups(self, name: str) -> pd.Series:
        """Return a column of the optics groups, with one row per particle."""
        values = self.optics[name]
        if "rlnOpticsGroup" not in self.table or "rlnOpticsGroup" not in self.optics:
            if len(values) == 1:
                return values.iloc[np.zeros(len(self.table), int)]
            raise ValueError(
                f"{self.path} has {len(values)} optics groups, so both of its tables must have a column rlnOpticsGroup"
            )
        groups = self.optics["rlnOpticsGroup"]
        if groups.duplicated().any():
            raise ValueError(
                f"{self.path} defines optics group {groups[groups.duplicated()].iloc[0]} more than once"
            )
        missing = ~self.table["rlnOpticsGroup"].isin(groups)
        if missing.any():
            number = self.table["rlnOpticsGroup"][missing].min()
            raise ValueError(
                f"{self.path} has particles in optics group {number}, but does not define this group"
            )
        return values.set_axis(groups).loc[self.table["rlnOpticsGroup"]]


def states_no_ctf(table: pd.DataFrame | None) -> bool:
    """Return whether a table states that its images were simulated without a CTF."""
    return table is not None and (WITHOUT_CTF in table or WITHOUT_CTF_FIELD in table)


# --- CTF parameters: a table with one row per particle and columns named after the attributes of ContrastTransfer


def read_contrast(columns: Columns, names: dict[str, str], *, angle_unit_rad: float) -> pd.DataFrame | None:
    """Return a table of the CTF parameters of each particle, or None if the file has no defocus.

    ``names`` maps the columns of the table to those of the program. As in RELION, a missing second defocus is set to
    the first, a missing azimuth, phase shift or B factor to 0, and a missing scale to 1. As is usual, the
    images are assumed to be inverted, so that particles are bright.

    Warp and M write B factors with the opposite sign. RELION's fit does not go below -30 angstrom^2. Therefore, the
    sign of a column is reversed, with a warning, if it has no positive values and goes below this limit.

    Warns (``DoubtfulValue``) if the largest defocus is below 100 angstrom, as if it were in micrometres.
    """
    import pandas as pd

    first, second = names[DEFOCUS[0]], names[DEFOCUS[1]]
    if first not in columns:
        if second in columns:
            raise ValueError(
                f"{columns.path} has {second} but no {first}, and the CTF needs both; add {first}"
            )
        return None
    for name in NECESSARY:
        if names[name] not in columns:
            raise ValueError(
                f"{columns.path} has {first} but no {names[name]}, and the CTF needs both; specify the "
                "voltage, spherical aberration and amplitude contrast (`microscope` in Python, "
                "`--microscope 300 2.7 0.1` on the command line)"
            )
    if second not in columns:
        names = {**names, DEFOCUS[1]: first}
    found = {}
    for name, column in names.items():
        values = (
            columns.positive(column, default=1.0) if name == "scale" else columns.numbers(column, default=0.0)
        )
        unit = angle_unit_rad if name.endswith("_rad") else 1.0
        low, high = (limit / unit for limit in POSSIBLE.get(name, (-np.inf, np.inf)))
        bad = (values < low) | (values > high)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{columns.path}: the column {column} must contain values from {low:.6g} to {high:.6g}, "
                f"got {values[row]:.6g} in row {row + 1}; check its unit"
            )
        found[name] = unit * values
    largest = max(np.abs(found[name]).max() for name in DEFOCUS[:2])
    if 0 < largest < LEAST_LARGEST_DEFOCUS_ANGSTROM:
        warnings.warn(
            f"{columns.path}: the largest defocus ({first}) is {largest:.3g} Å, which is implausibly small; convert "
            "the defoci to angstrom (multiply micrometres by 10,000)",
            DoubtfulValue,
            stacklevel=5,
        )
    b_factors = found["b_factor_angstrom2"]
    if b_factors.max() <= 0 and b_factors.min() < SMALLEST_FITTED_B_FACTOR:
        warnings.warn(
            f"{columns.path}: {names['b_factor_angstrom2']} is negative, down to {b_factors.min():g}, "
            "as written by Warp and M; reversing its sign, so that the images are damped",
            UserWarning,
            stacklevel=5,
        )
        found["b_factor_angstrom2"] = np.abs(b_factors)
    return pd.DataFrame({**found, "inverted": True})


def unused_optics(columns: Columns) -> list[str]:
    """Return the optical effects in the file that no step corrects for, each with its columns."""
    found = []
    for what, neutral in UNUSED.items():
        names = [name for name, none in neutral.items() if name in columns and _differs(columns, name, none)]
        if names:
            found.append(f"{what} ({', '.join(names)})")
    return found


def _differs(columns: Columns, name: str, none: float) -> bool:
    """Return whether a number in a column, or in the bracketed lists in a column, differs from ``none``.

    Missing values (NaN, None) do not differ.
    """
    column = columns.table[name] if name in columns.table else columns.of_groups(name)
    for value in column.dropna().unique():
        words = str(value).strip("[] ").replace(",", " ").split()
        try:
            numbers = np.array([float(word) for word in words if word.lower() not in MISSING])
        except ValueError:
            row = int(np.argmax(column == value))
            raise ValueError(
                f"{columns.path}: the column {name} must contain numbers, got {value} in row {row + 1}"
            ) from None
        if not np.allclose(numbers, none, rtol=0, atol=1e-9):
            return True
    return False


def with_microscope(
    columns: Columns, names: dict[str, str], microscope: Sequence[float]
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the table and the optics groups with the constants in ``microscope`` (kV, mm, fraction) in all rows.

    Warn about constants in the file that differ by more than 1 %.
    """
    given = dict(zip(NECESSARY, microscope, strict=True))
    for (name, value), (words, unit) in zip(given.items(), NECESSARY.values(), strict=True):
        low, high = LIMITS[name]
        if not low <= value <= high:
            raise ValueError(
                f"microscope is invalid: the {words} must be between {low:g} and {high:g}{unit}, got {value:.6g}{unit}"
            )
    constants = {names[name]: value for name, value in given.items()}
    stated, used = [], []
    for (column, value), (_, unit) in zip(constants.items(), NECESSARY.values(), strict=True):
        if column in columns and not np.allclose(columns.numbers(column), value, rtol=DISAGREE, atol=0):
            stated.append(f"{column} {columns.numbers(column)[0]:.6g}")
            used.append(f"{value:g}{unit}")
    if stated:
        warnings.warn(
            f"{columns.path} states {', '.join(stated)}; using {', '.join(used)} as specified",
            UserWarning,
            stacklevel=4,
        )
    if columns.optics is None:
        return columns.table.assign(**constants), None
    return columns.table.drop(columns=[*constants], errors="ignore"), columns.optics.assign(**constants)


def write_contrast(
    contrast: pd.DataFrame, names: dict[str, str], *, angle_unit_rad: float
) -> dict[str, np.ndarray]:
    """Return CTF parameters as the columns of a program, (n,) each. This is the inverse of ``read_contrast``."""
    return {
        column: contrast[name].to_numpy() / (angle_unit_rad if name.endswith("_rad") else 1.0)
        for name, column in names.items()
        if name != "scale" or (contrast[name] != 1).any()
    }


def contrast_from_optics(optics: Optics) -> pd.DataFrame | None:
    """Return a table of the CTF parameters of each image, or None if the images have no CTF."""
    import pandas as pd

    if optics.ctf is None:
        return None
    defoci = optics.defocus_angstrom
    if defoci.ndim == 1:
        defoci = np.stack([defoci, defoci, np.zeros_like(defoci)], axis=1)
    constants = {name: getattr(optics.ctf, name) for name in CONSTANTS}
    return pd.DataFrame(defoci, columns=DEFOCUS).assign(**constants, scale=1.0).assign(**optics.own_values)


def own_values(contrast: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the phase shifts, B factors and scales that differ between images, by name, (n,) each."""
    found = {name: contrast[name].to_numpy(float) for name in OWN}
    neutral = {"scale": 1.0}
    return {
        name: values
        for name, values in found.items()
        if np.abs(values - neutral.get(name, values[0])).max() > SAME * np.abs(values).max()
    }


def of_one_kind(groups: bool) -> str:
    """Return advice on a file whose particles differ, which depends on whether it has optics groups."""
    return (
        "open one optics group (optics_group, --optics-group)" if groups else "make one table for each value"
    )


def common_transfer(contrast: pd.DataFrame, path: Path, *, groups: bool) -> ContrastTransfer:
    """Return the constants of all particles, with the mean of phase shifts and B factors that differ.

    The defocus range covers the mean of U and V of each particle. ``groups`` is whether the file has optics groups.
    """
    if contrast["inverted"].nunique() > 1:
        raise ValueError(
            f"{path} contains both bright and dark particles; `cryoem convert` makes them all bright"
        )
    constants = {name: contrast[name].iloc[0].item() for name in CONSTANTS}
    constants |= {
        name: float(values.mean()) for name, values in own_values(contrast).items() if name in constants
    }
    for name, (words, unit) in NECESSARY.items():
        values = contrast[name].to_numpy(float)
        if np.ptp(values) > SAME * np.abs(values).max():
            raise ValueError(
                f"{path}: the {words} must be the same for all particles, got {values.min():.6g} to "
                f"{values.max():.6g}{unit}; {of_one_kind(groups)}"
            )
    mean = contrast[[*DEFOCUS[:2]]].to_numpy().mean(axis=1)
    return ContrastTransfer(**constants, defocus_range_angstrom=(float(mean.min()), float(mean.max())))
