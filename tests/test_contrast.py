"""The contrast transfer function, compared with its formula, and the optics of a set of images."""

import numpy as np
import pytest
from scipy import constants

from cryoem.contrast import ContrastTransfer, Optics, known_optics, optics_of
from cryoem.particles.stack import ParticleStack


@pytest.mark.parametrize(
    ("voltage_kv", "wavelength"), [(300.0, 0.0196875), (200.0, 0.0250793), (100.0, 0.0370144)]
)
def test_wavelengths_are_relativistic(voltage_kv, wavelength):
    # 1e-5 corresponds to 0.001 rad after a hundred turns of phase
    assert ContrastTransfer(voltage_kv=voltage_kv).wavelength_angstrom == pytest.approx(wavelength, rel=1e-5)
    energy = voltage_kv * 1e3 * constants.e
    momentum = np.sqrt(2 * constants.m_e * energy * (1 + energy / (2 * constants.m_e * constants.c**2)))
    assert wavelength == pytest.approx(constants.h / momentum * 1e10, rel=1e-5)


def test_transfer_follows_the_formula_and_inverted_images_are_its_negatives(rng):
    k, defocus = rng.uniform(0, 0.3, 20), rng.uniform(5e3, 3e4, 4)
    ctf = ContrastTransfer(200.0, 2.0, 0.1, 80.0, phase_shift_rad=0.3)
    values = ctf.at(k, defocus)
    assert values.shape == (4, 20)
    wavelength, aberration = ctf.wavelength_angstrom, 2.0e7
    for row, dz in zip(values, defocus, strict=True):
        gamma = np.pi * wavelength * dz * k**2 - np.pi / 2 * aberration * wavelength**3 * k**4 + 0.3
        expected = -np.sqrt(1 - 0.1**2) * np.sin(gamma) - 0.1 * np.cos(gamma)
        np.testing.assert_allclose(row, expected * np.exp(-80.0 * k**2 / 4), atol=1e-12)  # float64
    inverted = ContrastTransfer(200.0, 2.0, 0.1, 80.0, phase_shift_rad=0.3, inverted=True)
    np.testing.assert_array_equal(inverted.at(k, defocus), -values)


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
    np.testing.assert_allclose(values, expected, atol=1e-9)  # float64, for phases of several hundred radians
    round_spot = ctf.at(frequencies, np.array([[9e3, 9e3, 0.7]]))
    np.testing.assert_allclose(round_spot, ctf.at(frequencies, np.array([9e3])), atol=1e-9)


# --- optics of a set of images

CTF, DEFOCI = ContrastTransfer(), np.array([5e3, 1e4, 1.5e4])


def test_optics_of_some_images_and_their_transfers():
    optics, plain = Optics(2.5, CTF, DEFOCI), Optics(2.5)
    np.testing.assert_array_equal(optics[[2, 0]].defocus_angstrom, DEFOCI[[2, 0]])
    frequencies = np.array([[0.1, -0.2], [0.0, 0.3]])
    transfers = optics[1:].transfers(frequencies)
    assert transfers.dtype == np.float32
    np.testing.assert_allclose(transfers, CTF.at(frequencies / 2.5, DEFOCI[1:]), atol=1e-6)
    assert plain[:1] is plain
    assert optics_of(plain, None, count=7) is plain
    assert optics_of(None, 2.5, count=7).pixel_size_angstrom == 2.5
    assert optics_of(optics, 2.5, count=3) is optics
    # images may come with their optics
    stack = ParticleStack(np.ones((2, 4, 4)), plain)
    assert known_optics(stack, None) is plain
    assert known_optics(np.ones((2, 4, 4)), None) is None
    assert known_optics(stack, optics) is optics


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ContrastTransfer(amplitude_contrast=1.5),
            "amplitude_contrast must be between 0 and 1, got 1.5",
        ),
        (lambda: ContrastTransfer(voltage_kv=-300.0), "voltage_kv must be between 1 and 5000, got -300.0"),
        (
            lambda: ContrastTransfer(defocus_range_angstrom=(2e4, 5e3)),
            "defocus_range_angstrom must be two finite values in ascending order, got .*",
        ),
        (lambda: ContrastTransfer(phase_shift_rad=np.nan), "phase_shift_rad must be between .*, got nan"),
        (lambda: Optics(np.nan), "pixel_size_angstrom must be a positive number, got nan"),
        (lambda: Optics(1.0, 300.0, DEFOCI), "ctf must be a ContrastTransfer or None, got 300.0"),
        (lambda: Optics(1.0, CTF), "ctf and .* must be given together; defocus_angstrom is missing"),
        (lambda: Optics(1.0, None, DEFOCI), "ctf and .* must be given together; ctf is missing"),
        (
            lambda: Optics(1.0, CTF, np.zeros((3, 2))),
            r"defocus_angstrom must be \(n,\), or \(n, 3\) with columns .*, got \(3, 2\)",
        ),
        (lambda: Optics(1.0, CTF, 1e4), r"defocus_angstrom must be a non-empty 1-D array, got shape \(\)"),
        (
            lambda: optics_of(None, None, count=4),
            "pixel_size_angstrom or optics is required, but neither is given",
        ),
        (lambda: optics_of(2.0, None, count=4), "optics must be an Optics object, got float"),
        (
            lambda: optics_of(Optics(1.5), 2.0, count=4),
            "pixel_size_angstrom must be 1.5, as in optics, got 2.0",
        ),
        (
            lambda: optics_of(Optics(1.0, CTF, DEFOCI), None, count=4),
            "defocus_angstrom must have one entry for each of the 4 images, got 3",
        ),
    ],
)
def test_impossible_optics_are_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
