"""Rotation of images about pixel n // 2: direction, exact cases, agreement with SciPy, values outside."""

import numpy as np
import pytest
from scipy import ndimage

from cryoem.udl.rotation import rotate_images

FLOAT32 = 5e-6  # for values of order 1


def test_quarter_turns_are_exact(rng):
    odd = rng.normal(size=(3, 31, 31)).astype(np.float32)
    for turns in (-1, 0, 1, 2, 4):
        rotated = rotate_images(odd, np.full(3, turns * np.pi / 2))
        # rot90 rotates the second axis to the first, the opposite of x to y
        np.testing.assert_allclose(rotated, np.rot90(odd, -turns, axes=(1, 2)), atol=FLOAT32)
    even = rng.normal(size=(3, 16, 16)).astype(np.float32)
    rotated = rotate_images(even, np.full(3, np.pi / 2))
    np.testing.assert_allclose(rotated[:, 8, 8], even[:, 8, 8], atol=FLOAT32)
    expected = np.roll(np.rot90(even, -1, axes=(1, 2)), 1, axis=2)
    np.testing.assert_allclose(rotated[:, :, 1:], expected[:, :, 1:], atol=FLOAT32)
    np.testing.assert_allclose(rotated[:, :, 0], 0, atol=FLOAT32)  # from outside the image


@pytest.mark.parametrize("size", [64, 65])
def test_a_feature_moves_as_documented(size):
    x, y, angle, moved = 11.0, -5.0, np.deg2rad(35), np.array([2.5, -3.25])
    axis = np.arange(size) - size // 2
    spot = np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
    rotated = rotate_images(spot[None], np.array([angle]), moved[None])[0]
    found = [(rotated * axis).sum() / rotated.sum(), (rotated * axis[:, None]).sum() / rotated.sum()]
    expected = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [x, y] + moved
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert rotated.max() == pytest.approx(1, abs=0.03)


def test_it_is_the_cubic_spline_of_scipy(rng):
    images = rng.normal(size=(3, 30, 30)).astype(np.float32)  # white noise has all frequencies
    before = images.copy()
    angles, shifts = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-5, 5, (3, 2))
    axis = np.arange(30) - 15
    found = rotate_images(images, angles, shifts)
    for image, angle, moved, rotated in zip(images, angles, shifts, found, strict=True):
        u, v = axis - moved[0], axis[:, None] - moved[1]
        x, y = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
        expected = ndimage.map_coordinates(np.pad(image, 20), [y + 35, x + 35], order=3)
        np.testing.assert_allclose(rotated, expected, atol=2 * FLOAT32)
    np.testing.assert_array_equal(images, before)
    assert found.dtype == np.float32


def test_outside_is_zero_or_the_mean_of_the_edge(rng):
    bright = np.full((2, 20, 20), 5.0, np.float32)
    angles = np.array([np.pi / 4, 1.0])
    rotated = rotate_images(bright, angles)
    assert np.abs(rotated[:, 0, 0]).max() < 0.3  # the spline rings
    assert rotated[:, 10, 10] == pytest.approx(5, abs=1e-4)
    np.testing.assert_allclose(rotate_images(bright, angles, outside="edge-mean"), 5, atol=1e-5)
    bright[:, 5:15, 5:15] = rng.normal(size=(10, 10))
    gone = np.full((2, 2), 100.0)
    np.testing.assert_array_equal(rotate_images(bright, angles, gone), 0)
    np.testing.assert_allclose(rotate_images(bright, angles, gone, outside="edge-mean"), 5, atol=1e-5)


def test_an_unknown_outside_is_refused():
    with pytest.raises(ValueError, match="outside must be one of zero, edge-mean, got 'mirror'"):
        rotate_images(np.zeros((2, 8, 8)), np.zeros(2), outside="mirror")
