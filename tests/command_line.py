"""Call commands of this project as if from a wide terminal."""

from typer.testing import CliRunner, Result

from cryoem.cli import app


def invoke(*arguments) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, [str(argument) for argument in arguments])
