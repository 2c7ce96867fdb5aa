"""The stand-alone program: its options, and the same alignment as that of the command."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoem.particles.star import read_xmd
from cryoem.udl.stacks import align_file

TOOL = Path(__file__).parents[2] / "tools" / "aligner"


def assert_same_alignment(found: Path, expected: Path) -> None:
    found, expected = (read_xmd(folder / "aligned.xmd") for folder in (found, expected))
    assert list(found) == list(expected)
    angles = (found.anglePsi - expected.anglePsi + 180) % 360 - 180
    assert np.abs(angles).max() < 0.05
    np.testing.assert_allclose(found[["shiftX", "shiftY"]], expected[["shiftX", "shiftY"]], atol=0.01)


def test_the_program_has_options_and_a_log(stack_file, models, tmp_path, monkeypatch, capsys):
    def run(*options) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["align-particles", "--path", *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL / "program.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    out, log = tmp_path / "out", tmp_path / "a.log"
    reference = f"1@{stack_file}"
    options = ["--model", models / "saved", "--ref", reference]
    code, stdout, stderr = run(stack_file, *options, "--out", out, "--log", log)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("60 images aligned in ")
    assert "reading 60 images" in log.read_text()
    align_file(stack_file, tmp_path / "expected", model=models / "saved", reference=reference)
    assert_same_alignment(out, tmp_path / "expected")
    assert (out / "aligned-emaf.xmd").is_file()
    code, stdout, stderr = run(tmp_path / "none.mrcs", *options, "--out", tmp_path / "other")
    assert (code, stdout) == (1, "")
    assert stderr == f"align-particles: no particle file at {tmp_path / 'none.mrcs'}\n"


@pytest.mark.slow
def test_the_packed_program_runs_in_an_empty_folder(stack_file, models, tmp_path):
    pytest.importorskip("PyInstaller")
    build = [sys.executable, TOOL / "build.py", "--model", models / "saved", "--out", tmp_path / "built"]
    subprocess.run(build, check=True, capture_output=True)
    (tmp_path / "empty").mkdir()
    program = ["env", "-i", tmp_path / "built" / "align-particles", "--path", stack_file, "--out", "out"]
    run = subprocess.run(program, cwd=tmp_path / "empty", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    align_file(stack_file, tmp_path / "expected", model=models / "saved")
    assert_same_alignment(tmp_path / "empty" / "out", tmp_path / "expected")
