"""Calibration of measured images: signal, noise and background are those that were simulated."""

from dataclasses import replace

import numpy as np
import pytest

from cryoem.contrast import ContrastTransfer
from cryoem.particles.calibration import calibrate, shell_power
from cryoem.particles.simulation import simulate
from cryoem.volumes.density import DensityMap
from cryoem.volumes.phantoms import phantom

CTF = ContrastTransfer(inverted=True)
PER_CENT = 0.01


@pytest.fixture(scope="module")
def density() -> DensityMap:
    return phantom(size=32)


def measured(density, *, ctf, noise_variance, n=600):
    """Images in another unit, each on another background."""
    stack = simulate(
        density, n, image_size=48, ctf=ctf, noise_variance=noise_variance, shift_limit_px=2, rng=1
    )
    background = np.random.default_rng(2).normal(size=(n, 1, 1))
    return stack, 7.5 * stack.images + background.astype(np.float32)


@pytest.mark.parametrize(("ctf", "noise_variance"), [(None, 1.0), (CTF, 0.1), (CTF, 16.0)])
def test_signal_and_noise_are_those_of_the_simulation(density, ctf, noise_variance):
    stack, images = measured(density, ctf=ctf, noise_variance=noise_variance)
    found = calibrate(images, density, optics=stack.optics)
    assert found.noise_variance == pytest.approx(noise_variance, rel=8 * PER_CENT)
    assert found.signal == pytest.approx(7.5, rel=4 * PER_CENT)
    np.testing.assert_allclose(found.fitted, found.power, rtol=0.3)
    scaled = found.scaled(replace(stack, images=images)).images
    assert np.corrcoef(scaled.ravel(), stack.images.ravel())[0, 1] > 0.98
    assert scaled.var() == pytest.approx(1 + noise_variance, rel=8 * PER_CENT)


def test_a_negative_of_the_particle_is_refused(density):
    stack, images = measured(density, ctf=CTF, noise_variance=1.0, n=200)
    message = r"^the images have inverted contrast: .* by -0\.\d\d; invert the images$"
    with pytest.raises(ValueError, match=message):
        calibrate(-images, density, optics=stack.optics)


def test_noise_alone_and_a_map_without_structure_are_refused(density, rng):
    # less power at low frequencies, unlike any particle
    blue = np.gradient(rng.normal(size=(200, 48, 48)), axis=2)
    with pytest.raises(ValueError, match=r"^no signal of density_map was found in the images"):
        calibrate(blue, density)
    with pytest.raises(ValueError, match=r"^density_map must not be constant"):
        calibrate(blue, DensityMap(np.zeros((8, 8, 8)), 1.0))


def test_white_noise_has_its_variance_in_every_shell(rng):
    frequency, power = shell_power(3.0 * rng.normal(size=(500, 30, 30)).astype(np.float32))
    np.testing.assert_allclose(power, 9.0, rtol=10 * PER_CENT)
    np.testing.assert_allclose(frequency, np.arange(1, 16) / 30)
