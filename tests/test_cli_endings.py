"""How commands end: what stdout and stderr hold, the exit codes, and what may be written where."""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cryoem.cli.endings import Answer, ends_in_order, json_text
from cryoem.cli.options import Force, Out, new_file


def command_of(work):
    """An application of one command, ``work``, that answers 'done'."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    @ends_in_order(afterwards="all is as it was")
    def do(times: int = 1) -> Answer:
        """Do it."""
        for _ in range(times):
            work()
        return Answer("done", {"times": times})

    return app


def test_the_answer_alone_is_on_stdout():
    app = command_of(lambda: print("chatter of a library"))  # noqa: T201
    said = CliRunner().invoke(app, ["--times", "2"])
    assert (said.exit_code, said.stdout) == (0, "done\n")
    assert said.stderr == "chatter of a library\n" * 2
    assert json.loads(CliRunner().invoke(app, ["--json"]).stdout) == {"times": 1}


def test_a_warning_is_one_line_on_stderr():
    def warn():
        warnings.simplefilter("always")
        warnings.warn("the header\n lacks a cell", UserWarning, stacklevel=1)

    said = CliRunner().invoke(command_of(warn), [])
    assert (said.exit_code, said.stdout) == (0, "done\n")
    assert said.stderr == "cryoem: warning: the header lacks a cell\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("map must be\n finite"), 1, "map must be finite"),
        (FileNotFoundError("no map file at x"), 1, "no map file at x"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted; all is as it was"),
    ],
)
def test_an_error_leaves_stdout_empty(error, code, sentence):
    def fail():
        raise error

    for arguments in ([], ["--json"]):
        ended = CliRunner().invoke(command_of(fail), arguments)
        assert (ended.exit_code, ended.stdout, ended.stderr) == (code, "", f"cryoem: {sentence}\n")


def test_debug_lets_the_error_through():
    error = ValueError("what")

    def fail():
        raise error

    assert CliRunner().invoke(command_of(fail), ["--debug"]).exception is error


def test_sigterm_ends_a_command_in_order_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    ended = CliRunner().invoke(command_of(lambda: os.kill(os.getpid(), signal.SIGTERM)), [])
    assert (ended.exit_code, ended.stderr) == (143, "cryoem: terminated; all is as it was\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_json_holds_what_programs_read():
    values = {
        "array": np.float32([[0.5, np.nan]]),
        "number": np.float64(2.5),
        "count": np.int64(3),
        "nothing": None,
        "infinite": float("inf"),
        "path": Path("a/b"),
        "pair": (1, "Å"),
        "inner": {"yes": np.True_},
    }
    assert json.loads(json_text(values)) == {
        "array": [[0.5, None]],
        "number": 2.5,
        "count": 3,
        "nothing": None,
        "infinite": None,
        "path": "a/b",
        "pair": [1, "Å"],
        "inner": {"yes": True},
    }


# --- what is to be written


@pytest.fixture
def writer():
    """An application that writes 'new' to --out, having read its argument."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    @ends_in_order(afterwards="nothing was written")
    def write(source: Path, out: Out, force: Force = False) -> Answer:
        """Write."""
        new_file(out, ".txt", force=force, inputs=(source,)).write_text("new")
        return Answer(str(out), {"out": out})

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_file_is_replaced_only_by_force(writer, tmp_path):
    out = tmp_path / "a.txt"
    out.write_text("old")
    refused = writer("in", "--out", out)
    assert refused.exit_code == 1
    assert refused.stderr == f"cryoem: --out must be a new file, got {out}, which --force would replace\n"
    assert out.read_text() == "old"
    assert writer("in", "--out", out, "--force").exit_code == 0
    assert out.read_text() == "new"


def test_an_input_is_never_replaced(writer, tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("precious")
    (tmp_path / "link.txt").symlink_to(source)
    for out in (source, tmp_path / "link.txt"):
        refused = writer(source, "--out", out, "--force")
        assert refused.exit_code == 1
        assert refused.stderr == f"cryoem: --out must be another file than what is read, got {out}\n"
    assert source.read_text() == "precious"


def test_places_that_cannot_be_written_are_refused(writer, tmp_path):
    wrong = writer("in", "--out", tmp_path / "a.md")
    assert wrong.exit_code == 2
    assert "must end in .txt, got" in wrong.stderr
    (tmp_path / "folder.txt").mkdir()
    for out, sentence in (
        (tmp_path / "no" / "a.txt", "--out must be in a folder that is there, got"),
        (tmp_path / "folder.txt", "--out must be a file, got the folder"),
    ):
        refused = writer("in", "--out", out, "--force")
        assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {sentence} {out}\n")
