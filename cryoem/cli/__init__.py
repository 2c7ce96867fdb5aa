"""The command ``cryoem``: every step of the pipeline on files, the whole pipeline, and what this machine has.

Commands read and write files through the modules that own the formats, and compute through the functions that the
notebooks use; all that stands here is what they are called and what they say.  Everything heavy is imported inside
them, so that ``cryoem --help`` answers at once.
"""

from __future__ import annotations

import typer

from cryoem.cli.alignment import align2d
from cryoem.cli.data import convert, density, fetch, project
from cryoem.cli.groups import GroupedCommands
from cryoem.cli.machine import info
from cryoem.cli.maps import fsc, reconstruct
from cryoem.cli.orientations import distances, recover
from cryoem.cli.runs import experiment, run, settings

COMMANDS = {
    "The whole pipeline": (run, settings, experiment),
    "Maps and images to begin with": (fetch, density, project, convert),
    "From images to orientations": (distances, recover),
    "From orientations to a map": (reconstruct, fsc),
    "Images of one class, in their plane": (align2d,),
    "This machine": (info,),
}

app = typer.Typer(
    name="cryoem",
    help="Single-particle cryo-EM: from a density map to orientations and back, in notebooks or step by step.",
    cls=GroupedCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)

__all__ = ["COMMANDS", "app"]
