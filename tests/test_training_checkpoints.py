"""Training that resumes after any interruption ends with the same numbers, and stops when it should."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from interruptions import Interrupted, fail_at_call, interrupt
from tiny_training import (
    SETTINGS,
    Stop,
    assert_same_training,
    eagerly,  # noqa: F401 (a fixture)
    other_settings,
    tiny_stream,
    tiny_training,
    tiny_validation,
    uncompiled,
    without_compilation,
)

from cryoem.distances.trained import TrainedEncoder
from cryoem.distances.training import ProjectionStream, train
from cryoem.training.compilation import TrainingSchedule, compile_network
from cryoem.training.fitting import fit, open_checkpoints

STANDSTILL = 1e-20  # a learning rate whose steps vanish in the rounding of the weights


class RecordedStream(ProjectionStream):
    """Stream that records which batches are read."""

    def __getitem__(self, index):
        self.__dict__.setdefault("read", []).append((self.epoch, index))
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def uninterrupted():
    with without_compilation(), pytest.warns(UserWarning, match="Even though the `tf.config"):
        return tiny_training()


def test_an_interrupted_training_resumes_to_the_same_numbers(tmp_path):
    """Training is compiled, as it is for users."""
    stream = tiny_stream(RecordedStream)
    uninterrupted = tiny_training(stream=stream)
    every = [(epoch, index) for epoch in range(3) for index in range(2)]
    assert stream.read[-len(every) :] == every  # Keras first reads one or two for their shapes
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(2, interrupt)])
    assert {path.name for path in tmp_path.iterdir()} == {"training.json", "history.csv", "epoch-2"}
    stream = tiny_stream(RecordedStream)
    resumed = tiny_training(seed=77, stream=stream, checkpoints=tmp_path)  # weights come from the checkpoint
    assert_same_training(uninterrupted, resumed)
    assert stream.read[-2:] == [(2, 0), (2, 1)]
    # if training was complete, only the weights are restored
    assert_same_training(uninterrupted, tiny_training(seed=78, checkpoints=tmp_path))


@uncompiled
def test_a_killed_training_resumes_to_the_same_numbers(uninterrupted, tmp_path):
    script = (
        "from tiny_training import *\n"
        "with without_compilation():\n"
        f"    tiny_training(checkpoints={str(tmp_path)!r}, callbacks=[Stop(1, kill_this_process)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-500:]
    assert (tmp_path / "epoch-1").is_dir()
    assert_same_training(uninterrupted, tiny_training(seed=5, checkpoints=tmp_path))


@uncompiled
@pytest.mark.parametrize(("call", "epochs"), [(2, []), (3, ["epoch-1"])], ids=["first epoch", "second epoch"])
def test_a_checkpoint_cut_short_is_not_used(uninterrupted, tmp_path, monkeypatch, call, epochs):
    # the first replaced file is the fingerprint
    monkeypatch.setattr("cryoem.training.fitting.os.replace", fail_at_call(call))
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.glob("epoch-*")) == epochs
    assert_same_training(uninterrupted, tiny_training(seed=0 if not epochs else 5, checkpoints=tmp_path))


@uncompiled
def test_checkpoints_of_another_training_are_refused(tmp_path):
    options = {"epochs": 4, "checkpoints": tmp_path}
    tiny_training(seconds=1e-6, **options)
    for changed, sentence in (
        ({"epochs": 5}, r"epochs 4 instead of 5\);"),
        ({"learning_rate": 1e-5}, r"learning_rate 0.003 instead of 1e-05\);"),
        (
            {"settings": other_settings(feature_distance="cosine")},
            r"feature_distance 'kernel' instead of 'cosine'\);",
        ),
        (
            {"settings": other_settings(channels=8)},
            r"network .\d+ weights, checksum .* instead of .\d+ weights",
        ),
        (
            {"stream": tiny_stream(batch_size=4, noise_variance=2.0)},
            r"batch_size 8 instead of 4, noise_variance 0.5 instead of 2.0\);",
        ),
    ):
        message = rf"^checkpoints in {tmp_path} belong to a different training run \({sentence}"
        with pytest.raises(ValueError, match=message):
            tiny_training(**(options | changed))


@uncompiled
def test_training_stops_after_epochs_without_a_lower_validation_loss(tmp_path):
    _, history = tiny_training(epochs=5, learning_rate=STANDSTILL, patience=2)
    assert len(set(history["val_loss"])) == 1  # this rate changes no weight
    assert len(history["loss"]) == 3
    # epochs before an interruption also count
    options = {"epochs": 4, "learning_rate": STANDSTILL, "patience": 1, "checkpoints": tmp_path}
    with pytest.raises(Interrupted):
        tiny_training(callbacks=[Stop(1, interrupt)], **options)
    stopped = tiny_training(**options)
    assert len(stopped[1]["loss"]) == 2
    # and training that has stopped does not continue
    assert_same_training(stopped, tiny_training(seed=5, **options))


@uncompiled
def test_training_stops_when_its_time_is_up(tmp_path):
    stopped = tiny_training(epochs=4, checkpoints=tmp_path, seconds=1e-6)
    assert len(stopped[1]["loss"]) == 1
    assert_same_training(stopped, tiny_training(seed=5, epochs=4, checkpoints=tmp_path, seconds=1e-6))
    # time before an interruption also counts
    history = pd.read_csv(tmp_path / "history.csv")
    history["seconds"] = 200.0
    history.to_csv(tmp_path / "history.csv", index=False)
    _, history = tiny_training(epochs=4, checkpoints=tmp_path, seconds=200.0)
    assert history["seconds"] == [200.0]
    _, history = tiny_training(epochs=4, checkpoints=tmp_path, seconds=200.0 + 1e-6)
    assert len(history["loss"]) == 2
    assert history["seconds"][-1] > 200.0


DAMAGE = {
    "cut weights": (
        lambda f: cut(f / "epoch-1/latest.weights.h5"),
        "a file in epoch-1 does not match its checksum",
    ),
    "flipped weights": (
        lambda f: flip(f / "epoch-1/latest.weights.h5"),
        "a file in epoch-1 does not match its",
    ),
    "no fingerprint": (lambda f: (f / "training.json").unlink(), "training.json does not exist"),
    "empty history": (
        lambda f: (f / "history.csv").write_text(""),
        "history.csv does not contain all epochs up to 1",
    ),
    "text in the history": (lambda f: retype(f / "history.csv"), "could not convert string to float"),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def retype(path: Path) -> None:
    path.write_text(re.sub(r",\d+\.", ",x.", path.read_text()))


@uncompiled
def test_damaged_checkpoints_are_discarded_with_a_warning(uninterrupted, tmp_path):
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path / "whole", callbacks=[Stop(1, interrupt)])
    fingerprint = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert len(open_checkpoints(tmp_path / "whole", fingerprint)["loss"]) == 1
    for name, (damage, cause) in DAMAGE.items():
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / name))
        damage(folder)
        with pytest.warns(
            UserWarning, match=f"checkpoints in {folder} are damaged, so training starts over: .*{cause}"
        ):
            assert open_checkpoints(folder, fingerprint) == {}
        assert [path.name for path in folder.iterdir()] == ["training.json"]
    flip(tmp_path / "whole" / "epoch-1" / "latest.weights.h5")
    with warnings.catch_warnings(record=True, action="always") as caught:
        again = tiny_training(checkpoints=tmp_path / "whole")
    assert_same_training(uninterrupted, again)
    [warning] = [warning for warning in caught if "are damaged" in str(warning.message)]
    assert warning.filename.endswith("tiny_training.py")  # the caller of train


@uncompiled
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras.Model.save_weights", full)
    with pytest.raises(
        OSError, match=rf"^cannot write checkpoints to {tmp_path}: .*No space left on device$"
    ):
        tiny_training(checkpoints=tmp_path)


class Numbers(keras.utils.PyDataset):
    """Two batches of random numbers."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(np.random.default_rng(index).normal(size=(2, 4, 1)))


@uncompiled
def test_models_without_a_name_resume_in_the_same_process(tmp_path):
    """Keras gives the second model and its layers different names, as when a notebook cell runs again."""
    schedule, histories = TrainingSchedule(2), []
    for callbacks in ([Stop(1, interrupt)], []):
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        compile_network(model, schedule=schedule, steps_per_epoch=2, loss="mse")
        with suppress(Interrupted):
            histories.append(
                fit(model, Numbers(), Numbers(), schedule=schedule, checkpoints=tmp_path, callbacks=callbacks)
            )
    assert histories[-1]["step"] == [2, 4]


@uncompiled
def test_a_resumed_encoder_can_be_trained_again_from_its_first_epoch(tmp_path):
    """Keras stores the restored epoch on the model."""
    tiny_training(checkpoints=tmp_path, epochs=2, seconds=1e-6)
    encoder = TrainedEncoder(SETTINGS.build(), SETTINGS)
    options = {"validation": tiny_validation(), "schedule": TrainingSchedule(2)}
    assert len(train(encoder, tiny_stream(), checkpoints=tmp_path, **options)["loss"]) == 2
    history = train(encoder, tiny_stream(), **options)
    assert history["step"] == [2, 4]
    assert np.isfinite(history["loss"]).all()
