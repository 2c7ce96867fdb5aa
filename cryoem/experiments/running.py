"""Run the unfinished points of an experiment, and gather all points into one table."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import cryoem
from cryoem.experiments.catalogue import FOLDER, Experiment, get_experiment
from cryoem.experiments.tables import gather
from cryoem.files.reading import canonical_json, data_folder, notebooks_folder, sha256_of, sources_sha256
from cryoem.files.writing import atomic_write, remove_partial_files
from cryoem.runs.execution import NotebookError
from cryoem.runs.jobs import RECORD_FILE, NotebookJob, folder_lock, read_record
from cryoem.runs.profiles import is_path, located

PACKAGES = ("numpy", "scipy", "keras", "tensorflow")


class ExperimentFailedError(RuntimeError):
    """Some points failed; the results of the others are kept."""


def run_experiment(
    experiment: str | Experiment,
    *,
    size: str = "quick",
    map_blocks: Callable[[Callable, Iterable], Iterator] = map,
    map_name: str | None = None,
    out: str | os.PathLike | None = None,
    force: bool = False,
    progress: bool = True,
    notebooks: Path | None = None,
) -> pd.DataFrame:
    """Execute the unfinished points of an experiment, and gather all points into one table.

    A point is kept if it is complete with the same parameters, code and versions. An interrupted point is executed
    again. The folder of the points is ``<data folder>/experiments/<name>/<size>``.

    Parameters
    ----------
    experiment : str or Experiment
        Name of an experiment in the catalogue, or another experiment.
    size : str
        ``"quick"``, ``"paper"`` or ``"toy"``.
    map_blocks : callable
        Function like ``map`` that executes the points, such as ``workers.in_order`` with a Dask client. The workers
        must see the same files. By default, points are executed one after another in this process.
    map_name : str, optional
        Registry name or path of a map that replaces the experiment's.
    out : path-like, optional
        Folder for the table ``<name>.csv``; the folder of the points by default.
    force : bool
        Execute all points again.
    progress : bool
        Show progress bars and notices on stderr.
    notebooks : Path, optional
        Folder of the notebooks, ``notebooks_folder()`` by default.

    Returns
    -------
    pandas.DataFrame
        One measurement per row: ``experiment``, the parameters of the point except lists, the conditions of the row,
        ``quantity`` and ``value``. ``table.attrs["path"]`` is its file.

    Raises
    ------
    ValueError
        If there is no such experiment or size, or ``map_name`` is given for an experiment without a map.
    FileNotFoundError
        If the notebook or the map file is missing.
    RunInProgressError
        If another process runs the same experiment and size.
    ExperimentFailedError
        If some points failed.
    """
    experiment = get_experiment(experiment) if isinstance(experiment, str) else experiment
    folder = data_folder() / "experiments" / experiment.name / size
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    jobs = _jobs(experiment, size, folder, source.absolute(), map_name)

    def notice(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    with folder_lock(folder):
        remove_partial_files(folder)
        waiting = [job for job in jobs if force or job.why_not_current() is not None]
        notice(f"{experiment.name}, {size}: {len(jobs)} points, {len(jobs) - len(waiting)} done before")
        execute = partial(_failure_of, progress=progress and map_blocks is map)
        failures = []
        for count, (job, failure) in enumerate(
            zip(waiting, map_blocks(execute, waiting), strict=True), start=1
        ):
            notice(f"{count}/{len(waiting)} {failure or f'{job.title}: done'}")
            failures += [failure] if failure else []
        if failures:
            raise ExperimentFailedError(f"{len(failures)} of {len(waiting)} points failed; {failures[0]}")
        table = gather(experiment.name, [read_record(job.folder) for job in jobs])
        path = (folder if out is None else Path(out)) / f"{experiment.name}.csv"
        with atomic_write(path) as aside:
            table.to_csv(aside, index=False, float_format="%.6g")
    table.attrs["path"] = str(path)
    return table


def _jobs(
    experiment: Experiment, size: str, folder: Path, notebooks: Path, map_name: str | None
) -> list[NotebookJob]:
    """Return one job per point; its folder is named after the checksum of its parameters."""
    notebook = notebooks / FOLDER / "experiments" / experiment.notebook
    if not notebook.is_file():
        raise FileNotFoundError(f"experiment {experiment.name} has no notebook {notebook}")
    points = experiment.grid(size).points()
    if map_name is not None:
        if any("map_name" not in point for point in points):
            raise ValueError(
                f"experiment {experiment.name} uses no map, so --map {map_name} cannot be applied"
            )
        points = [point | {"map_name": located(map_name)} for point in points]
    made_with = {"sources_sha256": sources_sha256(), "cryoem": cryoem.__version__}
    made_with |= {package: version(package) for package in PACKAGES}
    maps = {point["map_name"] for point in points if "map_name" in point}
    checksums = {name: sha256_of(name) for name in maps if is_path(name)}
    fixed = experiment.grid(size).fixed
    jobs = []
    for point in points:
        place = folder / hashlib.sha256(canonical_json(point).encode()).hexdigest()[:16]
        varied = (key for key in point if key not in fixed and not isinstance(point[key], list))
        jobs.append(
            NotebookJob(
                title=", ".join([experiment.name, *(f"{key} {point[key]}" for key in varied)]),
                notebook=notebook,
                folder=place,
                parameters={**point, "rows_file": str(place / RECORD_FILE)},
                made_from={
                    "parameters": point,
                    "map_sha256": checksums.get(point.get("map_name")),
                    **made_with,
                },
                environment={"CRYOEM_HOME": str(data_folder())},
            )
        )
    return jobs


def _failure_of(job: NotebookJob, *, progress: bool) -> str | None:
    """Execute a job and return why it failed, or None."""
    try:
        job.execute(progress=progress)
    except NotebookError as error:
        return str(error)
    return None
