"""Run the unfinished points of an experiment, and collect the results of all points in one table."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd

import cryoem
from cryoem.experiments.catalogue import FOLDER, SIZES, get_experiment
from cryoem.experiments.grids import Experiment
from cryoem.experiments.tables import gather
from cryoem.files.reading import canonical_json, data_folder, notebooks_folder, sha256_of, sources_sha256
from cryoem.files.writing import atomic_write, check_writable, remove_partial_files
from cryoem.runs.execution import NotebookError, notice
from cryoem.runs.jobs import RECORD_FILE, NotebookJob, folder_lock, read_record
from cryoem.runs.profiles import located
from cryoem.volumes.loading import is_path

PACKAGES = ("numpy", "scipy", "keras", "tensorflow")


class ExperimentFailedError(RuntimeError):
    """Some points of an experiment failed. The results of the other points are kept."""


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
    """Execute the unfinished points of an experiment, and collect the results of all points in one table.

    A completed point is kept if its parameters, the code and the package versions have not changed. An interrupted
    point is executed again. The results are stored in ``<data folder>/experiments/<name>/<size>``.

    Parameters
    ----------
    experiment : str or Experiment
        Name of an experiment in the catalogue, or an ``Experiment``.
    size : str
        ``"quick"``, ``"paper"`` or ``"toy"``; the experiment ``published`` also has the sizes ``"cpu"`` and
        ``"gpu"``.
    map_blocks : callable
        Function like ``map`` that executes the points, such as ``workers.in_order`` with a Dask client. All workers
        must have access to the same files. Default: execute the points one after another in this process.
    map_name : str, optional
        Registry name or path of the map to use. Default: the map of the experiment.
    out : path-like, optional
        Folder for the table ``<name>.csv`` (``<name>-<size>.csv`` if the size is not ``quick``) and, if the notebook
        saves maps, for a folder of the same name that contains them. Default: the folder with the results of the
        points.
    force : bool
        Whether to execute all points, including those that are already complete.
    progress : bool
        Whether to show progress bars and messages on stderr.
    notebooks : Path, optional
        Folder of the notebooks. Default: ``notebooks_folder()``.

    Returns
    -------
    pandas.DataFrame
        Table with one measurement per row. Its columns are ``experiment``, the parameters of the point (except those
        that are lists), the conditions of the measurement, ``quantity`` and ``value``. ``table.attrs["path"]`` is the
        path of the CSV file.

    Raises
    ------
    ValueError
        If there is no such experiment or size, or ``map_name`` is given but the experiment uses no map.
    FileNotFoundError
        If the notebook or the map file does not exist.
    RunInProgressError
        If another process is running the same experiment and size.
    OSError
        If the table cannot be written. This is checked before any point is executed.
    ExperimentFailedError
        If any point fails.
    """
    experiment = get_experiment(experiment) if isinstance(experiment, str) else experiment
    folder = data_folder() / "experiments" / experiment.name / size
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    stem = experiment.name if size == SIZES[0] else f"{experiment.name}-{size}"
    path = (folder if out is None else Path(out)) / f"{stem}.csv"
    check_writable(path)
    jobs = _jobs(experiment, size, folder, source.absolute(), map_name)

    say = partial(notice, progress=progress)
    with folder_lock(folder):
        remove_partial_files(folder)
        waiting = [job for job in jobs if force or job.why_not_current() is not None]
        say(f"{experiment.name}, {size}: {len(jobs)} points, {len(jobs) - len(waiting)} already complete")
        execute = partial(_failure_of, progress=progress and map_blocks is map)
        failures = []
        for count, (job, failure) in enumerate(
            zip(waiting, map_blocks(execute, waiting), strict=True), start=1
        ):
            say(f"{count}/{len(waiting)} {failure or f'{job.title}: done'}")
            failures += [failure] if failure else []
        if failures:
            raise ExperimentFailedError(f"{len(failures)} of {len(waiting)} points failed; {failures[0]}")
        table = gather(experiment.name, [read_record(job.folder) for job in jobs])
        with atomic_write(path) as aside:
            table.to_csv(aside, index=False, float_format="%.6g")
        for made in [made for job in jobs for made in sorted(job.folder.glob("*.mrc"))]:
            with atomic_write(path.parent / stem / made.name) as aside:
                shutil.copyfile(made, aside)
    table.attrs["path"] = str(path)
    return table


def _jobs(
    experiment: Experiment, size: str, folder: Path, notebooks: Path, map_name: str | None
) -> list[NotebookJob]:
    """Return one job per point, with a folder named after the checksum of its parameters."""
    notebook = notebooks / FOLDER / "experiments" / experiment.notebook
    if not notebook.is_file():
        raise FileNotFoundError(f"notebook {notebook} of experiment {experiment.name} not found")
    points = experiment.grid(size).points()
    if map_name is not None:
        if any("map_name" not in point for point in points):
            raise ValueError(f"experiment {experiment.name} uses no map; omit --map {map_name}")
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
    """Execute a job, and return the error message, or None if it succeeds."""
    try:
        job.execute(progress=progress)
    except NotebookError as error:
        return str(error)
    return None
