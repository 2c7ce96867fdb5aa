"""Alignment of particle images: arrays, files, models on disk, and the command."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles import open_particles, read_xmd, relion_tables, write_stack, write_star
from cryoem.rotations import from_relion_euler_deg
from cryoem.udl import stacks, synthetic
from cryoem.udl.align import align, align_block, prepare_reference, template_aligner
from cryoem.udl.aligner import load_aligner, save_aligner
from cryoem.udl.classical import wrapped
from cryoem.udl.export import export_aligner, load_exported, load_model
from cryoem.udl.network import build_polar_network
from cryoem.udl.registration import align_images, circular_mask, turn
from cryoem.udl.rotation import rotate_images
from cryoem.udl.training import train

SIZE = 48
PIXEL = 3.5


@pytest.fixture(scope="module")
def average():
    return synthetic.phantom_class_average(image_size=SIZE)


@pytest.fixture(scope="module")
def clean(average):
    return synthetic.simulate_particles(average, 60, noise="clean", shift_limit_px=4, ctf=None, rng=1)


@pytest.fixture(scope="module")
def aligner(clean):
    return train(clean.images, method="judl", epochs=1, batch_size=16).aligner


@pytest.fixture(scope="module")
def models(aligner, tmp_path_factory):
    """A folder with the aligner, ``saved`` and ``exported``; tests read it only."""
    folder = tmp_path_factory.mktemp("models")
    save_aligner(aligner, folder / "saved")
    export_aligner(aligner, folder / "exported")
    return folder


@pytest.fixture
def stack_file(clean, tmp_path):
    path = tmp_path / "particles.mrcs"
    write_stack(path, clean.images, pixel_size_angstrom=PIXEL)
    return path


def misalignment(found, truth) -> tuple[np.ndarray, np.ndarray]:
    """Errors of angles (rad) and shifts (px) up to the reference's own pose: one rotation and one displacement."""
    error = found.angles_rad - truth.angles_rad
    offset = np.angle(np.exp(1j * error).mean())
    turned = np.stack(
        [
            np.cos(found.angles_rad),
            -np.sin(found.angles_rad),
            np.sin(found.angles_rad),
            np.cos(found.angles_rad),
        ],
        1,
    ).reshape(-1, 2, 2)
    in_frame = np.einsum("nji,nj->ni", turned, found.shifts_px - truth.shifts_px)
    return wrapped(error - offset, 2 * np.pi), in_frame - np.median(in_frame, axis=0)


def test_clean_images_are_aligned_twins_and_shifts_included(clean, aligner):
    found = align(clean.images, aligner)
    angles, shifts = misalignment(found, clean)
    assert np.abs(angles).max() < np.deg2rad(1)  # a wrong twin would be off by 180 degrees
    assert np.abs(shifts).max() < 0.3
    assert found.correlation.min() > 0.9
    assert 0.5 < found.correntropy.min() <= found.correntropy.max() <= 1
    spread = found.aligned_images(clean.images).std(axis=0).mean()
    assert spread < 0.2 * clean.images.std(axis=0).mean()
    np.testing.assert_allclose(found.average, found.aligned_images(clean.images).mean(axis=0), atol=1e-5)


def test_images_come_back_in_the_pose_of_a_given_reference(average, clean, aligner):
    for angle in (0.0, 1.0):
        reference = rotate_images(average.image[None], np.array([angle]))[0]
        found = align(clean.images, aligner, reference=reference)
        error = wrapped(found.angles_rad - (clean.angles_rad - angle), 2 * np.pi)
        assert np.abs(error).max() < np.deg2rad(1.5)
        assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.5
        assert np.corrcoef(found.average.ravel(), reference.ravel())[0, 1] > 0.95


def test_the_template_needs_no_training(clean):
    angles, _ = misalignment(align(clean.images, template_aligner(clean.images)), clean)
    assert np.abs(angles).max() < np.deg2rad(1)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
@pytest.mark.parametrize("kind", ["the model's reference", "a given reference", "a new template"])
def test_the_scale_of_the_images_changes_nothing(kind, scale, average, clean, aligner):
    scaled = clean.images * np.float32(scale)

    def aligned(images):
        if kind == "a new template":
            return align(images, template_aligner(images))
        return align(images, aligner, reference=average.image if kind == "a given reference" else None)

    expected, found = aligned(clean.images), aligned(scaled)
    assert np.abs(wrapped(found.angles_rad - expected.angles_rad, 2 * np.pi)).max() < 1e-4
    np.testing.assert_allclose(found.shifts_px, expected.shifts_px, atol=1e-3)
    np.testing.assert_allclose(found.correlation, expected.correlation, atol=1e-4)
    np.testing.assert_allclose(found.correntropy, expected.correntropy, atol=1e-4)


