"""The published pair network: its size, its correlation layer, what normalisation must not do, and that it learns."""

import re

import keras
import numpy as np
import pytest
from keras import layers
from scipy import ndimage

from cryoem.udl.published import FeatureCorrelation, UnitLength, build_pair_network
from cryoem.udl.rotation import rotate_images

FLOAT32 = 1e-5
TOY = {"filters": (8, 16), "dense": (16, 16), "rng": 0}
SIZE = 16
KINDS = pytest.mark.parametrize("correlation", [False, True])


def toy(correlation=False, **changes):
    return build_pair_network(SIZE, correlation=correlation, **TOY | changes)


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, 5, SIZE, SIZE)).astype(np.float32)


def answer(network, first, second):
    return np.asarray(network([first, second], training=False))


# --- shape and size


def test_the_default_has_the_published_size():
    network = build_pair_network(128, rng=0)
    assert 73e6 < network.count_params() < 75e6
    assert network.get_layer("features").output.shape == (None, 1, 1, 2048)
    widths = [x.units for x in network.layers if isinstance(x, layers.Dense)]
    assert widths == [2000, 2000, 2]
    trainable = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert trainable == network.count_params()  # no running statistics


def test_correlation_takes_the_first_four_stages_by_default():
    network = build_pair_network(128, correlation=True, dense=(4,), rng=0)
    features = network.get_layer("features").output
    assert features.shape == (None, 8, 8, 256)
    assert network.get_layer("correlation_reader").input.shape == (None, 8, 8, 64)


@KINDS
@pytest.mark.parametrize("channels_in", [1, 2])
def test_pairs_become_unit_vectors(correlation, channels_in, rng):
    network = toy(correlation, channels_in=channels_in)
    shape = (2, 5, SIZE, SIZE) if channels_in == 1 else (2, 5, SIZE, SIZE, channels_in)
    first, second = rng.normal(size=shape).astype(np.float32)
    vectors = answer(network, first, second)
    assert vectors.shape == (5, 2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=FLOAT32)
    named = np.asarray(network({"second": second, "first": first}))
    np.testing.assert_array_equal(named, vectors)
    assert np.abs(answer(network, second, first) - vectors).max() > 1e-3


@KINDS
def test_both_images_pass_the_same_extractor(correlation, pair):
    network = toy(correlation)
    assert [layer.name for layer in network.layers].count("features") == 1
    features = network.get_layer("features")
    once = features.count_params()
    rest = network.count_params() - once
    wider = build_pair_network(SIZE, correlation=correlation, filters=(16, 16), dense=(16, 16), rng=0)
    assert wider.get_layer("features").count_params() > once
    assert wider.count_params() - wider.get_layer("features").count_params() == rest


def test_the_mask_multiplies_the_image(pair):
    features = toy().get_layer("features")
    mask = features.get_layer("mask")
    kernel, bias = mask.get_weights()
    before = np.asarray(features(pair[0]))
    mask.set_weights([0 * kernel, bias - 60])  # a closed mask: the image does not get through
    closed = np.asarray(features(pair[0]))
    np.testing.assert_allclose(closed, closed[:1].repeat(5, axis=0), atol=1e-4)
    mask.set_weights([0 * kernel, bias + 30])  # an open one
    opened = np.asarray(features(pair[0]))
    assert np.abs(opened - before).max() > 1e-2
    assert np.abs(opened[0] - opened[1]).max() > 1e-2


# --- layers


def test_correlation_is_all_pairs_of_unit_features(rng):
    first, second = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    found = np.asarray(FeatureCorrelation()(first, second))
    assert found.shape == (3, 4, 5, 20)
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second))
    expected = np.zeros((3, 4, 5, 20))
    for y in range(4):
        for x in range(5):
            expected[..., y * 5 + x] = np.maximum(np.einsum("byxc,bc->byx", a, b[:, y, x]), 0)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=FLOAT32)
    scaled = np.asarray(FeatureCorrelation()(7 * first, second))
    np.testing.assert_allclose(scaled, expected, atol=FLOAT32)


def test_zero_vectors_stay_zero_and_can_be_learned_from():
    vectors = np.array([[0, 0], [1e-30, 0], [3, -4], [1e15, 0]], np.float32)
    np.testing.assert_allclose(UnitLength()(vectors), [[0, 0], [0, 0], [0.6, -0.8], [1, 0]], atol=FLOAT32)
    blank = np.zeros((2, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(FeatureCorrelation()(blank, blank), 0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, kernel_initializer="zeros"), UnitLength()])
    model.compile(keras.optimizers.SGD(1e-2), "mse", run_eagerly=True)
    inputs, truth = np.ones((4, 2)), np.tile([0.6, 0.8], (4, 1))
    for _ in range(10):  # the first step starts from zero vectors
        model.train_on_batch(inputs, truth)
    np.testing.assert_allclose(np.asarray(model(inputs)), truth, atol=0.05)


