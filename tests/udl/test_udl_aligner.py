"""Registration and alignment in memory: angles, shifts, twins, scales, references; aligners on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cryoem.contrast import Optics
from cryoem.images import circular_mask
from cryoem.particles.opening import open_particles
from cryoem.particles.stack import ParticleStack
from cryoem.udl.aligner import align, export_aligner, load_aligner, save_aligner
from cryoem.udl.classical import template_aligner
from cryoem.udl.networks import build_polar_network
from cryoem.udl.registration import filter_reference, mean_power, register
from cryoem.udl.rotation import rotate_images, rotate_vectors, wrap_angles
from cryoem.udl.stacks import align_file

SIZE = 48
FORMS = ("saved", "exported")


def misalignment(found, truth) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of angles (rad) and shifts (px) up to the pose of the reference, a rotation and a displacement."""
    error = found.angles_rad - truth.angles_rad
    offset = np.angle(np.exp(1j * error).mean())
    in_frame = rotate_vectors(found.shifts_px - truth.shifts_px, -found.angles_rad)
    return wrap_angles(error - offset, 2 * np.pi), in_frame - np.median(in_frame, axis=0)


def test_registration_finds_twins_shifts_and_angles(average):
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 30)
    shifts = rng.uniform(-4, 4, (30, 2))
    images = rotate_images(np.repeat(average.image[None], 30, 0), angles, shifts)
    reference = filter_reference(average.image, mean_power(images))
    start = angles + np.deg2rad(2) * rng.choice([-1, 1], 30) + np.pi * rng.integers(0, 2, 30)
    found = register(images, reference, start, steps=5)
    assert np.abs(wrap_angles(found.angles_rad - angles, 2 * np.pi)).max() < np.deg2rad(0.5)
    assert np.abs(found.shifts_px - shifts).max() < 0.2
    coarse = register(images, reference, start, steps=0)
    assert np.abs(wrap_angles(coarse.angles_rad - start, np.pi)).max() < 1e-9


def test_clean_images_are_aligned_with_their_twins_and_shifts(clean, aligner):
    found = align(ParticleStack(clean.images, Optics(3.5)), aligner)
    angles, shifts = misalignment(found, clean)
    assert np.abs(angles).max() < np.deg2rad(1)  # a wrong twin would have an error of 180 degrees
    assert np.abs(shifts).max() < 0.3
    assert found.correlation.min() > 0.9
    assert 0.5 < found.correntropy.min() <= found.correntropy.max() <= 1
    aligned = found.aligned_images(clean.images)
    assert aligned.std(axis=0).mean() < 0.2 * clean.images.std(axis=0).mean()
    np.testing.assert_allclose(found.average, aligned.mean(axis=0), atol=1e-5)


def test_a_given_reference_sets_the_pose(average, clean, aligner):
    for angle in (0.0, 1.0):
        reference = rotate_images(average.image[None], np.array([angle]))[0]
        found = align(clean.images, aligner, reference=reference)
        error = wrap_angles(found.angles_rad - (clean.angles_rad - angle), 2 * np.pi)
        assert np.abs(error).max() < np.deg2rad(1.5)
        assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.5
        assert np.corrcoef(found.average.ravel(), reference.ravel())[0, 1] > 0.95


def test_the_template_needs_no_training_and_the_scale_of_the_images_has_no_effect(average, clean, aligner):
    template = template_aligner(clean.images)
    angles, _ = misalignment(align(clean.images, template), clean)
    assert np.abs(angles).max() < np.deg2rad(1)
    small, large = (clean.images * np.float32(scale) for scale in (1e-25, 1e25))
    for scaled, model, model_scaled, reference in (
        (small, aligner, aligner, None),
        (small, template, template_aligner(small), None),
        (large, aligner, aligner, average.image),
    ):
        expected = align(clean.images, model, reference=reference)
        found = align(scaled, model_scaled, reference=reference)
        assert np.abs(wrap_angles(found.angles_rad - expected.angles_rad, 2 * np.pi)).max() < 1e-4
        np.testing.assert_allclose(found.shifts_px, expected.shifts_px, atol=1e-3)
        np.testing.assert_allclose(found.correlation, expected.correlation, atol=1e-4)
        np.testing.assert_allclose(found.correntropy, expected.correntropy, atol=1e-4)


