"""Run all points of an experiment, in one process or in many, skipping those that are done."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import pandas as pd

from cryoem.checks import whole_number
from cryoem.experiments.catalogue import get_experiment
from cryoem.experiments.grid import Experiment
from cryoem.experiments.points import Point, PointFailedError, execute_point
from cryoem.experiments.tables import gather, write_table
from cryoem.folders import data_folder, notebooks_folder
from cryoem.pipeline.files import canonical_json, write_text
from cryoem.pipeline.kernel import die_with_parent
from cryoem.pipeline.lock import locked
from cryoem.pipeline.notices import notice_on_stderr, silent
from cryoem.pipeline.settings import located

FOLDER = "5-paper-figures"
REASON_FILE = "reason.txt"


class ExperimentFailedError(RuntimeError):
    """Some points stopped; those that did not are kept."""


def run_experiment(
    name: str,
    *,
    size: str = "quick",
    workers: int = 1,
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
    workers : points that are executed at the same time; the processor's cores are shared among them.
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
    ValueError : there is no such experiment or size, it has no map to replace, or workers are fewer than 1.
    FileNotFoundError : the notebook or the map file is not there.
    RunInProgressError : another process is running the same.
    ExperimentFailedError : some points stopped.
    """
    experiment = get_experiment(name) if experiment is None else experiment
    workers = whole_number(workers, name="workers", at_least=1)
    folder = data_folder() / "experiments" / experiment.name / size
    notice = notice_on_stderr if progress else silent
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    points = _points(experiment, size, folder, source.absolute(), map_name)
    with locked(folder, notice=notice):
        waiting = [point for point in points if force or point.record() is None]
        notice(f"{experiment.name}, {size}: {len(points)} points, {len(points) - len(waiting)} done before")
        failures = []
        for count, (point, reason) in enumerate(_executed(waiting, workers, progress), start=1):
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


def _executed(points: Sequence[Point], workers: int, progress: bool) -> Iterator[tuple[Point, str | None]]:
    """Each point when it has ended, and why it failed where it did."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    if workers == 1:
        for point in points:
            yield point, _reason_of_failure(point, threads, progress)
    else:
        yield from _in_processes(points, workers, threads)


def _reason_of_failure(point: Point, threads: int, progress: bool) -> str | None:
    try:
        execute_point(point, threads=threads, progress=progress)
    except PointFailedError as error:
        return str(error)
    return None


def _in_processes(points: Sequence[Point], workers: int, threads: int) -> Iterator[tuple[Point, str | None]]:
    context = multiprocessing.get_context("spawn")
    waiting, running = list(points), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                point = waiting.pop(0)
                process = context.Process(target=_work, args=(point, threads, os.getpid()))
                process.start()
                running[process.sentinel] = process, point
            for sentinel in wait(list(running)):
                process, point = running.pop(sentinel)
                process.join()
                yield point, _reason_of_end(point, process.exitcode)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _work(point: Point, threads: int, parent: int) -> None:
    """What a process of its own does; it ends with its parent, and its kernel with it, however they end."""
    die_with_parent(parent)
    reason_file = point.folder / REASON_FILE
    reason_file.unlink(missing_ok=True)
    reason = _reason_of_failure(point, threads, progress=False)
    if reason is not None:
        write_text(reason_file, reason)


def _reason_of_end(point: Point, exit_code: int) -> str | None:
    if point.record() is not None and exit_code == 0:
        return None
    reason_file = point.folder / REASON_FILE
    if reason_file.is_file():
        return reason_file.read_text(encoding="utf-8")
    return f"{point.title} ended with exit code {exit_code}"
