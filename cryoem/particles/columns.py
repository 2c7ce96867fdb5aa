"""Columns of particle tables as numbers: one place that says which file, column and row is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.contrast import ContrastTransfer

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-6  # relative: constants of one microscope, rounded


@dataclass(frozen=True, eq=False)
class Columns:
    """What a file says of n particles, by the names of its columns.

    ``table`` has a row a particle; ``optics`` the groups that RELION keeps apart, which rlnOpticsGroup of both leads
    to.  A column of particles comes before one of groups, as in RELION.
    """

    path: Path
    table: pd.DataFrame
    optics: pd.DataFrame | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.table or (self.optics is not None and name in self.optics)

    def numbers(self, name: str, *, default: float | None = None) -> np.ndarray:
        """A column as (n,) finite float64; ``default`` in each row where there is no such column.

        Raises
        ------
        ValueError : a value is not a finite number; a particle is of no group; or there is no such column, and no
            default.
        """
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

    def _of_group(self, name: str) -> pd.Series:
        """A column of the optics groups, a row a particle."""
        values = self.optics[name]
        if "rlnOpticsGroup" not in self.table or "rlnOpticsGroup" not in self.optics:
            if len(values) == 1:
                return values.iloc[np.zeros(len(self.table), int)]
            raise ValueError(
                f"{self.path} must say of which of its {len(values)} optics groups a particle is, got no "
                "rlnOpticsGroup"
            )
        groups = self.optics["rlnOpticsGroup"]
        if groups.duplicated().any():
            raise ValueError(
                f"{self.path} must describe an optics group once, got {groups[groups.duplicated()].iloc[0]} twice"
            )
        missing = ~self.table["rlnOpticsGroup"].isin(groups)
        if missing.any():
            number = self.table["rlnOpticsGroup"][missing].min()
            raise ValueError(
                f"{self.path} has particles of optics group {number}, which it does not describe"
            )
        return values.set_axis(groups).loc[self.table["rlnOpticsGroup"]]


def positive_sizes(columns: Columns, sizes: np.ndarray) -> np.ndarray:
    """(n,) pixel sizes that a table states, where shifts are counted in them.

    Raises
    ------
    ValueError : one is not a positive number.
    """
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{columns.path} must state positive pixel sizes, which its shifts count, "
            f"got {sizes[row]:g} angstrom in row {row + 1}"
        )
    return sizes


@dataclass(frozen=True)
class ContrastColumns:
    """Names of a program's columns of the contrast transfer, and how many radians its unit of angles is."""

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
    """The contrast transfer of each of n particles: (n,) constants as in ``ContrastTransfer``, (n, 3) defoci.

    ``inverted`` (n,) is whether particles are bright in their images.
    """

    voltage_kv: np.ndarray
    spherical_aberration_mm: np.ndarray
    amplitude_contrast: np.ndarray
    b_factor_angstrom2: np.ndarray
    phase_shift_rad: np.ndarray
    inverted: np.ndarray
    defocus_angstrom: np.ndarray


def contrast_of(columns: Columns, names: ContrastColumns) -> Contrast | None:
    """The contrast transfer that a table gives, None where it gives no defocus.

    As in RELION, the second defocus is the first where it is not given; azimuth, phase shift and B-factor are 0 then.
    Images are taken to be inverted, so that particles are bright: so the programs of the field have them.

    Raises
    ------
    ValueError : a constant of the microscope is missing beside the defoci, or a value is not a finite number.
    """
    if names.defocus_u not in columns:
        return None
    for name in (names.voltage_kv, names.spherical_aberration_mm, names.amplitude_contrast):
        if name not in columns:
            raise ValueError(f"{columns.path} must give {name} with {names.defocus_u}, got none")
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


def one_transfer(contrast: Contrast, path: Path) -> ContrastTransfer:
    """The constants that all particles share; as range of defocus, that of the means of U and V.

    Raises
    ------
    ValueError : particles differ in a constant, or one is out of its range.
    """
    names = [name for name in Contrast.__annotations__ if name != "defocus_angstrom"]
    if len(np.unique(contrast.inverted)) > 1:
        raise ValueError(
            f"{path} must have particles that are all bright or all dark: take a subset(indices)"
        )
    for name in names:
        values = getattr(contrast, name).astype(float)
        if np.ptp(values) > SAME * np.abs(values).max():
            raise ValueError(
                f"{path} must have one {name} for all particles, got from {values.min():.6g} to {values.max():.6g}: "
                "open one optics group (optics_group, --optics-group), or take a subset(indices)"
            )
    mean = contrast.defocus_angstrom[:, :2].mean(axis=1)
    constants = {name: getattr(contrast, name)[0].item() for name in names}
    try:
        return ContrastTransfer(**constants, defocus_angstrom=(float(mean.min()), float(mean.max())))
    except ValueError as error:
        raise ValueError(f"{path} gives no possible contrast transfer: {error}") from None


def shared_contrast(ctf: ContrastTransfer | None, defocus_angstrom: np.ndarray | None) -> Contrast | None:
    """The contrast transfer of n particles that share the constants of ``ctf``; None where there is none.

    ``defocus_angstrom`` is (n,), or (n, 3) as for ``ContrastTransfer.at``.
    """
    if ctf is None or defocus_angstrom is None:
        return None
    defoci = np.asarray(defocus_angstrom, float)
    if defoci.ndim == 1:
        defoci = np.stack([defoci, defoci, np.zeros_like(defoci)], axis=1)
    constants = [name for name in Contrast.__annotations__ if name != "defocus_angstrom"]
    return Contrast(*(np.full(len(defoci), getattr(ctf, name)) for name in constants), defoci)
