"""Experiment results: rows and maps saved by the notebooks, tables, and published values."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cryoem.experiments.catalogue import EXPERIMENTS
from cryoem.files.reading import first_line
from cryoem.files.writing import atomic_write, write_text
from cryoem.units import readable_duration
from cryoem.volumes.density import DensityMap, cube, resample

LAST_COLUMNS = ["quantity", "value"]
FITTED_SIZES = 3  # number of the largest sizes, where constant costs are negligible
PUBLISHED = Path(__file__).parent / "published"
MAP_VOXELS = 48


def measurement(quantity: str, value: float, **conditions) -> dict:
    """Return one row of an experiment table: a quantity, its value and its conditions.

    The name of the quantity ends in its unit. Conditions are numbers or short words that distinguish this row from
    other rows of the same point, such as the noise level of a test. Omit the parameters of the point, which
    ``run_experiment`` adds.

    Raises
    ------
    ValueError
        If the value is not finite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{quantity} must be finite, got {value}")
    plain = {name: one.item() if hasattr(one, "item") else one for name, one in conditions.items()}
    return {**plain, "quantity": quantity, "value": value}


def save_rows(path: str | os.PathLike | None, rows: Sequence[dict]) -> None:
    """Save the measurements of an experiment's notebook, so that ``run_experiment`` can collect them.

    Call this function at the end of the notebook. ``path`` is the notebook's parameter ``rows_file``; if it is None,
    nothing is written. ``rows`` is a list of results of ``measurement``.

    Raises
    ------
    ValueError
        If there are no rows, or a row has no quantity or no value.
    """
    if not rows:
        raise ValueError("rows must contain at least one measurement, got none")
    for row in rows:
        if not set(LAST_COLUMNS) <= set(row):
            raise ValueError(f"each row must contain quantity and value, got {row}")
    if path is not None:
        write_text(path, json.dumps({"results": {"rows": list(rows)}}, allow_nan=False))


def save_map(path: str | os.PathLike | None, name: str, density_map: DensityMap) -> None:
    """Save a small version of a map for figures, so that ``run_experiment`` can collect it with the table.

    Parameters
    ----------
    path : path-like, optional
        The notebook's parameter ``rows_file``. The map is written to ``<name>.mrc`` in the same folder. If it is None,
        nothing is written.
    name : str
        Name of the map, without suffix.
    density_map : DensityMap
        Map (z, y, x), which is padded to a cube, resampled to at most ``MAP_VOXELS`` voxels per edge, and stored with 8
        bits per voxel, scaled to a maximum of 127.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    import mrcfile

    if path is None:
        return
    edge = max(density_map.data.shape)
    coarse = resample(cube(density_map), density_map.voxel_size_angstrom * max(1.0, edge / MAP_VOXELS))
    with atomic_write(Path(path).with_name(f"{name}.mrc")) as aside, mrcfile.new(aside) as mrc:
        mrc.set_data((coarse.data * (127 / np.abs(coarse.data).max())).round().astype(np.int8))
        mrc.set_volume()
        mrc.voxel_size = coarse.voxel_size_angstrom
        mrc.header.label[0] = "cryoem"


def gather(name: str, records: Sequence[dict]) -> pd.DataFrame:
    """Collect the records of all points in one table, with a row ``point_seconds`` for each point.

    If a point was resumed, this is the time of its last attempt.
    """
    rows = []
    for record in records:
        parameters = record["made_from"]["parameters"]
        shared = {key: value for key, value in parameters.items() if not isinstance(value, (list, dict))}
        measured = [*record["results"]["rows"], {"quantity": "point_seconds", "value": record["seconds"]}]
        rows += [{"experiment": name, **shared, **row} for row in measured]
    table = pd.DataFrame(rows)
    return table[[column for column in table if column not in LAST_COLUMNS] + LAST_COLUMNS]


def read_table(folder: str | os.PathLike, name: str) -> pd.DataFrame:
    """Read the table of an experiment from a results folder.

    ``name`` is the name of the experiment, or of the table of another size, such as ``"published-cpu"``.

    Raises
    ------
    FileNotFoundError
        If there is no such table. The message shows the command that creates it.
    ValueError
        If the file is not an experiment table, has no rows, or contains a duplicate column name or a value that is not
        finite.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        experiment, _, size = name.rpartition("-")
        how = f"{experiment} --size {size}" if experiment in EXPERIMENTS else name
        raise FileNotFoundError(
            f"table {path} not found; create it with `cryoem experiment {how} --out {folder}`"
        )
    try:
        names = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].astype(str)
        table = pd.read_csv(path)
    except ValueError as error:  # includes parser and Unicode errors
        raise ValueError(f"{path} is not a CSV table: {first_line(error)}") from None
    if not {"experiment", *LAST_COLUMNS} <= set(table):
        raise ValueError(
            f"{path} needs the columns experiment, quantity and value, but has {', '.join(names):.200}"
        )
    if names.duplicated().any():  # pandas would rename the second column
        raise ValueError(f"{path} has two columns named {names[names.duplicated()].iloc[0]}")
    if table.empty:
        raise ValueError(f"{path} has no rows")
    values = pd.to_numeric(table["value"], errors="coerce")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"{path}: value in row {row + 1} must be a finite number, got {table['value'].iloc[row]}"
        )
    return table


