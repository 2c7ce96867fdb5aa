"""The command ``cryoem``: the whole pipeline, its individual steps on files, and a summary of this machine.

Commands parse options, call the same functions as the notebooks, and print the answer. Heavy libraries are imported
inside the commands, so that ``cryoem --help`` is fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

import cryoem
from cryoem.cli.alignment import align2d
from cryoem.cli.checking import check
from cryoem.cli.classes import classify2d
from cryoem.cli.comparison import fsc
from cryoem.cli.data import convert, density, fetch, project
from cryoem.cli.handoff import flip
from cryoem.cli.initial import abinitio
from cryoem.cli.machine import info
from cryoem.cli.maps import reconstruct, refine
from cryoem.cli.notebooks import experiment, run, runs, settings
from cryoem.cli.orientations import distances, recover
from cryoem.cli.shared import Command
from cryoem.cli.training import train

COMMANDS = {
    "The whole pipeline": (run, runs, settings, experiment),
    "Input maps and images": (fetch, density, project, convert, check),
    "From images to orientations": (abinitio, train, distances, recover),
    "From orientations to a map": (reconstruct, refine, fsc, flip),
    "2D classes and in-plane alignment": (classify2d, align2d),
    "This machine": (info,),
}

app = typer.Typer(
    name="cryoem",
    help="Single-particle cryo-EM: recover orientations from images and reconstruct maps, as one run or step by step.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cryoem {cryoem.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


for panel, functions in COMMANDS.items():
    for function in functions:
        app.command(cls=Command, rich_help_panel=panel)(function)

__all__ = ["COMMANDS", "app"]
