"""What the experiments ask, and how long they take: measured where there is a table, projected from it elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryoem.experiments.catalogue import EXPERIMENTS
from cryoem.experiments.running import FOLDER
from cryoem.experiments.tables import read_table, total_seconds
from cryoem.folders import notebooks_folder


@dataclass(frozen=True)
class Times:
    """Of one experiment: points of the sizes, seconds of ``quick`` as its table has them, and of ``paper`` projected.

    The seconds are None where there is no table.
    """

    name: str
    question: str
    quick_points: int
    paper_points: int
    quick_seconds: float | None
    paper_seconds: float | None


def times(results: str | os.PathLike | None = None) -> list[Times]:
    """The experiments and their times, from the tables in a folder, by default those that go with the notebooks."""
    folder = notebooks_folder() / FOLDER / "results" if results is None else Path(results)
    rows = []
    for experiment in EXPERIMENTS.values():
        try:
            quick = total_seconds(read_table(folder, experiment.name))
        except FileNotFoundError:
            quick = None
        rows.append(
            Times(
                name=experiment.name,
                question=experiment.question,
                quick_points=len(experiment.grid("quick").points()),
                paper_points=len(experiment.grid("paper").points()),
                quick_seconds=quick,
                paper_seconds=None
                if quick is None
                else experiment.projected_seconds("paper", measured=quick),
            )
        )
    return rows


def in_words(seconds: float | None) -> str:
    """A time to be read: seconds, minutes or hours."""
    if seconds is None:
        return "not measured"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def overview() -> str:
    """The list that ``cryoem experiment --list`` prints."""
    lines = []
    for row in times():
        lines.append(f"{row.name:<22} {row.question}")
        lines.append(
            f"{'':<22} quick: {row.quick_points} points, {in_words(row.quick_seconds)}; "
            f"paper: {row.paper_points} points, {in_words(row.paper_seconds)} projected from it, without a GPU"
        )
    return "\n".join(lines)
