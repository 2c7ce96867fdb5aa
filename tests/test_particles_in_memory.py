"""The particle stack: what it accepts, and the sentence with which it refuses."""

import numpy as np
import pytest

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles.stack import ParticleStack
from cryoem.rotations import Poses, random_rotations

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
        ((np.where(IMAGES == 5, np.nan, IMAGES), Optics(1.0)), "images must be finite, got 1"),
        ((IMAGES, Optics(1.0), random_rotations(2, rng=0)), "poses must .*3.*, got 2"),
        ((IMAGES, Optics(1.0, ContrastTransfer(), [1e4])), "defocus_angstrom must .* 3 images, got 1"),
    ],
)
def test_optics_and_poses_must_fit_the_images(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ParticleStack(*arguments)
