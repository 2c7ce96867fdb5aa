"""What is killed, or runs out of disk, goes on where it stood and ends as what nothing disturbed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from small_notebooks import finish_phases, pretend_executed, wait_for, write_notebooks

from cryoem import pipeline
from cryoem.pipeline import lock
from cryoem.pipeline.memory import FileMemory
from cryoem.refinement import refine
from cryoem.sources import sources_sha256
from cryoem.whole_file import remove_left_overs, written_aside

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


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    return tmp_path


def start_run(home: Path, notebooks: Path, **options) -> subprocess.Popen:
    script = f"from cryoem import pipeline; pipeline.run(profile='toy', notebooks={str(notebooks)!r})"
    environment = os.environ | {"CRYOEM_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **options)


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel looks for its parent once a second")
def test_a_kernel_ends_with_its_run_though_it_cannot_look(home):
    notebooks = write_notebooks(home / "notebooks", NOTHING | {DATA: HOLD_THE_INTERPRETER})
    with start_run(home, notebooks, stderr=subprocess.DEVNULL) as process:
        wait_for(home / "started", seconds=60)
        kernel = int((home / "kernel").read_text())
        assert Path(f"/proc/{kernel}").exists()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5  # it is gone at once, but for what a busy machine takes
    while is_alive(kernel):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == tuple(pipeline.PHASES)


def is_alive(process: int) -> bool:
    """Neither gone nor dead and waiting to be noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


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


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_ends_a_run_in_one_sentence_and_its_kernel_too(home, number, word):
    notebooks = write_notebooks(
        home / "notebooks",
        NOTHING | {DATA: HOLD_THE_INTERPRETER.replace("ctypes.PyDLL(None).sleep", "time.sleep")},
    )
    script = (
        "from pathlib import Path; from cryoem import cli, pipeline; from cryoem.pipeline import runner;"
        f"runner.notebooks_folder = lambda: Path({str(notebooks)!r}); cli.app(['run', '--profile', 'toy'])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        wait_for(home / "started", seconds=60)
        kernel = int((home / "kernel").read_text())
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.strip().splitlines() == [f"Error: {word}; the same command goes on where it stopped"]
    assert not is_alive(kernel)
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == tuple(pipeline.PHASES)


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


# the disk


def fail_at(number: int, monkeypatch) -> None:
    """The n-th file that is to reach the disk does not: there is no space left."""
    calls = []
    reach_the_disk = os.fsync

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reach_the_disk(descriptor)

    monkeypatch.setattr("cryoem.whole_file.os.fsync", fsync)


def one_phase() -> None:
    phase = pipeline.open_phase(DATA, profile="toy")
    phase.memory("state").save({"x": np.zeros(3)})
    phase.save("numbers", {"x": (np.arange(3.0), "px")})
    phase.save_figure("one", go.Figure(), "One.")
    phase.finish()


def test_a_full_disk_at_any_write_is_one_sentence_and_no_harm(home, monkeypatch):
    folder, toy = home / "runs" / "toy", pipeline.get_profile("toy")
    names = ["made-with.json", "state.h5", "numbers.h5", "01-one.json", "phase.json"]
    for position, name in enumerate(names):
        fail_at(2 * position + 1, monkeypatch)  # a file, its folder, the next file
        with pytest.raises(OSError, match=rf"^cannot write {folder}/.*{name}: No space left on device$"):
            one_phase()
        monkeypatch.undo()
        monkeypatch.setenv("CRYOEM_HOME", str(home))
        assert not pipeline.is_complete(folder, DATA, toy)
        assert not list(folder.rglob(".partial-*"))
    one_phase()
    assert pipeline.is_complete(folder, DATA, toy)


def test_a_file_too_large_for_the_disk_stops_the_run_which_then_goes_on(home):
    body = """
import resource
if first_time("full"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
phase.save("large", {"x": (np.zeros(10**6), "px")})
"""
    notebooks = write_notebooks(home / "notebooks", NOTHING | {MAP: body})
    finish_phases([DATA, DISTANCES, ORIENTATIONS, MAP])
    pretend_executed(home, notebooks)
    (home / "runs" / "toy" / MAP / "phase.json").unlink()
    large = home / "runs" / "toy" / MAP / "large.h5"
    with pytest.raises(
        pipeline.PhaseFailedError, match=f"stopped: OSError: cannot write {large}: File too large;"
    ):
        pipeline.run(profile="toy", notebooks=notebooks, progress=False)
    assert not large.exists()
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == (MAP,)
    assert large.stat().st_size > 8 * 10**6


def test_only_errors_of_the_write_are_said_to_be_so(tmp_path):
    def read_another():
        with written_aside(tmp_path / "a") as aside:
            aside.write_text("a")
            (tmp_path / "none").read_text()

    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/none'"):
        read_another()
    assert not list(tmp_path.iterdir())


# what is left


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_text("")


def incomplete(path: Path) -> None:
    path.write_text('{"status": "complete", "id": "0"}')


NOTEBOOK = Path(pipeline.PHASES[MAP].notebook).name


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("phase.json", empty, "has a damaged phase.json"),
        ("phase.json", incomplete, "has a damaged phase.json"),
        ("numbers.h5", cut, "has a file numbers.h5 that is not as it was written"),
        ("numbers.h5", flip, "has a file numbers.h5 that is not as it was written"),
        ("numbers.h5", Path.unlink, "has lost its file numbers.h5"),
        (NOTEBOOK, cut, f"has a damaged {NOTEBOOK}"),
        (NOTEBOOK, Path.unlink, "was stopped at its very end"),
    ],
)
def test_what_is_damaged_is_told_and_made_anew(home, capfd, file, damage, told):
    body = "phase.save('numbers', {'x': (np.arange(3.0), 'px')})"
    notebooks = write_notebooks(home / "notebooks", dict.fromkeys(pipeline.PHASES, body))
    finish_phases()
    pretend_executed(home, notebooks)
    folder = home / "runs" / "toy"
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == ()
    assert capfd.readouterr().err.splitlines() == [
        f"{info.title}: complete, kept" for info in pipeline.PHASES.values()
    ]
    damage(folder / MAP / file)
    left = folder / MAP / "figures" / ".partial-1-01-one.json", folder / ".partial-77-summary.json"
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == (MAP,)
    assert capfd.readouterr().err.splitlines()[3] == f"Reconstruction {told}; it is made anew"
    assert not [path for path in left if path.exists()]
    np.testing.assert_array_equal(pipeline.load_arrays(folder / MAP / "numbers.h5")["x"], np.arange(3.0))


