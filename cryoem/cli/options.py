"""Options that commands share, and the check of what they are to write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

MAP_SUFFIXES = (".mrc", ".map", ".mrc.gz", ".map.gz")

Particles = Annotated[
    Path,
    typer.Argument(metavar="PARTICLES", help="Stack (.mrcs, .mrc) or table (.star, .cs, .xmd) of particles."),
]
Out = Annotated[Path, typer.Option("--out", help="File to be made, in a folder that is there.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random number.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Angstrom; where the file does not say it, or says it wrongly.")
]
Datadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir", help="Folder that the names of stacks in a table start from, such as RELION's project."
    ),
]
OpticsGroup = Annotated[
    int | None,
    typer.Option("--optics-group", help="The particles of this optics group alone; all by default."),
]
Symmetry = Annotated[
    str, typer.Option(help="Point group of the particle, C1, C2, ..., D2, ..., its axes along z and x.")
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes on this machine that share the work, and its cores.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask cluster whose workers do it instead, such as tcp://host:8786."),
]


def new_file(
    out: Path, *suffixes: str, force: bool, inputs: tuple[Path, ...] = (), option: str = "--out"
) -> Path:
    """``out`` where a command may write it.

    Parameters
    ----------
    suffixes : one of them the name must end in.
    force : whether it may replace a file.
    inputs : files that the command reads; none of them may be replaced.
    option : that names ``out``.

    Raises
    ------
    typer.BadParameter : the name ends in something else.
    FileNotFoundError : its folder is not there.
    FileExistsError : a file of that name is there, and is not to be replaced.
    ValueError : it is a folder or one of the inputs.
    """
    if not out.name.lower().endswith(suffixes):
        raise typer.BadParameter(f"must end in {' or '.join(suffixes)}, got {out}", param_hint=option)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{option} must be in a folder that is there, got {out}")
    if out.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {out}")
    refuse_input(out, inputs, option=option)
    if out.exists() and not force:
        raise FileExistsError(f"{option} must be a new file, got {out}, which --force would replace")
    return out


def refuse_input(out: Path, inputs: Iterable[Path], *, option: str = "--out") -> None:
    """Raise a ValueError where ``out`` is one of the files that are read."""
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f"{option} must be another file than what is read, got {out}")
