"""Sharpening, local resolution and conical FSC: what is put into maps comes out."""

import numpy as np
import pytest
import scipy.fft

from cryoem.reconstruction.resolution import FSC, shell_index
from cryoem.reconstruction.sharpening import guinier, sharpen
from cryoem.reconstruction.variation import conical_fsc, local_resolution, locally_filtered
from cryoem.volumes.density import DensityMap, low_pass, soft_sphere

FLOAT32 = 1e-5


def noise(n, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, n, n)).astype(np.float32)


# --- B factor


@pytest.mark.parametrize(("n", "b_factor"), [(24, 80.0), (25, 250.0), (24, -40.0)])
def test_the_b_factor_put_in_comes_out_and_sharpening_undoes_it(n, b_factor):
    flat = scipy.fft.rfftn(noise(n))
    flat /= np.abs(flat)  # equal amplitudes
    even = DensityMap(scipy.fft.irfftn(flat, s=(n, n, n)), 2.5)
    blurred = sharpen(even, b_factor_angstrom2=-b_factor)
    fitted = guinier(blurred)
    assert fitted.b_factor_angstrom2 == pytest.approx(b_factor, rel=0.01)
    assert 1 / np.sqrt(fitted.frequency_squared[fitted.fitted]).min() == pytest.approx(10, rel=0.05)
    np.testing.assert_allclose(fitted.line[fitted.fitted], fitted.log_amplitude[fitted.fitted], atol=0.02)
    again = sharpen(blurred, b_factor_angstrom2=fitted.b_factor_angstrom2)
    assert guinier(again).b_factor_angstrom2 == pytest.approx(0, abs=0.01 * abs(b_factor))
    exact = sharpen(blurred, b_factor_angstrom2=b_factor)
    np.testing.assert_allclose(exact.data, even.data, atol=1e-3 * np.abs(even.data).max())


def test_sharpening_weights_by_the_fsc_and_ends_at_the_resolution():
    n, voxel = 24, 2.0
    density, frequency = DensityMap(noise(n), voxel), np.arange(1, 13) / (n * voxel)
    correlation = np.where(np.arange(1, 13) <= 6, 0.5, 0.0)
    weighted = sharpen(density, b_factor_angstrom2=0, fsc=FSC(frequency, correlation))
    ratio = np.abs(scipy.fft.rfftn(weighted.data)) / np.abs(scipy.fft.rfftn(density.data))
    shells = shell_index(n)
    np.testing.assert_allclose(ratio[shells == 0], 1, rtol=1e-3)
    np.testing.assert_allclose(ratio[(shells > 0) & (shells <= 6)], np.sqrt(2 / 3), rtol=1e-3)
    assert ratio[shells > 6].max() < 1e-3
    # the weighted map of a fall that is undone has a flat Guinier plot
    blurred, curve = sharpen(density, b_factor_angstrom2=-60), FSC(frequency, np.linspace(0.99, 0.3, 12))
    found = guinier(blurred, fsc=curve).b_factor_angstrom2
    again = sharpen(blurred, b_factor_angstrom2=found, fsc=curve)
    assert guinier(again).b_factor_angstrom2 == pytest.approx(0, abs=0.5)


# --- local resolution


def test_a_map_filtered_in_one_half_has_a_lower_resolution_there():
    n, voxel = 40, 2.0
    signal = [noise(n, 1), low_pass(DensityMap(noise(n, 1), voxel), 12.0).data]
    signal = np.concatenate([signal[0][:, :, :20], signal[1][:, :, 20:]], axis=2)
    a, b = (signal + 0.6 * noise(n, seed) for seed in (2, 3))
    found = local_resolution(a, b, voxel_size_angstrom=voxel)
    assert found.shape == a.shape
    fine, coarse = found[:, :, 5:15], found[:, :, 25:35]
    assert np.median(fine) == pytest.approx(2 * voxel, rel=0.01)
    assert np.median(coarse) == pytest.approx(12, rel=0.15)
    assert np.percentile(coarse, 5) > np.percentile(fine, 95)
    assert found.min() >= 2 * voxel * (1 - FLOAT32)


# --- cones


