"""How ``cryoem --help`` lists the commands: in groups, in the order of the pipeline."""

from __future__ import annotations

from itertools import groupby

from typer.core import TyperGroup


class GroupedCommands(TyperGroup):
    """Commands under the headings that they were registered with (``rich_help_panel``), in that order."""

    def format_commands(self, ctx, formatter) -> None:
        longest = max(map(len, self.commands))
        limit = formatter.width - 6 - longest
        for heading, members in groupby(self.commands.values(), key=lambda command: command.rich_help_panel):
            with formatter.section(heading):
                formatter.write_dl(
                    [(command.name.ljust(longest), command.get_short_help_str(limit)) for command in members]
                )
