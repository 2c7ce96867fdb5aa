"""Training of pair networks: one sign for labels, sampler and rotation, and what differences teach and leave open."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from cryoem.udl.natural import crop_mask, natural_pairs
from cryoem.udl.natural_network import CircularMatches, TurnImages, build_polar_pair_network
from cryoem.udl.pair_streams import PairStream, natural_draw, power_spectra, stack_draw
from cryoem.udl.pairs import (
    METHODS,
    _Batches,
    _training_model,
    angle_errors_deg,
    calibrate,
    masked_square,
    predict_angles,
    random_half,
    train_pairs,
)
from cryoem.udl.published import UnitLength
from cryoem.udl.rotation import rotate_images

SIZE = 32
TOY = {"channels": 8, "blocks": 1, "groups": 2, "dense": 32, "rng": 0}


@pytest.fixture(scope="module")
def photographs():
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(2, 90, 110)), (0, 3, 3))
    return list(((noise - noise.min()) / np.ptp(noise)).astype(np.float32))


@pytest.fixture
def stream(photographs):
    return PairStream(natural_draw(photographs, image_size=SIZE), batch_size=8, steps=3, seed=1)


@pytest.fixture
def validation(photographs):
    return PairStream(natural_draw(photographs, image_size=SIZE), batch_size=8, steps=2, seed=2)


def vectors(angles_rad):
    return np.stack([np.cos(angles_rad), np.sin(angles_rad)], axis=1).astype(np.float32)


class Compass(keras.layers.Layer):
    """Direction (b, 2) from the origin to the centre of mass of squared images: it turns with them."""

    def call(self, images):
        n = images.shape[1]
        axis = np.arange(n, dtype="float32") - n // 2
        weight = ops.square(images)
        x, y = ops.sum(weight * axis, axis=(1, 2)), ops.sum(weight * axis[:, None], axis=(1, 2))
        direction = ops.stack([x, y], axis=1)
        return direction / ops.sqrt(ops.sum(ops.square(direction), axis=1, keepdims=True))


class Answer(keras.layers.Layer):
    """The direction of the second from the first, times ``factor``, plus a constant."""

    def __init__(self, factor=1, constant_rad=0.0):
        super().__init__()
        self.factor, self.constant_rad = factor, constant_rad

    def call(self, first, second):
        angles = [ops.arctan2(v[:, 1], v[:, 0]) for v in (first, second)]
        angle = self.factor * (angles[1] - angles[0]) + self.constant_rad
        return ops.stack([ops.cos(angle), ops.sin(angle)], axis=1)


def compass_network(factor=1, constant_rad=0.0):
    """A network that reads off-centre blobs: perfect, or wrong by a factor or a constant."""
    first, second = (keras.Input((SIZE, SIZE), name=name) for name in ("first", "second"))
    answer = Answer(factor, constant_rad)(Compass()(first), Compass()(second))
    return keras.Model([first, second], answer)


def dense_network():
    """A small network that compiles quickly and is not equivariant."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((SIZE, SIZE), name=name) for name in ("first", "second")]
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x) for x in inputs])
    return keras.Model(inputs, UnitLength()(keras.layers.Dense(2)(x)))


def blobs(n, rng):
    """Pairs of one blob off the centre, whose borders are exactly zero."""
    rng = np.random.default_rng(rng)
    axis = np.arange(SIZE) - SIZE // 2
    first_rad, angles = rng.uniform(0, 2 * np.pi, (2, n))

    def draw(at):
        x, y = 6 * np.cos(at)[:, None, None], 6 * np.sin(at)[:, None, None]
        image = np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
        return np.where(image > 1e-4, image, 0).astype(np.float32)

    return draw(first_rad), draw(first_rad + angles), angles


# --- one sign


