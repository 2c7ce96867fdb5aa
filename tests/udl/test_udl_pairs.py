"""Training of pair networks: what the losses require, streams and resuming."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage
from tiny_training import eagerly, uncompiled  # noqa: F401 (the first is a fixture)

from cryoem.training.compilation import TrainingSchedule
from cryoem.udl.networks import build_polar_pair_network
from cryoem.udl.pairs import (
    METHODS,
    ObjectiveBatches,
    PairObjective,
    PairStream,
    calibrate_bias,
    natural_draw,
    predict_angles,
    random_half,
    stack_draw,
    train_pairs,
    training_model,
)
from cryoem.udl.published import unit_length
from cryoem.udl.rotation import angle_errors_deg
from cryoem.udl.spectra import power_spectra

SIZE = 32
TOY = {"channels": 8, "blocks": 1, "groups": 2, "dense": 32, "rng": 0}


@pytest.fixture
def stream(photographs):
    return PairStream(natural_draw(photographs, image_size=SIZE), batch_size=8, steps=3, seed=1)


@pytest.fixture
def validation(photographs):
    return PairStream(natural_draw(photographs, image_size=SIZE), batch_size=8, steps=2, seed=2)


def loss_on_blobs(network, **options):
    """Return the loss of a network on one batch of blobs."""
    objective = PairObjective(**options)
    model, loss = training_model(network, objective)
    inputs, target = ObjectiveBatches(PairStream(blobs, batch_size=32, steps=1), objective)[0]
    return float(loss(target, model(list(inputs))))


class Compass(keras.layers.Layer):
    """Direction (b, 2) from the origin to the centre of mass of the squared image, which rotates with the image."""

    def call(self, images):
        n = images.shape[1]
        axis = np.arange(n, dtype="float32") - n // 2
        weight = ops.square(images)
        x, y = ops.sum(weight * axis, axis=(1, 2)), ops.sum(weight * axis[:, None], axis=(1, 2))
        direction = ops.stack([x, y], axis=1)
        return direction / ops.sqrt(ops.sum(ops.square(direction), axis=1, keepdims=True))


class Answer(keras.layers.Layer):
    """Angle from the first direction to the second, times ``factor``, plus a constant."""

    def __init__(self, factor=1, constant_rad=0.0):
        super().__init__()
        self.factor, self.constant_rad = factor, constant_rad

    def call(self, first, second):
        angles = [ops.arctan2(v[:, 1], v[:, 0]) for v in (first, second)]
        angle = self.factor * (angles[1] - angles[0]) + self.constant_rad
        return ops.stack([ops.cos(angle), ops.sin(angle)], axis=1)


def compass_network(factor=1, constant_rad=0.0):
    """Return a network for off-centre blobs that is exact, or wrong by a factor or a constant."""
    first, second = (keras.Input((SIZE, SIZE), name=name) for name in ("first", "second"))
    answer = Answer(factor, constant_rad)(Compass()(first), Compass()(second))
    return keras.Model([first, second], answer)


def dense_network():
    """Return a small network that compiles quickly and is not equivariant."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((SIZE, SIZE), name=name) for name in ("first", "second")]
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x) for x in inputs])
    return keras.Model(inputs, unit_length(keras.layers.Dense(2)(x)))


def blobs(n, rng):
    """Draw pairs of an off-centre blob with borders that are exactly zero."""
    rng = np.random.default_rng(rng)
    axis = np.arange(SIZE) - SIZE // 2
    first_rad, angles = rng.uniform(0, 2 * np.pi, (2, n))

    def draw(at):
        x, y = 6 * np.cos(at)[:, None, None], 6 * np.sin(at)[:, None, None]
        image = np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
        return np.where(image > 1e-4, image, 0).astype(np.float32)

    return draw(first_rad), draw(first_rad + angles), angles


# --- what the losses require


def test_differences_determine_the_angle_and_an_image_against_itself_the_constant():
    for factor, constant_rad, fits in ((1, 0, True), (1, 2.0, True), (-1, 0, False), (2, 0, False)):
        value = loss_on_blobs(compass_network(factor, constant_rad), against_itself=False)
        assert value < 0.02 if fits else value > 0.4
    assert loss_on_blobs(compass_network(1, 0.0)) < 0.02
    assert loss_on_blobs(compass_network(1, 2.0)) > 0.3


def test_only_the_second_image_is_displaced():
    rotated = []
    for limit in (0.0, 5.0):
        objective = PairObjective(against_itself=False, displacement_px=limit)
        batches = ObjectiveBatches(PairStream(blobs, batch_size=8, steps=1), objective)
        batches._stream.rng = lambda *key: np.random.default_rng(4)
        rotated.append(batches[0][0][2:])
    np.testing.assert_array_equal(rotated[0][0], rotated[1][0])
    assert np.abs(rotated[0][1] - rotated[1][1]).max() > 0.1


def test_calibration_finds_the_constant_without_the_truth():
    network = compass_network(constant_rad=2.0)
    first, second, angles = blobs(24, 5)
    bias = calibrate_bias(network, first)
    assert bias == pytest.approx(2.0, abs=0.01)
    found = predict_angles(network, first, second, bias_rad=bias)
    assert angle_errors_deg(found, angles).mean() < 0.5


