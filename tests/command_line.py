"""A command of this project, called as from a terminal, for the tests of several."""

from typer.testing import CliRunner, Result

from cryoem.cli import app


def invoke(*arguments) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