@pytest.mark.parametrize("n", [24, 25])
def test_a_missing_cone_is_seen_in_its_direction(n):
    axis, signal, spoiled = np.array([0.6, 0.0, 0.8]), noise(n), noise(n, 7)
    k = [np.fft.fftfreq(n), np.fft.fftfreq(n), np.fft.rfftfreq(n)]
    kz, ky, kx = np.meshgrid(*k, indexing="ij")
    length = np.maximum(np.sqrt(kx**2 + ky**2 + kz**2), 1e-9)
    missing = np.abs(axis[0] * kx + axis[2] * kz) / length > np.cos(np.deg2rad(40))
    other = np.where(missing, scipy.fft.rfftn(spoiled), scipy.fft.rfftn(signal))
    other = scipy.fft.irfftn(other, s=signal.shape)
    found = conical_fsc(signal, other, voxel_size_angstrom=1.5, directions=60)
    assert found.correlation.shape == (60, n // 2)
    angle = np.rad2deg(np.arccos(np.abs(found.directions @ axis)))
    inside, outside = angle < 18, angle > 62
    assert inside.any()
    np.testing.assert_allclose(found.correlation[outside, :-1], 1, atol=FLOAT32)
    assert np.abs(found.correlation[inside][:, 5:]).max() < 0.5
    resolution = found.resolution_angstrom(0.5)
    assert resolution[outside].max() == pytest.approx(1 / found.frequency[-1])
    assert resolution[inside].min() > 2 * resolution[outside].max()


def test_a_cone_that_is_a_half_sphere_is_the_fsc_and_directions_are_spread():
    from cryoem.reconstruction.resolution import fourier_shell_correlation

    a, b = noise(16), noise(16) + noise(16, 1)
    mask = soft_sphere(a.shape, 5, 2)
    found = conical_fsc(a, b, voxel_size_angstrom=2.0, mask=mask, directions=3, half_angle_deg=90)
    curve = fourier_shell_correlation(a, b, voxel_size_angstrom=2.0, mask=mask)
    np.testing.assert_allclose(found.correlation, np.tile(curve.correlation, (3, 1)), atol=FLOAT32)
    np.testing.assert_array_equal(found.frequency, curve.frequency)
    axes = conical_fsc(a, b, voxel_size_angstrom=2.0).directions
    assert axes.shape == (100, 3)
    assert axes[:, 2].min() > 0
    nearest = np.sort(np.abs(axes @ axes.T), axis=1)[:, -2]
    assert np.rad2deg(np.arccos(nearest)).min() > 5


A = noise(12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: guinier(DensityMap(A[1:], 1.0)),
            r"density_map must be a cubic map at least 6 voxels wide, got",
        ),
        (
            lambda: guinier(DensityMap(A, 2.0), from_angstrom=4.5),
            "a B factor requires at least 3 shells with positive",
        ),
        (
            lambda: guinier(DensityMap(A, 1.0), fsc=FSC(np.ones(3), np.ones(3))),
            "fsc must have 6 shells, as the map",
        ),
        (
            lambda: sharpen(DensityMap(A, 1.0), b_factor_angstrom2=np.inf),
            "b_factor_angstrom2 must be finite, got inf",
        ),
        (
            lambda: local_resolution(A, A, voxel_size_angstrom=1, window_px=0),
            "window_px must be a positive number, got 0",
        ),
        (
            lambda: local_resolution(A, A, voxel_size_angstrom=1, threshold=1),
            "threshold must be between 0 and 1",
        ),
        (lambda: local_resolution(A, A[0], voxel_size_angstrom=1), "a and b must have the same shape"),
        (
            lambda: conical_fsc(A, A, voxel_size_angstrom=1, half_angle_deg=91),
            "half_angle_deg must be above 0 and at",
        ),
        (
            lambda: conical_fsc(A, A, voxel_size_angstrom=1, directions=0),
            "directions must be an integer >= 1, got 0",
        ),
    ],
)
def test_unfit_arguments_are_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


# --- local filter


def test_the_local_filter_keeps_the_signal_and_removes_the_noise_around_it():
    n = 32
    particle = 20 * soft_sphere((n, n, n), 5.0, 2.0) * low_pass(DensityMap(noise(n), 1.0), 4.0).data
    halves = particle + noise(n, seed=1), particle + noise(n, seed=2)
    whole, mask = sum(halves) / 2, soft_sphere((n, n, n), 12.0, 2.0)
    filtered = locally_filtered(whole, halves, mask, last_shell=n // 2)
    assert np.corrcoef(filtered.ravel(), particle.ravel())[0, 1] > 0.97
    # better than any one factor for each shell, which is the best filter that does not vary with the position
    spectrum, true = scipy.fft.rfftn(whole * mask), scipy.fft.rfftn(particle)
    shells = shell_index(n).ravel()
    cross, power = (np.bincount(shells, (spectrum.conj() * x).real.ravel()) for x in (true, spectrum))
    best = scipy.fft.irfftn(spectrum * (cross / power)[shells].reshape(spectrum.shape), s=(n, n, n)) * mask
    assert np.mean((filtered - particle) ** 2) < np.mean((best - particle) ** 2)
    far = np.linalg.norm(np.indices((n, n, n)) - n // 2, axis=0) > 9
    assert filtered[far].std() < best[far].std()
    assert filtered[far].std() < 0.16 * (whole * mask)[far].std()  # without the second weight 0.19
    assert not filtered[mask == 0].any()


def test_the_local_filter_keeps_a_density_below_the_solvent_only_if_noise_does_not_explain_it():
    n = 32
    deep, shallow = (np.roll(soft_sphere((n, n, n), 2.0, 3.0), at, axis=2) for at in (-6, 6))
    particle = soft_sphere((n, n, n), 11.0, 2.0) * (4 - 16 * deep - 5 * shallow)
    halves = particle + noise(n, seed=1), particle + noise(n, seed=2)
    mask = soft_sphere((n, n, n), 13.0, 2.0)
    filtered, of_negative = (
        locally_filtered(sign * sum(halves) / 2, halves, mask, last_shell=n // 2) for sign in (1, -1)
    )
    centre = n // 2
    assert filtered[centre, centre, centre - 6] == pytest.approx(-12, rel=0.1)
    assert filtered[centre, centre, centre + 6] == pytest.approx(0, abs=0.3)
    # what is denser than the solvent does not depend on the sign, except for the deep hole
    solid = (particle > 3) & (mask == 1)
    np.testing.assert_allclose(filtered[solid], -of_negative[solid], rtol=0.2)
    around = (particle == 0) & (mask > 0.5)
    assert np.mean(filtered[around] < 0) < 0.1 < np.mean(of_negative[around] > 0)


def test_the_local_filter_does_not_change_a_map_without_noise():
    n = 24
    smooth = low_pass(DensityMap(noise(n), 1.0), 4.0).data
    mask = soft_sphere((n, n, n), 8.0, 2.0)
    filtered = locally_filtered(smooth, (smooth, smooth), mask, last_shell=n // 2)
    np.testing.assert_allclose(filtered, smooth * mask, atol=1e-4 * np.abs(smooth).max())
