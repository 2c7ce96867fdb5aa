"""Numbers in the columns of particle tables, and the contrast transfer that they describe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.contrast import ContrastTransfer, Optics

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-6  # relative difference of rounded constants of one microscope


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a particle file by name; errors name the file, column and row.

    ``table`` has one row per particle. ``optics`` are RELION's optics groups, to which rlnOpticsGroup of both tables
    refers. A column of particles takes precedence over one of groups, as in RELION.
    """

    path: Path
    table: pd.DataFrame
    optics: pd.DataFrame | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.table or (self.optics is not None and name in self.optics)

    def has_any(self, names: tuple[str, ...]) -> bool:
        """Return whether there is at least one of several columns."""
        return any(name in self for name in names)

    def numbers(self, name: str, *, default: float | None = None) -> np.ndarray:
        """Return a column as (n,) finite float64, or ``default`` in each row if there is no such column."""
        import pandas as pd

        if name not in self:
            if default is None:
                raise ValueError(f"{self.path} must have a column {name}, got none")
            return np.full(len(self.table), default)
        column = self.table[name] if name in self.table else self._of_group(name)
        values = pd.to_numeric(column, errors="coerce").to_numpy(float)
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.path} must have finite numbers in the column {name}, "
                f"got {column.iloc[row]!s} in row {row + 1}"
            )
        return values

    def stacked(self, names: tuple[str, ...]) -> np.ndarray:
        """Return several columns as (n, k) float64, with zeros for missing ones."""
        return np.stack([self.numbers(name, default=0.0) for name in names], axis=1)

    def _of_group(self, name: str) -> pd.Series:
        """Return a column of the optics groups with one row per particle."""
        values = self.optics[name]
        if "rlnOpticsGroup" not in self.table or "rlnOpticsGroup" not in self.optics:
            if len(values) == 1:
                return values.iloc[np.zeros(len(self.table), int)]
            raise ValueError(
                f"{self.path} must have a column rlnOpticsGroup in both tables for its {len(values)} optics groups"
            )
        groups = self.optics["rlnOpticsGroup"]
        if groups.duplicated().any():
            raise ValueError(
                f"{self.path} describes optics group {groups[groups.duplicated()].iloc[0]} twice"
            )
        missing = ~self.table["rlnOpticsGroup"].isin(groups)
        if missing.any():
            number = self.table["rlnOpticsGroup"][missing].min()
            raise ValueError(
                f"{self.path} has particles of optics group {number}, which it does not describe"
            )
        return values.set_axis(groups).loc[self.table["rlnOpticsGroup"]]


def positive_sizes(columns: Columns, sizes: np.ndarray) -> np.ndarray:
    """Return (n,) stated pixel sizes, the unit of the file's shifts, if all are positive."""
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{columns.path} must state positive pixel sizes, the unit of its shifts, "
            f"got {sizes[row]:g} angstrom in row {row + 1}"
        )
    return sizes


@dataclass(frozen=True)
class ContrastColumns:
    """Names of a program's columns of the contrast transfer, and its unit of angles in radians."""

    voltage_kv: str
    spherical_aberration_mm: str
    amplitude_contrast: str
    b_factor_angstrom2: str
    phase_shift: str
    defocus_u: str
    defocus_v: str
    azimuth: str
    radians: float


@dataclass(frozen=True, eq=False)
class Contrast:
    """Contrast transfer of n particles that may differ in every constant.

    (n,) constants as in ``ContrastTransfer``, and (n, 3) defocus: U, V in angstrom and the azimuth of U in radians.
    """

    voltage_kv: np.ndarray
    spherical_aberration_mm: np.ndarray
    amplitude_contrast: np.ndarray
    b_factor_angstrom2: np.ndarray
    phase_shift_rad: np.ndarray
    inverted: np.ndarray
    defocus_angstrom: np.ndarray

    def as_columns(self, names: ContrastColumns) -> dict[str, np.ndarray]:
        """Return the columns of a program, (n,) each, by name."""
        u, v, azimuth = self.defocus_angstrom.T
        return {
            names.voltage_kv: self.voltage_kv,
            names.spherical_aberration_mm: self.spherical_aberration_mm,
            names.amplitude_contrast: self.amplitude_contrast,
            names.defocus_u: u,
            names.defocus_v: v,
            names.azimuth: azimuth / names.radians,
            names.b_factor_angstrom2: self.b_factor_angstrom2,
            names.phase_shift: self.phase_shift_rad / names.radians,
        }


CONSTANTS = tuple(field.name for field in fields(Contrast) if field.name != "defocus_angstrom")


def contrast_of(columns: Columns, names: ContrastColumns) -> Contrast | None:
    """Return the contrast transfer of the particles of a table, None if it has no defocus.

    As in RELION, a missing second defocus equals the first, and missing azimuth, phase shift and B-factor are 0. Images
    are assumed to be inverted, with bright particles, as is usual in the field.
    """
    if names.defocus_u not in columns:
        return None
    for name in (names.voltage_kv, names.spherical_aberration_mm, names.amplitude_contrast):
        if name not in columns:
            raise ValueError(f"{columns.path} has {names.defocus_u} but no {name}; both are needed")
    u = columns.numbers(names.defocus_u)
    v = columns.numbers(names.defocus_v) if names.defocus_v in columns else u
    azimuth = names.radians * columns.numbers(names.azimuth, default=0.0)
    return Contrast(
        columns.numbers(names.voltage_kv),
        columns.numbers(names.spherical_aberration_mm),
        columns.numbers(names.amplitude_contrast),
        columns.numbers(names.b_factor_angstrom2, default=0.0),
        names.radians * columns.numbers(names.phase_shift, default=0.0),
        np.ones(len(u), bool),
        np.stack([u, v, azimuth], axis=1),
    )


def common_transfer(contrast: Contrast, path: Path) -> ContrastTransfer:
    """Return the constants that all particles share; the range of defocus is that of the means of U and V."""
    if len(np.unique(contrast.inverted)) > 1:
        raise ValueError(
            f"{path} contains both bright and dark particles; select one kind with particles[indices]"
        )
    for name in CONSTANTS:
        values = getattr(contrast, name).astype(float)
        if np.ptp(values) > SAME * np.abs(values).max():
            raise ValueError(
                f"{path} must have one {name} for all particles, got from {values.min():.6g} to {values.max():.6g}: "
                "open one optics group (optics_group, --optics-group), or select particles[indices]"
            )
    mean = contrast.defocus_angstrom[:, :2].mean(axis=1)
    constants = {name: getattr(contrast, name)[0].item() for name in CONSTANTS}
    try:
        return ContrastTransfer(**constants, defocus_range_angstrom=(float(mean.min()), float(mean.max())))
    except ValueError as error:
        raise ValueError(f"{path} has invalid CTF parameters: {error}") from None


def contrast_from_optics(optics: Optics) -> Contrast | None:
    """Return the contrast transfer of particles that share all constants, None if they have none."""
    if optics.ctf is None:
        return None
    defoci = np.asarray(optics.defocus_angstrom, float)
    if defoci.ndim == 1:
        defoci = np.stack([defoci, defoci, np.zeros_like(defoci)], axis=1)
    return Contrast(*(np.full(len(defoci), getattr(optics.ctf, name)) for name in CONSTANTS), defoci)