def test_images_beyond_single_precision_are_refused(clean, aligner):
    with pytest.raises(ValueError, match=r"images must have a standard deviation .* got 9.97e\+35"):
        align(clean.images * np.float32(1e36), aligner)


def test_structure_outside_the_circle_alone_is_none(clean, aligner):
    images = clean.images.copy()
    images[4][circular_mask(SIZE) > 0] = 3.0
    assert np.ptp(images[4]) > 1
    with pytest.raises(ValueError, match="images must have structure, got 1 constant ones, first 4"):
        aligner.angles(images)
    with pytest.raises(ValueError, match="reference must have structure, got a constant image"):
        align(clean.images, aligner, reference=images[4])


def test_models_come_back_as_they_were(aligner, clean, tmp_path):
    save_aligner(aligner, tmp_path / "saved")
    export_aligner(aligner, tmp_path / "exported")
    expected = aligner.angles(clean.images)
    for load, form in ((load_aligner, "saved"), (load_exported, "exported"), (load_model, "exported")):
        loaded = load(tmp_path / form)
        assert loaded.grid == aligner.grid
        np.testing.assert_array_equal(loaded.reference, aligner.reference)
        assert np.abs(wrapped(loaded.angles(clean.images) - expected, np.pi)).max() < 1e-4
    with pytest.raises(ValueError, match="must be new or empty"):
        save_aligner(aligner, tmp_path / "saved")
    with pytest.raises(ValueError, match="must be new or empty"):
        export_aligner(aligner, tmp_path / "exported")


def edited(change):
    """A change to the settings of a model's folder."""

    def damage(folder):
        settings = json.loads((folder / "aligner.json").read_text())
        change(settings)
        (folder / "aligner.json").write_text(json.dumps(settings))

    return damage


