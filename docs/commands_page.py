"""Write the reference part of docs/commands.md: what each command's ``--help`` says, in the order of the pipeline.

    python docs/commands_page.py

A test holds the page against the commands.
"""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cryoem.cli import COMMANDS, app
from cryoem.whole_files import whole_file

PAGE = Path(__file__).resolve().parent / "commands.md"
HEADING = "## All commands\n"


def reference() -> str:
    """The part of the page that is made."""
    runner = CliRunner(env={"COLUMNS": "80"})
    parts = [HEADING]
    for group, commands in COMMANDS.items():
        parts.append(f"### {group}\n")
        for command in commands:
            told = runner.invoke(app, [command.__name__, "--help"]).stdout
            parts.append(f"#### cryoem {command.__name__}\n\n```text\n{told.strip()}\n```\n")
    return "\n".join(parts)


def main() -> None:
    written, _, _ = PAGE.read_text(encoding="utf-8").partition(HEADING)
    with whole_file(PAGE) as aside:
        aside.write_text(written + reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
