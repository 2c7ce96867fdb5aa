"""Aligners on disk: they give the same angles as before, and damaged ones are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cryoem.particles.files import open_particles
from cryoem.udl.network import build_polar_network
from cryoem.udl.rotation import wrap_angles
from cryoem.udl.stacks import align_file
from cryoem.udl.storage import export_aligner, load_aligner, save_aligner

FORMS = ("saved", "exported")
SIZE = 48


def test_models_come_back_unchanged(aligner, models, clean):
    expected = aligner.angles(clean.images)
    for form in FORMS:
        loaded = load_aligner(models / form)
        assert (loaded.grid, loaded.method) == (aligner.grid, "judl")
        np.testing.assert_array_equal(loaded.reference, aligner.reference)
        assert np.abs(wrap_angles(loaded.angles(clean.images) - expected, np.pi)).max() < 1e-4
    for write in (save_aligner, export_aligner):
        with pytest.raises(ValueError, match="saved exists; give a new or an empty folder"):
            write(aligner, models / "saved")


def edited(change):
    """Return a function that changes the settings in a model's folder."""

    def damage(folder):
        settings = json.loads((folder / "aligner.json").read_text())
        change(settings)
        (folder / "aligner.json").write_text(json.dumps(settings))

    return damage


DAMAGES = {
    "another grid": (edited(lambda s: s["grid"].update(fold=2)), "aligner.json was changed"),
    "no checksum": (edited(lambda s: s.pop("sha256")), "aligner.json was changed"),
    "another format": (edited(lambda s: s.update(format="bogus")), "the format in .* got 'bogus'"),
    "half of the JSON": (
        lambda folder: (folder / "aligner.json").write_text('{"format"'),
        "aligner.json is not valid JSON",
    ),
    "another reference": (
        lambda folder: np.save(folder / "reference.npy", np.full((SIZE, SIZE), np.nan, np.float32)),
        "reference.npy was changed",
    ),
    "no reference": (lambda folder: (folder / "reference.npy").unlink(), "reference.npy is missing"),
    "a flipped bit": (lambda folder: flip_a_bit(network_file(folder)), "was changed"),
    "an empty network": (lambda folder: network_file(folder).write_bytes(b""), "was changed"),
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
    with pytest.raises(FileNotFoundError, match=r"there is no aligner.json in it"):
        load_aligner(tmp_path)


def test_networks_with_unusable_output_are_refused(aligner, tmp_path):
    nan = build_polar_network(aligner.grid)
    nan.set_weights([np.full_like(weight, np.nan) for weight in nan.get_weights()])
    save_aligner(replace(aligner, network=nan), tmp_path / "nan")
    with pytest.raises(ValueError, match=r"nan cannot be read: its network must give finite"):
        load_aligner(tmp_path / "nan")
    other = build_polar_network(replace(aligner.grid, n_angles=64))
    for write, name in ((save_aligner, "saved"), (export_aligner, "exported")):
        write(replace(aligner, network=other), tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read: .+"):
            load_aligner(tmp_path / name)


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
    align_file(stack_file, tmp_path / "with", model=models / "saved")
    poses = [
        open_particles(tmp_path / name / "aligned.star").table.drop(columns="rlnImageName")
        for name in ("without", "with")
    ]
    np.testing.assert_allclose(*poses, atol=1e-2)
