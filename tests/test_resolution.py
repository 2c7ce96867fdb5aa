"""Fourier shell correlation: its known values, the threshold's crossing, what a mask adds and how that is told."""

import numpy as np
import pytest
import scipy.fft

from cryoem.resolution import (
    FSC,
    fourier_shell_correlation,
    masked_half_map_fsc,
    particle_mask,
    shell_index,
)
from cryoem.volumes import soft_sphere

ROUNDING = 1e-12


def noise(n, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n, n))


def beyond_shell(volume, shell) -> np.ndarray:
    """The part of a cubic volume beyond a shell."""
    n = len(volume)
    return scipy.fft.irfftn(scipy.fft.rfftn(volume) * (shell_index(n) > shell), s=volume.shape)


@pytest.mark.parametrize("n", [2, 3, 8, 15, 24])
def test_a_map_correlates_with_itself_and_opposes_its_negative(n):
    a = noise(n)
    curve = fourier_shell_correlation(a, a)
    np.testing.assert_allclose(curve.correlation, 1, atol=ROUNDING)
    np.testing.assert_allclose(fourier_shell_correlation(a, -3 * a).correlation, -1, atol=ROUNDING)
    assert len(curve.frequency) == n // 2
    assert curve.resolution_angstrom(0.143) == pytest.approx(1 / curve.frequency[-1])


def test_correlation_has_no_scale_and_no_order():
    a, b = noise(16), noise(16) + noise(16, 1)
    expected = fourier_shell_correlation(a, b).correlation
    for x, y in ((b, a), (1e-30 * a, 1e20 * b), (a.astype(np.float32), np.asfortranarray(b)), (a + 7, b)):
        np.testing.assert_allclose(fourier_shell_correlation(x, y).correlation, expected, atol=1e-5)


@pytest.mark.parametrize("n", [32, 33])
def test_independent_noise_does_not_correlate(n):
    curve = fourier_shell_correlation(noise(n), noise(n, 1))
    independent = np.bincount(shell_index(n).ravel())[
        1 : n // 2 + 1
    ]  # about half of each shell is independent
    assert (np.abs(curve.correlation) < 4 / np.sqrt(independent)).all()
    assert np.ptp(curve.correlation) > 0


@pytest.mark.parametrize("snr", [0.25, 1.0, 4.0])
def test_correlation_of_noisy_halves_is_what_their_signal_to_noise_says(snr):
    signal = np.sqrt(snr) * noise(32)
    curve = fourier_shell_correlation(signal + noise(32, 1), signal + noise(32, 2))
    assert curve.correlation[6:].mean() == pytest.approx(snr / (1 + snr), abs=0.02)


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("shell", [3, 7, 10])
def test_maps_that_agree_up_to_a_shell_have_the_resolution_of_that_shell(n, shell):
    a = noise(n)
    b = a - beyond_shell(a, shell) + beyond_shell(noise(n, 1), shell)
    curve = fourier_shell_correlation(a, b, voxel_size_angstrom=2.5)
    np.testing.assert_allclose(curve.correlation[:shell], 1, atol=ROUNDING)
    assert np.abs(curve.correlation[shell:]).max() < 0.4
    np.testing.assert_allclose(curve.frequency, np.arange(1, n // 2 + 1) / (n * 2.5))
    crossing = 1 / curve.resolution_angstrom(0.5) * n * 2.5  # in shells
    assert shell < crossing < shell + 1


def test_a_shift_turns_phases_and_nothing_else():
    a = noise(16)
    moved = np.roll(a, 1, axis=2)
    curve = fourier_shell_correlation(a, moved).correlation
    kx = np.fft.fftfreq(16) * 16
    z, y, x = np.meshgrid(kx, kx, kx, indexing="ij")
    shells = np.rint(np.sqrt(x**2 + y**2 + z**2)).astype(int)
    power = np.abs(np.fft.fftn(a)) ** 2
    for shell in (1, 4, 8):
        at = shells == shell
        expected = (power * np.cos(2 * np.pi * x / 16))[at].sum() / power[at].sum()
        assert curve[shell - 1] == pytest.approx(expected, abs=ROUNDING)


def test_a_mask_is_multiplied_into_both():
    a, b, mask = noise(12), noise(12, 1), soft_sphere((12, 12, 12), 3, 2)
    masked = fourier_shell_correlation(a, b, mask=mask).correlation
    np.testing.assert_allclose(
        masked, fourier_shell_correlation(a * mask, b * mask).correlation, atol=ROUNDING
    )


def test_the_mask_of_a_particle_surrounds_it(particle):
    halves = [particle + 0.05 * noise(32, seed) for seed in (1, 2)]
    mask = particle_mask(*halves)
    assert mask.shape == particle.shape
    assert mask.min() == 0
    assert mask.max() == 1
    bright = particle > 0.2 * particle.max()
    assert mask[bright].mean() > 0.99
    assert mask.mean() < 0.5  # and not the whole box
    assert not mask[~soft_sphere(mask.shape, 16, 0).astype(bool)].any()


def test_shells_of_a_constant_map_are_empty_and_correlate_nothing():
    np.testing.assert_array_equal(
        fourier_shell_correlation(np.ones((8, 8, 8)), np.ones((8, 8, 8))).correlation, 0
    )


# --- thresholds


CURVE = FSC(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.6, 0.2, 0.5]))