DAMAGES = {
    "fold": (edited(lambda s: s["grid"].update(fold=2)), "its aligner.json is not as it was"),
    "rings": (edited(lambda s: s["grid"].update(lowest=1)), "its aligner.json is not as it was"),
    "angles": (edited(lambda s: s["grid"].update(n_angles=64)), "its aligner.json is not as it"),
    "size": (edited(lambda s: s["grid"].update(image_size=48.0)), "its aligner.json is not as"),
    "no sums": (edited(lambda s: s.pop("sha256")), "its aligner.json is not as it was written"),
    "format": (edited(lambda s: s.update(format="bogus")), "its format must be .* got 'bogus'"),
    "nan reference": (
        lambda folder: np.save(folder / "reference.npy", np.full((SIZE, SIZE), np.nan, np.float32)),
        "its reference.npy is not as it was written",
    ),
    "text": (
        lambda folder: (folder / "reference.npy").write_text("an average"),
        "its reference.npy is not as it was written",
    ),
    "no reference": (lambda folder: (folder / "reference.npy").unlink(), "its reference.npy is missing"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["saved", "exported"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_was_changed_is_refused(damage, form, models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / form, folder)
    load_model(folder)
    change, sentence = DAMAGES[damage]
    change(folder)
    with pytest.raises(ValueError, match=f"model {folder} cannot be read: {sentence}"):
        load_model(folder)


def test_a_network_that_answers_nonsense_is_refused(aligner, tmp_path):
    nan = build_polar_network(aligner.grid)
    nan.set_weights([np.full_like(weight, np.nan) for weight in nan.get_weights()])
    save_aligner(replace(aligner, network=nan), tmp_path / "nan")
    with pytest.raises(ValueError, match=r"nan cannot be read: its network must answer with finite"):
        load_model(tmp_path / "nan")
    other = build_polar_network(replace(aligner.grid, n_angles=64))
    for write, name in ((save_aligner, "saved"), (export_aligner, "exported")):
        write(replace(aligner, network=other), tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read: .+"):
            load_model(tmp_path / name)


def test_a_grid_is_of_whole_numbers(aligner):
    with pytest.raises(ValueError, match=r"image_size must be a whole number of at least 16, got 48\.5"):
        replace(aligner.grid, image_size=48.5)
    sizes = [replace(aligner.grid, image_size=side).image_size for side in (48.0, np.int64(48))]
    assert [type(side) for side in sizes] == [int, int]


def test_a_file_becomes_a_folder_that_other_programs_read(stack_file, clean, tmp_path, capsys):
    before = stack_file.read_bytes()
    result = stacks.align_file(stack_file, tmp_path / "aligned", epochs=2, export=True, progress=True)
    shown = capsys.readouterr().err
    for stage in ("reading 60 images", "training: 100%", "epoch=2/2, val_loss=0.", "aligning: 100%"):
        assert stage in shown
    assert stack_file.read_bytes() == before
    folder = result.folder
    assert {path.name for path in folder.iterdir()} == {
        "aligned.mrcs", "aligned.star", "aligned.xmd", "averages.mrcs", "exported", "model", "summary.json",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text())["images"] == len(clean.images)
    star = open_particles(folder / "aligned.star")
    np.testing.assert_array_equal(star.read(slice(None)), clean.images)  # poses are of the original images
    assert star.pixel_size_angstrom == pytest.approx(PIXEL)
    poses = star.table
    angles = from_relion_euler_deg(
        np.stack([0 * poses.rlnAnglePsi, 0 * poses.rlnAnglePsi, poses.rlnAnglePsi], 1)
    )
    angles = angles.as_euler("zyx")[:, 0]
    shifts = -np.stack([poses.rlnOriginXAngst, poses.rlnOriginYAngst], axis=1) / PIXEL
    aligned = open_particles(folder / "aligned.mrcs").read(slice(None))
    np.testing.assert_allclose(align_images(clean.images, angles, shifts), aligned, atol=1e-3)
    with mrcfile.open(folder / "averages.mrcs") as file:
        np.testing.assert_allclose(file.data[0], clean.images.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(file.data[1], aligned.mean(axis=0), atol=1e-4)
    xmd = read_xmd(folder / "aligned.xmd")
    assert list(xmd.image) == star.image_names
    turns = np.deg2rad(xmd.anglePsi.to_numpy())
    assert np.abs(wrapped(turns - angles, 2 * np.pi)).max() < 1e-6
    moved = -turn(shifts, -angles)  # XMIPP shifts after it has rotated
    np.testing.assert_allclose(xmd[["shiftX", "shiftY"]], moved, atol=1e-6)
    np.testing.assert_allclose(xmd.maxCC, poses.cryoemCorrelation, atol=1e-6)


def test_blocks_change_nothing_and_a_model_is_used_as_it_is(stack_file, aligner, tmp_path):
    save_aligner(aligner, tmp_path / "model")
    aligned, poses, numbers = [], [], []
    for block in (7, 512):
        folder = stacks.align_file(
            stack_file, tmp_path / f"by-{block}", model=tmp_path / "model", block=block
        ).folder
        assert not (folder / "model").exists()
        aligned.append(open_particles(folder / "aligned.mrcs").read(slice(None)))
        poses.append(open_particles(folder / "aligned.star").table.drop(columns="rlnImageName"))
        numbers.append(json.loads((folder / "summary.json").read_text()))
    np.testing.assert_allclose(*aligned, atol=1e-4)
    np.testing.assert_allclose(*poses, atol=1e-3)
    for name in ("images", "pixel_size_angstrom", "mean_correlation", "resolution_angstrom"):
        assert numbers[0][name] == pytest.approx(numbers[1][name], rel=1e-4)
    expected = align(open_particles(stack_file).read(slice(None)), aligner)
    assert numbers[0]["mean_correlation"] == pytest.approx(expected.correlation.mean(), abs=1e-4)
    np.testing.assert_allclose(aligned[0].mean(axis=0), expected.average, atol=1e-3)


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


def no_reading(*_, **__):
    raise AssertionError("nothing is to be read before it is known where to write")


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


@pytest.mark.parametrize("what", ["out", "its parent"])
def test_the_result_may_lie_behind_a_link(what, stack_file, models, clean, tmp_path):
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    out = link if what == "out" else link / "out"
    stacks.align_file(stack_file, out, model=models / "saved")
    assert link.is_symlink()
    star = open_particles(out / "aligned.star")
    np.testing.assert_array_equal(star.read(slice(None)), clean.images)


@pytest.fixture
def project(clean, tmp_path):
    """A RELION project: a stack, and a table in another folder that names it from the project's folder."""
    for folder in ("Extract/job1", "Select/job2"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    stack = "Extract/job1/a.mrcs"
    write_stack(tmp_path / "project" / stack, clean.images, pixel_size_angstrom=PIXEL)
    names = [f"{number}@{stack}" for number in (3, 1, 2, 9, 30)]
    table, optics = relion_tables(
        names, np.zeros(5), np.zeros((5, 2)), pixel_size_angstrom=PIXEL, image_size=SIZE
    )
    write_star(tmp_path / "project" / "Select" / "job2" / "p.star", table, optics=optics)
    return tmp_path / "project", names


@pytest.mark.parametrize("out", ["Align/out", "../elsewhere/out"])
def test_a_table_keeps_its_names(out, project, models, clean, monkeypatch):
    folder, names = project
    monkeypatch.chdir(folder)
    stacks.align_file("Select/job2/p.star", out, model=models / "saved")
    for table in ("aligned.star", "aligned.xmd"):
        aligned = open_particles(Path(out) / table, pixel_size_angstrom=PIXEL)
        assert aligned.image_names == names
        np.testing.assert_array_equal(aligned.read(slice(None)), clean.images[[2, 0, 1, 8, 29]])
    monkeypatch.chdir("/")
    if out == "../elsewhere/out":
        with pytest.warns(
            UserWarning, match=r"aligned\.star names stacks as .* does, and Extract/job1/a\.mrcs is not"
        ):
            stacks.align_file(
                folder / "Select/job2/p.star", folder / "../elsewhere/again", model=models / "saved"
            )


def test_a_table_may_lie_apart_from_its_project(project, models, tmp_path, monkeypatch):
    folder, names = project
    table = shutil.copy(folder / "Select/job2/p.star", tmp_path)
    monkeypatch.chdir("/")
    arguments = ["align2d", table, "--model", str(models / "saved"), "--out", str(folder / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1
    assert "p.star names the stack Extract/job1/a.mrcs, which is neither in" in refused.stderr
    assert CliRunner().invoke(app, [*arguments, "--datadir", str(folder)]).exit_code == 0
    assert open_particles(folder / "out" / "aligned.star").image_names == names


@pytest.mark.parametrize("name", ["p.mrcs", "sub/my p.mrcs", "sub/p.mrc", "../p.mrcs", "aligned.mrcs"])
def test_a_bare_stack_is_named_from_the_working_folder(name, models, clean, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    write_stack(name, clean.images, pixel_size_angstrom=PIXEL)
    stacks.align_file(name, "out", model=models / "saved")
    expected = {"../p.mrcs": f"{tmp_path}/p.mrcs", "aligned.mrcs": f"{here}/aligned.mrcs"}.get(name, name)
    form = ":mrcs" if name.endswith(".mrc") else ""
    for table in ("aligned.star", "aligned.xmd"):
        aligned = open_particles(Path("out") / table, pixel_size_angstrom=PIXEL)
        assert aligned.image_names == [f"{number:06d}@{expected}{form}" for number in range(1, 61)]
        np.testing.assert_array_equal(aligned.read(slice(None)), clean.images)


def test_a_stack_of_the_same_name_nearer_to_the_result_is_not_taken_for_it(
    models, clean, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    write_stack("p.mrcs", clean.images, pixel_size_angstrom=PIXEL)
    write_stack("run/p.mrcs", clean.images[::-1], pixel_size_angstrom=PIXEL)
    stacks.align_file("p.mrcs", "run/out", model=models / "saved")
    star = open_particles("run/out/aligned.star")
    np.testing.assert_array_equal(star.read(slice(None)), clean.images)


@pytest.mark.parametrize("name", ["a#b.mrcs", "it's.mrcs", "it's a.mrc", 'a"b.mrcs'])
def test_names_that_tables_cannot_hold_are_refused_before_any_training(name, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "_sample", no_reading)
    write_stack(tmp_path / name, clean.images, pixel_size_angstrom=PIXEL)
    with pytest.raises(
        ValueError, match=f"^image names of {re.escape(str(tmp_path / name))} must be without #"
    ):
        stacks.align_file(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]


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


def test_an_exported_model_needs_neither_keras_nor_the_training(stack_file, models, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['keras'] = sys.modules['cryoem.udl.training'] = sys.modules['cryoem.udl.network'] = None\n"
        "from cryoem.udl.stacks import align_file\n"
        "align_file(*sys.argv[1:3], model=sys.argv[3])"
    )
    arguments = [stack_file, tmp_path / "without", models / "exported"]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    stacks.align_file(stack_file, tmp_path / "with", model=models / "saved")
    poses = [
        open_particles(tmp_path / name / "aligned.star").table.drop(columns="rlnImageName")
        for name in ("without", "with")
    ]
    np.testing.assert_allclose(*poses, atol=1e-2)


@pytest.mark.parametrize(
    ("limits", "model", "expected"),
    [
        ({}, None, 60),
        ({"MOST_SAMPLE_BYTES": 4 * SIZE**2 * 20 + 5}, None, 20),
        ({"MOST_SAMPLE_BYTES": 1}, None, 4),
        ({"MOST_BLOCK_BYTES": 4 * SIZE**2 * 7 + 5}, None, 60),
        ({"IMAGES_FOR_POWER": 30}, None, 60),
        ({"IMAGES_FOR_POWER": 30}, "saved", 30),
    ],
)
def test_the_images_read_at_once_are_bounded(
    limits, model, expected, stack_file, models, tmp_path, monkeypatch
):
    seen, blocks = [], []

    def seeing(*arguments):
        seen.append(len(arguments[0]))
        return prepare_reference(*arguments)

    def aligning(images, *arguments):
        blocks.append(len(images))
        return align_block(images, *arguments)

    for name, value in limits.items():
        monkeypatch.setattr(stacks, name, value)
    monkeypatch.setattr(stacks, "prepare_reference", seeing)
    monkeypatch.setattr(stacks, "align_block", aligning)
    options = {"method": "template"} if model is None else {"model": models / model}
    result = stacks.align_file(stack_file, tmp_path / "out", **options)
    assert (seen, result.images) == ([expected], 60)
    assert blocks == ([7] * 8 + [4] if "MOST_BLOCK_BYTES" in limits else [60])


def test_a_single_image_has_no_resolution(clean, models, tmp_path):
    write_stack(tmp_path / "one.mrcs", clean.images[:1], pixel_size_angstrom=PIXEL)
    result = stacks.align_file(tmp_path / "one.mrcs", tmp_path / "out", model=models / "saved")
    assert result.resolution_angstrom is None
    text = (tmp_path / "out" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["resolution_angstrom"] is None
    assert result.mean_correlation > 0.9


@pytest.mark.filterwarnings("ignore:.*relion31.mrcs:UserWarning")  # no MAP identifier, another pixel size
@pytest.mark.parametrize("name", ["aspire_sample.mrcs", "relion31.mrcs", "empiar_10076_7.mrc"])
def test_real_particles_go_through(name, real_data, tmp_path):
    out = tmp_path / "out"
    arguments = ["align2d", str(real_data / "particles" / name), "--out", str(out), "--epochs", "1"]
    run = CliRunner().invoke(app, [*arguments, "--pixel-size", "2"])
    assert run.exit_code == 0, run.stderr
    assert "training: 100%" in run.stderr
    given = open_particles(real_data / "particles" / name, pixel_size_angstrom=2)
    aligned = open_particles(out / "aligned.mrcs")
    star = open_particles(out / "aligned.star", pixel_size_angstrom=2)
    assert len(aligned) == len(star) == len(given)
    assert aligned.pixel_size_angstrom == pytest.approx(2)
    assert star.optics.rlnImagePixelSize.tolist() == [2]
    assert star.optics.rlnImageSize.tolist() == [given.image_size]
    np.testing.assert_array_equal(star.read(slice(None)), given.read(slice(None)))
    assert star.table.rlnAnglePsi.between(-180, 180).all()
    assert star.table.rlnAnglePsi.std() > 10  # particles lie every way
    reach = 2 * given.image_size
    assert star.table[["rlnOriginXAngst", "rlnOriginYAngst"]].abs().max(axis=None) < reach / 2
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers["images"] == len(given)
    assert numbers["mean_correlation"] == pytest.approx(star.table.cryoemCorrelation.mean(), abs=1e-6)
    assert 0 < numbers["mean_correlation"] < 1
    assert 4 <= numbers["resolution_angstrom"] <= reach
    images = aligned.read(slice(None))
    halves = [images[part::2].mean(axis=0)[circular_mask(given.image_size) > 0.5] for part in (0, 1)]
    before = [
        given.read(slice(part, None, 2)).mean(axis=0)[circular_mask(given.image_size) > 0.5]
        for part in (0, 1)
    ]
    assert np.corrcoef(*before)[0, 1] < np.corrcoef(*halves)[0, 1] <= 1
