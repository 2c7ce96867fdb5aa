"""Options that several commands share, checks of output files, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

MAP_SUFFIXES = (".mrc", ".map", ".mrc.gz", ".map.gz")

Particles = Annotated[
    Path,
    typer.Argument(metavar="PARTICLES", help="Stack (.mrcs, .mrc) or table (.star, .cs, .xmd) of particles."),
]
Out = Annotated[Path, typer.Option("--out", help="Output file, in an existing folder.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output files.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Pixel size in angstrom, if the file has none or a wrong one.")
]
Datadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir", help="Folder that stack names in the table are relative to, such as a RELION project."
    ),
]
OpticsGroup = Annotated[
    int | None, typer.Option("--optics-group", help="Use only the particles of this optics group.")
]
Symmetry = Annotated[
    str, typer.Option(help="Point group of the particle: C1, C2, ..., D2, ...; axes along z and x.")
]
Workers = Annotated[
    int, typer.Option(min=1, help="Number of processes on this machine; they share its cores.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler to use instead, such as tcp://host:8786.")
]


def new_file(
    out: Path, *suffixes: str, force: bool, inputs: Iterable[Path] = (), option: str = "--out"
) -> Path:
    """Return ``out``, the file of an ``option``, if a command may write it.

    Its name must end in one of ``suffixes``, its folder must exist, and it must be none of the ``inputs``, which the
    command reads. It may exist only with ``force``.
    """
    if not out.name.lower().endswith(suffixes):
        raise typer.BadParameter(f"must end in {' or '.join(suffixes)}, got {out}", param_hint=option)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder of {option} {out} does not exist; create it first")
    if out.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {out}")
    refuse_input(out, inputs)
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; use --force to overwrite it")
    return out


def refuse_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raise a ValueError if ``out`` is one of the files that the command reads."""
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f"{out} is an input of this command and cannot be its output; choose another name")


@contextmanager
def shared_work(
    description: str, total: int, *, workers: int, scheduler: str | None, **ordering
) -> Iterator[tuple[Callable, Callable[[int], None]]]:
    """Yield ``map_blocks`` and ``callback`` of a step that the workers share and the progress bar shows.

    ``ordering`` are options of ``workers.in_order``; the others are those of ``workers.client_of`` and ``progress``.
    """
    from cryoem.workers import client_of, in_order

    with client_of(workers, scheduler=scheduler) as client, progress(description, total) as done:
        yield partial(in_order, client=client, **ordering), done


@contextmanager
def progress(description: str, total: int, *, unit: str = "image") -> Iterator[Callable[[int], None]]:
    """Show a progress bar if stderr is a terminal; yield a callback that takes the number of items done."""
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit=unit, disable=None, leave=False) as bar:
        yield lambda done: bar.update(done - bar.n)
