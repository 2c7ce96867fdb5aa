"""Run all points of an experiment, in one process or in many, skipping those that are done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cryoem.distributed import in_order
from cryoem.experiments.catalogue import get_experiment
from cryoem.experiments.grid import Experiment
from cryoem.experiments.points import Point, PointFailedError, execute_point
from cryoem.experiments.tables import gather, write_table
from cryoem.folders import data_folder, notebooks_folder
from cryoem.pipeline.files import canonical_json
from cryoem.pipeline.lock import locked
from cryoem.pipeline.notices import notice_on_stderr, silent
from cryoem.pipeline.settings import located

if TYPE_CHECKING:
    from distributed import Client

FOLDER = "5-paper-figures"


class ExperimentFailedError(RuntimeError):
    """Some points stopped; those that did not are kept."""


def run_experiment(
    name: str,
    *,
    size: str = "quick",
    client: Client | None = None,
    map_name: str | None = None,
    out: str | os.PathLike | None = None,
    force: bool = False,
    progress: bool = True,
    notebooks: Path | None = None,
    experiment: Experiment | None = None,
) -> pd.DataFrame:
    """Execute the points of an experiment that are not done yet, and gather all into one table.

    A point is kept when it is complete with the same parameters, code and versions.  One that was
    killed is executed again.  Points lie in ``<data folder>/experiments/<name>/<size>``.

    Parameters
    ----------
    name : of the experiment.
    size : ``"quick"``, ``"paper"`` or ``"toy"``.
    client : of a Dask cluster whose workers execute points, see ``distributed.client_of``; they must see the same
        files.  One point after the other, in this process, by default.
    map_name : a registry name or the path of a map, in place of the experiment's.
    out : folder for the table ``<name>.csv``; beside the points by default.
    force : execute every point anew.
    progress : show bars and notices on stderr.
    notebooks : folder of the notebooks, ``notebooks_folder()`` by default.
    experiment : another one than the catalogue's of that name.

    Returns
    -------
    The table, a measurement a row, see ``tables.gather``; its file is ``table.attrs["path"]``.

    Raises
    ------
    ValueError : there is no such experiment or size, or it has no map to replace.
    FileNotFoundError : the notebook or the map file is not there.
    RunInProgressError : another process is running the same.
    ExperimentFailedError : some points stopped.
    WorkersLostError : workers ended again and again at a point.
    """
    experiment = get_experiment(name) if experiment is None else experiment
    folder = data_folder() / "experiments" / experiment.name / size
    notice = notice_on_stderr if progress else silent
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    points = _points(experiment, size, folder, source.absolute(), map_name)
    with locked(folder, notice=notice):
        waiting = [point for point in points if force or point.record() is None]
        notice(f"{experiment.name}, {size}: {len(points)} points, {len(points) - len(waiting)} done before")
        failures = []
        for count, (point, reason) in enumerate(_executed(waiting, client, progress), start=1):
            notice(f"{count}/{len(waiting)} " + (f"{point.title}: done" if reason is None else reason))
            failures += [] if reason is None else [reason]
        if failures:
            raise ExperimentFailedError(f"{len(failures)} of {len(waiting)} points stopped; {failures[0]}")
        table = gather(experiment.name, [point.record() for point in points])
        path = (folder if out is None else Path(out)) / f"{experiment.name}.csv"
        write_table(path, table)
    table.attrs["path"] = str(path)
    return table


def _points(
    experiment: Experiment, size: str, folder: Path, notebooks: Path, map_name: str | None
) -> list[Point]:
    notebook = notebooks / FOLDER / "experiments" / experiment.notebook
    if not notebook.is_file():
        raise FileNotFoundError(f"experiment {experiment.name} has no notebook {notebook}")
    all_parameters = experiment.grid(size).points()
    if map_name is not None:
        if any("map_name" not in parameters for parameters in all_parameters):
            raise ValueError(
                f"map_name must not be given for {experiment.name}, which has none, got {map_name!r}"
            )
        # the kernel works in another folder, so paths go to it in full
        all_parameters = [parameters | {"map_name": located(map_name)} for parameters in all_parameters]
    first = all_parameters[0]
    names = [name for name in experiment.grid(size).varying() if not isinstance(first[name], list)]
    return [
        Point(
            title=", ".join([experiment.name, *(f"{name} {parameters[name]}" for name in names)]),
            notebook=notebook,
            parameters=parameters,
            folder=folder / hashlib.sha256(canonical_json(parameters).encode()).hexdigest()[:16],
        )
        for parameters in all_parameters
    ]


def _executed(
    points: Sequence[Point], client: Client | None, progress: bool
) -> Iterator[tuple[Point, str | None]]:
    """Each point when it has ended, and why it failed where it did."""
    reasons = in_order(
        partial(_reason_of_failure, home=data_folder(), progress=progress and client is None),
        points,
        client=client,
        ahead=len(points),  # all are known from the start, and small
    )
    yield from zip(points, reasons, strict=True)


def _reason_of_failure(point: Point, *, home: Path, progress: bool) -> str | None:
    try:
        execute_point(point, home=home, progress=progress)
    except PointFailedError as error:
        return str(error)
    return None
