"""Alignment to a given reference, initial models, training folders, and tables for EMAF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.io
from typer.testing import CliRunner

from cryoem import particles
from cryoem.cli import app
from cryoem.particles.mrc import write_stack
from cryoem.particles.opening import open_particles
from cryoem.particles.star import read_xmd
from cryoem.udl import stack_training, stacks, training
from cryoem.udl.aligner import load_aligner
from cryoem.udl.classical import template_aligner
from cryoem.udl.rotation import rotate_images, wrap_angles
from cryoem.udl.stack_training import AlignerTraining
from cryoem.udl.synthetic import read_reference

PIXEL = 3.5  # of the fixtures


def write_png(path: Path, image: np.ndarray, low: float, high: float) -> None:
    scaled = np.rint((image - low) / (high - low) * 65535).astype(np.uint16)
    skimage.io.imsave(path, scaled, check_contrast=False)


@pytest.fixture(scope="module")
def references(average, tmp_path_factory):
    """The particle at angle 0 in an MRC file, as the second image of a stack and as a picture."""
    folder, image = tmp_path_factory.mktemp("references"), average.image
    write_stack(folder / "a.mrc", 3 * image[None], pixel_size_angstrom=PIXEL)
    turned = rotate_images(image[None], np.array([1.0]))[0]
    write_stack(folder / "b.mrcs", np.stack([turned, image, image]), pixel_size_angstrom=PIXEL)
    write_png(folder / "c.png", image, image.min(), image.max())
    return {"mrc": folder / "a.mrc", "stack": f"2@{folder / 'b.mrcs'}", "png": folder / "c.png"}


@pytest.mark.parametrize("kind", ["mrc", "stack", "png"])
def test_poses_are_relative_to_the_given_reference(kind, references, stack_file, models, clean, tmp_path):
    stacks.align_file(stack_file, tmp_path / "out", model=models / "saved", reference=references[kind])
    found = open_particles(tmp_path / "out" / "aligned.star")
    angles = found.rotations.as_euler("zyx")[:, 0]
    assert np.abs(np.rad2deg(wrap_angles(angles - clean.angles_rad, 2 * np.pi))).max() < 1
    assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.2


def test_a_reference_replaces_the_average_of_several_images(references, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(stack_training, "load_aligner", lambda _: template_aligner(clean.images))
    write_stack(tmp_path / "one.mrcs", clean.images[:1], pixel_size_angstrom=PIXEL)
    options = {"model": "m", "reference": references["mrc"]}
    stacks.align_file(tmp_path / "one.mrcs", tmp_path / "out", **options)
    angle = open_particles(tmp_path / "out" / "aligned.star").rotations.as_euler("zyx")[0, 0]
    assert abs(np.rad2deg(wrap_angles(angle - clean.angles_rad[0], 2 * np.pi))) < 1


def test_references_that_cannot_be_used_are_one_sentence(references, stack_file, models, average, tmp_path):
    stack = Path(str(references["stack"])[2:])
    write_stack(tmp_path / "small.mrc", average.image[None, :24, :24], pixel_size_angstrom=PIXEL)
    for reference, sentence in (
        (stack, rf"{stack} has 3 images; choose one, for example 1@{stack}"),
        (f"4@{stack}", rf"{stack} has no image 4"),
        (f"0@{stack}", rf"{stack} has no image 0"),
        (tmp_path / "small.mrc", r"^reference .*small.mrc is 24 x 24 px"),
        (tmp_path / "no.png", "no.png does not exist"),
        (tmp_path / "no.mrc", "cannot read the stack .*no.mrc: No such file"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            stacks.align_file(stack_file, tmp_path / "out", model=models / "saved", reference=reference)
    assert not (tmp_path / "out").exists()
    np.testing.assert_array_equal(read_reference(f"3@{stack}"), average.image)


# --- initial models


def test_training_starts_from_a_given_aligner(stack_file, models, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "compile_and_fit", lambda *_, **__: {})
    given = AlignerTraining(initial_model=models / "saved")
    stacks.align_file(stack_file, tmp_path / "out", training=given)
    stacks.align_file(stack_file, tmp_path / "other", training=AlignerTraining())
    start, same, other = (
        [weight.numpy() for weight in load_aligner(folder).network.weights]
        for folder in (models / "saved", tmp_path / "out" / "model", tmp_path / "other" / "model")
    )
    names = [weight.path for weight in load_aligner(models / "saved").network.weights]
    template = [name in ("template/start", "template/change") for name in names]
    assert sum(template) == 2
    for k, of_new_images in enumerate(template):
        np.testing.assert_allclose(same[k], (other if of_new_images else start)[k], rtol=1e-4, atol=1e-7)
    assert not all(np.array_equal(*pair) for pair in zip(same, other, strict=True))


def test_starts_that_cannot_be_used_are_one_sentence(stack_file, models, clean, tmp_path):
    for options, sentence in (
        (
            {"initial_model": models / "exported"},
            "is an exported aligner, which cannot be trained; use a saved one",
        ),
        (
            {"initial_model": models / "saved", "symmetry": "C3"},
            "was not trained for symmetry C3: its angles",
        ),
        ({"initial_model": tmp_path / "none"}, "does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            stacks.align_file(stack_file, tmp_path / "out", training=AlignerTraining(**options))
    write_stack(tmp_path / "small.mrcs", clean.images[:, :32, :32], pixel_size_angstrom=PIXEL)
    arguments = [str(tmp_path / "small.mrcs"), "--out", str(tmp_path / "out"), "--initial-model"]
    run = CliRunner().invoke(app, ["align2d", *arguments, str(models / "saved")])
    assert run.exit_code == 1
    assert run.stderr.startswith(f"cryoem: --initial-model {models / 'saved'} is for images ")
    with pytest.raises(ValueError, match="method 'template' needs no training; omit initial_model"):
        AlignerTraining("template", initial_model="m")
    network = load_aligner(models / "exported")
    with pytest.raises(ValueError, match="initial_aligner must have a Keras network, got function"):
        training.AlignerOptions(initial_aligner=network)


# --- training folders and EMAF


def test_a_training_folder_is_aligned_and_its_errors_are_reported(clean, models, tmp_path):
    folder, images = tmp_path / "set", clean.images
    (folder / "one_png").mkdir(parents=True)
    with open(folder / "parameters.txt", "w") as file:
        for number, pose in enumerate(zip(np.rad2deg(clean.angles_rad), *clean.shifts_px.T, strict=True)):
            write_png(folder / f"one_png/{number}.png", images[number], images.min(), images.max())
            print(number, *pose, file=file)
    arguments = [str(folder), "--out", str(tmp_path / "out"), "--model", str(models / "saved")]
    run = CliRunner().invoke(app, ["align2d", *arguments, "--pixel-size", str(PIXEL), "--format", "emaf"])
    assert run.exit_code == 0, run.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["error_deg"] < summary["pair_error_deg"] < 1
    assert f"mean angle error {summary['error_deg']:.2f}°" in run.stdout
    # the tables refer to a copy of the images that other programs can read
    aligned = open_particles(tmp_path / "out" / "aligned.star")
    np.testing.assert_array_equal(
        np.asarray(aligned), np.asarray(open_particles(folder, pixel_size_angstrom=1))
    )
    assert aligned.image_names[0] == "000001@particles.mrcs"
    truth = open_particles(tmp_path / "out" / "particles.star")
    np.testing.assert_allclose(truth.shifts_px, clean.shifts_px, atol=1e-6)
    assert (tmp_path / "out" / "aligned-emaf.xmd").is_file()


def test_emaf_reads_the_alignment_after_nine_lines(tmp_path):
    names = ["000001@a b.mrcs", "000002@c.mrcs"]
    table = particles.xmipp_table(
        names, np.deg2rad([30, 200]), np.array([[1, 2], [3, 4.5]]), max_cc=np.array([0.5, 0.25])
    )
    particles.write_emaf(tmp_path / "a.xmd", table)
    lines = (tmp_path / "a.xmd").read_text().splitlines()
    rows = [line.split("\t") for line in lines[9:]]
    assert [len(row) for row in rows] == [6, 6]
    for row, (_, expected) in zip(rows, table.iterrows(), strict=True):
        assert row[0].strip("'") == expected.image
        given = [expected[name] for name in ("shiftX", "shiftY", "anglePsi", "flip", "maxCC")]
        np.testing.assert_allclose(np.array(row[1:], float), given, rtol=1e-9)
    again = read_xmd(tmp_path / "a.xmd")
    assert list(again) == ["image", "shiftX", "shiftY", "anglePsi", "flip", "maxCC"]
    np.testing.assert_allclose(again.anglePsi, table.anglePsi)
    with pytest.raises(ValueError, match="but maxCC is missing"):
        particles.write_emaf(tmp_path / "b.xmd", table.drop(columns="maxCC"))