def test_only_what_was_written_aside_is_removed(tmp_path):
    names = [".partial-12-a.h5", "deep/.density.mrc.0f.part", "a.part", "deep/partial.ipynb", ".lock"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_left_overs(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == names[2:]


# what a run's folder says of itself


def test_a_record_names_what_was_made_and_read_with_checksums(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    phase.load(DATA, "numbers")
    phase.save("own", {"y": (np.ones(2), "rad")})
    phase.load(DISTANCES, "own")
    phase.save_figure("one", go.Figure(), "One.")
    phase.finish()
    data, own = (
        json.loads((home / "runs" / "toy" / name / "phase.json").read_text()) for name in (DATA, DISTANCES)
    )
    assert own["inputs"] == {f"{DATA}/numbers.h5": data["artefacts"]["numbers.h5"]}
    assert sorted(own["artefacts"]) == ["figures/01-one.json", "own.h5"]
    assert {len(sha256) for sha256 in own["artefacts"].values()} == {64}
    assert own["versions"]["cryoem_sources_sha256"] == sources_sha256()
    assert own["built_on"] == {DATA: data["id"]}


def test_a_file_that_is_not_as_the_earlier_phase_wrote_it_is_not_read(home):
    finish_phases([DATA])
    pipeline.save_arrays(
        home / "runs" / "toy" / DATA / "numbers.h5",
        {"x": (np.ones(3), "px")},
        parameters=pipeline.open_phase(DATA, profile="toy", run="other").parameters,
    )
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    with pytest.raises(
        pipeline.StalePhaseError,
        match=f"phase {DATA} of run 'toy' has a file numbers.h5 that is not as it was",
    ):
        phase.load(DATA, "numbers")


def test_the_constants_of_the_contrast_transfer_are_parameters(home):
    with_transfer = pipeline.open_phase(DATA, profile="toy", overrides={"ctf": True}).parameters
    assert with_transfer["contrast_transfer"]["voltage_kv"] == 300
    assert json.loads(json.dumps(with_transfer)) == with_transfer
    assert "contrast_transfer" not in pipeline.open_phase(DATA, profile="toy").parameters


def test_phases_that_other_code_made_are_kept_and_said_to_be(home, capfd, monkeypatch):
    notebooks = write_notebooks(home / "notebooks", NOTHING)
    finish_phases()
    pretend_executed(home, notebooks)
    monkeypatch.setattr("cryoem.pipeline.runner.sources_sha256", lambda: "0" * 64)
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == ()
    assert capfd.readouterr().err.splitlines()[0] == (
        "Data preparation: complete, kept, though this package's code has changed since; --force makes it anew"
    )
