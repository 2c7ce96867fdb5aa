"""Training: it resumes to the same numbers after whatever stopped it, and ends when it should."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from interruptions import Interrupted, fail_at_call, interrupt
from learned_features import off_diagonal
from scipy.spatial.transform import Rotation

from cryoem import imaging
from cryoem.rotations import geodesic_distance
from cryoem.siamese import (
    EncoderSettings,
    ProjectionStream,
    predict_distances,
    train,
)
from cryoem.siamese.losses import loss_of
from cryoem.volumes import phantom

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision


# --- training, on images of 12 pixels


class RecordedStream(ProjectionStream):
    """Notes which batches are asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append((self.epoch, index))
        return super().__getitem__(index)


TINY = phantom(size=16)
SETTINGS = EncoderSettings(12, channels=4, blocks=1, n_features=9)
EPOCHS = 3
STANDSTILL = 1e-20  # a learning rate whose steps are lost in the rounding of the weights


def tiny_stream(kind=ProjectionStream, **options) -> ProjectionStream:
    defaults = {
        "image_size": 16,
        "network_image_size": 12,
        "batch_size": 8,
        "steps": 2,
        "noise_variance": 0.5,
    }
    return kind(TINY, **(defaults | options))


def tiny_validation(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    stack = imaging.simulate(TINY, n, noise_variance=0.5, rng=99)
    return imaging.downsample(stack.images, 12), stack.rotations.as_quat()


def tiny_training(encoder=None, **options):
    """Train on the stream above: encoder and history."""
    if encoder is None:
        keras.utils.set_random_seed(0)
        encoder = SETTINGS.build()
    defaults = {"stream": tiny_stream(), "epochs": EPOCHS, "validation": tiny_validation()}
    return encoder, train(encoder, **(defaults | options))


class Stop(keras.callbacks.Callback):
    """Interrupts the training in the second step of an epoch."""

    def __init__(self, epoch: int, act):
        super().__init__()
        self.epoch, self.act = epoch, act

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            self.act()


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def without_compilation():
    """Compilation takes most of the time of a small training."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    with without_compilation():
        yield


uncompiled = [
    pytest.mark.usefixtures("eagerly"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config"),
]


def apply(marks):
    def decorate(test):
        for mark in marks:
            test = mark(test)
        return test

    return decorate


@pytest.fixture(scope="module")
def uninterrupted():
    """Encoder and history of a training that nothing disturbed."""
    return tiny_training()


@pytest.fixture(scope="module")
def uninterrupted_eagerly():
    with without_compilation(), pytest.warns(UserWarning, match="Even though the `tf.config"):
        return tiny_training()


def assert_same_training(one, other):
    for a, b in zip(one[0].get_weights(), other[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_seconds(one[1]) == without_seconds(other[1])


def without_seconds(history: dict) -> dict:
    assert history["seconds"] == sorted(history["seconds"])
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("architecture", "kind"), [("polar", "kernel"), ("polar", "euclidean"), ("published", "cosine")]
)
def test_one_epoch_of_training_runs(architecture, kind):
    keras.utils.set_random_seed(0)
    encoder = replace(SETTINGS, architecture=architecture).build()
    before = [weights.copy() for weights in encoder.get_weights()]
    _, history = tiny_training(encoder, epochs=1, feature_distance=kind, stream=tiny_stream(steps=2))
    assert set(history) == {
        "loss", "val_loss", "distance_error_rad", "val_distance_error_rad", "learning_rate", "step", "seconds",
    }  # fmt: skip
    assert all(len(values) == 1 and np.isfinite(values[0]) for values in history.values())
    assert history["step"] == [2]
    changed = [not np.array_equal(a, b) for a, b in zip(before, encoder.get_weights(), strict=True)]
    assert all(changed)
    images, quaternions = tiny_validation()
    loss = float(loss_of(kind)(quaternions.astype(np.float32), encoder.predict(images, verbose=0)))
    assert history["val_loss"][0] == pytest.approx(loss, rel=10 * FLOAT32)
    predicted = predict_distances(encoder, images, feature_distance=kind, both_views=False)
    rotations = Rotation.from_quat(quaternions)
    error = off_diagonal(np.abs(predicted - geodesic_distance(rotations, rotations))).mean()
    assert history["val_distance_error_rad"][0] == pytest.approx(error, rel=10 * FLOAT32)


@apply(uncompiled)
def test_every_batch_of_a_training_is_fresh():
    stream = tiny_stream(RecordedStream)
    tiny_training(stream=stream, epochs=3)
    expected = [(epoch, index) for epoch in range(3) for index in range(2)]
    assert stream.asked[-len(expected) :] == expected  # Keras looks at one or two for their shape before


def test_an_interrupted_training_goes_on_to_the_same_numbers(uninterrupted, tmp_path):
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(2, interrupt)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.json",
        "made-from.json",
        "after-epoch-2.weights.h5",
    }
    keras.utils.set_random_seed(77)  # the weights come from the checkpoint
    stream = tiny_stream(RecordedStream)
    resumed = tiny_training(SETTINGS.build(), stream=stream, checkpoints=tmp_path)
    assert_same_training(uninterrupted, resumed)
    assert stream.asked[-2:] == [(2, 0), (2, 1)]
    # what is complete is not trained again
    assert_same_training(uninterrupted, tiny_training(SETTINGS.build(), checkpoints=tmp_path))


@apply(uncompiled)
def test_a_killed_training_goes_on_to_the_same_numbers(uninterrupted_eagerly, tmp_path):
    script = (
        "from test_siamese_training import *\n"
        "with without_compilation():\n"
        f"    tiny_training(checkpoints={str(tmp_path)!r}, callbacks=[Stop(1, kill_this_process)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-500:]
    assert (tmp_path / "after-epoch-1.weights.h5").exists()
    assert_same_training(uninterrupted_eagerly, tiny_training(SETTINGS.build(), checkpoints=tmp_path))


@apply(uncompiled)
@pytest.mark.parametrize(
    ("when", "epochs"),
    [
        ("first-weights", []),
        ("first-state", [1]),
        ("weights", [1]),
        ("state", [1, 2]),
        ("older-weights", [2]),
    ],
)
def test_a_checkpoint_half_written_is_not_used(uninterrupted_eagerly, tmp_path, monkeypatch, when, epochs):
    # the file that says what it is made from comes before all
    failing = {"first-weights": 2, "first-state": 3, "weights": 4, "state": 5, "older-weights": 6}[when]
    monkeypatch.setattr("cryoem.whole_files.os.replace", fail_at_call(failing))
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.glob("after-epoch-*")) == [
        f"after-epoch-{epoch}.weights.h5" for epoch in epochs
    ]
    assert_same_training(uninterrupted_eagerly, tiny_training(checkpoints=tmp_path))


@apply(uncompiled)
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs": 5}, "epochs 4 and not 5;"),
        ({"learning_rate": 1e-5}, "learning_rate 0.002 and not 1e-05;"),
        ({"feature_distance": "cosine"}, "feature_distance 'kernel' and not 'cosine';"),
        ({"stream": {"seed": 3}}, "seed 0 and not 3;"),
        (
            {"stream": {"batch_size": 4, "noise_variance": 2.0}},
            "batch_size 8 and not 4, noise_variance 0.5 and not",
        ),
    ],
)
def test_the_state_of_another_training_is_refused(changed, sentence, tmp_path):
    options = {"epochs": 4, "checkpoints": tmp_path}
    tiny_training(seconds=1e-6, **options)
    if "stream" in changed:
        changed = {"stream": tiny_stream(**changed["stream"])}
    with pytest.raises(ValueError, match=f"are of another training, with {sentence}"):
        tiny_training(**(options | changed))


@apply(uncompiled)
def test_training_stops_when_the_validation_loss_no_longer_falls():
    _, history = tiny_training(epochs=5, learning_rate=STANDSTILL, patience=2)
    assert len(set(history["val_loss"])) == 1  # nothing is learned at this rate
    assert len(history["loss"]) == 3


@apply(uncompiled)
def test_a_resumed_training_stops_as_early_as_an_uninterrupted_one(tmp_path):
    options = {"epochs": 4, "learning_rate": STANDSTILL, "patience": 1}  # alone it stops after 2 epochs
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(1, interrupt)], **options)
    _, history = tiny_training(checkpoints=tmp_path, **options)
    assert len(history["loss"]) == 2


@apply(uncompiled)
@pytest.mark.parametrize(
    "limit", [{"patience": 1, "learning_rate": STANDSTILL}, {"seconds": 1e-6}], ids=["patience", "time"]
)
def test_a_training_that_stopped_is_not_trained_further_when_called_again(tmp_path, limit):
    """As when the kernel is killed between the end of the training and that of the phase."""
    encoder, history = tiny_training(epochs=4, checkpoints=tmp_path, **limit)
    assert len(history["loss"]) < 4
    again = tiny_training(SETTINGS.build(), epochs=4, checkpoints=tmp_path, **limit)
    assert_same_training((encoder, history), again)


@apply(uncompiled)
def test_training_stops_after_the_time_allowed(tmp_path):
    _, history = tiny_training(seconds=1e-6)
    assert len(history["loss"]) == 1
    with pytest.raises(Interrupted):
        tiny_training(epochs=6, checkpoints=tmp_path, callbacks=[Stop(2, interrupt)])  # after two epochs
    kept = json.loads((tmp_path / "state.json").read_text())
    kept["history"]["seconds"] = [100.0, 200.0]
    (tmp_path / "state.json").write_text(json.dumps(kept))
    _, history = tiny_training(epochs=6, checkpoints=tmp_path, seconds=200.0)  # 200 of them are spent
    assert history["seconds"] == [100.0, 200.0]
    _, history = tiny_training(epochs=6, checkpoints=tmp_path, seconds=200.0 + 1e-6)
    assert len(history["loss"]) == 3
    assert history["seconds"][-1] > 200.0


@apply(uncompiled)
@pytest.mark.parametrize("n", [2, 129])
def test_validation_loss_is_finite_for_any_number_of_images(n):
    _, history = tiny_training(epochs=1, validation=tiny_validation(n))
    assert np.isfinite(history["val_loss"]).all()
    assert np.isfinite(history["val_distance_error_rad"]).all()


@apply(uncompiled)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("no-weights", "No such file"),
        ("cut-weights", "after-epoch-1.weights.h5 is not as it was written"),
        ("flipped-weights", "after-epoch-1.weights.h5 is not as it was written"),
        ("empty-state", "Expecting value"),
        ("half-a-state", "'epochs'"),
        ("no-made-from", "No such file"),
        ("short-history", "state.json does not hold the history of 1 epochs"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_made_anew(uninterrupted_eagerly, tmp_path, damage, told):
    with pytest.raises(Interrupted):
        tiny_training(checkpoints=tmp_path, callbacks=[Stop(1, interrupt)])
    weights, state = tmp_path / "after-epoch-1.weights.h5", tmp_path / "state.json"
    content = weights.read_bytes()
    kept = json.loads(state.read_text())
    if damage == "no-weights":
        weights.unlink()
    elif damage == "cut-weights":
        weights.write_bytes(content[:-1])
    elif damage == "flipped-weights":
        middle = len(content) // 2
        weights.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty-state":
        state.write_text("")
    elif damage == "half-a-state":
        state.write_text(json.dumps({"history": kept["history"]}))
    elif damage == "no-made-from":
        (tmp_path / "made-from.json").unlink()
    else:
        state.write_text(json.dumps(kept | {"history": kept["history"] | {"val_loss": []}}))
    with warnings.catch_warnings(record=True, action="always") as caught:  # beside those of Keras
        again = tiny_training(checkpoints=tmp_path)
    sentence = f"checkpoints {tmp_path} hold no whole state, training begins anew: .*{told}"
    assert sum(re.match(sentence, str(warning.message)) is not None for warning in caught) == 1
    assert_same_training(uninterrupted_eagerly, again)


@apply(uncompiled)
@pytest.mark.filterwarnings("ignore:Skipping nested container")  # outside of tests a warning stops nothing
def test_the_state_of_another_encoder_is_one_sentence(tmp_path):
    tiny_training(epochs=2, seconds=1e-6, checkpoints=tmp_path)
    message = f"^checkpoints {tmp_path} are not of this model, remove it to train anew: ."
    with pytest.raises(ValueError, match=message) as caught:
        tiny_training(replace(SETTINGS, channels=8).build(), epochs=2, checkpoints=tmp_path)
    assert "\n" not in str(caught.value)


@apply(uncompiled)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"feature_distance": "dot"},
            "feature_distance must be one of kernel, cosine, euclidean, mlp, got 'dot'",
        ),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        (
            {"validation": (np.zeros((3, 12, 12)), np.zeros((2, 4)))},
            r"validation must hold 3 unit quaternions \(n, 4\), got shape \(2, 4\)",
        ),
        (
            {"validation": (np.zeros((1, 12, 12)), np.zeros((1, 4)))},
            "validation images must be at least 2, got 1",
        ),
        (
            {"validation": (np.zeros((3, 16, 16)), np.zeros((3, 4)))},
            r"validation images must be \(12, 12\) for this encoder, got \(16, 16\)",
        ),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0"),
    ],
)
def test_a_wrong_training_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny_training(epochs=options.pop("epochs", 1), **options)
    assert "\n" not in str(caught.value)
