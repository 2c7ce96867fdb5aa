"""Fourier shell and ring correlation: known values, threshold crossings and the mask correction."""

import numpy as np
import pytest
import scipy.fft

from cryoem.reconstruction.masks import masked_half_map_fsc, particle_mask
from cryoem.reconstruction.resolution import (
    FSC,
    fourier_ring_correlation,
    fourier_shell_correlation,
    shell_index,
)
from cryoem.volumes.density import soft_sphere

ROUNDING = 1e-12


def noise(n, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n, n))


def beyond_shell(volume, shell) -> np.ndarray:
    """Return the part of a cubic volume beyond a shell."""
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


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("snr", [0.0, 0.25, 4.0])
def test_correlation_of_noisy_halves_follows_their_signal_to_noise(n, snr):
    signal = np.sqrt(snr) * noise(n)
    correlation = fourier_shell_correlation(signal + noise(n, 1), signal + noise(n, 2)).correlation
    assert correlation[6:].mean() == pytest.approx(snr / (1 + snr), abs=0.02)
    if snr == 0:
        # about half the elements of each shell are independent
        independent = np.bincount(shell_index(n).ravel())[1 : n // 2 + 1]
        assert (np.abs(correlation) < 4 / np.sqrt(independent)).all()
        assert np.ptp(correlation) > 0


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


@pytest.mark.parametrize("n", [8, 15])
@pytest.mark.parametrize("ndim", [2, 3])
def test_shells_and_rings_are_sums_over_the_full_transform(n, ndim):
    a, b = (noise(n, seed)[(0,) * (3 - ndim)] for seed in (0, 1))
    correlate = fourier_shell_correlation if ndim == 3 else fourier_ring_correlation
    curve = correlate(a, a + b)
    np.testing.assert_allclose(curve.frequency, np.arange(1, n // 2 + 1) / n)
    fa, fb = np.fft.fftn(a), np.fft.fftn(a + b)
    radius = np.sqrt(sum(np.square(k) for k in np.meshgrid(*ndim * [np.fft.fftfreq(n) * n])))
    for shell in range(1, n // 2 + 1):
        at = np.rint(radius) == shell
        cross = (fa * fb.conj())[at].sum().real
        expected = cross / np.sqrt((np.abs(fa[at]) ** 2).sum() * (np.abs(fb[at]) ** 2).sum())
        assert curve.correlation[shell - 1] == pytest.approx(expected)
    np.testing.assert_allclose(correlate(a, -a).correlation, -1)


CURVE = FSC(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.6, 0.2, 0.5]))


@pytest.mark.parametrize(
    ("threshold", "frequency"),
    [(0.4, 0.25), (0.5, 0.225), (0.6, 0.2), (0.8, 0.15), (0.2, 0.4), (0.143, 0.4), (0.999, 0.10025)],
)
def test_resolution_is_interpolated_where_the_curve_first_falls_below(threshold, frequency):
    assert CURVE.resolution_angstrom(threshold) == pytest.approx(1 / frequency)
    assert CURVE.resolution_or_none(threshold) == CURVE.resolution_angstrom(threshold)
    # a curve that starts below the threshold
    low = FSC(CURVE.frequency, 0.1 * CURVE.correlation)
    assert low.resolution_angstrom(threshold) == pytest.approx(10)
    assert (low.resolution_or_none(threshold) is None) == (threshold > 0.1)


@pytest.mark.parametrize(
    ("threshold", "shells"), [(0.143, 4), (0.2, 4), (0.3, 2), (0.6, 2), (0.8, 1), (1.1, 0)]
)
def test_shells_are_counted_up_to_the_first_below_the_threshold(threshold, shells):
    assert CURVE.shells_above(threshold) == shells


# --- masks and phase randomisation


def test_the_mask_of_a_particle_surrounds_it(particle):
    halves = [particle + 0.05 * noise(32, seed) for seed in (1, 2)]
    mask = particle_mask(*halves)
    assert mask.shape == particle.shape
    assert mask.min() == 0
    assert mask.max() == 1
    bright = particle > 0.2 * particle.max()
    assert mask[bright].mean() > 0.99
    assert mask.mean() < 0.5  # but not the whole box
    assert not mask[~soft_sphere(mask.shape, 16, 0).astype(bool)].any()


def test_phase_randomisation_removes_the_correlation_of_the_mask_and_the_seed_determines_how():
    n, shell = 40, 6
    # a common signal up to a shell and independent noise beyond it
    signal = noise(n) - beyond_shell(noise(n), shell)
    a, b = (signal + beyond_shell(0.05 * noise(n, seed), shell) for seed in (1, 2))
    mask, beyond = soft_sphere((n, n, n), 8, 1), slice(shell + 2, shell + 7)
    masked = fourier_shell_correlation(a, b, mask=mask, voxel_size_angstrom=2.0)
    np.testing.assert_allclose(
        masked.correlation, fourier_shell_correlation(a * mask, b * mask).correlation, atol=ROUNDING
    )
    found, again, other = (
        masked_half_map_fsc(a, b, mask, voxel_size_angstrom=2.0, rng=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(found.frequency, masked.frequency)
    np.testing.assert_array_equal(found.correlation[:shell], masked.correlation[:shell])
    mean = masked.correlation[beyond].mean()
    assert mean > 0.5  # the mask spreads signal into shells that contain none
    assert found.phase_randomised[beyond].mean() > 0.5 * mean
    assert found.correlation[beyond].max() < 0.2
    assert np.abs(fourier_shell_correlation(a, b).correlation[beyond]).max() < 0.2
    np.testing.assert_array_equal(found.correlation, again.correlation)
    assert not np.array_equal(found.correlation, other.correlation)
    # a single draw would differ by 0.3
    np.testing.assert_allclose(found.correlation, other.correlation, atol=0.15)


def test_correction_keeps_the_signal():
    signal, mask = noise(32), soft_sphere((32, 32, 32), 9, 4)
    a, b = (signal + 0.7 * noise(32, seed) for seed in (1, 2))
    found = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=1.0, rng=0)
    assert found.correlation[4:].mean() == pytest.approx(1 / (1 + 0.49), abs=0.05)
    assert np.abs(found.phase_randomised[6:]).mean() < 0.15
    same = masked_half_map_fsc(a, a, mask, voxel_size_angstrom=1.0, rng=0)
    np.testing.assert_allclose(same.correlation, 1, atol=1e-9)


def test_correction_stays_a_correlation_where_the_mask_alone_correlates_the_maps():
    n, shell = 24, 5
    signal = noise(n) - beyond_shell(noise(n), shell)
    opposite = beyond_shell(noise(n, 1), shell)
    mask = soft_sphere((n, n, n), 4, 1)
    found = masked_half_map_fsc(signal + opposite, signal - opposite, mask, voxel_size_angstrom=1.0, rng=0)
    assert found.phase_randomised[shell] > 0.2
    assert found.correlation.min() == -1
    assert found.correlation.max() <= 1


A, SMALL = noise(6), np.ones((1, 1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fourier_shell_correlation(A[:5], A[:5]), r"a must be a cubic volume .*shape \(5, 6, 6\)"),
        (
            lambda: fourier_shell_correlation(A, A[0]),
            r"a and b must have the same shape, got .* and \(6, 6\)",
        ),
        (
            lambda: fourier_shell_correlation(A, A * np.nan),
            "b must be finite, got NaN or infinity in 216 of 216 values",
        ),
        (lambda: fourier_shell_correlation(0 * A, A), "a must contain non-zero values, got only zeros"),
        (
            lambda: fourier_shell_correlation(SMALL, SMALL),
            r"a must .*at least 2 voxels .*got shape \(1, 1, 1\)",
        ),
        (
            lambda: fourier_shell_correlation(A, A, voxel_size_angstrom=np.nan),
            "voxel_size_angstrom must be a positive number, got nan",
        ),
        (
            lambda: fourier_shell_correlation(A, A, mask=A[:5, :5, :5]),
            r"mask must have the same shape as the volumes, \(6, 6, 6\), got \(5, 5, 5\)",
        ),
        (
            lambda: masked_half_map_fsc(A, A, 0 * A, voxel_size_angstrom=1.0),
            "a must contain non-zero values under the mask, got only zeros",
        ),
        (lambda: fourier_ring_correlation(A[0, 1:], A[0, 1:]), r"a must be a square .*shape \(5, 6\)"),
        (lambda: CURVE.resolution_angstrom(1), "threshold must be between 0 and 1, got 1"),
        (lambda: CURVE.resolution_angstrom(np.nan), "threshold must be between 0 and 1, got nan"),
    ],
)
def test_unfit_arguments_are_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
