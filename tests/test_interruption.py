"""What is killed goes on where it stood and ends as what nothing disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_notebooks import finish_phases, is_alive, wait_for, wait_until_ended, write_notebooks

from cryoem import pipeline
from cryoem.pipeline import lock
from cryoem.pipeline.memory import FileMemory
from cryoem.refinement import refine

DATA, DISTANCES, ORIENTATIONS, MAP = pipeline.PHASES
KILL = """
def kill_run_first_time(name):
    if first_time(name):
        os.kill(os.getppid(), signal.SIGKILL)  # the run; this kernel ends with it
        time.sleep(60)
"""
BODIES = {
    DATA: KILL
    + """
from cryoem import imaging, volumes
density = volumes.phantom(size=16)
particles = imaging.simulate(density, 40, noise_variance=0.05, rng=phase.rng)
phase.save("particles", {
    "images": (particles.images, "1"), "quaternions": (particles.rotations.as_quat(), "1")
})
kill_run_first_time("killed in phase 0")
volumes.write_map(phase.path("density.mrc"), density)
""",
    DISTANCES: KILL
    + """
import keras
import tensorflow as tf
from cryoem import siamese, volumes
tf.config.run_functions_eagerly(True)
class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (1, 1):
            kill_run_first_time("killed in training")
keras.utils.set_random_seed(phase.profile.seed)
settings = siamese.EncoderSettings(16, channels=4, blocks=1, n_features=9)
encoder = settings.build()
particles = phase.load("0-data-preparation", "particles")
stream = siamese.ProjectionStream(
    volumes.read_map(phase.find("0-data-preparation", "density.mrc")),
    image_size=16, network_image_size=16, batch_size=8, steps=2,
)
history = siamese.train(
    encoder, stream, epochs=3, validation=(particles["images"], particles["quaternions"]),
    checkpoints=phase.checkpoints, callbacks=[Kill()],
)
siamese.save_encoder(phase.path("encoder.weights.h5"), encoder, settings)
phase.record(epochs=len(history["loss"]), loss=history["loss"][-1], training_seconds=history["seconds"][-1])
""",
    ORIENTATIONS: KILL
    + """
from scipy.spatial.transform import Rotation
from cryoem.rotations import random_small_rotations
true = Rotation.from_quat(phase.load("0-data-preparation", "particles")["quaternions"])
found = Rotation.from_rotvec(random_small_rotations((len(true),), radius=0.1, rng=phase.rng)) * true
phase.save("orientations", {"quaternions": (found.as_quat(), "1")})
""",
    MAP: KILL
    + """
from scipy.spatial.transform import Rotation
from cryoem import volumes
from cryoem.refinement import refine
def report(entry, rotations):
    print(entry["round"], flush=True)
    if entry["round"] == 2:
        kill_run_first_time("killed in refinement")
start = Rotation.from_quat(phase.load("2-orientation-recovery", "orientations")["quaternions"])
refined = refine(
    phase.load("0-data-preparation", "particles")["images"], start, pixel_size_angstrom=4.0,
    search_rounds=1, gradient_rounds=2, rng=phase.rng, callback=report, memory=phase.memory("refinement"),
)
phase.save("orientations", {"quaternions": (refined.rotations.as_quat(), "1"), "next": (phase.rng.normal(), "1")})
volumes.write_map(phase.path("map.mrc"), refined.map)
phase.record(rounds=len(refined.history), score=refined.history[-1]["score"])
""",
}
LAST_CELL = """
phase.finish()
if phase.info.number == 3 and first_time("killed at the end"):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""
KILLS = ("killed in phase 0", "killed in training", "killed in refinement", "killed at the end")
HOLD_THE_INTERPRETER = """
(home / "kernel").write_text(str(os.getpid()))
import ctypes
if first_time("started"):
    ctypes.PyDLL(None).sleep(60)  # PyDLL: no other thread of this process runs meanwhile
"""
NOTHING = dict.fromkeys(pipeline.PHASES, "pass")


class Stopped(Exception):
    pass


