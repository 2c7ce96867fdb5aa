"""Input that cannot be aligned raises one sentence, and an interrupted alignment leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
from interruptions import Interrupted, interrupt
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles.mrc import write_stack
from cryoem.udl import stacks
from cryoem.udl.aligner import Aligner, save_aligner
from cryoem.udl.networks import build_polar_network
from cryoem.udl.spectra import polar_grid
from cryoem.udl.stack_training import AlignerTraining

PIXEL = 3.5  # of the fixtures


def no_reading(*_, **__):
    raise AssertionError("nothing may be read before the options and the output are checked")


def bad_stacks(images):
    """Return, for each kind of damage, the images of a stack and a part of the error."""
    constant, nan = images.copy(), images.copy()
    constant[3] = 7
    nan[2, 5, 5] = np.nan
    return {
        "one image": (images[:1], "training needs at least 4 images, but .* has 1"),
        "constant": (constant, "image 4 of .*particles.mrcs is blank; use --leave-out-outliers"),
        "nan": (nan, "particles.mrcs"),
    }


@pytest.mark.filterwarnings("ignore:Data array contains NaN values:RuntimeWarning")
@pytest.mark.parametrize("kind", ["one image", "constant", "nan", "no pixel size"])
def test_bad_stacks_end_in_one_sentence_and_leave_nothing(kind, clean, tmp_path):
    path = tmp_path / "particles.mrcs"
    content, sentence = bad_stacks(clean.images[:10]).get(kind, (clean.images[:10], "pixel"))
    with mrcfile.new(path, content) as file:
        file.set_image_stack()
        file.voxel_size = 0 if kind == "no pixel size" else PIXEL
    run = CliRunner().invoke(app, ["align2d", str(path), "--out", str(tmp_path / "out"), "--epochs", "1"])
    assert run.exit_code == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("cryoem: ")
    assert re.search(sentence, last)
    assert [p.name for p in tmp_path.iterdir()] == ["particles.mrcs"]


def test_bad_models_end_in_one_sentence_and_leave_nothing(stack_file, tmp_path):
    grid = polar_grid(32)
    save_aligner(Aligner(build_polar_network(grid), grid), tmp_path / "other-size")
    before = {path.name for path in tmp_path.iterdir()}
    for model, sentence in (
        ("other-size", "is for images 32 px wide, but the images in .* are 48 px wide"),
        ("missing", "missing is not a model folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            stacks.align_file(stack_file, tmp_path / "out", model=tmp_path / model)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_interruption_leaves_nothing(stack_file, models, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "_write_tables", lambda *_: interrupt())
    with pytest.raises(Interrupted):
        stacks.align_file(stack_file, tmp_path / "out", model=models / "saved")
    assert [path.name for path in tmp_path.iterdir()] == [stack_file.name]


SLOW_ALIGNMENT = """
import signal, sys, time
from cryoem import cli
from cryoem.udl import stacks
from cryoem.udl.stack_training import AlignerTraining

def slow(*_):
    print("training", file=sys.__stdout__, flush=True)  # stdout is for the answer only
    for _ in range(600):  # a signal that another thread receives does not interrupt one long sleep
        time.sleep(0.1)

stacks.obtain_aligner = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent may ignore it
sys.argv = ["cryoem", *sys.argv[1:]]
cli.app()
"""


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")], ids=["term", "int"]
)
def test_a_signal_ends_the_command_in_order(number, word, stack_file, tmp_path):
    command = [sys.executable, "-c", SLOW_ALIGNMENT, "align2d", stack_file, "--out", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"
        assert len(list(tmp_path.glob(".partial-*-out"))) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stderr.strip().splitlines()[-1].startswith(f"cryoem: {word}; nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == [stack_file.name]


def test_output_and_options_are_checked_before_anything_is_read(stack_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "open_particles", no_reading)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="full exists; choose a new or empty folder"):
        stacks.align_file(stack_file, full)
    with pytest.raises(OSError, match=r"cannot write .*file/out: Not a directory"):
        stacks.align_file(stack_file, full / "mine.txt" / "file" / "out")
    with pytest.raises(ValueError, match=r"^model m is used unchanged; omit training$"):
        stacks.align_file(stack_file, tmp_path / "out", model="m", training=AlignerTraining())
    with pytest.raises(ValueError, match=r"^max_training_images must be an integer >= 4, got 3$"):
        stacks.align_file(stack_file, tmp_path / "out", max_training_images=3)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"full", stack_file.name}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "template", "epochs": 3, "export": True},
         "method 'template' needs no training; omit epochs, export"),
        ({"seconds": np.nan}, "seconds must be a positive number, got nan"),
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"symmetry": "D2"}, "symmetry must be a cyclic group C1, C2, ..., got 'D2'"),
        ({"method": "magic"}, "method must be one of template, udl, judl, got 'magic'"),
    ],
)  # fmt: skip
def test_trainings_are_checked(options, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        AlignerTraining(**options)


def test_the_command_names_the_options_that_a_model_excludes(stack_file, tmp_path):
    arguments = ["align2d", str(stack_file), "--out", str(tmp_path / "out"), "--model", "m", "--epochs", "5"]
    run = CliRunner().invoke(app, [*arguments, "--export"])
    assert run.exit_code == 1
    assert run.stderr == "cryoem: --model is used without training; omit --epochs, --export\n"


@pytest.mark.parametrize("name", ["a#b.mrcs", "it's a.mrc"])
def test_names_that_tables_cannot_store_are_refused_before_the_training(name, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "_sample", no_reading)
    write_stack(tmp_path / name, clean.images, pixel_size_angstrom=PIXEL)
    with pytest.raises(ValueError, match=f"^image names of {re.escape(str(tmp_path / name))} must"):
        stacks.align_file(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]
