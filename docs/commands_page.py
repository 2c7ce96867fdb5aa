"""Write the reference section of docs/commands.md: the help text of each command, in the order of the pipeline.

    python docs/commands_page.py

A test checks that the page matches the commands.
"""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cryoem.cli import COMMANDS, app
from cryoem.files import write_text

PAGE = Path(__file__).resolve().parent / "commands.md"
HEADING = "## All commands\n"


def reference() -> str:
    """Return the generated section of the page."""
    runner = CliRunner(env={"COLUMNS": "80"})
    markup, app.rich_markup_mode = app.rich_markup_mode, None  # plain text, without panels
    parts = [HEADING]
    for panel, commands in COMMANDS.items():
        parts.append(f"### {panel}\n")
        for command in commands:
            text = runner.invoke(app, [command.__name__, "--help"]).stdout
            parts.append(f"#### cryoem {command.__name__}\n\n```text\n{text.strip()}\n```\n")
    app.rich_markup_mode = markup
    return "\n".join(parts)


if __name__ == "__main__":
    prose, _, _ = PAGE.read_text(encoding="utf-8").partition(HEADING)
    write_text(PAGE, prose + reference())
