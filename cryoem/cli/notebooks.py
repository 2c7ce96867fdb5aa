"""Commands that execute notebooks: runs of the phases, and experiments."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import options
from cryoem.cli.shared import NOTHING_CHANGED, Answer, command

RESOLUTION = "half_map_resolution_masked_angstrom"


@command(afterwards="the same command resumes it", on_device=True)
def run(
    map_name: Annotated[
        str | None,
        typer.Option(
            "--map",
            help="Map: phantom, a registry name such as 5j0n, a PDB or EMDB id, or the path of a map.",
        ),
    ] = None,
    model_map: Annotated[
        str | None,
        typer.Option(
            "--model-map",
            help="Initial map of the measured particles, on which a network is trained; without it, orientations are "
            "found from the images alone.",
        ),
    ] = None,
    run_name: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Name of the run; by default that of the map or particles and the profile: 5j0n-quick.",
        ),
    ] = None,
    *,
    settings: options.RunSettings,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Start a second run after the first, with a name that ends in -learned: it trains a network on the "
            "map from the first run and recovers the orientations from learned distances.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Rerun every phase from scratch, even if the run has a different input."
        ),
    ] = False,
) -> Answer:
    """Run the notebooks of the four phases, and write a report.

    For measured particles without a map, notebook 2.1 takes the place of phases 1 and 2: it finds the orientations from
    the images alone.

    Completed phases are kept if their settings have not changed. An interrupted phase is executed again, but its
    training is resumed.

    \b
    Example:
      cryoem run --map 5j0n --noise-variance 16 --set gradient_rounds=4
      cryoem run --particles job.star
      cryoem run --particles job.star --learn
      cryoem run --particles job.star --model-map initial.mrc
    """
    from cryoem.runs import profiles, runner
    from cryoem.runs.pipeline import WITHOUT_MAP

    if model_map is not None and settings.particles is None:
        raise typer.BadParameter("--model-map requires --particles")
    if settings.particles is not None:
        if map_name is not None or settings.noise_variance is not None:
            raise typer.BadParameter("--map and --noise-variance apply only to simulated particles")
        map_name = model_map
    try:
        overrides = settings.overrides(opening, leave_out_outliers=leave_out_outliers)
        model = {} if model_map is None else {"map_name": model_map}
        chosen = profiles.get_profile(settings.profile, **(model | overrides))
        if learn and (chosen.particles is None or chosen.map_name is not None):
            raise typer.BadParameter(
                "--learn requires --particles and cannot be combined with --model-map or --set map_name"
            )
        if learn and chosen.leave_out_junk:
            raise typer.BadParameter("--learn uses all images, so leave_out_junk must be false, got True")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    execute = partial(runner.run, profile=settings.profile, force=force)
    summary = execute(map_name=map_name, run=run_name, overrides=overrides)
    answer = _answer(summary)
    if not learn:
        return answer
    sys.stderr.write(f"First run complete, report: {summary.report}\n")  # in case the second run fails
    found = summary.folder / WITHOUT_MAP.name / "initial.mrc"
    learned = _answer(
        execute(
            map_name=str(found),
            run=f"{summary.folder.name}-learned",
            overrides=overrides | {"orientation_method": "distances"},
        )
    )
    text = f"{answer.text}\n\n\nWith distances learned from the map that was found:\n\n{learned.text}"
    return Answer(text, answer.values | {"learned": learned.values})


def _answer(summary) -> Answer:
    """Return the answer for one run."""
    from cryoem.cli.handoff import how_to_view
    from cryoem.runs import runner

    names = ("folder", "report", "numbers", "warnings", "seconds", "executed")
    values = {name: getattr(summary, name) for name in names}
    text = f"{summary.text}\n\nReport: {summary.report}"
    map_path, script = (summary.folder / runner.MAP_FILES[name] for name in ("Map", "ChimeraX script"))
    if script.is_file():
        text += f"\n{how_to_view(map_path, script)}"
        values |= {"map": map_path, "chimerax_script": script}
    return Answer(text, values)


@command(afterwards=NOTHING_CHANGED)
def runs() -> Answer:
    """List all completed runs, the newest first, and write a page that compares them.

    The page, index.html in the folder of the runs, has a sortable table of the numbers, and the Fourier shell
    correlations of all runs in one figure. `cryoem run` also updates it.

    \b
    Example:
      cryoem runs
    """
    from cryoem.runs import all_runs, write_overview
    from cryoem.runs.quantities import quantity

    found, page = all_runs(), write_overview()
    if not found:
        return Answer(
            f"no completed runs in {page.parent}; `cryoem run` starts one", {"runs": [], "page": page}
        )
    width = max(len(run["name"]) for run in found)
    lines = []
    for run in found:
        resolution = quantity(RESOLUTION, run["numbers"].get(RESOLUTION)).text
        warned = f", {run['warnings']} warning{'s' * (run['warnings'] != 1)}" if run["warnings"] else ""
        lines.append(
            f"{run['name']:<{width}}  {run['finished_at'][:16].replace('T', ' ')}  half-maps {resolution}{warned}"
        )
    return Answer("\n".join([*lines, "", f"Page of all runs: {page}"]), {"runs": found, "page": page})


@command(afterwards=NOTHING_CHANGED)
def settings() -> Answer:
    """List the settings for `cryoem run --set`, and their values in each profile.

    \b
    Example:
      cryoem settings
    """
    from cryoem.runs.profiles import described_settings

    values = described_settings()
    lines = []
    for name, about in values.items():
        listed = ", ".join(f"{profile} {value}" for profile, value in about.items() if profile != "meaning")
        lines.append(f"{name:<28} {about['meaning']} ({listed})")
    return Answer("\n".join(lines), values)


@command(afterwards="completed points are kept; the same command resumes it", on_device=True)
def experiment(
    name: Annotated[str | None, typer.Argument(help="Name of the experiment (see --list).")] = None,
    size: Annotated[
        str, typer.Option(help="Size of the experiment: quick, paper or toy; published also has cpu and gpu.")
    ] = "quick",
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    map_name: Annotated[
        str | None,
        typer.Option(
            "--map",
            help="Name or path of a map, such as phantom, to use instead of the experiment's own.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder for the table NAME.csv; by default a subfolder of the data folder."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rerun all points.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the experiments with their numbers of points and times.")
    ] = False,
) -> Answer:
    """Run a notebook at every point of a parameter grid, and write the results to one table.

    Completed points are kept if their parameters, the code and the package versions have not changed. Each worker
    executes one point at a time.

    \b
    Example:
      cryoem experiment noise --size quick --workers 1 --out results/
    """
    from cryoem import experiments
    from cryoem.experiments.catalogue import FOLDER
    from cryoem.experiments.tables import time_in_words, times
    from cryoem.files.reading import notebooks_folder
    from cryoem.workers import client_of, in_order

    if list_all:
        rows = times(notebooks_folder() / FOLDER / "results")
        lines = (
            f"{row['name']:<22} {row['question']}\n"
            f"{'':<22} quick: {row['quick_points']} points, {time_in_words(row['quick_seconds'])}; paper: "
            f"{row['paper_points']} points, {time_in_words(row['paper_seconds'])} (projected, without a GPU)"
            for row in rows
        )
        return Answer("\n".join(lines), {"experiments": rows})
    if name is None:
        raise typer.BadParameter("give the name of an experiment, or use --list")
    try:
        experiments.get_experiment(name).grid(size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with client_of(workers, scheduler=scheduler) as client:
        table = experiments.run_experiment(
            name,
            size=size,
            map_blocks=map if client is None else partial(in_order, client=client),
            map_name=map_name,
            out=out,
            force=force,
        )
    path = Path(table.attrs["path"])
    values = {"experiment": name, "measurements": len(table), "table": path}
    return Answer(f"{len(table)} measurements: {path}", values)
