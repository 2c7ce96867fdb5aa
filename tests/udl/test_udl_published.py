"""The published pair network: its size, its correlation layer, its normalisation, and that it learns."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from cryoem.udl.published_network import FeatureCorrelation, UnitLength, build_pair_network

FLOAT32 = 1e-5
SIZE = 16
KINDS = pytest.mark.parametrize("correlation", [False, True])


def toy(correlation=False, **changes):
    return build_pair_network(
        SIZE, correlation=correlation, **{"filters": (8, 16), "dense": (16, 16), "rng": 0, **changes}
    )


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, 5, SIZE, SIZE)).astype(np.float32)


def test_the_default_has_the_published_size():
    network = build_pair_network(128, rng=0)
    assert 73e6 < network.count_params() < 75e6
    assert network.get_layer("features").output.shape == (None, 1, 1, 2048)
    assert [x.units for x in network.layers if isinstance(x, layers.Dense)] == [2000, 2000, 2]
    trainable = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert trainable == network.count_params()  # no running statistics
    network = build_pair_network(128, correlation=True, dense=(4,), rng=0)
    assert network.get_layer("features").output.shape == (None, 8, 8, 256)


@pytest.mark.parametrize(("correlation", "channels_in"), [(False, 2), (True, 1)])
def test_pairs_become_unit_vectors(correlation, channels_in, rng):
    network = toy(correlation, channels_in=channels_in)
    shape = (2, 5, SIZE, SIZE) if channels_in == 1 else (2, 5, SIZE, SIZE, channels_in)
    first, second = rng.normal(size=shape).astype(np.float32)
    vectors = np.asarray(network([first, second]))
    assert vectors.shape == (5, 2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=FLOAT32)
    np.testing.assert_array_equal(network({"second": second, "first": first}), vectors)
    # both images pass the same extractor
    features = keras.Model(network.inputs, network.get_layer("pair").output)
    one, other = np.split(np.asarray(features([first, second])), 2, axis=1)
    assert np.abs(one - other).max() > 0.1
    exchanged = np.concatenate([other, one], axis=1)
    np.testing.assert_allclose(features([second, first]), exchanged, atol=1e-4)


def test_the_mask_is_multiplied_with_the_image(pair):
    features = toy().get_layer("features")
    mask = features.get_layer("mask")
    kernel, bias = mask.get_weights()
    mask.set_weights([0 * kernel, bias - 60])  # a closed mask hides the image
    closed = np.asarray(features(pair[0]))
    np.testing.assert_allclose(closed, closed[:1].repeat(5, axis=0), atol=1e-4)
    mask.set_weights([0 * kernel, bias + 30])  # an open one
    opened = np.asarray(features(pair[0]))
    assert np.abs(opened[0] - opened[1]).max() > 1e-2


def test_correlation_is_all_pairs_of_unit_features(rng):
    first, second = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second))
    expected = np.maximum(np.einsum("byxc,bvuc->byxvu", a, b).reshape(3, 4, 5, 20), 0)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    for scale in (1, 7):
        np.testing.assert_allclose(FeatureCorrelation()(scale * first, second), expected, atol=FLOAT32)


def test_zero_vectors_stay_zero_and_have_gradients():
    vectors = np.array([[0, 0], [1e-30, 0], [3, -4], [1e15, 0]], np.float32)
    np.testing.assert_allclose(UnitLength()(vectors), [[0, 0], [0, 0], [0.6, -0.8], [1, 0]], atol=FLOAT32)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, kernel_initializer="zeros"), UnitLength()])
    model.compile(keras.optimizers.SGD(1e-2), "mse", run_eagerly=True)
    inputs, truth = np.ones((4, 2)), np.tile([0.6, 0.8], (4, 1))
    for _ in range(10):  # the first step starts from zero vectors
        model.train_on_batch(inputs, truth)
    np.testing.assert_allclose(np.asarray(model(inputs)), truth, atol=0.05)


@pytest.mark.parametrize(("correlation", "training"), [(False, True), (True, False)])
def test_no_image_depends_on_its_neighbours_in_the_batch(correlation, training, pair):
    network = toy(correlation)
    first, second = pair.copy()
    alone = np.concatenate(
        [np.asarray(network([first[i : i + 1], second[i : i + 1]], training=training)) for i in range(5)]
    )
    assert np.abs(np.diff(alone, axis=0)).max() > 1e-3
    first[3:] = 1e3 * first[3:] + 500
    with_outliers = np.asarray(network([first, second], training=training))
    np.testing.assert_allclose(with_outliers[:3], alone[:3], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 127}, "image_size must be at least 128 px for the 7 stages of filters, got 127"),
        ({"filters": ()}, "filters must have at least one stage, got none"),
        ({"filters": (8, 10)}, "filters must be multiples of 4, got 10"),
        ({"dense": (16, 0)}, "dense must be a whole number of at least 1, got 0"),
        (
            {"correlation": True, "filters": (8,) * 6},
            "filters must leave a map of 4 to 16 px a side for the correlation, got 6 stages, which leave 2 px of 128",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_pair_network(**{"image_size": 128} | change)
