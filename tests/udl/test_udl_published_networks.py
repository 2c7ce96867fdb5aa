"""The published pair network and its layers."""

from __future__ import annotations

from itertools import pairwise

import keras
import numpy as np
from keras import layers

from cryoem.udl.published import (
    QuarterNormalization,
    _normalised,
    _normalised_by_tensorflow,
    build_pair_network,
    feature_correlation,
    log_spectra,
    unit_length,
    unit_range,
)

FLOAT32 = 1e-5
SIZE = 16


def published_parameters(filters) -> int:
    """Trainable parameters, counted layer by layer: convolutions without bias, two for each normalised channel."""
    mask = [1, 4, 8, 16, 32, 1]
    total = sum(9 * a * b + 2 * b for a, b in pairwise(mask))
    for a, b in zip((1, *filters), filters, strict=False):
        total += (a * b + 9 * b * b + b * b + a * b) + 4 * 2 * b
    return total + (2 * filters[-1] + 1) * 2000 + 2001 * 2000 + 2000


def test_the_default_has_the_published_size():
    network = build_pair_network(128, rng=0)
    trainable = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert trainable == published_parameters((32, 64, 128, 256, 512, 1024, 2048)) == 73_748_750
    assert network.get_layer("features").output.shape == (None, 1, 1, 2048)
    dense = [layer for layer in network.layers if isinstance(layer, layers.Dense)]
    assert [(x.units, x.activation, x.use_bias) for x in dense] == [
        (2000, keras.activations.linear, True),
        (2000, keras.activations.linear, True),
        (1, keras.activations.linear, False),
    ]


def test_natural_images_have_four_stages_and_fewer_channels_divide_all_widths():
    network = build_pair_network(128, correlation=True, channels_divisor=4, rng=0)
    assert network.get_layer("features").output.shape == (None, 8, 8, 64)
    assert network.get_layer("correlation_reader").input.shape == (None, 8, 8, 64)
    assert [x.units for x in network.layers if isinstance(x, layers.Dense)] == [500, 500, 1]
    assert build_pair_network(64, channels_divisor=8, rng=0).get_layer("features").output.shape == (
        None,
        1,
        1,
        128,
    )


def test_predictions_for_natural_images_do_not_depend_on_the_batch(rng):
    network = build_pair_network(64, correlation=True, channels_divisor=8, rng=0)
    first, second = rng.random((2, 5, 64, 64)).astype(np.float32)
    answers = np.asarray(network([first, second]))
    assert answers.shape == (5, 1)
    assert np.ptp(answers) > 1e-3
    np.testing.assert_allclose(network({"second": second[1:3], "first": first[1:3]}), answers[1:3], atol=1e-4)
    exchanged = np.asarray(network([second, first]))
    assert np.abs(exchanged - answers).max() > 1e-3


def test_quarters_are_normalised_as_in_separate_passes(rng):
    maps = rng.normal(size=(8, 3, 3, 2)).astype(np.float32) * np.repeat([1, 2, 3, 4], 2)[:, None, None, None]
    layer, plain = QuarterNormalization(running=True), layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    together = np.asarray(layer(maps, training=True))
    apart = [np.asarray(plain(maps[i : i + 2], training=True)) for i in range(0, 8, 2)]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-4)
    means = maps.reshape(4, -1, 2).mean(axis=(0, 1))
    np.testing.assert_allclose(layer.mean, (1 - 0.9**4) * means, atol=FLOAT32)
    inference = (maps - np.asarray(layer.mean)) / np.sqrt(np.asarray(layer.variance) + 1e-5)
    np.testing.assert_allclose(layer(maps), inference, atol=1e-4)


def test_maps_are_normalised_alike_on_every_backend(rng):
    maps = rng.normal(3, 2, size=(4, 5, 5, 3)).astype(np.float32)
    scale, offset = rng.normal(size=(2, 3)).astype(np.float32)
    plain = _normalised(maps, scale, offset)
    np.testing.assert_allclose(plain[0], _normalised_by_tensorflow(maps, scale, offset)[0], atol=1e-4)
    np.testing.assert_allclose(plain[1:], [maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))], rtol=1e-4)


def test_the_mask_is_multiplied_with_the_image(rng):
    features = build_pair_network(SIZE, channels_divisor=8, rng=0).get_layer("features")
    last = [layer for layer in features.layers if isinstance(layer, QuarterNormalization)][4]
    assert last.offset.shape == (1,)
    spectra = rng.random((4, SIZE, SIZE)).astype(np.float32)
    assert np.abs(np.diff(features(spectra), axis=0)).max() > 1e-3
    last.offset.assign([-200.0])  # a closed mask hides the image
    np.testing.assert_allclose(np.diff(features(spectra), axis=0), 0, atol=FLOAT32)


def test_correlation_is_all_pairs_of_features(rng):
    first, second = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    expected = np.maximum(np.einsum("byxc,bvuc->byxvu", first, second).reshape(3, 4, 5, 20), 0)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(feature_correlation(first, second), expected, atol=FLOAT32)


def test_zero_vectors_stay_zero_and_have_gradients():
    vectors = np.array([[0, 0], [1e-30, 0], [3, -4], [1e15, 0]], np.float32)
    np.testing.assert_allclose(unit_length(vectors), [[0, 0], [0, 0], [0.6, -0.8], [1, 0]], atol=FLOAT32)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, unit_length(layers.Dense(2, kernel_initializer="zeros")(inputs)))
    model.compile(keras.optimizers.SGD(1e-2), "mse", run_eagerly=True)
    ones, truth = np.ones((4, 2)), np.tile([0.6, 0.8], (4, 1))
    for _ in range(10):  # the first step starts from zero vectors
        model.train_on_batch(ones, truth)
    np.testing.assert_allclose(np.asarray(model(ones)), truth, atol=0.05)


def test_spectra_are_those_of_numpy_and_do_not_depend_on_the_position(rng):
    images = rng.random((3, SIZE, SIZE)).astype(np.float32)
    images = np.asarray(unit_range(images))
    assert images.min() == 0
    assert images.max() == 1
    expected = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(images), axes=(1, 2))))
    expected -= expected.min(axis=(1, 2), keepdims=True)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    spectra = np.asarray(log_spectra(images))
    np.testing.assert_allclose(spectra, expected, atol=1e-4)
    np.testing.assert_allclose(log_spectra(np.roll(images, (3, -2), axis=(1, 2))), spectra, atol=1e-4)