@pytest.mark.parametrize(
    ("threshold", "frequency"),
    [(0.4, 0.25), (0.5, 0.225), (0.6, 0.2), (0.8, 0.15), (0.2, 0.4), (0.143, 0.4), (0.999, 0.10025)],
)
def test_resolution_is_interpolated_where_the_curve_first_falls_below(threshold, frequency):
    assert CURVE.resolution_angstrom(threshold) == pytest.approx(1 / frequency)


def test_a_curve_below_from_the_start_has_the_resolution_of_its_first_shell():
    assert FSC(np.array([0.1, 0.2]), np.array([0.1, 0.9])).resolution_angstrom(0.5) == pytest.approx(10)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, np.nan])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold must be between 0 and 1, got {threshold}"):
        CURVE.resolution_angstrom(threshold)


# --- masks and phase randomisation


def half_maps(n=40, shell=6):
    """Two maps with a common signal up to a shell and noise of their own everywhere, and a tight mask."""
    signal = noise(n) - beyond_shell(noise(n), shell)
    halves = [signal + beyond_shell(0.05 * noise(n, seed), shell) for seed in (1, 2)]
    return *halves, soft_sphere((n, n, n), 8, 1)


def test_phase_randomisation_shows_what_the_mask_correlates():
    shell = 6
    a, b, mask = half_maps(shell=shell)
    beyond = slice(shell + 2, shell + 7)
    masked = fourier_shell_correlation(a, b, mask=mask).correlation[beyond]
    found = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=1.0, rng=0)
    assert masked.mean() > 0.5  # the mask carries the signal into shells that hold none
    assert found.phase_randomised[beyond].mean() > 0.5 * masked.mean()
    assert found.correlation[beyond].max() < 0.2
    assert np.abs(fourier_shell_correlation(a, b).correlation[beyond]).max() < 0.2


def test_correction_keeps_what_is_signal():
    signal, mask = noise(32), soft_sphere((32, 32, 32), 9, 4)
    a, b = (signal + 0.7 * noise(32, seed) for seed in (1, 2))
    found = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=1.0, rng=0)
    assert found.correlation[4:].mean() == pytest.approx(1 / (1 + 0.49), abs=0.05)
    assert np.abs(found.phase_randomised[6:]).mean() < 0.15


def test_below_the_randomised_shells_nothing_is_corrected():
    a, b, mask = half_maps()
    found = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=2.0, rng=0)
    masked = fourier_shell_correlation(a, b, mask=mask, voxel_size_angstrom=2.0)
    np.testing.assert_array_equal(found.correlation[:6], masked.correlation[:6])
    np.testing.assert_array_equal(found.frequency, masked.frequency)


def test_maps_that_agree_everywhere_need_no_correction():
    a, mask = noise(16), soft_sphere((16, 16, 16), 4, 2)
    np.testing.assert_allclose(
        masked_half_map_fsc(a, a, mask, voxel_size_angstrom=1.0, rng=0).correlation, 1, atol=1e-9
    )


def test_same_seed_same_correction():
    a, b, mask = half_maps()
    first, second, other = (
        masked_half_map_fsc(a, b, mask, voxel_size_angstrom=1.0, rng=r) for r in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.correlation, second.correlation)
    assert not np.array_equal(first.correlation, other.correlation)


# --- refusals


def with_nan(volume):
    volume = volume.copy()
    volume[0, 0, 0] = np.nan
    return volume


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (noise(6)[:5], noise(6)[:5], r"a must be a cubic volume .*got shape \(5, 6, 6\)"),
        (noise(6), noise(6)[0], r"a and b must have the same shape, got \(6, 6, 6\) and \(6, 6\)"),
        (noise(6), noise(5), r"a and b must have the same shape, got \(6, 6, 6\) and \(5, 5, 5\)"),
        (noise(6), with_nan(noise(6)), "b must be finite, got 1 non-finite values of 216"),
        (np.zeros((6, 6, 6)), noise(6), "a must not be zero everywhere, got only zeros"),
        (noise(6)[0], noise(6)[0], r"a must be a non-empty array with 3 axes, got shape \(6, 6\)"),
        (np.zeros((0, 0, 0)), np.zeros((0, 0, 0)), r"a must be a non-empty array .*got shape \(0, 0, 0\)"),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1)), r"a must .*at least 2 voxels .*got shape \(1, 1, 1\)"),
    ],
)
def test_volumes_that_are_none_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        fourier_shell_correlation(a, b)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((5, 5, 5)), r"mask must have the volumes' shape \(6, 6, 6\), got \(5, 5, 5\)"),
        (with_nan(np.ones((6, 6, 6))), "mask must be finite, got 1 non-finite values of 216"),
        (np.zeros((6, 6, 6)), "a must not be zero everywhere under the mask, got only zeros"),
    ],
    ids=["shape", "nan", "zero"],
)
def test_a_mask_that_is_none_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        fourier_shell_correlation(noise(6), noise(6), mask=mask)
    with pytest.raises(ValueError, match=message):
        masked_half_map_fsc(noise(6), noise(6), mask, voxel_size_angstrom=1.0)


@pytest.mark.parametrize("voxel_size", [0.0, -1.0, np.nan])
def test_a_voxel_size_that_is_none_is_refused(voxel_size):
    with pytest.raises(ValueError, match=f"voxel_size_angstrom must be a positive number, got {voxel_size}"):
        fourier_shell_correlation(noise(6), noise(6), voxel_size_angstrom=voxel_size)
