"""Polar spectra and classical alignment: effect of rotations and shifts, pairs, synchronisation, templates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cryoem.udl import classical, spectra
from cryoem.udl.rotation import angle_errors_deg, joint_error_deg, pair_error_deg, rotate_images, wrap_angles
from cryoem.udl.synthetic import phantom_class_average

SIZE = 48


@pytest.mark.parametrize("size", [47, 48])
def test_a_rotation_shifts_the_spectrum_along_the_angle_and_a_shift_changes_nothing(size):
    image = phantom_class_average(image_size=size).image[None]
    grid = spectra.polar_grid(size)
    rotated = rotate_images(image, np.array([10 * grid.period_rad / grid.n_angles]))
    shifted = np.roll(image, (3, -2), axis=(1, 2))
    first, second, third = (
        spectra.subtract_ring_means(spectra.polar_spectra(x, grid))[0][:, :10]  # rings with signal
        for x in (image, rotated, shifted)
    )
    assert np.corrcoef(np.roll(first, 10, axis=0).ravel(), second.ravel())[0, 1] > 0.99
    assert np.corrcoef(first.ravel(), third.ravel())[0, 1] > 0.99


def test_symmetry_divides_the_period(average):
    for symmetry, periods in {"C1": 2, "C2": 2, "C3": 6, "C4": 4, "C5": 10, "c6": 6}.items():
        grid = spectra.polar_grid(64, symmetry=symmetry)
        assert grid.periods == periods
        assert grid.period_rad == pytest.approx(2 * np.pi / periods)
    third = rotate_images(np.repeat(average.image[None], 3, 0), 2 * np.pi * np.arange(3) / 3).mean(axis=0)
    angles = np.array([0.1, 0.5, 0.9])
    grid = spectra.polar_grid(SIZE, symmetry="C3")
    polar = spectra.polar_spectra(rotate_images(np.repeat(third[None], 3, 0), angles), grid)
    found = classical.pair_angles(polar[:1], polar, period_rad=grid.period_rad)
    error = wrap_angles(found - (angles - angles[0]), grid.period_rad)
    assert np.abs(error).max() < np.deg2rad(0.5)


@pytest.mark.parametrize("symmetry", ["D2", "C0", "C", "", 3, None])
def test_only_cyclic_groups_are_in_the_plane(symmetry):
    with pytest.raises(ValueError, match="symmetry must be a cyclic group"):
        spectra.polar_grid(64, symmetry=symmetry)


def test_spectra_refuse_unsuitable_images_and_grids(rng):
    grid = spectra.polar_grid(SIZE)
    images = rng.standard_normal((3, SIZE, SIZE))
    images[1] = 4
    with pytest.raises(ValueError, match=r"images\[1\] is constant .* number of constant images: 1"):
        spectra.polar_spectra(images, grid)
    with pytest.raises(ValueError, match=f"images must be {SIZE} px wide for this model, got 32"):
        spectra.polar_spectra(images[:, :32, :32], grid)
    with pytest.raises(ValueError, match="at or below the Nyquist frequency 24"):
        spectra.PolarGrid(48, n_radii=40)
    with pytest.raises(ValueError, match=r"image_size must be an integer >= 16, got 48\.5"):
        spectra.PolarGrid(48.5)
    with pytest.raises(ValueError, match=r"first and second must have the same shape"):
        classical.pair_angles(np.ones((4, 8, 3)), np.ones((2, 8, 3)))


@pytest.mark.parametrize("size", [31, 32])
def test_power_spectra_rotate_with_their_images_and_are_centrosymmetric(size, rng):
    axis = np.arange(size) - size // 2
    window = np.exp(-(axis**2 + axis[:, None] ** 2) / 18)  # a small particle has a smooth spectrum
    images = ndimage.gaussian_filter(9 * rng.normal(size=(4, size, size)) * window, (0, 0.7, 0.7))
    angles = np.array([0.5, 1.0, 2.0, 3.0])
    power = spectra.power_spectra(images)
    assert (power.min(), power.max()) == (0, 1)
    o, r = size // 2, size // 2 - 1
    inner = power[:, o - r : o + r + 1, o - r : o + r + 1]
    np.testing.assert_allclose(inner, inner[:, ::-1, ::-1], atol=1e-4)
    rotated = spectra.power_spectra(rotate_images(images, angles)).ravel()
    for sign, low, high in ((1, 0.97, 1), (-1, -1, 0.9)):
        expected = rotate_images(power, sign * angles, outside="edge-mean").ravel()
        assert low < np.corrcoef(rotated, expected)[0, 1] < high


def test_clean_pairs_are_accurate_to_a_fraction_of_a_degree(clean):
    images, true = clean.images[:20], np.diff(clean.angles_rad[:20])
    polar = spectra.polar_spectra(images, spectra.polar_grid(SIZE))
    found = classical.pair_angles(polar[:-1], polar[1:])
    assert angle_errors_deg(found, true, periods=2).max() < 1
    mellin = classical.fourier_mellin_angles(images[:-1], images[1:])
    assert np.median(angle_errors_deg(mellin, true, periods=2)) < 3


@pytest.mark.parametrize(("wrong", "tolerance_deg"), [(0.0, 1e-6), (0.3, 12.0)])
def test_angles_of_pairs_are_synchronised(wrong, tolerance_deg):
    rng = np.random.default_rng(0)
    true = rng.uniform(0, np.pi, 200)
    pairs = classical.random_pairs(200, 8, rng=1)
    assert np.all(pairs[:, 0] != pairs[:, 1])
    angles = true[pairs[:, 1]] - true[pairs[:, 0]]
    bad = rng.random(len(pairs)) < wrong
    angles[bad] = rng.uniform(0, np.pi, bad.sum())
    assert joint_error_deg(classical.synchronise(pairs, angles), true) < tolerance_deg


def test_the_template_is_more_accurate_than_pairs(noisy):
    polar = spectra.polar_spectra(noisy.images, spectra.polar_grid(SIZE))
    pairs = classical.pair_angles(polar[:-1], polar[1:])
    pair_error = angle_errors_deg(pairs, np.diff(noisy.angles_rad), periods=2).mean()
    angles, template = classical.iterated_template(polar)
    assert template.shape == polar.shape[1:]
    assert joint_error_deg(angles, noisy.angles_rad) < 0.5 * pair_error


def test_errors_are_modulo_the_period():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    assert joint_error_deg(true + 0.7 + np.pi * np.arange(4), true) == pytest.approx(0, abs=0.02)
    assert pair_error_deg(true + np.pi, true) == pytest.approx(0, abs=1e-9)
    off = true + np.array([0, 0.1, 0, 0.1])
    assert pair_error_deg(off, true) == pytest.approx(np.degrees(0.1))
    assert joint_error_deg(off, true) == pytest.approx(np.degrees(0.05), abs=0.02)
    assert angle_errors_deg([0.01, -0.01], [2 * np.pi - 0.01, 0.01]) == pytest.approx(np.degrees(0.02))
    np.testing.assert_allclose(
        angle_errors_deg([0.0, 0.0], [np.pi, np.pi / 2], periods=2), [0, 90], atol=1e-9
    )
