"""Training of an encoder: losses and metrics are those of its features; wrong arguments are one sentence."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from learned_features import off_diagonal
from scipy.spatial.transform import Rotation
from tiny_training import (
    SETTINGS,
    TINY,
    eagerly,  # noqa: F401 (a fixture)
    other_settings,
    tiny_stream,
    tiny_training,
    tiny_validation,
    uncompiled,
)

from cryoem import particles
from cryoem.contrast import ContrastTransfer
from cryoem.distances.losses import pair_loss
from cryoem.distances.prediction import predict_distances, predict_shifts
from cryoem.distances.stream import ProjectionStream
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import TrainingSchedule, train
from cryoem.images import correct_images
from cryoem.particles.simulation import ImagingConditions
from cryoem.rotations import geodesic_distance
from cryoem.volumes.phantoms import phantom

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision
NUMBERS = {
    "loss",
    "val_loss",
    "distance_error_rad",
    "val_distance_error_rad",
    "learning_rate",
    "step",
    "seconds",
}


@pytest.mark.parametrize(
    ("architecture", "kind"), [("polar", "kernel"), ("polar", "mlp"), ("published", "cosine")]
)
@uncompiled
def test_one_epoch_of_training(architecture, kind):
    settings = other_settings(architecture=architecture, feature_distance=kind)
    keras.utils.set_random_seed(0)
    before = settings.build().get_weights()
    encoder, history = tiny_training(settings, epochs=1)
    assert set(history) == NUMBERS
    assert all(len(values) == 1 and np.isfinite(values[0]) for values in history.values())
    assert history["step"] == [2]
    after = encoder.model.get_weights()
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
    # what Keras reports is the error of the decoded distances
    images, quaternions = tiny_validation()
    predicted = predict_distances(encoder.model, images, feature_distance=kind, both_views=False)
    rotations = Rotation.from_quat(quaternions)
    error = off_diagonal(np.abs(predicted - geodesic_distance(rotations, rotations))).mean()
    assert history["val_distance_error_rad"][0] == pytest.approx(error, rel=10 * FLOAT32)
    if kind != "mlp":
        features = encoder.model.predict(images, verbose=0)
        loss = float(pair_loss(kind)(quaternions.astype(np.float32), features))
        assert history["val_loss"][0] == pytest.approx(loss, rel=10 * FLOAT32)


def test_a_trained_network_estimates_shifts():
    density = phantom(size=32)
    imaging = {"image_size": 32, "shift_limit_px": 4.0}
    settings = EncoderSettings(16, channels=16, blocks=2, with_shifts=True)
    keras.utils.set_random_seed(0)
    encoder = TrainedEncoder(settings.build(), settings)
    stream = ProjectionStream(
        density,
        ImagingConditions(**imaging),
        network_image_size=16,
        batch_size=32,
        steps=60,
        with_shifts=True,
    )
    held_out = particles.simulate(density, 64, rng=3, **imaging)
    history = train(encoder, stream, validation=held_out, schedule=TrainingSchedule(4))
    assert history.keys() >= NUMBERS
    images, shifts = correct_images(held_out.images, size=16), held_out.shifts_px / 2
    found = predict_shifts(encoder.model, images)
    assert np.linalg.norm(found - shifts, axis=1).mean() < np.linalg.norm(shifts, axis=1).mean() / 3


@uncompiled
def test_validation_particles_are_corrected():
    ctf = ContrastTransfer(defocus_range_angstrom=(4_000.0, 9_000.0))
    stack = particles.simulate(TINY, 12, shift_limit_px=2.0, ctf=ctf, rng=1)
    arrays = (
        correct_images(stack.images, optics=stack.optics, size=12),
        stack.rotations.as_quat(),
        stack.shifts_px * 12 / 16,
    )
    options = {
        "settings": other_settings(with_shifts=True),
        "stream": tiny_stream(with_shifts=True),
        "epochs": 1,
    }
    (_, one), (_, other) = (tiny_training(validation=some, **options) for some in (stack, arrays))
    assert one["val_loss"] == pytest.approx(other["val_loss"], rel=FLOAT32)
    with pytest.raises(ValueError, match=r"^validation must be particles with known poses"):
        tiny_training(validation=particles.ParticleStack(stack.images, stack.optics), **options)


@uncompiled
@pytest.mark.parametrize("n", [2, 129])
def test_validation_losses_are_finite_for_any_number_of_images(n):
    _, history = tiny_training(epochs=1, validation=tiny_validation(n))
    assert np.isfinite([history["val_loss"], history["val_distance_error_rad"]]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0"),
        (
            {"validation": (np.ones((3, 12, 12)), np.zeros((2, 4)))},
            r"validation must contain 3 unit quaternions \(n, 4\), got shape \(2, 4\)",
        ),
        (
            {"validation": (np.ones((1, 12, 12)), np.zeros((1, 4)))},
            "at least 2 validation images are required, got 1",
        ),
        (
            {"validation": (np.ones((3, 16, 16)), np.zeros((3, 4)))},
            r"validation images must be \(12, 12\) for this encoder, got \(16, 16\)",
        ),
        (
            {"settings": other_settings(with_shifts=True)},
            "stream and encoder must have the same with_shifts, got Fa",
        ),
        (
            {"settings": other_settings(with_shifts=True), "stream": tiny_stream(with_shifts=True)},
            "validation must contain images, quaternions and shifts for this encoder, got 2 arrays",
        ),
    ],
)
def test_a_wrong_training_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        tiny_training(**({"settings": SETTINGS, "epochs": 1} | options))
    assert "\n" not in str(caught.value)
