"""Models of an aligner on disk: they answer as before, and those that were changed are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from alignment_files import SIZE

from cryoem.particles import open_particles
from cryoem.udl import stacks
from cryoem.udl.aligner import load_aligner, save_aligner
from cryoem.udl.classical import wrapped
from cryoem.udl.export import export_aligner, load_exported, load_model
from cryoem.udl.network import build_polar_network


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
