"""Alignment of a stack into a folder of images, poses and numbers; image names in tables; real particles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.images import circular_mask
from cryoem.particles.mrc import write_stack
from cryoem.particles.opening import open_particles
from cryoem.particles.relion import relion_tables
from cryoem.particles.star import read_xmd, write_star
from cryoem.rotations import from_relion_euler_deg
from cryoem.udl import stacks
from cryoem.udl.aligner import align, align_block, prepare_reference
from cryoem.udl.registration import align_images
from cryoem.udl.rotation import rotate_vectors, wrap_angles
from cryoem.udl.stack_training import AlignerTraining

SIZE, PIXEL = 48, 3.5  # of the fixtures


def test_a_file_becomes_a_folder_that_other_programs_read(stack_file, clean, tmp_path, capsys):
    before = stack_file.read_bytes()
    training = AlignerTraining(epochs=2, export=True)
    folder = stacks.align_file(stack_file, tmp_path / "aligned", training=training, progress=True).folder
    shown = capsys.readouterr().err
    for stage in ("reading 60 images", "training: 100%", "epoch=2/2, val_loss=0.", "aligning: 100%"):
        assert stage in shown
    assert stack_file.read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {
        "aligned.mrcs", "aligned.star", "aligned.xmd", "averages.mrcs", "exported", "model", "summary.json",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text())["images"] == len(clean.images)
    # the STAR file contains the poses of the original images
    star = open_particles(folder / "aligned.star")
    np.testing.assert_array_equal(np.asarray(star), clean.images)
    assert star.pixel_size_angstrom == pytest.approx(PIXEL)
    poses = star.table
    psi = poses.rlnAnglePsi
    angles = from_relion_euler_deg(np.stack([0 * psi, 0 * psi, psi], 1)).as_euler("zyx")[:, 0]
    shifts = -np.stack([poses.rlnOriginXAngst, poses.rlnOriginYAngst], axis=1) / PIXEL
    aligned = np.asarray(open_particles(folder / "aligned.mrcs"))
    np.testing.assert_allclose(align_images(clean.images, angles, shifts), aligned, atol=1e-3)
    with mrcfile.open(folder / "averages.mrcs") as file:
        np.testing.assert_allclose(file.data[0], clean.images.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(file.data[1], aligned.mean(axis=0), atol=1e-4)
    # XMIPP shifts after rotating
    xmd = read_xmd(folder / "aligned.xmd")
    assert list(xmd.image) == star.image_names
    assert np.abs(wrap_angles(np.deg2rad(xmd.anglePsi.to_numpy()) - angles, 2 * np.pi)).max() < 1e-6
    np.testing.assert_allclose(xmd[["shiftX", "shiftY"]], rotate_vectors(-shifts, -angles), atol=1e-6)
    np.testing.assert_allclose(xmd.maxCC, poses.cryoemCorrelation, atol=1e-6)


def test_blocks_have_no_effect_and_a_model_is_used_unchanged(
    stack_file, aligner, models, tmp_path, monkeypatch
):
    aligned, poses, numbers = [], [], []
    for images in (7, 512):
        monkeypatch.setattr(stacks, "BLOCK_BYTES", 4 * SIZE**2 * images + 5)
        folder = stacks.align_file(stack_file, tmp_path / str(images), model=models / "saved").folder
        assert not (folder / "model").exists()
        aligned.append(np.asarray(open_particles(folder / "aligned.mrcs")))
        poses.append(open_particles(folder / "aligned.star").table.drop(columns="rlnImageName"))
        numbers.append(json.loads((folder / "summary.json").read_text()))
    np.testing.assert_allclose(*aligned, atol=1e-4)
    np.testing.assert_allclose(*poses, atol=1e-3)
    for name in ("images", "pixel_size_angstrom", "mean_correlation", "resolution_angstrom"):
        assert numbers[0][name] == pytest.approx(numbers[1][name], rel=1e-4)
    expected = align(np.asarray(open_particles(stack_file)), aligner)
    assert numbers[0]["mean_correlation"] == pytest.approx(expected.correlation.mean(), abs=1e-4)
    np.testing.assert_allclose(aligned[0].mean(axis=0), expected.average, atol=1e-3)


@pytest.mark.parametrize(
    ("limits", "model", "expected"),
    [
        ({"MOST_SAMPLE_BYTES": 4 * SIZE**2 * 20 + 5}, None, 20),
        ({"MOST_SAMPLE_BYTES": 1, "BLOCK_BYTES": 4 * SIZE**2 * 7 + 5}, None, 4),
        ({"IMAGES_FOR_POWER": 30}, None, 60),
        ({"IMAGES_FOR_POWER": 30}, "saved", 30),
    ],
)
def test_memory_is_bounded(limits, model, expected, stack_file, models, tmp_path, monkeypatch):
    samples, blocks = [], []

    def preparing(images, *arguments):
        samples.append(len(images))
        return prepare_reference(images, *arguments)

    def aligning(images, *arguments, **options):
        blocks.append(len(images))
        return align_block(images, *arguments, **options)

    for name, value in limits.items():
        monkeypatch.setattr(stacks, name, value)
    monkeypatch.setattr(stacks, "prepare_reference", preparing)
    monkeypatch.setattr(stacks, "align_block", aligning)
    options = {"training": AlignerTraining("template")} if model is None else {"model": models / model}
    result = stacks.align_file(stack_file, tmp_path / "out", **options)
    assert (samples, result.images) == ([expected], 60)
    assert blocks == ([7] * 8 + [4] if "BLOCK_BYTES" in limits else [60])


def test_a_single_image_has_no_resolution(clean, models, tmp_path):
    write_stack(tmp_path / "one.mrcs", clean.images[:1], pixel_size_angstrom=PIXEL)
    result = stacks.align_file(tmp_path / "one.mrcs", tmp_path / "out", model=models / "saved")
    assert result.resolution_angstrom is None
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["resolution_angstrom"] is None
    assert result.mean_correlation > 0.9


@pytest.mark.filterwarnings("ignore:.*relion31.mrcs:UserWarning")  # no MAP identifier, different pixel size
@pytest.mark.parametrize("name", ["aspire_sample.mrcs", "relion31.mrcs", "empiar_10076_7.mrc"])
def test_real_particles_are_aligned(name, real_data, tmp_path):
    out, path = tmp_path / "out", real_data / "particles" / name
    arguments = ["align2d", str(path), "--out", str(out), "--epochs", "1", "--pixel-size", "2"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.stderr
    given = open_particles(path, pixel_size_angstrom=2)
    aligned = open_particles(out / "aligned.mrcs")
    star = open_particles(out / "aligned.star", pixel_size_angstrom=2)
    assert len(aligned) == len(star) == len(given)
    assert aligned.pixel_size_angstrom == pytest.approx(2)
    assert star.optics_groups.rlnImagePixelSize.tolist() == [2]
    np.testing.assert_array_equal(np.asarray(star), np.asarray(given))
    assert star.table.rlnAnglePsi.between(-180, 180).all()
    assert star.table.rlnAnglePsi.std() > 10  # all orientations occur
    reach = 2 * given.image_size
    assert star.table[["rlnOriginXAngst", "rlnOriginYAngst"]].abs().max(axis=None) < reach / 2
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers["mean_correlation"] == pytest.approx(star.table.cryoemCorrelation.mean(), abs=1e-6)
    assert 0 < numbers["mean_correlation"] < 1
    assert 4 <= numbers["resolution_angstrom"] <= reach
    # half-sets agree better after alignment than before
    inside = circular_mask(given.image_size, edge_px=4.0) > 0.5
    before, after = (
        np.corrcoef(*[images[part::2].mean(axis=0)[inside] for part in (0, 1)])[0, 1]
        for images in map(np.asarray, (given, aligned))
    )
    assert before < after <= 1


# --- image names in tables


def test_the_result_may_be_behind_a_link(stack_file, models, clean, tmp_path):
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    for out in (link, link / "out"):
        shutil.rmtree(real)
        real.mkdir()
        stacks.align_file(stack_file, out, model=models / "saved")
        assert link.is_symlink()
        np.testing.assert_array_equal(np.asarray(open_particles(out / "aligned.star")), clean.images)


@pytest.fixture
def project(clean, tmp_path):
    """A RELION project: a stack, and a table in a different folder that refers to it from the project folder."""
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
def test_a_table_keeps_its_names_if_they_lead_to_the_stack(out, project, models, clean, monkeypatch):
    folder, names = project
    monkeypatch.chdir(folder)
    stacks.align_file("Select/job2/p.star", out, model=models / "saved")
    for table in ("aligned.star", "aligned.xmd"):
        aligned = open_particles(Path(out) / table, pixel_size_angstrom=PIXEL)
        if out == "Align/out":  # inside the project
            assert aligned.image_names == names
        else:
            stack = folder / "Extract/job1/a.mrcs"
            assert aligned.image_names == [f"{number:06d}@{stack}" for number in (3, 1, 2, 9, 30)]
        np.testing.assert_array_equal(np.asarray(aligned), clean.images[[2, 0, 1, 8, 29]])


def test_a_table_may_be_outside_its_project(project, models, tmp_path, monkeypatch):
    folder, names = project
    table = shutil.copy(folder / "Select/job2/p.star", tmp_path)
    monkeypatch.chdir("/")
    arguments = ["align2d", table, "--model", str(models / "saved"), "--out", str(folder / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1
    assert "Extract/job1/a.mrcs" in refused.stderr
    assert CliRunner().invoke(app, [*arguments, "--datadir", str(folder)]).exit_code == 0
    assert open_particles(folder / "out" / "aligned.star").image_names == names


@pytest.mark.parametrize("name", ["sub/my p.mrcs", "sub/p.mrc", "../p.mrcs", "aligned.mrcs"])
def test_a_bare_stack_is_named_relative_to_the_working_folder(name, models, clean, tmp_path, monkeypatch):
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
        np.testing.assert_array_equal(np.asarray(aligned), clean.images)