def published(name: str) -> pd.DataFrame:
    """Return a table of published results, with the source of each result in the last column.

    Raises
    ------
    ValueError
        If there is no such table.
    """
    names = sorted(path.stem for path in PUBLISHED.glob("*.csv"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return pd.read_csv(PUBLISHED / f"{name}.csv", comment="#")


def times(folder: str | os.PathLike) -> list[dict]:
    """Return the number of points and the execution time of every experiment, for ``quick`` and ``paper``.

    Times are in seconds. Those for ``quick`` are read from the tables in ``folder``, and those for ``paper`` are
    projected from them. Both are None if an experiment has no table.
    """
    rows = []
    for experiment in EXPERIMENTS.values():
        row = {"name": experiment.name, "question": experiment.question}
        row |= {f"{size}_points": len(experiment.grid(size).points()) for size in ("quick", "paper")}
        row |= {"quick_seconds": None, "paper_seconds": None}
        if (Path(folder) / f"{experiment.name}.csv").is_file():
            quick = float(select(read_table(folder, experiment.name), "point_seconds").value.sum())
            row["quick_seconds"] = quick
            row["paper_seconds"] = quick * experiment.work("paper") / experiment.work("quick")
        rows.append(row)
    return rows


def time_in_words(seconds: float | None) -> str:
    """Format a duration in seconds, or return ``not measured`` for None."""
    return "not measured" if seconds is None else readable_duration(seconds)


def where(table: pd.DataFrame, **conditions) -> pd.DataFrame:
    """Return the rows that meet all conditions ``column=value``; there may be none."""
    for column, value in conditions.items():
        table = table[table[column] == value]
    return table


def select(table: pd.DataFrame, quantity: str, **conditions) -> pd.DataFrame:
    """Return the rows of a quantity that meet all conditions ``column=value``; raise KeyError if there are none."""
    rows = where(table, quantity=quantity, **conditions)
    if rows.empty:
        listed = ", ".join(f"{column} {value}" for column, value in conditions.items())
        raise KeyError(f"the table has no {quantity}{' with ' if listed else ''}{listed}")
    return rows


def curve(table: pd.DataFrame, quantity: str, *, against: str, **conditions) -> tuple[np.ndarray, ...]:
    """Return a quantity as a function of a column, with conditions as in ``select``.

    The result is four (n,) arrays: the values of the column, and the mean, minimum and maximum of the quantity at each.
    """
    groups = select(table, quantity, **conditions).groupby(against, sort=True)["value"]
    summary = groups.agg(["mean", "min", "max"])
    return summary.index.to_numpy(), *(summary[name].to_numpy() for name in ("mean", "min", "max"))


def error_shares(table: pd.DataFrame, edges: np.ndarray, **conditions) -> tuple[np.ndarray, np.ndarray]:
    """Compute a histogram of the orientation errors from their quantiles in the rows ``orientation_error_rad``.

    Parameters
    ----------
    table : DataFrame
    edges : (b + 1,) array
        Increasing bin edges in radians. Smaller and larger errors are counted in the first and the last bin.
    **conditions
        Conditions as in ``select``.

    Returns
    -------
    edges : (b + 1,) array
    percent : (b,) array
        Share of the images in each bin.
    """
    fraction, error, *_ = curve(table, "orientation_error_rad", against="fraction", **conditions)
    below = np.interp(edges, error, fraction)
    below[0], below[-1] = 0.0, 1.0
    return edges, 100 * np.diff(below)


def own_test(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured under the training conditions or have no test conditions."""
    same = pd.Series(True, index=table.index)
    for column in ("coverage", "noise_variance"):
        test = f"test_{column}"
        trained = table[column] if column in table else table[test].dropna().iloc[0]
        same &= table[test].isna() | (table[test] == trained)
    return table[same]


def growth_of(table: pd.DataFrame) -> pd.DataFrame:
    """Fit how the cost of each step grows with each variable, from the table of ``benchmarks/growth.py``.

    The result has one row for each step and variable with at least two sizes. ``smallest`` and ``largest`` are the
    extreme sizes. ``exponent`` is the slope of log time against log size over the three largest sizes. ``bytes_each``
    is the memory per additional item between the smallest and the largest size.
    """
    rows = []
    for (step, variable), points in table.sort_values("size").groupby(["step", "variable"], sort=False):
        if len(points) < 2:
            continue
        largest = np.log(points[["size", "seconds"]].to_numpy(float)[-FITTED_SIZES:])
        memory, sizes = points["added_memory_gb"].to_numpy(float), points["size"].to_numpy(float)
        rows.append(
            {
                "step": step,
                "variable": variable,
                "smallest": points["size"].iloc[0],
                "largest": points["size"].iloc[-1],
                "exponent": np.polyfit(*largest.T, 1)[0],
                "bytes_each": 1e9 * (memory[-1] - memory[0]) / (sizes[-1] - sizes[0]),
            }
        )
    return pd.DataFrame(rows, columns=["step", "variable", "smallest", "largest", "exponent", "bytes_each"])
