"""Images turned about pixel n // 2: direction, exactness at quarter turns and whole pixels, what is outside."""

import numpy as np
import pytest
from scipy import ndimage

from cryoem import imaging
from cryoem.udl.rotation import rotate_images

FLOAT32 = 5e-6  # of values of order 1


def smooth_images(n, size, *, rng, width=3.0):
    """(n, size, size) float32 within [-1, 1] that vanish towards the border."""
    noise = np.random.default_rng(rng).normal(size=(n, size, size))
    axis = np.arange(size) - size // 2
    window = np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * (size / 9) ** 2))
    images = ndimage.gaussian_filter(noise, (0, width, width)) * window
    return (images / np.abs(images).max()).astype(np.float32)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_of_odd_images_are_exact(turns, rng):
    images = rng.normal(size=(3, 31, 31)).astype(np.float32)
    turned = rotate_images(images, np.full(3, turns * np.pi / 2))
    # rot90 takes the second axis to the first, against x to y
    np.testing.assert_allclose(turned, np.rot90(images, -turns, axes=(1, 2)), atol=FLOAT32)


def test_a_quarter_turn_of_an_even_image_keeps_pixel_n_half(rng):
    images = rng.normal(size=(3, 16, 16)).astype(np.float32)
    turned = rotate_images(images, np.full(3, np.pi / 2))
    np.testing.assert_allclose(turned[:, 8, 8], images[:, 8, 8], atol=FLOAT32)
    expected = np.roll(np.rot90(images, -1, axes=(1, 2)), 1, axis=2)
    np.testing.assert_allclose(turned[:, :, 1:], expected[:, :, 1:], atol=FLOAT32)
    np.testing.assert_allclose(turned[:, :, 0], 0, atol=FLOAT32)  # from beyond the image


@pytest.mark.parametrize("size", [64, 65])
def test_a_feature_moves_as_documented(size):
    x, y, angle, shift = 11.0, -5.0, np.deg2rad(35), np.array([2.5, -3.25])
    axis = np.arange(size) - size // 2
    spot = np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
    turned = rotate_images(spot[None], np.array([angle]), shift[None])[0]
    found = [(turned * axis).sum() / turned.sum(), (turned * axis[:, None]).sum() / turned.sum()]
    expected = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [x, y] + shift
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert turned.max() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [40, 41])
def test_rotations_compose(size, rng):
    images = smooth_images(5, size, rng=1)
    a, b = rng.uniform(0, 2 * np.pi, (2, 5))
    twice = rotate_images(rotate_images(images, a), b)
    np.testing.assert_allclose(twice, rotate_images(images, a + b), atol=2e-3)
    assert np.abs(twice - rotate_images(images, a - b)).max() > 0.1
    np.testing.assert_allclose(rotate_images(rotate_images(images, a), -a), images, atol=2e-3)


def test_the_shift_comes_after_the_rotation(rng):
    images = smooth_images(5, 40, rng=2)
    angles, shifts = rng.uniform(0, 2 * np.pi, 5), rng.integers(-6, 7, (5, 2)).astype(float)
    at_once = rotate_images(images, angles, shifts)
    in_turn = rotate_images(rotate_images(images, angles), np.zeros(5), shifts)
    np.testing.assert_allclose(at_once, in_turn, atol=1e-4)


def test_whole_pixel_shifts_are_exact_and_others_agree_with_fourier_shifts(rng):
    images = np.zeros((4, 32, 32), np.float32)
    images[:, 8:-8, 8:-8] = rng.normal(size=(4, 16, 16))
    shifts = np.array([[3, -5], [8, 0], [-8, 7], [0, 0]])
    shifted = rotate_images(images, np.zeros(4), shifts)
    for image, expected, (x, y) in zip(shifted, images, shifts, strict=True):
        np.testing.assert_allclose(image, np.roll(expected, (y, x), axis=(0, 1)), atol=FLOAT32)
    soft = smooth_images(4, 40, rng=3)
    parts = rng.uniform(-4, 4, (4, 2))
    np.testing.assert_allclose(rotate_images(soft, np.zeros(4), parts), imaging.shift(soft, parts), atol=2e-3)


def test_it_is_the_cubic_spline_of_scipy(rng):
    images = rng.normal(size=(3, 30, 30)).astype(np.float32)  # white noise: every frequency there is
    angles, shifts = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-5, 5, (3, 2))
    axis = np.arange(30) - 15
    for image, angle, shift, turned in zip(
        images, angles, shifts, rotate_images(images, angles, shifts), strict=True
    ):
        u, v = axis - shift[0], axis[:, None] - shift[1]
        x, y = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
        expected = ndimage.map_coordinates(np.pad(image, 20), [y + 35, x + 35], order=3)
        np.testing.assert_allclose(turned, expected, atol=2 * FLOAT32)


def test_outside_is_zero_or_the_mean_of_the_edge(rng):
    bright = np.full((2, 20, 20), 5.0, np.float32)
    angles = np.array([np.pi / 4, 1.0])
    turned = rotate_images(bright, angles)
    assert np.abs(turned[:, 0, 0]).max() < 0.3  # the spline rings a little
    assert turned[:, 10, 10] == pytest.approx(5, abs=1e-4)
    np.testing.assert_allclose(rotate_images(bright, angles, outside="edge-mean"), 5, atol=1e-5)
    bright[:, 5:15, 5:15] = rng.normal(size=(10, 10))
    gone = np.full((2, 2), 100.0)
    np.testing.assert_array_equal(rotate_images(bright, angles, gone), 0)
    np.testing.assert_allclose(rotate_images(bright, angles, gone, outside="edge-mean"), 5, atol=1e-5)


def test_the_arguments_stay_as_they_were(rng):
    images = rng.normal(size=(2, 12, 12)).astype(np.float32)
    before = images.copy()
    turned = rotate_images(images, np.array([1.0, 2.0]), outside="edge-mean")
    np.testing.assert_array_equal(images, before)
    assert turned.dtype == np.float32
    np.testing.assert_array_equal(
        rotate_images(images.astype(float), [1.0, 2.0], outside="edge-mean"), turned
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 8, 9))}, r"images must be \(n, y, x\) with y == x, got \(2, 8, 9\)"),
        ({"images": np.full((2, 8, 8), np.nan)}, "images must be finite, got 128"),
        ({"angles_rad": np.zeros(3)}, "angles_rad must be one for each of the 2 images, got 3"),
        ({"angles_rad": 0.5}, r"angles_rad must be a non-empty array with 1 axes, got shape \(\)"),
        ({"angles_rad": [0, np.inf]}, "angles_rad must be finite"),
        ({"shifts_px": np.zeros((2, 3))}, r"shifts_px must be \(2, 2\), got \(2, 3\)"),
        ({"outside": "mirror"}, "outside must be one of zero, edge-mean, got 'mirror'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"images": np.zeros((2, 8, 8)), "angles_rad": np.zeros(2)} | change
    with pytest.raises(ValueError, match=message):
        rotate_images(arguments.pop("images"), arguments.pop("angles_rad"), **arguments)
