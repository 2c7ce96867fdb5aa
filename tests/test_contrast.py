"""The contrast transfer function against its formula, and defoci that are not what they should be."""

import numpy as np
import pytest
from scipy import constants

from cryoem.contrast import ContrastTransfer, defoci_of


@pytest.mark.parametrize(
    ("voltage_kv", "wavelength"), [(300.0, 0.0196875), (200.0, 0.0250793), (100.0, 0.0370144)]
)
def test_wavelengths_are_those_of_fast_electrons(voltage_kv, wavelength):
    # 1e-5 is a thousandth of a radian after a hundred turns of phase
    assert ContrastTransfer(voltage_kv=voltage_kv).wavelength_angstrom == pytest.approx(wavelength, rel=1e-5)
    energy = voltage_kv * 1e3 * constants.e
    momentum = np.sqrt(2 * constants.m_e * energy * (1 + energy / (2 * constants.m_e * constants.c**2)))
    assert wavelength == pytest.approx(constants.h / momentum * 1e10, rel=1e-5)


def test_transfer_follows_the_formula(rng):
    k, defocus = rng.uniform(0, 0.3, 20), rng.uniform(5e3, 3e4, 4)
    ctf = ContrastTransfer(200.0, 2.0, 0.1, 80.0)
    values = ctf.at(k, defocus)
    assert values.shape == (4, 20)
    wavelength, aberration = ctf.wavelength_angstrom, 2.0e7
    for row, dz in zip(values, defocus, strict=True):
        gamma = np.pi * wavelength * dz * k**2 - np.pi / 2 * aberration * wavelength**3 * k**4
        expected = -np.sqrt(1 - 0.1**2) * np.sin(gamma) - 0.1 * np.cos(gamma)
        np.testing.assert_allclose(row, expected * np.exp(-80.0 * k**2 / 4), atol=1e-12)  # float64


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("k", [0.02, 0.1, 0.2])
def test_transfer_vanishes_where_it_must(order, k):
    ctf = ContrastTransfer(amplitude_contrast=0.1, b_factor_angstrom2=0.0)
    wavelength, aberration = ctf.wavelength_angstrom, 2.7e7
    gamma = order * np.pi - np.arcsin(0.1)  # tan(gamma) = -A / sqrt(1 - A^2)
    defocus = (gamma / np.pi + aberration / 2 * wavelength**3 * k**4) / (wavelength * k**2)
    around = ctf.at(np.array([0.98 * k, k, 1.02 * k]), np.array([defocus]))[0]
    assert abs(around[1]) < 1e-9  # float64, after the rounding of a large defocus
    assert np.sign(around[0]) == -np.sign(around[2]) == (-1) ** order


def test_transfer_is_negative_at_low_frequency():
    ctf = ContrastTransfer()
    assert ctf.at(np.zeros(1), np.array([1e4]))[0, 0] == pytest.approx(-ctf.amplitude_contrast, rel=1e-12)
    first_zero = 1 / np.sqrt(ctf.wavelength_angstrom * 1e4)
    k = np.linspace(0, 0.9 * first_zero, 50)
    assert (ctf.at(k, np.array([1e4])) < 0).all()
    pure_phase = ContrastTransfer(amplitude_contrast=0.0)
    assert pure_phase.at(np.array([first_zero / 2]), np.array([-1e4]))[0, 0] > 0  # overfocus


def test_an_astigmatic_image_has_the_transfer_of_its_defocus_along_each_direction(rng):
    ctf = ContrastTransfer()
    u, v, azimuth = 1.2e4, 0.8e4, 0.4
    radius, direction = rng.uniform(0.01, 0.2, 30), rng.uniform(-np.pi, np.pi, 30)
    frequencies = radius[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    values = ctf.at(frequencies, np.array([[u, v, azimuth]]))[0]
    defoci = u * np.cos(direction - azimuth) ** 2 + v * np.sin(direction - azimuth) ** 2
    expected = [ctf.at(np.array([k]), np.array([dz]))[0, 0] for k, dz in zip(radius, defoci, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-9)  # float64, of phases of some hundred radians


def test_equal_defoci_are_one(rng):
    frequencies = rng.uniform(-0.2, 0.2, (30, 2))
    astigmatic = ContrastTransfer().at(frequencies, np.array([[9e3, 9e3, 0.7]]))
    np.testing.assert_allclose(astigmatic, ContrastTransfer().at(frequencies, np.array([9e3])), atol=1e-9)


def test_a_phase_plate_of_a_quarter_turn_gives_contrast_at_low_frequency():
    ctf = ContrastTransfer(amplitude_contrast=0.0, phase_shift_rad=np.pi / 2)
    assert ctf.at(np.zeros(1), np.array([0.0]))[0, 0] == pytest.approx(-1, abs=1e-12)


def test_inverted_images_are_the_negatives_of_those_that_are_not(rng):
    frequencies, defoci = rng.uniform(-0.2, 0.2, (30, 2)), np.array([9e3, 1.5e4])
    dark, bright = (ContrastTransfer(inverted=inverted).at(frequencies, defoci) for inverted in (False, True))
    np.testing.assert_array_equal(bright, -dark)
    assert bright.any()


@pytest.mark.parametrize(
    ("defocus", "message"),
    [
        (np.zeros(2), "defocus_angstrom must be one for each of the 3 images, got 2"),
        (np.zeros((2, 3)), "defocus_angstrom must be one for each of the 3 images, got 2"),
        (np.zeros((3, 2)), r"defocus_angstrom must be \(3,\) or \(3, 3\), U, V and .*, got \(3, 2\)"),
        (np.array([0, np.nan, 1]), "defocus_angstrom must be finite, got 1 non-finite values of 3"),
        (1e4, r"defocus_angstrom must be a non-empty array with 1 axes, got shape \(\)"),
        (None, "ctf and defocus_angstrom must be given together, got no defocus_angstrom"),
    ],
)
def test_defoci_must_be_one_for_each_image(defocus, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        defoci_of(ContrastTransfer(), defocus, count=3)


@pytest.mark.parametrize("phase", [np.nan, np.inf])
def test_a_phase_shift_is_finite(phase):
    with pytest.raises(ValueError, match=f"^phase_shift_rad must be finite, got {phase}$"):
        ContrastTransfer(phase_shift_rad=phase)
