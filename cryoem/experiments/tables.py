"""The table of an experiment: long form, a measurement a row, with all that it was made with as columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cryoem.errors import first_line
from cryoem.whole_files import written_aside

LAST_COLUMNS = ["quantity", "value"]


def gather(name: str, records: Sequence[dict]) -> pd.DataFrame:
    """The rows of all points, and the seconds that each point took.

    Columns: ``experiment``; the parameters of the points, lists left out, as their values stand in the rows;
    conditions of the rows; ``quantity``; ``value``.
    """
    rows = []
    for record in records:
        parameters = record["made_from"]["parameters"]
        shared = {key: value for key, value in parameters.items() if not isinstance(value, (list, dict))}
        measured = [*record["rows"], {"quantity": "point_seconds", "value": record["seconds"]}]
        rows += [{"experiment": name, **shared, **row} for row in measured]
    table = pd.DataFrame(rows)
    return table[[column for column in table if column not in LAST_COLUMNS] + LAST_COLUMNS]


def write_table(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all."""
    with written_aside(Path(path)) as aside:
        table.to_csv(aside, index=False, float_format="%.6g")


def read_table(folder: str | os.PathLike, name: str) -> pd.DataFrame:
    """The table of an experiment in a folder of results.

    Raises
    ------
    FileNotFoundError : there is none yet; the message says how to make it.
    ValueError : the file is not such a table, has two columns of one name or no rows, or a value is no finite
        number.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no table {path}; `cryoem experiment {name} --out {folder}` makes it"
        )
    try:
        names = (
            pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].astype(str)
        )  # else a second one gets a suffix
        table = pd.read_csv(path)
    except ValueError as error:  # so are errors of parsing and of UTF-8
        raise ValueError(f"{path} must be a table (CSV): {first_line(error)}") from None
    if not {"experiment", *LAST_COLUMNS} <= set(table):
        raise ValueError(
            f"{path} must have the columns experiment, quantity and value, got {', '.join(names)}"
        )
    if names.duplicated().any():  # of which pandas would rename the second
        raise ValueError(
            f"{path} must have columns of different names, got two {names[names.duplicated()].iloc[0]}"
        )
    if table.empty:
        raise ValueError(f"{path} must have at least one row, got none")
    values = pd.to_numeric(table["value"], errors="coerce")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"{path} must have finite numbers in the column value, got {table['value'].iloc[row]} in row {row + 1}"
        )
    return table


def total_seconds(table: pd.DataFrame) -> float:
    """Time of all points of a table, one after another."""
    return float(table.loc[table.quantity == "point_seconds", "value"].sum())


def select(table: pd.DataFrame, quantity: str, **conditions) -> pd.DataFrame:
    """The rows of a quantity under conditions, column=value.

    Raises
    ------
    KeyError : the table has no such rows.
    """
    rows = table[table.quantity == quantity]
    for column, value in conditions.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        said = ", ".join(f"{column} {value}" for column, value in conditions.items())
        raise KeyError(f"the table has no {quantity}{' with ' if said else ''}{said}")
    return rows


def curve(table: pd.DataFrame, quantity: str, *, against: str, **conditions) -> tuple[np.ndarray, ...]:
    """A quantity against a column: its values, and mean, lowest and highest measurement at each, all (n,).

    Raises
    ------
    KeyError : as ``select``.
    """
    groups = select(table, quantity, **conditions).groupby(against, sort=True)["value"]
    summary = groups.agg(["mean", "min", "max"])
    return summary.index.to_numpy(), *(summary[name].to_numpy() for name in ("mean", "min", "max"))


def own_test(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that were measured on images of the kind that was trained on, or on none."""
    same = pd.Series(True, index=table.index)
    for column in ("coverage", "noise_variance"):
        test = f"test_{column}"
        trained = table[column] if column in table else table[test].dropna().iloc[0]
        same &= table[test].isna() | (table[test] == trained)
    return table[same]
