"""Alignment of particle images: arrays, files, models on disk, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from typer.testing import CliRunner

from cryoem.cli import app
from cryoem.particles import open_particles, read_xmd, write_stack
from cryoem.rotations import from_relion_euler_deg
from cryoem.udl import stacks, synthetic
from cryoem.udl.align import align, template_aligner
from cryoem.udl.aligner import load_aligner, save_aligner
from cryoem.udl.classical import wrapped
from cryoem.udl.export import export_aligner, load_exported, load_model
from cryoem.udl.network import build_polar_network
from cryoem.udl.registration import align_images, circular_mask
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
    for turn in (0.0, 1.0):
        reference = rotate_images(average.image[None], np.array([turn]))[0]
        found = align(clean.images, aligner, reference=reference)
        error = wrapped(found.angles_rad - (clean.angles_rad - turn), 2 * np.pi)
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


def test_a_file_becomes_a_folder_that_other_programs_read(stack_file, clean, tmp_path):
    before = stack_file.read_bytes()
    result = stacks.align_file(stack_file, tmp_path / "aligned", epochs=1, export=True)
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
    assert len(read_xmd(folder / "aligned.xmd")) == len(clean.images)


def test_blocks_change_nothing_and_a_model_is_used_as_it_is(stack_file, aligner, tmp_path):
    save_aligner(aligner, tmp_path / "model")
    aligned = []
    for block in (7, 512):
        folder = stacks.align_file(
            stack_file, tmp_path / f"by-{block}", model=tmp_path / "model", block=block
        ).folder
        assert not (folder / "model").exists()
        aligned.append(open_particles(folder / "aligned.mrcs").read(slice(None)))
    np.testing.assert_allclose(*aligned, atol=1e-4)


def write_bad(kind: str, clean, path):
    images = clean.images[:10].copy()
    if kind == "one image":
        images = images[:1]
    elif kind == "constant":
        images[3] = 7
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


def test_an_interruption_leaves_nothing(stack_file, aligner, tmp_path, monkeypatch):
    save_aligner(aligner, tmp_path / "model")
    before = {path.name for path in tmp_path.iterdir()}

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(stacks, "_write_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stacks.align_file(stack_file, tmp_path / "out", model=tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.filterwarnings("ignore:.*relion31.mrcs:UserWarning")  # no MAP identifier, another pixel size
@pytest.mark.parametrize("name", ["aspire_sample.mrcs", "relion31.mrcs", "empiar_10076_7.mrc"])
def test_real_particles_go_through(name, real_data, tmp_path):
    out = tmp_path / "out"
    arguments = ["align2d", str(real_data / "particles" / name), "--out", str(out), "--epochs", "1"]
    run = CliRunner().invoke(app, [*arguments, "--pixel-size", "2"])
    assert run.exit_code == 0, run.stderr
    assert len(open_particles(out / "aligned.mrcs")) == len(
        open_particles(out / "aligned.star", pixel_size_angstrom=2)
    )
