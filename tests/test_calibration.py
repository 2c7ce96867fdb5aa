"""Measured images on the scale of simulated ones: signal, noise and background as they were put in."""

from dataclasses import replace

import numpy as np
import pytest

from cryoem import imaging
from cryoem.calibration import calibrate, shell_power
from cryoem.contrast import ContrastTransfer
from cryoem.volumes import DensityMap, phantom

CTF = ContrastTransfer(inverted=True)
PER_CENT = 0.01


@pytest.fixture(scope="module")
def particle():
    return DensityMap(phantom(size=32).data, 4.0)


def measured(particle, *, ctf, noise_variance, n=600):
    """Images in units of their own, on a background of their own."""
    stack = imaging.simulate(
        particle, n, image_size=48, ctf=ctf, noise_variance=noise_variance, shift_limit_px=2, rng=1
    )
    background = np.random.default_rng(2).normal(size=(n, 1, 1))
    return stack, 7.5 * stack.images + background.astype(np.float32)


@pytest.mark.parametrize("noise_variance", [0.1, 1.0, 16.0])
@pytest.mark.parametrize("ctf", [None, CTF], ids=["no contrast transfer", "contrast transfer"])
def test_signal_and_noise_are_what_was_put_in(particle, ctf, noise_variance):
    stack, images = measured(particle, ctf=ctf, noise_variance=noise_variance)
    found = calibrate(images, particle, ctf=ctf, defocus_angstrom=stack.defocus_angstrom)
    assert found.noise_variance == pytest.approx(noise_variance, rel=8 * PER_CENT)
    assert found.signal == pytest.approx(7.5, rel=4 * PER_CENT)
    np.testing.assert_allclose(found.fitted, found.power, rtol=0.3)
    scaled = found.scaled(replace(stack, images=images)).images
    assert np.corrcoef(scaled.ravel(), stack.images.ravel())[0, 1] > 0.98
    assert scaled.var() == pytest.approx(1 + noise_variance, rel=8 * PER_CENT)


def test_a_negative_of_the_particle_is_refused(particle):
    stack, images = measured(particle, ctf=CTF, noise_variance=1.0)
    with pytest.raises(
        ValueError, match=r"^images must show the particle .* by -0\.\d\d: are they inverted\?$"
    ):
        calibrate(-images, particle, ctf=CTF, defocus_angstrom=stack.defocus_angstrom)


def test_noise_alone_holds_no_particle(particle, rng):
    blue = np.gradient(
        rng.normal(size=(200, 48, 48)), axis=2
    )  # less power at low frequencies, unlike any particle
    with pytest.raises(ValueError, match=r"^images must show the particle of density_map"):
        calibrate(blue, particle)


def test_white_noise_has_its_variance_in_every_shell(rng):
    frequency, power = shell_power(3.0 * rng.normal(size=(500, 30, 30)).astype(np.float32))
    np.testing.assert_allclose(power, 9.0, rtol=10 * PER_CENT)
    np.testing.assert_allclose(frequency, np.arange(1, 16) / 30)


def test_a_map_without_structure_is_refused(rng):
    with pytest.raises(ValueError, match=r"^density_map must have structure"):
        calibrate(rng.normal(size=(20, 16, 16)), DensityMap(np.zeros((8, 8, 8), np.float32), 1.0))