@pytest.mark.parametrize("size", [31, 32])
def test_the_sampler_turns_as_rotate_images_does(size, rng):
    images = ndimage.gaussian_filter(rng.normal(size=(6, size, size)), (0, 2, 2)).astype(np.float32)
    images *= crop_mask(size)
    angles = np.array([0, 0.3, np.pi / 2, 2.5, np.pi, -1.0])
    turned = np.asarray(TurnImages()(images, vectors(angles)))
    assert np.abs(turned[0] - images[0]).max() < 1e-6
    np.testing.assert_allclose(turned, rotate_images(images, angles), atol=0.12 * np.abs(images).max())
    wrong = rotate_images(images, -angles)
    assert np.abs(turned - wrong)[1].max() > 0.3 * np.abs(images).max()


def test_label_and_sampler_agree_on_natural_pairs(photographs):
    pairs = natural_pairs(photographs, 16, image_size=SIZE, rng=0)
    losses = [
        float(masked_square(pairs.second, TurnImages()(pairs.first, vectors(sign * pairs.angles_rad))))
        for sign in (1, -1)
    ]
    assert losses[0] < 0.02 * losses[1]


def test_the_sampler_of_two_periods_turns_by_half_of_the_vector(rng):
    image = ndimage.gaussian_filter(rng.normal(size=(1, SIZE, SIZE)), (0, 2, 2)).astype(np.float32)
    half = np.asarray(TurnImages(2)(image, vectors(np.array([1.2]))))
    np.testing.assert_allclose(half, TurnImages()(image, vectors(np.array([0.6]))), atol=1e-5)


def test_gradients_lead_the_sampler_to_the_true_angle(photographs):
    pairs = natural_pairs(photographs, 4, image_size=SIZE, rng=0)
    answer = keras.Input((2,)), keras.Input((SIZE, SIZE))
    dense = keras.layers.Dense(2, kernel_initializer="identity")
    model = keras.Model(answer, TurnImages()(answer[1], dense(answer[0])))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=masked_square)
    start = vectors(pairs.angles_rad + 0.1)
    before = model.evaluate([start, pairs.first], pairs.second, verbose=0)
    model.fit([start, pairs.first], pairs.second, epochs=20, verbose=0)
    assert model.evaluate([start, pairs.first], pairs.second, verbose=0) < before