def test_unsuitable_images_and_references_are_refused(clean, aligner):
    with pytest.raises(ValueError, match=r"images must have a standard deviation .* got 9.97e\+35"):
        align(clean.images * np.float32(1e36), aligner)
    images = clean.images.copy()
    images[4][circular_mask(SIZE, edge_px=4.0) > 0] = 3.0  # structure only outside the circle
    assert np.ptp(images[4]) > 1
    with pytest.raises(ValueError, match=r"images\[4\] is constant .* number of constant images: 1"):
        aligner.angles(images)
    with pytest.raises(ValueError, match="reference must not be constant inside its inscribed circle"):
        align(clean.images, aligner, reference=images[4])
    with pytest.raises(
        ValueError, match=r"reference must have the shape of the images, \(48, 48\), got \(32, 32\)"
    ):
        align(clean.images, aligner, reference=images[4, :32, :32])
    with pytest.raises(ValueError, match="images must be 48 px wide for this model, got 32"):
        align(clean.images[:, :32, :32], aligner)


# --- on disk


def test_models_come_back_unchanged(aligner, models, clean):
    expected = aligner.angles(clean.images)
    for form in FORMS:
        loaded = load_aligner(models / form)
        assert (loaded.grid, loaded.method) == (aligner.grid, "judl")
        np.testing.assert_array_equal(loaded.reference, aligner.reference)
        assert np.abs(wrap_angles(loaded.angles(clean.images) - expected, np.pi)).max() < 1e-4
    for write in (save_aligner, export_aligner):
        with pytest.raises(ValueError, match="saved exists; choose a new or empty folder"):
            write(aligner, models / "saved")


def edited(change):
    """Return a function that changes the settings in a model folder."""

    def damage(folder):
        settings = json.loads((folder / "aligner.json").read_text())
        change(settings)
        (folder / "aligner.json").write_text(json.dumps(settings))

    return damage


DAMAGES = {
    "another grid": (edited(lambda s: s["grid"].update(fold=2)), "aligner.json was changed"),
    "another format": (edited(lambda s: s.update(format="bogus")), "the format in .* is 'bogus'"),
    "another reference": (
        lambda folder: np.save(folder / "reference.npy", np.full((SIZE, SIZE), np.nan, np.float32)),
        "reference.npy was changed",
    ),
    "no reference": (lambda folder: (folder / "reference.npy").unlink(), "reference.npy is missing"),
    "a flipped bit": (lambda folder: flip_a_bit(network_file(folder)), "was changed"),
}


def network_file(folder):
    (path,) = [*folder.rglob("*.weights.h5"), *folder.rglob("saved_model.pb")]
    return path


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_models_are_refused(form, models, tmp_path):
    for number, (damage, sentence) in enumerate(DAMAGES.values()):
        folder = shutil.copytree(models / form, tmp_path / str(number))
        damage(folder)
        with pytest.raises(ValueError, match=f"model {folder} cannot be read: .*{sentence}"):
            load_aligner(folder)
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: aligner.json does not exist"):
        load_aligner(tmp_path)


def test_networks_with_unusable_output_are_refused(aligner, tmp_path):
    nan = build_polar_network(aligner.grid)
    nan.set_weights([np.full_like(weight, np.nan) for weight in nan.get_weights()])
    save_aligner(replace(aligner, network=nan), tmp_path / "nan")
    with pytest.raises(ValueError, match=r"nan cannot be read: its network must return finite"):
        load_aligner(tmp_path / "nan")
    other = build_polar_network(replace(aligner.grid, n_angles=64))
    for write, name in ((save_aligner, "saved"), (export_aligner, "exported")):
        write(replace(aligner, network=other), tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read: .+"):
            load_aligner(tmp_path / name)


@pytest.mark.parametrize(("form", "missing"), [("exported", ["keras"]), ("saved", ["keras", "tensorflow"])])
def test_a_model_runs_without_keras_and_the_training(form, missing, stack_file, models, tmp_path):
    missing = [*missing, "cryoem.udl.training", "cryoem.udl.networks"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "from cryoem.udl.stacks import align_file\n"
        "align_file(*sys.argv[1:3], model=sys.argv[3])"
    )
    arguments = [stack_file, tmp_path / "without", models / form]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    align_file(stack_file, tmp_path / "with", model=models / "saved")
    poses = [
        open_particles(tmp_path / name / "aligned.star").table.drop(columns="rlnImageName")
        for name in ("without", "with")
    ]
    np.testing.assert_allclose(*poses, atol=1e-2)