def start_run(home: Path, notebooks: Path, **options) -> subprocess.Popen:
    script = f"from cryoem import pipeline; pipeline.run(profile='toy', notebooks={str(notebooks)!r})"
    environment = os.environ | {"CRYOEM_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **options)


@pytest.mark.slow
@pytest.mark.notebooks
def test_a_run_killed_in_its_phases_ends_as_one_that_was_not(tmp_path):
    notebooks = write_notebooks(tmp_path / "notebooks", BODIES, last=LAST_CELL)
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    clean.mkdir()
    killed.mkdir()
    for name in KILLS:
        (clean / name).touch()  # it has happened, so it will not
    with start_run(clean, notebooks, stderr=subprocess.PIPE) as process:
        assert process.wait() == 0, process.stderr.read()
    told = []
    for name in (*KILLS, None):
        with start_run(killed, notebooks, stderr=subprocess.PIPE) as process:
            told.append(process.stderr.read())
        assert process.returncode == (0 if name is None else -signal.SIGKILL), told[-1]
        assert name is None or (killed / name).exists()
    runs = clean / "runs" / "toy", killed / "runs" / "toy"
    assert pipeline.run_differences(*runs) == []
    records = [
        json.loads((run / name / "phase.json").read_text()) for run in runs for name in pipeline.PHASES
    ]
    assert [record["numbers"].get("epochs") for record in records] == 2 * [None, 3, None, None]
    assert [record["numbers"].get("rounds") for record in records] == 2 * [None, None, None, 3]
    executed = (runs[1] / pipeline.PHASES[MAP].notebook).read_text()
    assert "Reconstruction was stopped at its very end; it is made anew" in told[-1]
    assert '"3\\n"' in executed
    # apart from executed notebooks, the same files
    names = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in runs]
    assert names[0] == names[1]


def test_runs_that_differ_are_said_to(home):
    for run, noise in (("one", 1.0), ("other", 2.0)):
        finish_phases([DATA], run=run, overrides={"noise_variance": noise})
    (home / "runs" / "other" / DATA / "numbers.h5").write_bytes(
        (home / "runs" / "one" / DATA / "numbers.h5").read_bytes()
    )
    phase = pipeline.open_phase(DATA, run="one", profile="toy", overrides={"noise_variance": 1.0})
    phase.save("numbers", {"x": ([0.0, -0.0, 2.0], "px")})
    phase.finish()
    found = pipeline.run_differences(home / "runs" / "one", home / "runs" / "other")
    assert [sentence[:31] for sentence in found[:2]] == [
        "0-data-preparation: parameters ",
        "0-data-preparation/numbers.h5 d",
    ]
    assert f"{home}/runs/other/{MAP} is not complete" in found


# kernels


@pytest.mark.notebooks
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel looks for its parent once a second")
def test_a_kernel_ends_with_its_run_though_it_cannot_look(home):
    notebooks = write_notebooks(home / "notebooks", NOTHING | {DATA: HOLD_THE_INTERPRETER})
    with start_run(home, notebooks, stderr=subprocess.DEVNULL) as process:
        wait_for(home / "started", seconds=60)
        kernel = int((home / "kernel").read_text())
        assert Path(f"/proc/{kernel}").exists()
        process.send_signal(signal.SIGKILL)
    wait_until_ended(kernel)
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == tuple(pipeline.PHASES)


def test_a_run_waits_for_the_kernel_of_the_one_before(tmp_path, monkeypatch):
    log = tmp_path / "kernel.log"
    lock.wait_for_kernel(log)  # there was none
    with lock.kernel_log(log) as file:
        kernel = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file)
    with kernel:
        monkeypatch.setattr(lock, "LONGEST_WAIT_SECONDS", 0.1)
        with pytest.raises(
            pipeline.RunInProgressError, match=f"the kernel of an earlier run still holds {log}"
        ):
            lock.wait_for_kernel(log)
        monkeypatch.undo()
        kernel.stdin.close()  # ends it
        lock.wait_for_kernel(log)
        assert kernel.wait() != 0
    with lock.kernel_log(log) as file:
        assert file.tell() == 0


