"""What cannot be aligned ends in one sentence, and what was stopped leaves nothing behind."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
from alignment_files import PIXEL, SIZE, no_reading
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles import write_stack
from cryoem.udl import stacks, synthetic
from cryoem.udl.aligner import save_aligner
from cryoem.udl.registration import circular_mask
from cryoem.udl.training import train


def write_bad(kind: str, clean, path):
    images = clean.images[:10].copy()
    if kind == "one image":
        images = images[:1]
    elif kind == "constant":
        images[3] = 7
    elif kind == "constant in the circle":
        images[3][circular_mask(SIZE) > 0] = 7
    write_stack(path, images, pixel_size_angstrom=PIXEL)
    if kind == "nan":
        with mrcfile.open(path, "r+") as file:
            file.data[2, 5, 5] = np.nan
    elif kind == "not square":
        with mrcfile.new(path, np.zeros((9, 20, 24), np.float32), overwrite=True) as file:
            file.set_image_stack()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no pixel size":
        with mrcfile.open(path, "r+") as file:
            file.voxel_size = 0


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("empty", "particles.mrcs"),
        ("one image", "must hold at least 4 images to train on, got 1"),
        ("not square", "20"),
        ("constant", "must hold images with structure, image 4 is constant"),
        ("constant in the circle", "structure, image 4 is constant inside the largest circle"),
        ("nan", "particles.mrcs"),
        ("no pixel size", "pixel"),
    ],
)
def test_bad_stacks_end_in_one_sentence_and_leave_nothing(kind, sentence, clean, tmp_path):
    path = tmp_path / "particles.mrcs"
    write_bad(kind, clean, path)
    run = CliRunner().invoke(app, ["align2d", str(path), "--out", str(tmp_path / "out"), "--epochs", "1"])
    assert run.exit_code == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("cryoem: ")
    assert sentence in last
    assert [p.name for p in tmp_path.iterdir()] == ["particles.mrcs"]


def test_bad_models_end_in_one_sentence_and_leave_nothing(stack_file, aligner, average, tmp_path):
    other = synthetic.phantom_class_average(image_size=32)
    images = synthetic.simulate_particles(other, 20, rng=0).images
    save_aligner(train(images, epochs=1).aligner, tmp_path / "other-size")
    save_aligner(aligner, tmp_path / "damaged")
    (tmp_path / "damaged" / "aligner.weights.h5").write_bytes(b"nothing")
    (tmp_path / "no-json").mkdir()
    (tmp_path / "no-json" / "aligner.json").write_text("{")
    before = {path.name for path in tmp_path.iterdir()}
    for model, sentence in (
        ("other-size", "is for images of 32 px, got 48 px"),
        ("damaged", "damaged cannot be read: its aligner.weights.h5 is not as it was written"),
        ("no-json", "no-json cannot be read"),
        ("missing", "missing is not there"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            stacks.align_file(stack_file, tmp_path / "out", model=tmp_path / model)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_folder_with_something_in_it_is_left_alone(stack_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="out must be a new or an empty folder"):
        stacks.align_file(stack_file, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interruption_leaves_nothing(stop, stack_file, models, tmp_path, monkeypatch):
    def interrupted(*_):
        raise stop("no space left")

    monkeypatch.setattr(stacks, "write_tables", interrupted)
    with pytest.raises(stop):
        stacks.align_file(stack_file, tmp_path / "new" / "newer" / "out", model=models / "saved")
    assert [path.name for path in tmp_path.iterdir()] == [stack_file.name]


SLOW_ALIGNMENT = """
import signal, sys, time
from cryoem import cli
from cryoem.udl import stacks

def slow(*_):
    print("training", file=sys.__stdout__, flush=True)  # the answer alone is for stdout
    time.sleep(60)

stacks._made = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
sys.argv = ["cryoem", *sys.argv[1:]]
cli.app()
"""


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")], ids=["term", "int"]
)
def test_a_signal_ends_the_command_in_order(number, word, stack_file, tmp_path):
    command = [sys.executable, "-c", SLOW_ALIGNMENT, "align2d", stack_file, "--out", tmp_path / "new" / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"
        assert len(list(tmp_path.glob("new/.partial-*-out"))) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    last = stderr.strip().splitlines()[-1]
    assert last == f"cryoem: {word}; nothing was written, and the same command starts anew"
    assert [path.name for path in tmp_path.iterdir()] == [stack_file.name]


def test_what_a_killed_process_left_is_removed(stack_file, models, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, name = f".partial-{platform.node()}", "0123abcd-out"
    left = tmp_path / f"{here}-{ended.pid}-{name}"
    of_another, running = (
        tmp_path / f".partial-elsewhere-{ended.pid}-{name}",
        tmp_path / f"{here}-{os.getppid()}-{name}",
    )
    for folder in (left, of_another, running):
        folder.mkdir()
        (folder / "aligned.mrcs").touch()
    stacks.align_file(stack_file, tmp_path / "out", model=models / "saved")
    assert {path.name for path in tmp_path.iterdir()} == {
        stack_file.name, "out", of_another.name, running.name,
    }  # fmt: skip


def test_a_place_that_cannot_be_written_is_said_before_anything_is_read(stack_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "open_particles", no_reading)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^out .*file/out cannot be made: Not a directory$"):
        stacks.align_file(stack_file, tmp_path / "file" / "out")
    with pytest.raises(ValueError, match=r"^out must be a new or an empty folder, got .*file, which holds"):
        stacks.align_file(stack_file, tmp_path / "file")

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda _: True)
        with pytest.raises(
            ValueError, match=r"^out must be a folder that can be replaced, got the mounted .*new$"
        ):
            stacks.align_file(stack_file, tmp_path / "new")

    def forbidden(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", forbidden)
    with pytest.raises(OSError, match=r"^out .*new/out cannot be made: Permission denied$"):
        stacks.align_file(stack_file, tmp_path / "new" / "out")
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"file", stack_file.name}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "template", "epochs": 3, "export": True},
         r"^method 'template' trains nothing: leave out epochs \(3\), export \(True\)$"),
        ({"model": "m", "method": "udl", "symmetry": "C1", "epochs": 5, "seconds": 9.0, "export": True},
         r"^model m is used as it is: leave out method \(udl\), symmetry \(C1\), epochs \(5\), seconds \(9.0\), "
         r"export \(True\)$"),
        ({"seconds": -1}, "^seconds must be a positive number, got -1$"),
        ({"seconds": np.nan}, "^seconds must be a positive number, got nan$"),
        ({"rng": -1}, "^rng must be a whole number of at least 0, got -1$"),
        ({"epochs": 0}, "^epochs must be a whole number of at least 1, got 0$"),
        ({"symmetry": "D2"}, "^symmetry must be a cyclic group C1, C2, ..., got 'D2'$"),
        ({"method": "magic"}, "^method must be one of udl, judl, template, got 'magic'$"),
        ({"block": 0}, "^block must be a whole number of at least 1, got 0$"),
    ],
)  # fmt: skip
def test_options_are_refused_before_anything_is_read(options, sentence, stack_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "open_particles", no_reading)
    with pytest.raises(ValueError, match=sentence):
        stacks.align_file(stack_file, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == [stack_file.name]
