"""A run that is killed in each of its phases completes with the same numbers as an uninterrupted run."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_notebooks import TOY_RUN, cells_of, start_run, write_notebooks

from cryoem import runs
from cryoem.files.arrays import load_arrays

DATA, DISTANCES, ORIENTATIONS, MAP = runs.PHASES
BODIES = {
    DATA: """
from cryoem import particles, volumes
density = volumes.phantom(size=16)
phase.save_particles("particles", particles.simulate(density, 40, noise_variance=0.05, rng=phase.rng))
volumes.write_map(phase.path("density.mrc"), density)
""",
    DISTANCES: """
import keras
import tensorflow as tf
from cryoem import distances, volumes
from cryoem.particles.conditions import ImagingConditions
tf.config.run_functions_eagerly(True)
begun = []
class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        begun.append(epoch)
        self.now = epoch
    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (1, 1):
            kill_run_first_time("killed in training")
keras.utils.set_random_seed(phase.settings.seed)
settings = distances.EncoderSettings(16, channels=4, blocks=1, n_features=9)
encoder = distances.TrainedEncoder(settings.build(), settings)
stream = distances.ProjectionStream(
    volumes.read_map(phase.find("0-data-preparation", "density.mrc")), ImagingConditions(16),
    network_image_size=16, batch_size=8, steps=2,
)
history = distances.train(
    encoder, stream, validation=phase.load_particles("0-data-preparation", "particles"),
    schedule=distances.TrainingSchedule(3), checkpoints=phase.checkpoints, callbacks=[Kill()],
)
distances.save_encoder(phase.path("encoder.weights.h5"), encoder)
phase.record(first_epoch=begun[0], epochs=len(history["loss"]), loss=history["loss"][-1])
""",
    ORIENTATIONS: """
from scipy.spatial.transform import Rotation
from cryoem.rotations import random_small_rotations
true = phase.load_particles("0-data-preparation", "particles").rotations
found = Rotation.from_rotvec(random_small_rotations((len(true),), radius=0.1, rng=phase.rng)) * true
phase.save("orientations", {"quaternions": (found.as_quat(), "1")})
""",
    MAP: """
from scipy.spatial.transform import Rotation
from cryoem import reconstruction, volumes
def report(entry, rotations):
    if entry["round"] == 2:
        kill_run_first_time("killed in refinement")
start = Rotation.from_quat(phase.load("2-orientation-recovery", "orientations")["quaternions"])
refined = reconstruction.refine(
    phase.load_particles("0-data-preparation", "particles"), start, callback=report, rng=phase.rng,
    schedule=reconstruction.RefinementSchedule(search_rounds=1, gradient_rounds=2),
)
phase.save("orientations", {"quaternions": (refined.rotations.as_quat(), "1")})
volumes.write_map(phase.path("map.mrc"), refined.map)
phase.record(rounds=len(refined.history), score=refined.history[-1]["score"])
""",
}
KILLS = ("killed in training", "killed in refinement")


def run_here(home, patch) -> None:
    """Execute the cells of the phases one after another in this process, without interruption."""
    patch.setenv("CRYOEM_HOME", str(home))
    try:
        for name in runs.PHASES:
            cells = cells_of(name, BODIES[name].replace("kill_run_first_time", "str"))
            exec("\n".join(cells), {})
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore:Even though the .tf.config")
def test_a_run_killed_in_its_phases_ends_as_one_that_was_not(tmp_path, monkeypatch):
    notebooks = write_notebooks(tmp_path / "notebooks", BODIES)
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    killed.mkdir()
    for name in (*KILLS, None):
        with start_run(killed, notebooks, stderr=subprocess.PIPE) as process:
            stderr = process.stderr.read()
        assert process.returncode == (0 if name is None else -signal.SIGKILL), stderr
        assert name is None or (killed / name).exists()
    run_here(clean, monkeypatch)
    folders = [home / "runs" / TOY_RUN for home in (clean, killed)]
    expected, found = (
        [runs.read_record(folder / name)["results"]["numbers"] for name in runs.PHASES] for folder in folders
    )
    assert (expected[1].pop("first_epoch"), found[1].pop("first_epoch")) == (0, 1)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert (found[1]["epochs"], found[3]["rounds"]) == (3, 5)
    poses = [load_arrays(folder / MAP / "orientations.h5")["quaternions"] for folder in folders]
    np.testing.assert_allclose(np.abs((poses[0] * poses[1]).sum(axis=1)), 1, atol=1e-4)
    # the same files, none half-written; only a run executes notebooks and writes reports
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in folders]
    of_run = {f"{name}/{Path(info.notebook).name}" for name, info in runs.PHASES.items()}
    of_run |= {"report.html", "summary.json", "summary.txt", ".lock"}
    assert names[1] - names[0] == of_run
    assert names[0] < names[1]
