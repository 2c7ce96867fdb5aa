"""Training of an encoder: data depend only on seed, epoch and index, and losses are those of the features."""

from __future__ import annotations

from dataclasses import replace

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
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.distances.losses import pair_loss
from cryoem.distances.prediction import predict_distances, predict_shifts
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import ProjectionStream, TrainingSchedule, train
from cryoem.images import apply_ctf, correct_images, downsample, flip_phases, shift
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import clean_deviation
from cryoem.projection.projectors import project
from cryoem.rotations import geodesic_distance
from cryoem.volumes.density import DensityMap
from cryoem.volumes.phantoms import phantom

FLOAT32 = 1e-5  # several operations on numbers of order 1 in single precision
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
    # Keras reports the error of the decoded distances
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
    with pytest.raises(ValueError, match=r"^validation particles must have known poses"):
        tiny_training(validation=particles.ParticleStack(stack.images, stack.optics), **options)


@uncompiled
@pytest.mark.parametrize("n", [2, 129])
def test_validation_losses_are_finite_for_any_number_of_images(n):
    _, history = tiny_training(epochs=1, validation=tiny_validation(n))
    assert np.isfinite([history["val_loss"], history["val_distance_error_rad"]]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0"),
        (
            {"validation": (np.ones((3, 12, 12)), np.zeros((2, 4)))},
            r"validation must contain 3 unit quaternions, got an array of shape \(2, 4\)",
        ),
        (
            {"validation": (np.ones((1, 12, 12)), np.zeros((1, 4)))},
            "at least 2 validation images are required, got 1",
        ),
        (
            {"validation": (np.ones((3, 16, 16)), np.zeros((3, 4)))},
            r"validation images must have shape \(12, 12\) for this encoder, got \(16, 16\)",
        ),
        (
            {"settings": other_settings(with_shifts=True)},
            "with_shifts must be the same for the stream and the encoder, got Fa",
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


# --- training data


SIGMAS = 5  # for a statistical estimate: one false alarm in a million


@pytest.fixture(scope="module")
def particle() -> DensityMap:
    return phantom(size=24)


def stream_of(density_map: DensityMap, imaging: dict | None = None, **options) -> ProjectionStream:
    defaults = {"network_image_size": 16, "batch_size": 8, "steps": 3, "seed": 1}
    conditions = ImagingConditions(**({"image_size": 24} | (imaging or {})))
    return ProjectionStream(density_map, conditions, **(defaults | options))


@pytest.mark.parametrize(("full", "size"), [(24, 24), (24, 17), (25, 16), (25, 17), (30, 24)])
def test_a_batch_is_what_simulation_and_downsampling_give(particle, full, size):
    images, quaternions = stream_of(particle, {"image_size": full}, network_image_size=size)[0]
    assert images.shape == (8, size, size)
    assert images.dtype == quaternions.dtype == np.float32
    clean = project(particle.data, Rotation.from_quat(quaternions), image_size=full)
    clean /= clean_deviation(particle, ImagingConditions(full))
    np.testing.assert_allclose(images, downsample(clean, size), atol=FLOAT32 * clean.max())


def test_images_smaller_than_the_particle_are_cropped_not_folded():
    position = np.arange(24) - 12
    z, y, x = np.meshgrid(position, position, position, indexing="ij")
    blobs = [np.exp(-((x - centre) ** 2 + y**2 + z**2) / (2 * 1.3**2)) for centre in (2, 8)]
    density_map = DensityMap(sum(blobs), 1.0)  # the second blob is often outside a 14-pixel image
    images, quaternions = stream_of(density_map, {"image_size": 14}, network_image_size=14)[0]
    clean = project(density_map.data, Rotation.from_quat(quaternions), image_size=14)
    clean /= clean_deviation(density_map, ImagingConditions(14))
    np.testing.assert_allclose(images, clean, atol=10 * FLOAT32 * clean.max())


def test_batches_are_reproducible_and_never_repeat(particle):
    noisy = {"noise_variance": 1.0, "shift_limit_px": 2.0}
    stream, again = (stream_of(particle, noisy) for _ in range(2))
    assert len(stream) == 3
    seen = []
    for epoch in range(3):
        stream.epoch = again.epoch = epoch
        backwards = {index: again[index] for index in reversed(range(3))}
        for index in range(3):
            for a, b in zip(stream[index], backwards[index], strict=True):
                np.testing.assert_array_equal(a, b)
            seen.append(stream[index][1])
    other_seed = stream_of(particle, noisy, seed=2)[0][1]
    validation = particles.simulate(
        particle, 8, noise_variance=1.0, rng=1
    ).rotations.as_quat()  # the same seed
    orientations = Rotation.from_quat(np.concatenate([*seen, other_seed, validation]))
    between = off_diagonal(geodesic_distance(orientations, orientations))
    assert between.min() > 1e-3  # independent orientations are this close once in a million times


def test_noise_and_shifts_are_those_of_the_full_images(particle):
    options = {"batch_size": 600, "network_image_size": 17}
    clean, quaternions = stream_of(particle, **options)[0]
    noisy, same = stream_of(particle, {"noise_variance": 4.0}, **options)[0]
    np.testing.assert_array_equal(quaternions, same)
    noise = noisy - clean
    assert noise.var() == pytest.approx(4.0 * (17 / 24) ** 2, rel=SIGMAS * np.sqrt(2 / noise.size))
    shifted, labels = stream_of(particle, {"shift_limit_px": 2.0}, with_shifts=True, **options)[0]
    np.testing.assert_array_equal(quaternions, labels["features"])
    shifts = labels["shifts_px"] * 24 / 17
    assert 1.5 < np.abs(shifts).max() <= 2.0
    centred, drawn = np.split(shifts, 2)
    np.testing.assert_allclose(centred.std(axis=0), 0.5, rtol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), 2 / np.sqrt(6), rtol=0.1)
    # odd size, because the Nyquist frequency of an even size has no phase
    np.testing.assert_allclose(shift(clean, labels["shifts_px"]), shifted, atol=10 * FLOAT32 * clean.max())


def test_phases_of_the_contrast_transfer_are_flipped(particle):
    density = replace(particle, voxel_size_angstrom=4.0)
    ctf = ContrastTransfer(defocus_range_angstrom=(7_000.0, 7_000.0))
    plain, seen = (stream_of(density, {"ctf": some}, network_image_size=17)[0][0] for some in (None, ctf))
    optics = Optics(4.0 * 24 / 17, ctf, np.full(8, 7_000.0))
    expected = flip_phases(apply_ctf(plain, optics), optics)
    units = [clean_deviation(density, ImagingConditions(24, ctf=some)) for some in (None, ctf)]
    np.testing.assert_allclose(seen, expected * (units[0] / units[1]), atol=100 * FLOAT32 * seen.max())


def test_a_finite_training_set_repeats_and_an_infinite_one_does_not(particle):
    noisy = {"noise_variance": 1.0, "shift_limit_px": 1.0}
    finite, same = (stream_of(particle, noisy, distinct=20) for _ in range(2))
    endless = stream_of(particle, noisy)
    seen = {"finite": set(), "endless": set()}
    for epoch in range(8):
        for name, stream in (("finite", finite), ("endless", endless)):
            stream.epoch = epoch
            for index in range(len(stream)):
                images, quaternions = stream[index]
                pairs = {(i.tobytes(), q.tobytes()) for i, q in zip(images, quaternions, strict=True)}
                assert len(pairs) == 8  # none occurs twice in a batch
                seen[name] |= pairs
    assert len(seen["finite"]) == 20  # each image always has its own noise, shift and orientation
    assert len(seen["endless"]) == 8 * 3 * 8
    assert not np.array_equal(finite[1][0], same[1][0])  # a different epoch
    same.epoch = finite.epoch
    np.testing.assert_array_equal(finite[1][0], same[1][0])
    assert (finite.fingerprint["distinct"], endless.fingerprint["distinct"]) == (20, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"network_image_size": 25},
            "network_image_size must be between 2 and 24, the full image size, got 25",
        ),
        ({"batch_size": 1}, "batch_size must be an integer >= 2, got 1"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"distinct": 7}, "distinct must be an integer >= 8, got 7"),
    ],
)
def test_a_wrong_stream_is_one_sentence(particle, options, message):
    with pytest.raises(ValueError, match=message):
        stream_of(particle, **options)
