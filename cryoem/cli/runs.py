"""Commands that execute notebooks: the four phases of a run, and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli.endings import NOTHING_CHANGED, Answer, ends_in_order
from cryoem.cli.options import Datadir, OpticsGroup, PixelSize, Scheduler, Workers

MEASURED = "measured"  # the run of measured particles that was given no name


@ends_in_order(afterwards="the same command goes on where it stopped", on_device=True)
def run(
    profile: Annotated[str, typer.Option(help="Size of the run: quick, paper or toy.")] = "quick",
    map_name: Annotated[
        str | None, typer.Option("--map", help="Registry name such as 5j0n, or the path of a map.")
    ] = None,
    particles: Annotated[
        Path | None,
        typer.Option(
            "--particles", help="Measured particles (.star, .cs, .xmd, .mrcs); simulated by default."
        ),
    ] = None,
    model_map: Annotated[
        str | None, typer.Option("--model-map", help="Map like the measured particles, to learn from.")
    ] = None,
    datadir: Datadir = None,
    optics_group: OpticsGroup = None,
    pixel_size: PixelSize = None,
    run_name: Annotated[
        str | None,
        typer.Option("--run", help="Name of the run; the profile's, or measured, by default."),
    ] = None,
    noise_variance: Annotated[
        float | None, typer.Option(help="Variance of the noise; clean images have 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random number.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any setting that `cryoem settings` lists; repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute every phase again, from scratch.")] = False,
) -> Answer:
    """Run the notebooks of the four phases and write one report.

    Phases that are complete with the same settings are kept; a run that was killed goes on where it stopped.

    \b
    Example:
      cryoem run --profile quick --map 5j0n --noise-variance 16 --set gradient_rounds=4
      cryoem run --particles job.star --model-map initial.mrc --set shift_limit_px=5
    """
    from cryoem import pipeline

    if (particles is None) != (model_map is None):
        raise typer.BadParameter("--particles and --model-map belong together, give both or neither")
    if particles is not None:
        if map_name is not None or noise_variance is not None:
            raise typer.BadParameter("--map and --noise-variance are for simulated particles")
        map_name, run_name = model_map, run_name or MEASURED
    given = {
        "noise_variance": noise_variance,
        "seed": seed,
        "particles": particles and str(particles),
        "particles_folder": datadir and str(datadir),
        "optics_group": optics_group,
        "pixel_size_angstrom": pixel_size,
    }
    try:
        overrides = _overrides(settings or [], **given)
        pipeline.get_profile(profile, **overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    summary = pipeline.run(profile=profile, map_name=map_name, run=run_name, overrides=overrides, force=force)
    values = {
        "folder": summary.folder,
        "report": summary.report,
        "numbers": summary.numbers,
        "seconds": summary.seconds,
        "executed": summary.executed,
    }
    return Answer(f"{summary.text}\n\nReport: {summary.report}", values)


@ends_in_order(afterwards=NOTHING_CHANGED)
def settings() -> Answer:
    """List the settings that --set takes, profile by profile.

    \b
    Example:
      cryoem settings
    """
    from dataclasses import fields

    from cryoem.pipeline import PROFILES

    lines, values = [], {}
    for field in fields(next(iter(PROFILES.values()))):
        if field.name == "name":
            continue
        meaning = field.metadata["meaning"]
        by_profile = {name: getattr(profile, field.name) for name, profile in PROFILES.items()}
        values[field.name] = {"meaning": meaning, **by_profile}
        listed = ", ".join(f"{name} {value}" for name, value in by_profile.items())
        lines.append(f"{field.name:<28} {meaning} ({listed})")
    return Answer("\n".join(lines), values)


@ends_in_order(afterwards="points that are done are kept, and the same command goes on", on_device=True)
def experiment(
    name: Annotated[str | None, typer.Argument(help="Of an experiment that --list names.")] = None,
    size: Annotated[str, typer.Option(help="quick, paper or toy.")] = "quick",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    map_name: Annotated[
        str | None,
        typer.Option("--map", help="Map in place of the experiment's, such as phantom; a name or a path."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for the table NAME.csv; in the data folder by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute every point anew.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="Name the experiments, their points and times.")
    ] = False,
) -> Answer:
    """Run a notebook at every point of a grid, into one table.

    Points that are done with the same parameters, notebook and versions are kept.  Each worker executes one at a time.

    \b
    Example:
      cryoem experiment noise --size quick --workers 1 --out results/
    """
    from cryoem import experiments
    from cryoem.distributed import client_of
    from cryoem.experiments.overview import overview, times

    if list_all:
        return Answer(overview(), {"experiments": [vars(row) for row in times()]})
    if name is None:
        raise typer.BadParameter("name an experiment, or give --list")
    try:
        experiments.get_experiment(name).grid(size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with client_of(workers, scheduler=scheduler) as client:
        table = experiments.run_experiment(
            name, size=size, client=client, map_name=map_name, out=out, force=force
        )
    path = Path(table.attrs["path"])
    values = {"experiment": name, "measurements": len(table), "table": path}
    return Answer(f"{len(table)} measurements: {path}", values)


def _overrides(settings: list[str], **options) -> dict[str, object]:
    """Settings from ``--set`` and from the options of their own; ValueError for one that is given twice."""
    from cryoem.pipeline import parse_setting

    overrides = {name: value for name, value in options.items() if value is not None}
    for text in settings:
        name, value = parse_setting(text)
        if name in overrides:
            raise ValueError(f"{name} must be given once, got {overrides[name]!r} and {value!r}")
        overrides[name] = value
    return overrides
