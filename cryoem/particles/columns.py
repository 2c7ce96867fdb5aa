"""Numeric columns of particle tables, and the CTF parameters in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.contrast import ContrastTransfer, Optics

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-6  # largest relative difference between rounded values of the same constant
NECESSARY = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
CONSTANTS = (*NECESSARY, "b_factor_angstrom2", "phase_shift_rad", "inverted")
DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "azimuth_rad")


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
        import pandas as pd

        if name not in self:
            if default is None:
                raise ValueError(f"{self.path} has no column {name}")
            return np.full(len(self.table), default)
        column = self.table[name] if name in self.table else self._of_group(name)
        values = pd.to_numeric(column, errors="coerce").to_numpy(float)
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.path}: the column {name} must contain finite numbers, "
                f"got {column.iloc[row]!s} in row {row + 1}"
            )
        return values

    def stacked(self, names: tuple[str, ...]) -> np.ndarray:
        """Return several columns as (n, k) float64. Missing columns are zero."""
        return np.stack([self.numbers(name, default=0.0) for name in names], axis=1)

    def checked_pixels(self, sizes: np.ndarray) -> np.ndarray:
        """Return the (n,) pixel sizes used to convert shifts to pixels; raise a ValueError unless all are positive."""
        bad = ~(np.isfinite(sizes) & (sizes > 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.path}: pixel sizes must be positive to convert shifts to pixels, "
                f"got {sizes[row]:g} angstrom in row {row + 1}"
            )
        return sizes

    def _of_group(self, name: str) -> pd.Series:
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


# --- CTF parameters: a table with one row per particle and columns named after the attributes of ContrastTransfer


def read_contrast(columns: Columns, names: dict[str, str], *, angle_unit_rad: float) -> pd.DataFrame | None:
    """Return a table of the CTF parameters of each particle, or None if the file has no defocus.

    ``names`` maps the columns of the table to those of the program. As in RELION, a missing second defocus is set to
    the first, and a missing azimuth, phase shift or B factor to 0. The images are assumed to be inverted, so that
    particles are bright, as is usual.
    """
    import pandas as pd

    first, second = names[DEFOCUS[0]], names[DEFOCUS[1]]
    if first not in columns:
        return None
    for name in NECESSARY:
        if names[name] not in columns:
            raise ValueError(f"{columns.path} has {first} but no {names[name]}; the CTF needs both")
    if second not in columns:
        names = {**names, DEFOCUS[1]: first}
    found = {name: columns.numbers(column, default=0.0) for name, column in names.items()}
    for name in found:
        if name.endswith("_rad"):
            found[name] = angle_unit_rad * found[name]
    return pd.DataFrame({**found, "inverted": True})


def write_contrast(
    contrast: pd.DataFrame, names: dict[str, str], *, angle_unit_rad: float
) -> dict[str, np.ndarray]:
    """Return CTF parameters as the columns of a program, (n,) each. This is the inverse of ``read_contrast``."""
    return {
        column: contrast[name].to_numpy() / (angle_unit_rad if name.endswith("_rad") else 1.0)
        for name, column in names.items()
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
    return pd.DataFrame(defoci, columns=DEFOCUS).assign(**constants)


def common_transfer(contrast: pd.DataFrame, path: Path) -> ContrastTransfer:
    """Return the constants that all particles share. The defocus range is that of the means of U and V."""
    if contrast["inverted"].nunique() > 1:
        raise ValueError(
            f"{path} contains both bright and dark particles; select one kind with particles[indices]"
        )
    for name in CONSTANTS:
        values = contrast[name].to_numpy(float)
        if np.ptp(values) > SAME * np.abs(values).max():
            raise ValueError(
                f"{path}: {name} must be the same for all particles, got {values.min():.6g} to {values.max():.6g}; "
                "open one optics group (optics_group, --optics-group) or select a subset with particles[indices]"
            )
    mean = contrast[[*DEFOCUS[:2]]].to_numpy().mean(axis=1)
    constants = {name: contrast[name].iloc[0].item() for name in CONSTANTS}
    try:
        return ContrastTransfer(**constants, defocus_range_angstrom=(float(mean.min()), float(mean.max())))
    except ValueError as error:
        raise ValueError(f"{path} has invalid CTF parameters: {error}") from None
