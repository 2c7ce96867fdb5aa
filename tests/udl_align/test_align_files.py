"""A stack becomes a folder of aligned images, poses and numbers, in blocks and on real particles."""

from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest
from alignment_files import PIXEL, SIZE
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles import open_particles, read_xmd, write_stack
from cryoem.rotations import from_relion_euler_deg
from cryoem.udl import stacks
from cryoem.udl.align import align, align_block, prepare_reference
from cryoem.udl.aligner import save_aligner
from cryoem.udl.classical import wrapped
from cryoem.udl.registration import align_images, circular_mask, turn


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
