"""The command ``cryoem``: run the pipeline, say what this machine has, fetch maps.

Everything heavy is imported inside the commands, so that ``cryoem --help`` answers at once.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

import cryoem

PACKAGES = {
    "numpy": "numpy",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "astra": "astra-toolbox",
    "finufft": "finufft",
    "numba": "numba",
}
SPEAK_FOR_THEMSELVES = (ValueError, OSError, RuntimeError, ImportError)

app = typer.Typer(
    name="cryoem",
    help="Single-particle cryo-EM: from a density map to orientations and back, in notebooks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a command as Ctrl-C does."""


def _errors_in_one_sentence(*, afterwards: str):
    """End a command that raises with one sentence on stderr and exit code 1; ``--debug`` lets the traceback through.

    ``afterwards`` says what an interrupted command leaves and how to go on.
    """

    def decorated(command):
        @functools.wraps(command)
        def wrapped(*args, debug: bool, **kwargs):
            try:
                command(*args, debug=debug, **kwargs)
            except (typer.Exit, typer.BadParameter):
                raise
            except _Terminated:
                _end(f"terminated; {afterwards}", code=128 + signal.SIGTERM)
            except KeyboardInterrupt:
                _end(f"interrupted; {afterwards}", code=128 + signal.SIGINT)
            except Exception as error:
                if debug:
                    raise
                sentence = " ".join(str(error).split())
                if not isinstance(error, SPEAK_FOR_THEMSELVES):
                    sentence = f"unexpected {type(error).__name__}: {sentence} (--debug shows where)"
                _end(sentence, code=1)

        return wrapped

    return decorated


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise ``_Terminated``, so that what is half done is cleared away."""

    def raise_terminated(*_):
        raise _Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
@_errors_in_one_sentence(afterwards="the same command goes on where it stopped")
def run(
    profile: Annotated[str, typer.Option(help="Size of the run: quick, paper or toy.")] = "quick",
    map_name: Annotated[
        str | None, typer.Option("--map", help="Registry name such as 5j0n, or the path of a map.")
    ] = None,
    run_name: Annotated[
        str | None, typer.Option("--run", help="Name of the run; the profile's by default.")
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
    debug: Debug = False,
) -> None:
    """Run the notebooks of the four phases and write one report.

    Phases that are complete with the same settings are kept; a run that was killed goes on where it stopped.

    \b
    Example:
      cryoem run --profile quick --map 5j0n --noise-variance 16 --set gradient_rounds=4
    """
    from cryoem import pipeline

    try:
        overrides = _overrides(settings or [], noise_variance=noise_variance, seed=seed)
        pipeline.get_profile(profile, **overrides)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    summary = pipeline.run(profile=profile, map_name=map_name, run=run_name, overrides=overrides, force=force)
    typer.echo(f"{summary.text}\n\nReport: {summary.report}")


@app.command()
@_errors_in_one_sentence(afterwards="points that are done are kept, and the same command goes on")
def experiment(
    name: Annotated[str | None, typer.Argument(help="Of an experiment that --list names.")] = None,
    size: Annotated[str, typer.Option(help="quick, paper or toy.")] = "quick",
    workers: Annotated[int, typer.Option(min=1, help="Points executed at the same time.")] = 1,
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
    debug: Debug = False,
) -> None:
    """Run an experiment: a notebook at every point of a grid, gathered into one table.

    Points that are done with the same parameters, notebook and versions are kept.

    \b
    Example:
      cryoem experiment noise --size quick --workers 1 --out results/
    """
    from cryoem import experiments
    from cryoem.experiments.overview import overview

    if list_all:
        typer.echo(overview())
        return
    if name is None:
        raise typer.BadParameter("name an experiment, or give --list")
    try:
        experiments.get_experiment(name).grid(size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with _sigterm_raises():
        table = experiments.run_experiment(
            name, size=size, workers=workers, map_name=map_name, out=out, force=force
        )
    typer.echo(f"{len(table)} measurements: {table.attrs['path']}")


@app.command()
@_errors_in_one_sentence(afterwards="nothing was written, and the same command starts anew")
def align2d(
    particles: Annotated[
        str, typer.Argument(help="Stack (.mrcs, .mrc) or table (.star, .xmd) of particles.")
    ],
    out: Annotated[str, typer.Option(help="Folder to be made for the result.")],
    model: Annotated[
        str | None, typer.Option(help="Folder of a saved or exported aligner; trained by default.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="judl, udl, or template, which trains nothing; judl by default.")
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Of the class in its plane: C1, C2, ...; C1 by default.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Angstrom; where the file does not say it.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of training; 5 by default.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Train no longer than this.")] = None,
    max_training_images: Annotated[int, typer.Option(help="So many at most are trained on.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    export: Annotated[bool, typer.Option("--export", help="Also write a stand-alone model.")] = False,
    debug: Debug = False,
) -> None:
    """Align the particle images of one class in their plane.

    Writes the aligned stack, tables for RELION and XMIPP, the averages before and after, and the trained model; all
    of it at the end, or nothing.  Start it in the folder that RELION or XMIPP is started in, as the tables name a bare
    stack from there.

    \b
    Example:
      cryoem align2d particles.mrcs --out aligned/
    """
    from cryoem.udl.stacks import align_file

    with _sigterm_raises():
        result = align_file(
            particles,
            out,
            model=model,
            method=method,
            symmetry=symmetry,
            pixel_size_angstrom=pixel_size,
            max_training_images=max_training_images,
            epochs=epochs,
            seconds=seconds,
            rng=seed,
            progress=True,
            export=export,
        )
    agreement = "a single image has no halves to compare"
    if result.resolution_angstrom is not None:
        agreement = f"half-set averages agree to {result.resolution_angstrom:.1f} Å"
    images = "1 image" if result.images == 1 else f"{result.images:,} images"
    typer.echo(
        f"{images} aligned in {result.seconds:.0f} s ({result.method}); {agreement}\n\nResult: {result.folder}"
    )


@app.command()
@_errors_in_one_sentence(afterwards="nothing was changed")
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say which versions, devices and folders are used here.

    \b
    Example:
      cryoem info --json
    """
    from cryoem.folders import data_folder
    from cryoem.projectors import resolve_backend

    backend = resolve_backend("auto")
    report = {
        "cryoem": cryoem.__version__,
        "python": sys.version.split()[0],
        **{name: _version(distribution) for name, distribution in PACKAGES.items()},
        "gpus_of_tensorflow": _tensorflow_gpus(),
        "gpu_of_astra": backend == "astra",
        "projection_backend": backend,
        "data_folder": str(data_folder()),
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        typer.echo(f"{name.replace('_', ' '):<20} {_in_words(value)}")


@app.command()
@_errors_in_one_sentence(afterwards="nothing was written, and the same command starts anew")
def fetch(
    name: Annotated[str, typer.Argument(help="Registry name, PDB id or EMDB id.")],
    debug: Debug = False,
) -> None:
    """Download a map or an atomic model, unless it is here already, and print its path.

    \b
    Example:
      cryoem fetch 5j0n
    """
    from cryoem import registry

    typer.echo(registry.fetch(name))


@app.command()
@_errors_in_one_sentence(afterwards="nothing was changed")
def settings(debug: Debug = False) -> None:
    """List the settings that --set takes, and their values in each profile.

    \b
    Example:
      cryoem settings
    """
    from dataclasses import fields

    from cryoem.pipeline import PROFILES

    for field in fields(next(iter(PROFILES.values()))):
        if field.name != "name":
            values = ", ".join(f"{name} {getattr(profile, field.name)}" for name, profile in PROFILES.items())
            typer.echo(f"{field.name:<28} {field.metadata['meaning']} ({values})")


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


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _tensorflow_gpus() -> list[str] | None:
    """Names of the GPUs, None without TensorFlow; asked in a process of its own, because it logs whatever one does."""
    if _version("tensorflow") is None:
        return None
    question = (
        "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices('GPU')), sep='\\n')"
    )
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(
            f"tensorflow {_version('tensorflow')} does not start: {answer.stderr.strip()[-300:]}"
        )
    return answer.stdout.split()


def _in_words(value) -> str:
    if value is None:
        return "not installed"
    if isinstance(value, bool):
        return "yes" if value else "none visible"
    if isinstance(value, list):
        return ", ".join(value) or "none visible"
    return value


def _end(sentence: str, *, code: int) -> None:
    typer.echo(f"cryoem: {sentence}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
