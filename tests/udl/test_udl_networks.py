"""The polar networks, the sampler of a spatial transformer, and the published network."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import ndimage

from cryoem.udl.aligner import Aligner
from cryoem.udl.natural import crop_mask
from cryoem.udl.networks import build_polar_network, build_polar_pair_network, circular_matches, rotated_by
from cryoem.udl.published import build_pair_network, feature_correlation, unit_length
from cryoem.udl.rotation import rotate_images, unit_vectors, wrap_angles
from cryoem.udl.spectra import polar_grid, subtract_ring_means

FLOAT32 = 1e-5
SIZE = 32


# --- of a spectrum


def test_the_network_is_equivariant(rng):
    grid = polar_grid(48)
    polar = rng.standard_normal((4, grid.n_angles, grid.n_radii)).astype(np.float32)
    network = build_polar_network(grid)
    network.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in network.get_weights()])
    aligner = Aligner(network, grid)
    before, after = (aligner.angles_of_spectra(x) for x in (polar, np.roll(polar, 7, axis=1)))
    step = 7 * grid.period_rad / grid.n_angles
    assert np.abs(wrap_angles(after - before - step, grid.period_rad)).max() < 1e-4


def test_a_warm_start_is_the_template(rng):
    grid = polar_grid(48)
    template = subtract_ring_means(rng.standard_normal((grid.n_angles, grid.n_radii)).astype(np.float32))
    network = build_polar_network(grid)
    network.get_layer("template").warm_start(template)
    steps = np.array([0, 5, 90])
    rotated = np.stack([np.roll(template, step, axis=0) for step in steps])
    found = Aligner(network, grid).angles_of_spectra(rotated)
    expected = steps * grid.period_rad / grid.n_angles
    assert np.abs(wrap_angles(found - expected, grid.period_rad)).max() < 1e-3


# --- of a pair


@pytest.mark.parametrize("size", [31, 32])
def test_the_sampler_agrees_with_rotate_images(size, rng):
    images = ndimage.gaussian_filter(rng.normal(size=(6, size, size)), (0, 2, 2)).astype(np.float32)
    images *= crop_mask(size)
    angles = np.array([0, 0.3, np.pi / 2, 2.5, np.pi, -1.0])

    def sampled(periods):
        return np.asarray(rotated_by(images, unit_vectors(periods * angles).astype(np.float32), periods))

    rotated = sampled(1)
    assert np.abs(rotated[0] - images[0]).max() < 1e-6
    np.testing.assert_allclose(rotated, rotate_images(images, angles), atol=0.12 * np.abs(images).max())
    wrong = rotate_images(images, -angles)
    assert np.abs(rotated - wrong)[1].max() > 0.3 * np.abs(images).max()
    np.testing.assert_allclose(sampled(2)[:2], rotated[:2], atol=1e-5)


def test_matches_peak_at_the_step_between_the_maps(rng):
    first = rng.normal(size=(3, 16, 6)).astype(np.float32)
    second = np.stack([np.roll(x, step, axis=0) for x, step in zip(first, (0, 3, 11), strict=True)])
    matches = np.asarray(circular_matches(ops.convert_to_tensor(first), ops.convert_to_tensor(second), 2))
    assert matches.shape == (3, 16, 2)
    np.testing.assert_array_equal(matches.argmax(axis=1), [[0, 0], [3, 3], [11, 11]])
    np.testing.assert_allclose(matches.max(axis=1), 1, atol=1e-5)


def test_the_border_is_not_sampled(rng):
    images = rng.normal(size=(2, 2, SIZE, SIZE)).astype(np.float32)
    network = build_polar_pair_network(SIZE, channels=8, blocks=1, groups=2, dense=32, rng=0, border_px=6)
    axis = np.arange(SIZE) - SIZE // 2
    outside = np.hypot(axis[:, None], axis) > SIZE // 2 - 5
    other = images.copy()
    other[..., outside] = np.sort(other[..., outside])  # the mean and the variance stay the same
    assert not np.array_equal(other, images)
    answers = [np.asarray(network(list(x))) for x in (images, other)]
    np.testing.assert_allclose(*answers, atol=1e-4)


# --- published


def toy(correlation=False):
    return build_pair_network(16, correlation=correlation, filters=(8, 16), dense=(16, 16), rng=0)


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, 5, 16, 16)).astype(np.float32)


def test_the_default_has_the_published_size():
    network = build_pair_network(128, rng=0)
    assert 73e6 < network.count_params() < 75e6
    assert network.get_layer("features").output.shape == (None, 1, 1, 2048)
    assert [x.units for x in network.layers if isinstance(x, layers.Dense)] == [2000, 2000, 2]
    trainable = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert trainable == network.count_params()  # no running statistics
    network = build_pair_network(128, correlation=True, dense=(4,), rng=0)
    assert network.get_layer("features").output.shape == (None, 8, 8, 256)


@pytest.mark.parametrize("correlation", [False, True])
def test_pairs_become_unit_vectors_and_no_image_depends_on_its_batch(correlation, pair):
    network = toy(correlation)
    first, second = pair
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
    # and none depends on its neighbours, in training or in inference
    assert np.abs(np.diff(vectors, axis=0)).max() > 1e-3
    first[3:] = 1e3 * first[3:] + 500
    with_outliers = np.asarray(network([first, second], training=True))
    np.testing.assert_allclose(with_outliers[:3], vectors[:3], atol=1e-4)


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
        np.testing.assert_allclose(feature_correlation(scale * first, second), expected, atol=FLOAT32)


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


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (build_polar_pair_network, {"groups": 3}, "groups must divide the 32 channels, got 3"),
        (
            build_polar_pair_network,
            {"border_px": 33},
            "border_px must be at most a quarter of the 128 px, got 33",
        ),
        (build_pair_network, {"image_size": 127}, "at least 128 px for the 7 stages of filters, got 127"),
        (build_pair_network, {"filters": ()}, "filters must have at least one stage, got none"),
        (build_pair_network, {"filters": (8, 10)}, "filters must be multiples of 4, got 10"),
        (build_pair_network, {"dense": (16, 0)}, "dense must be a whole number of at least 1, got 0"),
        (
            build_pair_network,
            {"correlation": True, "filters": (8,) * 6},
            "filters must leave a map of 4 to 16 px a side for the correlation, got 6 stages, which leave 2 px of 128",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(build, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**{"image_size": 128} | change)
