"""Call commands of this project as if from a wide terminal."""

import json

from typer.testing import CliRunner, Result

from cryoem.cli import app


def invoke(*arguments) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, [str(argument) for argument in arguments])


def answer(*arguments) -> dict:
    """Return the JSON output of a command, which must succeed and print nothing to stderr."""
    ended = invoke(*arguments, "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    return json.loads(ended.stdout)