@pytest.mark.notebooks
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_ends_a_run_in_one_sentence_and_its_kernel_too(home, number, word):
    notebooks = write_notebooks(
        home / "notebooks",
        NOTHING | {DATA: HOLD_THE_INTERPRETER.replace("ctypes.PyDLL(None).sleep", "time.sleep")},
    )
    script = (  # whoever runs the tests may ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pathlib import Path; from cryoem import cli, pipeline; from cryoem.pipeline import runner;"
        f"runner.notebooks_folder = lambda: Path({str(notebooks)!r}); cli.app(['run', '--profile', 'toy'])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        wait_for(home / "started", seconds=60)
        kernel = int((home / "kernel").read_text())
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.strip().splitlines() == [f"cryoem: {word}; the same command goes on where it stopped"]
    assert not is_alive(kernel)
    assert not (home / "runs" / "toy" / DATA / "phase.json").exists()


@pytest.mark.notebooks
def test_a_kernel_that_dies_before_it_starts_is_one_sentence(home, monkeypatch):
    notebooks = write_notebooks(home / "notebooks", NOTHING)
    (home / "kernel.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr("cryoem.pipeline.kernel.__file__", str(home / "kernel.py"))
    with pytest.raises(
        pipeline.PhaseFailedError, match=f"^phase {DATA} stopped: its kernel did not start: Kernel"
    ):
        pipeline.run(profile="toy", notebooks=notebooks, progress=False)


# refinement


class Forgetful(FileMemory):
    """Stops the refinement after it has kept its state."""

    def save(self, arrays):
        super().save(arrays)
        raise Stopped


def test_a_refinement_stopped_after_every_round_comes_to_the_same(views, tmp_path):
    images, true = views[0][:40], views[1][:40]
    options = {"pixel_size_angstrom": 4.0, "search_rounds": 1, "gradient_rounds": 1}
    options["shifts_px"] = np.random.default_rng(1).normal(0, 0.3, (40, 2))
    rng = np.random.default_rng(5)
    whole, next_number = refine(images, true, rng=rng, **options), rng.normal()
    path = tmp_path / "refinement.h5"
    rounds = []

    def report(entry, _):
        rounds.append(entry["round"])

    for _ in range(3 * 2):  # all images, then each half
        with pytest.raises(Stopped):
            refine(images, true, rng=5, memory=Forgetful(path), callback=report, **options)
    rng = np.random.default_rng(5)
    again = refine(images, true, rng=rng, memory=FileMemory(path), callback=report, **options)
    assert rng.normal() == next_number
    assert rounds == []  # each stopped before it could report, and none was repeated
    assert again.history == whole.history
    for name in ("shifts_px", "subset", "mask"):
        assert getattr(again, name).tobytes() == getattr(whole, name).tobytes()
    assert again.rotations.as_quat().tobytes() == whole.rotations.as_quat().tobytes()
    for a, b in zip((again.map, *again.half_maps), (whole.map, *whole.half_maps), strict=True):
        assert a.data.tobytes() == b.data.tobytes()
    for changed in ({"images": images[::-1]}, {"rng": 6}, {"tolerance": 0.5}):
        other = {"images": images, "rotations": true, "rng": 5} | options | changed
        with pytest.raises(
            ValueError, match=r"memory must be of a refinement of the same images .* got one of 40"
        ):
            refine(memory=FileMemory(path), **other)


def test_a_damaged_state_is_told_and_not_used(tmp_path):
    memory = FileMemory(tmp_path / "state.h5")
    assert memory.load() is None
    memory.save({"x": np.arange(1000.0), "none": np.zeros((0, 4, 6)), "one": np.array(True)})
    kept = memory.load()
    assert {name: array.shape for name, array in kept.items()} == {"x": (1000,), "none": (0, 4, 6), "one": ()}
    path = tmp_path / "state.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(
        UserWarning, match=f"{path} is not a whole HDF5 file: .*; what it was to keep is computed"
    ):
        assert memory.load() is None


def test_checkpoints_go_when_an_earlier_phase_is_made_anew(home):
    finish_phases([DATA])
    pipeline.open_phase(DISTANCES, profile="toy").memory("state").save({"x": np.zeros(1)})
    assert pipeline.open_phase(DISTANCES, profile="toy").memory("state").load() is not None
    finish_phases([DATA])
    assert pipeline.open_phase(DISTANCES, profile="toy").memory("state").load() is None