def test_matches_peak_at_the_step_between_the_maps(rng):
    first = rng.normal(size=(3, 16, 6)).astype(np.float32)
    second = np.stack([np.roll(x, step, axis=0) for x, step in zip(first, (0, 3, 11), strict=True)])
    matches = np.asarray(CircularMatches(2)(first, second))  # (3, 16, 2)
    assert matches.shape == (3, 16, 2)
    np.testing.assert_array_equal(matches.argmax(axis=1), [[0, 0], [3, 3], [11, 11]])
    np.testing.assert_allclose(matches.max(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [31, 32])
def test_power_spectra_turn_with_their_images_and_are_centrosymmetric(size, rng):
    axis = np.arange(size) - size // 2
    window = np.exp(-(axis**2 + axis[:, None] ** 2) / 18)  # a small particle, whose spectrum is smooth
    images = 9 * rng.normal(size=(4, size, size)) * window
    images = ndimage.gaussian_filter(images, (0, 0.7, 0.7))
    angles = np.array([0.5, 1.0, 2.0, 3.0])
    spectra = power_spectra(images)
    assert spectra.min() == 0
    assert spectra.max() == 1
    o, r = size // 2, size // 2 - 1
    inner = spectra[:, o - r : o + r + 1, o - r : o + r + 1]
    np.testing.assert_allclose(inner, inner[:, ::-1, ::-1], atol=1e-4)
    turned = power_spectra(rotate_images(images, angles))

    def alike(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    assert alike(turned, rotate_images(spectra, angles, outside="edge-mean")) > 0.97
    assert alike(turned, rotate_images(spectra, -angles, outside="edge-mean")) < 0.9


def test_errors_are_taken_modulo_the_period():
    assert angle_errors_deg([0.01, 2 * np.pi - 0.01], [2 * np.pi - 0.01, 0.01]) == pytest.approx(
        np.degrees(0.02)
    )
    np.testing.assert_allclose(
        angle_errors_deg([0.0, 0.0], [np.pi, np.pi / 2], periods=2), [0, 90], atol=1e-9
    )


# --- what the losses ask for


@pytest.mark.parametrize(
    ("factor", "constant_rad", "fits"), [(1, 0, True), (1, 2.0, True), (-1, 0, False), (2, 0, False)]
)
def test_differences_hold_for_the_angle_up_to_a_constant_alone(factor, constant_rad, fits):
    stream = PairStream(blobs, batch_size=32, steps=1)
    model, loss = _training_model(compass_network(factor, constant_rad), "udl", 1)
    inputs, target = _Batches(stream, "udl", 1, False, 0.0, False)[0]
    value = float(loss(target, model(list(inputs))))
    assert value < 0.02 if fits else value > 0.4


@pytest.mark.parametrize(("constant_rad", "fits"), [(0, True), (2.0, False)])
def test_an_image_against_itself_asks_for_the_constant_too(constant_rad, fits):
    model, loss = _training_model(compass_network(1, constant_rad), "udl", 1, True)
    inputs, target = _Batches(PairStream(blobs, batch_size=32, steps=1), "udl", 1, True, 0.0, False)[0]
    value = float(loss(target, model(list(inputs))))
    assert value < 0.02 if fits else value > 0.3


def test_the_second_image_alone_is_displaced():
    turned = []
    for limit in (0.0, 5.0):
        batches = _Batches(PairStream(blobs, batch_size=8, steps=1), "udl", 1, False, limit, False)
        batches._stream.rng = lambda *key: np.random.default_rng(4)
        turned.append(batches[0][0][2:])
    np.testing.assert_array_equal(turned[0][0], turned[1][0])
    assert np.abs(turned[0][1] - turned[1][1]).max() > 0.1


def test_the_border_is_not_read(rng):
    images = rng.normal(size=(2, 2, SIZE, SIZE)).astype(np.float32)
    network = build_polar_pair_network(SIZE, **TOY, border_px=6)
    axis = np.arange(SIZE) - SIZE // 2
    outside = np.hypot(axis[:, None], axis) > SIZE // 2 - 5
    other = images.copy()
    other[..., outside] = np.sort(other[..., outside])  # the mean and the variance are those before
    assert not np.array_equal(other, images)
    answers = [network.predict(list(x), verbose=0) for x in (images, other)]
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_a_network_that_ignores_the_first_image_fails():
    first, second = (keras.Input((SIZE, SIZE), name=name) for name in ("first", "second"))
    network = keras.Model([first, second], Compass()(second))
    model, loss = _training_model(network, "udl", 1)
    inputs, target = _Batches(PairStream(blobs, batch_size=32, steps=1), "udl", 1, False, 0.0, False)[0]
    assert float(loss(target, model(list(inputs)))) > 0.4


@pytest.mark.parametrize("constant_rad", [0.0, 2.0, -3.0])
def test_calibration_finds_the_constant_without_the_truth(constant_rad):
    network = compass_network(constant_rad=constant_rad)
    first, second, angles = blobs(24, 5)
    bias = calibrate(network, first, rng=0)
    assert bias == pytest.approx(constant_rad, abs=0.01)
    found = predict_angles(network, first, second, bias_rad=bias)
    assert angle_errors_deg(found, angles).mean() < 0.5


@pytest.mark.parametrize(("size", "periods"), [(31, 1), (32, 1), (31, 2), (32, 2)])
def test_halves_keep_twins_together_where_these_hold_the_same_noise(size, periods, rng):
    chosen = random_half((4, size, size), periods, rng)
    assert abs(chosen.mean() - 0.5) < 0.05
    low = 1 - size % 2
    inner = chosen[:, low:, low:]
    assert (inner == inner[:, ::-1, ::-1]).all() == (periods == 2)


def test_split_images_hold_no_pixel_twice(photographs):
    stream = PairStream(
        lambda n, rng: (np.ones((n, SIZE, SIZE), np.float32),) * 2 + (np.zeros(n),), batch_size=2, steps=1
    )
    batches = _Batches(stream, "udl", 1, False, 0.0, True)
    batches._stream.rng = lambda *key: _NoTurn(np.random.default_rng(0))
    (first, _, turned, _), _ = batches[0]
    np.testing.assert_allclose(first + turned, 1, atol=1e-5)


class _NoTurn:
    """A generator whose angles and shifts are zero."""

    def __init__(self, rng):
        self.random = rng.random

    def uniform(self, low, high, size):
        return np.zeros(size)


# --- streams


def test_batches_are_fresh_and_reproducible(stream, photographs):
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


@pytest.mark.parametrize("method", METHODS)
def test_losses_fall_in_a_few_steps(method, photographs, validation):
    stream = PairStream(natural_draw(photographs, image_size=SIZE), batch_size=16, steps=20, seed=1)
    history = train_pairs(
        build_polar_pair_network(SIZE, **TOY),
        stream,
        method=method,
        validation=validation,
        epochs=3,
        learning_rate=1e-2,
    )
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["val_error_deg"][-1] < 45
    assert (history["bias_deg"][-1] != 0) == (method == "udl")


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path, photographs, stream, validation):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def train(folder, *callbacks, displacement_px=1.0):
        return train_pairs(
            dense_network(),
            stream,
            validation=validation,
            epochs=2,
            displacement_px=displacement_px,
            split_pixels=True,
            checkpoints=folder,
            callbacks=callbacks,
        )

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Stop())
    resumed = train(tmp_path / "parts")
    for name in ("loss", "val_loss", "bias_deg", "val_error_deg", "step"):
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-4, err_msg=name)
    with pytest.raises(ValueError, match="are of another training, with options"):
        train(tmp_path / "parts", displacement_px=2.0)


