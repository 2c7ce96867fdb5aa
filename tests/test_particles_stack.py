"""Particles in memory: valid stacks, and calibration that recovers the simulated signal and noise."""

import numpy as np
import pytest

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles.simulation import simulate
from cryoem.particles.stack import ParticleStack, StackOnDemand, calibrate, shell_power
from cryoem.rotations import Poses, random_rotations
from cryoem.volumes.density import DensityMap
from cryoem.volumes.phantoms import phantom

IMAGES = np.arange(3 * 4 * 4, dtype=np.float64).reshape(3, 4, 4)


def test_a_stack_is_its_images_with_optics_and_poses():
    alone = ParticleStack(IMAGES, Optics(1.5))
    assert (alone.shape, alone.image_size, len(alone), alone.symmetry) == ((3, 4, 4), 4, 3, "C1")
    assert (alone.poses, alone.rotations, alone.shifts_px, alone.ctf, alone.defocus_angstrom) == (None,) * 5
    assert np.asarray(alone).dtype == np.float32
    rotations, ctf = random_rotations(3, rng=0), ContrastTransfer()
    optics = Optics(1.5, ctf, [1e4, 2e4, 3e4])
    whole = ParticleStack(IMAGES, optics, Poses(rotations, np.arange(6.0).reshape(3, 2)), "D2")
    for index, numbers in (
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
    ):
        part = whole[index]
        np.testing.assert_array_equal(part, IMAGES[numbers])
        np.testing.assert_array_equal(part.rotations.as_quat(), rotations[numbers].as_quat())
        np.testing.assert_array_equal(part.shifts_px, np.arange(6.0).reshape(3, 2)[numbers])
        np.testing.assert_array_equal(part.defocus_angstrom, 1e4 * (1 + np.array(numbers)))
        assert (part.ctf, part.symmetry, part.pixel_size_angstrom) == (ctf, "D2", 1.5)
    centred = ParticleStack(IMAGES, optics, rotations)
    assert not centred.shifts_px.any()
    with pytest.raises(AttributeError):
        whole.images = IMAGES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 4, 5)), Optics(1.0)), r"images must be \(n, y, x\) with y == x, got \(3, 4, 5\)"),
        (
            (np.where(IMAGES == 5, np.nan, IMAGES), Optics(1.0)),
            "images must be finite, got NaN or infinity in 1 of 48 values",
        ),
        ((IMAGES, Optics(1.0), random_rotations(2, rng=0)), "poses must .*3.*, got 2"),
        ((IMAGES, Optics(1.0, ContrastTransfer(), [1e4])), "defocus_angstrom must .* 3 images, got 1"),
    ],
)
def test_optics_and_poses_must_fit_the_images(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ParticleStack(*arguments)


# --- calibration

CTF = ContrastTransfer(inverted=True)
PER_CENT = 0.01


@pytest.fixture(scope="module")
def density() -> DensityMap:
    return phantom(size=32)


def measured(density, *, ctf, noise_variance, n=600):
    """Images in different units, each with a different background."""
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
    on_demand = StackOnDemand(images, np.arange(len(images)), stack.optics)
    scaled = np.asarray(found.scaled(on_demand))
    np.testing.assert_array_equal(found.scaled(on_demand)[5:7], scaled[5:7])
    assert np.corrcoef(scaled.ravel(), stack.images.ravel())[0, 1] > 0.98
    assert scaled.var() == pytest.approx(1 + noise_variance, rel=8 * PER_CENT)
    # without the map, the signal at the highest frequencies counts as noise
    alone = calibrate(images)
    assert alone.noise_variance == pytest.approx(noise_variance, rel=10 * PER_CENT, abs=0.08)
    assert alone.signal == pytest.approx(7.5, rel=8 * PER_CENT)


def test_a_negative_of_the_particle_is_refused(density):
    stack, images = measured(density, ctf=CTF, noise_variance=1.0, n=200)
    message = r"^the images have inverted contrast: .* is -0\.\d\d; invert the images$"
    with pytest.raises(ValueError, match=message):
        calibrate(-images, density, optics=stack.optics)


def test_noise_alone_and_a_map_without_structure_are_refused(density, rng):
    # less power at low than at high frequencies, unlike any particle
    blue = np.gradient(rng.normal(size=(200, 48, 48)), axis=2)
    with pytest.raises(ValueError, match=r"^no signal from the map was found in the images"):
        calibrate(blue, density)
    with pytest.raises(
        ValueError, match=r"^no signal was found in the images: their power is not higher at low"
    ):
        calibrate(np.diff(blue, axis=2)[:, 1:])
    with pytest.raises(ValueError, match=r"^density_map must not be constant"):
        calibrate(blue, DensityMap(np.zeros((8, 8, 8)), 1.0))


def test_white_noise_has_its_variance_in_every_shell(rng):
    frequency, power = shell_power(3.0 * rng.normal(size=(500, 30, 30)).astype(np.float32))
    np.testing.assert_allclose(power, 9.0, rtol=10 * PER_CENT)
    np.testing.assert_allclose(frequency, np.arange(1, 16) / 30)
