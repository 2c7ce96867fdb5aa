"""The polar networks and the sampler of a spatial transformer."""

import re

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from cryoem.udl.aligner import Aligner
from cryoem.udl.natural import crop_mask
from cryoem.udl.networks import build_polar_network, build_polar_pair_network, circular_matches, rotated_by
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


# --- errors


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (build_polar_pair_network, {"groups": 3}, "groups must be a divisor of channels (32), got 3"),
        (
            build_polar_pair_network,
            {"border_px": 33},
            "border_px must be at most a quarter of image_size (128), got 33",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(build, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**{"image_size": 128} | change)