@KINDS
@pytest.mark.parametrize("training", [False, True])
def test_no_image_depends_on_its_neighbours_in_the_batch(correlation, training, pair):
    network = toy(correlation)
    first, second = pair.copy()
    alone = np.concatenate(
        [np.asarray(network([first[i : i + 1], second[i : i + 1]], training=training)) for i in range(5)]
    )
    assert np.abs(np.diff(alone, axis=0)).max() > 1e-3
    together = np.asarray(network([first, second], training=training))
    np.testing.assert_allclose(together, alone, atol=1e-4)
    first[3:] = 1e3 * first[3:] + 500
    beside_outliers = np.asarray(network([first, second], training=training))
    np.testing.assert_allclose(beside_outliers[:3], alone[:3], atol=1e-4)


def test_no_channel_is_normalised_alone():
    # alone, four values of a 2 x 2 map would lose their mean and scale
    network = build_pair_network(16, filters=(4, 12, 16, 64), rng=0)
    norms = [x for x in network.get_layer("features").layers if isinstance(x, layers.GroupNormalization)]
    assert len(norms) == 4 + 4 * 4
    assert all(x.output.shape[-1] >= 4 * x.groups for x in norms)
    assert max(x.groups for x in norms) == 8


@KINDS
def test_exchanged_images_exchange_their_features(correlation, pair):
    network = toy(correlation)
    features = keras.Model(network.inputs, network.get_layer("pair").output)
    one, other = np.split(answer(features, *pair), 2, axis=1)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose(
        answer(features, pair[1], pair[0]), np.concatenate([other, one], axis=1), atol=1e-4
    )


# --- randomness, files, learning


def test_a_seed_decides_the_weights():
    weights = [toy(rng=seed).get_weights() for seed in (3, np.random.default_rng(3), 4)]
    for a, b in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [w for w in weights[0] if w.ndim > 1]
    others = [w for w in weights[2] if w.ndim > 1]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(kernels, others, strict=True))
    shapes = [k.shape for k in kernels]
    twins = [(a, b) for a in range(len(shapes)) for b in range(a) if shapes[a] == shapes[b]]
    assert twins
    assert all(np.abs(kernels[a] - kernels[b]).max() > 1e-3 for a, b in twins)


@KINDS
def test_weights_survive_a_file(correlation, pair, tmp_path):
    network, other = toy(correlation), toy(correlation, rng=1)
    assert np.abs(answer(network, *pair) - answer(other, *pair)).max() > 1e-2
    network.save_weights(tmp_path / "pair.weights.h5")
    other.load_weights(tmp_path / "pair.weights.h5")
    np.testing.assert_array_equal(answer(network, *pair), answer(other, *pair))


@KINDS
def test_a_few_steps_lower_the_loss(correlation, rng):
    images = ndimage.gaussian_filter(rng.normal(size=(32, 8, 8)), (0, 1.5, 1.5)).astype(np.float32)
    images /= images.std()
    images[0] = 0  # no number comes out of it that training could not survive
    angles = rng.uniform(0, 2 * np.pi, 32)
    pairs = [images, rotate_images(images, angles)]
    truth = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    network = build_pair_network(8, correlation=correlation, filters=(8,), dense=(16, 16), rng=0)
    network.compile(
        keras.optimizers.Adam(5e-3), "mse", run_eagerly=True
    )  # compiling would take longer than it saves
    before = np.mean(np.square(answer(network, *pairs) - truth))
    for _ in range(12):
        network.train_on_batch(pairs, truth)
    vectors = answer(network, *pairs)
    assert np.mean(np.square(vectors - truth)) < 0.8 * before
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=FLOAT32)


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size must be a whole number of at least 1, got 0"),
        ({"image_size": 127}, "image_size must be at least 128 px for the 7 stages of filters, got 127"),
        ({"channels_in": 0}, "channels_in must be a whole number of at least 1, got 0"),
        ({"filters": ()}, "filters must name at least one stage, got none"),
        ({"filters": (8, 10)}, "filters must be multiples of 4, got 10"),
        ({"filters": (2,)}, "filters must be a whole number of at least 4, got 2"),
        ({"dense": (16, 0)}, "dense must be a whole number of at least 1, got 0"),
        (
            {"correlation": True, "filters": (8,) * 6},
            "filters must leave a map of 4 to 16 px a side for the correlation, got 6 stages that leave 2 px of 128",
        ),
        ({"correlation": True, "filters": (8, 8)}, "got 2 stages that leave 32 px of 128"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_pair_network(**{"image_size": 128} | change)
