"""Train on one device and on two in a separate process, because virtual devices must be set before first use.

python tests/two_devices.py OUT.json FOLDER
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tiny_training import without_compilation

from cryoem import devices
from cryoem.distances.prediction import encode
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import ProjectionStream, TrainingSchedule, train
from cryoem.images import shift
from cryoem.particles.conditions import ImagingConditions
from cryoem.rotations import random_rotations
from cryoem.udl.training import AlignerOptions
from cryoem.udl.training import train as train_aligner
from cryoem.volumes.phantoms import phantom

[CPU] = tf.config.list_physical_devices("CPU")
tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options(
    {"disable_meta_optimizer": True}
)  # optimising takes longer than training
PARTICLE = phantom(size=16)
EPOCHS = 3
RATE = 1e-3  # of aligners, at its peak
# one strategy for all training runs, because TensorFlow confuses a second strategy with the first
PAIR = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def train_encoder(scope, *, batch_size: int = 8, n_validation: int = 12, **options):
    """Return an encoder, its weights before and after a few steps, and the history."""
    settings = EncoderSettings(12, channels=4, blocks=1, n_features=9, **options)
    imaging = ImagingConditions(16, noise_variance=0.5, shift_limit_px=2.0 if settings.with_shifts else 0.0)
    stream = ProjectionStream(
        PARTICLE,
        imaging,
        network_image_size=12,
        batch_size=batch_size,
        steps=2,
        with_shifts=settings.with_shifts,
    )
    rng = np.random.default_rng(99)
    held_out = (
        rng.normal(size=(n_validation, 12, 12)).astype(np.float32),
        random_rotations(n_validation, rng=rng).as_quat(),
    )
    if settings.with_shifts:
        held_out = (*held_out, rng.normal(size=(n_validation, 2)))
    with scope:
        keras.utils.set_random_seed(0)
        encoder = settings.build()
    before = encoder.get_weights()
    history = train(
        TrainedEncoder(encoder, settings),
        stream,
        validation=held_out,
        schedule=TrainingSchedule(EPOCHS),
    )
    return encoder, before, encoder.get_weights(), history


def compared(**options) -> dict:
    """Return histories on one and two devices, and how far the weights differ and have moved."""
    with without_compilation():
        one, before, after, history = train_encoder(nullcontext(), **options)
    two, same_before, same_after, same_history = train_encoder(PAIR.scope(), **options)
    images = np.random.default_rng(5).normal(size=(7, 12, 12))  # not a multiple of two
    return {
        "history": [history, same_history],
        "start": largest(before, same_before),
        "apart": largest(after, same_after),
        "went": largest(before, after),
        "features_apart": largest([encode(one, images)], [encode(two, images)]),
    }


def in_float16() -> dict:
    """Run the comparison as on two GPUs."""
    real, devices.gpus_of_tensorflow = devices.gpus_of_tensorflow, lambda: ["GPU:0", "GPU:1"]
    try:
        return compared()
    finally:
        devices.gpus_of_tensorflow = real


def aligners(folder: Path) -> dict:
    """Compare aligners after training on one device and on two, the latter resumed and uninterrupted."""
    rng = np.random.default_rng(0)
    images = shift(rng.normal(size=(40, 16, 16)), rng.normal(size=(40, 2)))
    options = AlignerOptions(batch_size=4)
    whole, stopped = TrainingSchedule(2, RATE), TrainingSchedule(2, RATE, seconds=1e-6)
    with without_compilation():
        one = train_aligner(images, options=options, schedule=stopped)
    with PAIR.scope():
        two = train_aligner(images, options=options, schedule=stopped, checkpoints=folder)
        resumed = train_aligner(images, options=options, schedule=whole, checkpoints=folder)
        uninterrupted = train_aligner(images, options=options, schedule=whole)
    return {
        "history": [one.history, two.history],
        "untrained": [one.untrained, two.untrained],
        "apart": largest(*(training.aligner.network.get_weights() for training in (one, two))),
        "rate": RATE,
        "loss": [uninterrupted.history["val_loss"], resumed.history["val_loss"]],
    }


def refused(**options) -> str:
    """Return the error of a training run that cannot be divided between two devices."""
    try:
        train_encoder(PAIR.scope(), **options)
    except ValueError as error:
        return str(error)
    return "not refused"


def largest(these, those) -> float:
    """Return the largest absolute difference between two lists of arrays."""
    return max(float(np.abs(a - b).max()) for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    report = {
        "float32": compared(with_shifts=True, feature_distance="mlp"),
        "float16": in_float16(),
        "aligners": aligners(Path(sys.argv[2])),
        "odd batch": refused(batch_size=7),
        "odd validation": refused(n_validation=13),
    }
    Path(sys.argv[1]).write_text(json.dumps(report), encoding="utf-8")