@pytest.mark.parametrize(("size", "periods"), [(31, 1), (32, 1), (31, 2), (32, 2)])
def test_halves_keep_twins_with_the_same_noise_together(size, periods, rng):
    chosen = random_half((4, size, size), periods, rng)
    assert abs(chosen.mean() - 0.5) < 0.05
    low = 1 - size % 2
    inner = chosen[:, low:, low:]
    assert (inner == inner[:, ::-1, ::-1]).all() == (periods == 2)


def test_split_images_have_no_pixel_in_common():
    stream = PairStream(
        lambda n, rng: (np.ones((n, SIZE, SIZE), np.float32),) * 2 + (np.zeros(n),), batch_size=2, steps=1
    )
    batches = ObjectiveBatches(stream, PairObjective(against_itself=False, split_pixels=True))
    batches._stream.rng = lambda *key: _NoTurn(np.random.default_rng(0))
    (first, _, rotated, _), _ = batches[0]
    np.testing.assert_allclose(first + rotated, 1, atol=1e-5)


class _NoTurn:
    """Random generator whose angles and shifts are zero."""

    def __init__(self, rng):
        self.random = rng.random

    def uniform(self, low, high, size):
        return np.zeros(size)


# --- streams


def test_batches_are_new_and_reproducible(stream, photographs):
    again = PairStream(natural_draw(photographs, image_size=SIZE), batch_size=8, steps=3, seed=1)
    np.testing.assert_array_equal(stream[1][0], again[1][0])
    assert not np.array_equal(stream[1][0], stream[2][0])
    again.epoch = 1
    assert not np.array_equal(stream[1][0], again[1][0])


def test_pairs_of_a_stack_are_never_an_image_with_itself(rng):
    images, angles = rng.normal(size=(3, 16, 16)), np.array([0.0, 1.0, 3.0])
    first, second, between = stack_draw(images, angles)(50, rng)
    assert (first != second).any(axis=(1, 2)).all()
    assert set(np.round(between, 6)) <= {1, 3, -1, 2, -3, -2}
    assert stack_draw(images)(4, rng)[2] is None


# --- training


@uncompiled
@pytest.mark.parametrize("method", [method for method in METHODS if method != "published"])
def test_one_epoch_of_every_objective(method, stream, validation):
    network = build_polar_pair_network(SIZE, **TOY)
    before = network.get_weights()
    history = train_pairs(
        network,
        stream,
        validation=validation,
        schedule=TrainingSchedule(1, 1e-2),
        objective=PairObjective(method),
    )
    assert np.isfinite([history[name] for name in ("loss", "val_loss", "val_error_deg")]).all()
    assert (history["bias_deg"][0] != 0) == (method == "udl")
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, network.get_weights(), strict=True))


@uncompiled
def test_a_resumed_training_gives_the_same_numbers(tmp_path, photographs, stream, validation):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def train(folder, *callbacks, displacement_px=1.0):
        return train_pairs(
            dense_network(),
            stream,
            validation=validation,
            schedule=TrainingSchedule(2, 1e-3),
            objective=PairObjective(displacement_px=displacement_px, split_pixels=True),
            checkpoints=folder,
            callbacks=callbacks,
        )

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Stop())
    resumed = train(tmp_path / "parts")
    for name in ("loss", "val_loss", "bias_deg", "val_error_deg", "step"):
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-4, err_msg=name)
    with pytest.raises(ValueError, match=r"different training.*objective"):
        train(tmp_path / "parts", displacement_px=2.0)


@uncompiled
def test_spectra_without_truth_train_modulo_half_a_turn(rng):
    images = ndimage.gaussian_filter(rng.normal(size=(12, SIZE, SIZE)), (0, 1, 1))
    stream, validation = (
        PairStream(stack_draw(power_spectra(images)), batch_size=4, steps=2, seed=seed) for seed in (1, 2)
    )
    network = dense_network()
    history = train_pairs(
        network,
        stream,
        validation=validation,
        schedule=TrainingSchedule(1, 1e-3),
        objective=PairObjective(periods=2),
    )
    assert np.isfinite(history["loss"]).all()
    assert "val_error_deg" not in history
    angles = predict_angles(network, images[:6], images[6:], periods=2)
    assert (angles >= 0).all()
    assert (angles < np.pi).all()


def test_objectives_are_checked(rng):
    for options, message in (
        ({"method": "jUDL"}, "method must be one of udl, supervised, stn, published, got 'jUDL'"),
        (
            {"method": "stn", "split_pixels": True},
            "split_pixels requires method 'udl', got 'stn'; omit split_pixels",
        ),
        ({"displacement_px": -1}, "displacement_px must be a finite, non-negative number, got -1"),
        ({"periods": 0}, "periods must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PairObjective(**options)
    stream = PairStream(stack_draw(rng.normal(size=(4, SIZE, SIZE))), batch_size=2, steps=1)
    with pytest.raises(ValueError, match="method 'supervised' needs pair angles, but stream has none"):
        train_pairs(
            dense_network(),
            stream,
            validation=stream,
            schedule=TrainingSchedule(1),
            objective=PairObjective("supervised"),
        )
