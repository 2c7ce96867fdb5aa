"""A two-second training run on 12-pixel images, which several tests interrupt, resume and compare."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from cryoem import particles
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import ProjectionStream, TrainingSchedule, train
from cryoem.images import downsample
from cryoem.particles.conditions import ImagingConditions
from cryoem.volumes.phantoms import phantom

TINY = phantom(size=16)
SETTINGS = EncoderSettings(12, channels=4, blocks=1, n_features=9)
EPOCHS = 3


def tiny_stream(kind=ProjectionStream, *, noise_variance: float = 0.5, **options) -> ProjectionStream:
    imaging = ImagingConditions(image_size=16, noise_variance=noise_variance)
    return kind(TINY, imaging, **({"network_image_size": 12, "batch_size": 8, "steps": 2} | options))


def tiny_validation(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    stack = particles.simulate(TINY, n, noise_variance=0.5, rng=99)
    return downsample(stack.images, 12), stack.rotations.as_quat()


def tiny_training(settings: EncoderSettings = SETTINGS, *, seed: int = 0, schedule=None, **options):
    """Train on the stream above and return encoder and history; ``options`` may include those of the schedule."""
    keras.utils.set_random_seed(seed)
    encoder = TrainedEncoder(settings.build(), settings)
    names = ("epochs", "learning_rate", "patience", "seconds")
    limits = {"epochs": EPOCHS} | {name: options.pop(name) for name in names if name in options}
    defaults = {"stream": tiny_stream(), "validation": tiny_validation()}
    return encoder, train(encoder, **(defaults | options), schedule=TrainingSchedule(**limits))


def other_settings(**changes) -> EncoderSettings:
    return replace(SETTINGS, **changes)


class Stop(keras.callbacks.Callback):
    """Interrupt training in the second step of an epoch."""

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
    """Skip compilation, which takes most of the time in a small training run."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def uncompiled(test):
    """Mark a test whose training needs no compilation; its module must import the fixture ``eagerly``."""
    test = pytest.mark.usefixtures("eagerly")(test)
    return pytest.mark.filterwarnings("ignore:Even though the `tf.config")(test)


@pytest.fixture
def eagerly():
    with without_compilation():
        yield


def assert_same_training(one, other) -> None:
    """Assert that the weights are bit-identical, and the histories equal except for the elapsed time."""
    for a, b in zip(one[0].model.get_weights(), other[0].model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_seconds(one[1]) == without_seconds(other[1])


def without_seconds(history: dict) -> dict:
    assert history["seconds"] == sorted(history["seconds"])
    return {name: values for name, values in history.items() if name != "seconds"}