def test_spectra_without_truth_train_modulo_half_a_turn(rng):
    images = ndimage.gaussian_filter(rng.normal(size=(12, SIZE, SIZE)), (0, 1, 1))
    stream, validation = (
        PairStream(stack_draw(power_spectra(images)), batch_size=4, steps=2, seed=seed) for seed in (1, 2)
    )
    network = dense_network()
    history = train_pairs(network, stream, validation=validation, epochs=1, periods=2)
    assert np.isfinite(history["loss"]).all()
    assert "val_error_deg" not in history
    angles = predict_angles(network, images[:6], images[6:], periods=2)
    assert (angles >= 0).all()
    assert (angles < np.pi).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "jUDL"}, "method must be one of udl, supervised, stn, got 'jUDL'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"method": "stn", "split_pixels": True}, "split_pixels are for method 'udl' alone, got 'stn'"),
        ({"displacement_px": -1}, "displacement_px must be a finite number of at least 0, got -1"),
        ({"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
    ],
)
def test_errors_name_the_argument_and_the_value(changes, message, stream, validation):
    options = {"validation": validation, "epochs": 1} | changes
    with pytest.raises(ValueError, match=message):
        train_pairs(build_polar_pair_network(SIZE, **TOY), stream, **options)


def test_labels_are_needed_for_supervised_training(rng):
    stream = PairStream(stack_draw(rng.normal(size=(4, SIZE, SIZE))), batch_size=2, steps=1)
    network = build_polar_pair_network(SIZE, **TOY)
    with pytest.raises(ValueError, match="stream must give the angles"):
        train_pairs(network, stream, method="supervised", validation=stream, epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups must divide the 8 channels, got 3"),
        ({"blocks": 0}, "blocks must be"),
        ({"border_px": 9}, "border_px must be at most a quarter of the 32 px, got 9"),
    ],
)
def test_the_network_names_what_does_not_suit(changes, message):
    with pytest.raises(ValueError, match=message):
        build_polar_pair_network(SIZE, **TOY | changes)
