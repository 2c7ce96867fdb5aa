"""How commands end: stdout, stderr, exit codes, and which files may be written."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from particle_files import DEFOCI, MICROSCOPE, mrc, names_of, some_images, star
from typer.testing import CliRunner

from cryoem.cli.options import Force, Out
from cryoem.cli.shared import Answer, check_images, command, json_text, new_file
from cryoem.particles.mrc import MrcStack
from cryoem.particles.opening import open_particles


def run(work, *arguments):
    """Call a command that calls ``work`` and prints 'done'."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @command(afterwards="all is as before")
    def do(
        times: Annotated[int, typer.Option()] = 1, box: Annotated[float, typer.Option("--box-size")] = 1.0
    ) -> Answer:
        """Work."""
        for _ in range(times):
            work()
        return Answer("done", {"times": times})

    return CliRunner().invoke(app, arguments)


def raising(error):
    def fail():
        raise error

    return fail


def test_stdout_has_the_answer_only():
    ended = run(lambda: print("chatter of a library"), "--times", "2")  # noqa: T201
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "done\n", "chatter of a library\n" * 2)
    assert json.loads(run(lambda: None, "--json").stdout) == {"times": 1}


def test_errors_of_the_ctf_are_raised_before_images_are_read(tmp_path, monkeypatch):
    mrc(tmp_path / "a.mrcs", some_images())
    columns = {**DEFOCI, **MICROSCOPE, "rlnVoltage": [200.0, 300.0]}
    opened = open_particles(star(tmp_path / "a.star", names_of(2), **columns))
    monkeypatch.setattr(MrcStack, "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(ValueError, match=r"[Vv]oltage"):
        check_images(opened, leave_out_outliers=False)


def test_a_warning_is_one_line_on_stderr():
    def warn():
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("the header\n lacks a cell", UserWarning, stacklevel=1)

    ended = run(warn)
    assert (ended.exit_code, ended.stdout) == (0, "done\n")
    assert ended.stderr == "cryoem: warning: the header lacks a cell\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("map must be\n finite"), 1, "map must be finite"),
        (FileNotFoundError("no map file at x"), 1, "no map file at x"),
        (
            ZeroDivisionError("by zero"),
            1,
            "unexpected ZeroDivisionError: by zero (use --debug for the traceback)",
        ),
        (ValueError("times must be 1, got 2"), 1, "--times must be 1, got 2"),
        (ValueError("box_angstrom must be 1"), 1, "--box-size must be 1"),
        (KeyboardInterrupt(), 130, "interrupted; all is as before"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "cannot access a/b: Permission denied"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError("for 108 GiB"), 1, "there is not enough memory for this step: for 108 GiB"),
    ],
)
def test_an_error_is_one_sentence_in_the_words_of_the_user(error, code, sentence):
    for arguments in ([], ["--json"]):
        ended = run(raising(error), *arguments)
        assert (ended.exit_code, ended.stdout, ended.stderr) == (code, "", f"cryoem: {sentence}\n")


def test_debug_shows_the_traceback():
    error = ValueError("what")
    assert run(raising(error), "--debug").exception is error


def test_sigterm_ends_a_command_in_order():
    before = signal.getsignal(signal.SIGTERM)
    ended = run(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert (ended.exit_code, ended.stderr) == (143, "cryoem: terminated; all is as before\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_json_is_valid_for_any_value():
    values = {
        "array": np.float32([[0.5, np.nan]]),
        "count": np.int64(3),
        "nothing": None,
        "infinite": float("inf"),
        "path": Path("a/b"),
        "pair": (1, "Å"),
        "inner": {"yes": np.True_},
    }
    assert json.loads(json_text(values)) == {
        "array": [[0.5, None]],
        "count": 3,
        "nothing": None,
        "infinite": None,
        "path": "a/b",
        "pair": [1, "Å"],
        "inner": {"yes": True},
    }


def write(source, out, *options):
    """Call a command that reads ``source`` and writes 'new' to ``--out``."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @command(afterwards="nothing was written")
    def do(source: Path, out: Out, force: Force = False) -> Answer:
        """Write."""
        new_file(out, ".txt", force=force, inputs=(source,)).write_text("new")
        return Answer(str(out), {"out": out})

    return CliRunner().invoke(app, [str(source), "--out", str(out), *options])


def test_a_file_is_replaced_only_with_force(tmp_path):
    out = tmp_path / "a.txt"
    out.write_text("old")
    refused = write("in", out)
    assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {out} exists; use --force to overwrite it\n")
    assert out.read_text() == "old"
    assert write("in", out, "--force").exit_code == 0
    assert out.read_text() == "new"


def test_an_input_is_never_replaced(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("precious")
    (tmp_path / "link.txt").symlink_to(source)
    for out in (source, tmp_path / "link.txt"):
        refused = write(source, out, "--force")
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"cryoem: {out} is an input of this command")
    assert source.read_text() == "precious"


def test_a_link_to_a_missing_file_is_replaced_only_with_force(tmp_path):
    out = tmp_path / "a.txt"
    out.symlink_to(tmp_path / "missing.txt")
    refused = write("in", out)
    assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {out} exists; use --force to overwrite it\n")
    assert out.is_symlink()
    assert write("in", out, "--force").exit_code == 0


def test_two_outputs_are_never_the_same_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @command(afterwards="")
    def do(first: Path, second: Path) -> Answer:
        """Write."""
        for out, option in ((first, "--figure"), (second, "--report")):
            new_file(out, ".html", force=True, option=option)
        return Answer("done", {})

    for second in (tmp_path / "a.html", tmp_path / "link" / "a.html"):
        refused = CliRunner().invoke(app, [str(tmp_path / "a.html"), str(second)])
        sentence = f"cryoem: --figure and --report must be different files, got {second} for both\n"
        assert (refused.exit_code, refused.stderr) == (1, sentence)
    assert CliRunner().invoke(app, [str(tmp_path / "a.html"), str(tmp_path / "b.html")]).exit_code == 0


def test_a_file_that_cannot_be_written_is_named_as_it_was_typed(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "folder/.partial-1234")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write everywhere
    refused = write("in", "folder/a.txt")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "cryoem: cannot write folder/a.txt: Permission denied\n",
    )
    assert list((tmp_path / "folder").iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path):
    assert write("in", tmp_path / "a.md").exit_code == 2
    (tmp_path / "folder.txt").mkdir()
    for out, sentence in (
        (tmp_path / "no" / "a.txt", "the folder of --out {} does not exist; create it first"),
        (tmp_path / "folder.txt", "--out must be a file, got the folder {}"),
    ):
        refused = write("in", out, "--force")
        assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {sentence.format(out)}\n")
