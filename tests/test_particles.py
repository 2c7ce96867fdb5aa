"""The particle stack: what it accepts, and the sentence with which it refuses; images made when they are asked for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer
from cryoem.particles import ParticleSeries, ParticleStack, open_particles, write_particles
from cryoem.rotations import random_rotations

IMAGES = np.arange(3 * 4 * 4, dtype=np.float64).reshape(3, 4, 4)


def test_a_stack_of_images_alone():
    stack = ParticleStack(IMAGES, 1.5)
    assert len(stack) == 3
    assert stack.images.dtype == np.float32
    np.testing.assert_array_equal(stack.images, IMAGES)
    assert (stack.rotations, stack.shifts_px, stack.defocus_angstrom, stack.symmetry) == (
        None,
        None,
        None,
        "C1",
    )


def test_a_stack_of_everything():
    rotations = random_rotations(3, rng=0)
    stack = ParticleStack(IMAGES, 1.5, rotations, np.ones((3, 2)), np.full(3, 1e4), "D2", ContrastTransfer())
    assert stack.rotations is rotations
    assert stack.shifts_px.shape == (3, 2)
    assert stack.defocus_angstrom.shape == (3,)
    assert stack.symmetry == "D2"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4)), r"images must be a non-empty array with 3 axes, got shape \(4, 4\)"),
        (np.zeros((3, 4, 5)), r"images must be \(n, y, x\) with y == x, got \(3, 4, 5\)"),
        (np.zeros((0, 4, 4)), r"images must be a non-empty array with 3 axes, got shape \(0, 4, 4\)"),
        (np.zeros((3, 0, 0)), r"images must be a non-empty array with 3 axes, got shape \(3, 0, 0\)"),
        (np.where(IMAGES == 5, np.nan, IMAGES), "images must be finite, got 1 non-finite values of 48"),
        (np.where(IMAGES < 2, np.inf, IMAGES), "images must be finite, got 2 non-finite values of 48"),
    ],
)
def test_wrong_images_are_one_sentence(images, message):
    with pytest.raises(ValueError, match=message):
        ParticleStack(images, 1.0)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_must_have_a_size(size):
    with pytest.raises(ValueError, match=f"^pixel_size_angstrom must be a positive number, got {size}$"):
        ParticleStack(IMAGES, size)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rotations", random_rotations(2, rng=0), "rotations must be as many as the images, 3, got 2"),
        ("shifts_px", np.zeros((4, 2)), r"shifts_px must be \(3, 2\), got \(4, 2\)"),
        ("defocus_angstrom", np.zeros(1), "defocus_angstrom must be one for each of the 3 images, got 1"),
    ],
)
def test_what_is_known_must_be_known_of_each_image(name, value, message):
    with pytest.raises(ValueError, match=message):
        ParticleStack(
            IMAGES, 1.0, **{name: value}, ctf=ContrastTransfer() if name == "defocus_angstrom" else None
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotations", Rotation.identity()),
        ("shifts_px", np.zeros((3, 3))),
        ("shifts_px", np.zeros(3)),
        ("shifts_px", np.full((3, 2), np.nan)),
        ("defocus_angstrom", 1e4),
        ("defocus_angstrom", np.zeros((3, 2))),
    ],
    ids=[
        "single-rotation",
        "three-shifts",
        "flat-shifts",
        "nan-shifts",
        "scalar-defocus",
        "defocus-without-azimuth",
    ],
)
def test_what_is_known_must_have_its_shape(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        ParticleStack(
            IMAGES, 1.0, **{name: value}, ctf=ContrastTransfer() if name == "defocus_angstrom" else None
        )


def test_a_stack_cannot_be_changed():
    stack = ParticleStack(IMAGES, 1.0)
    with pytest.raises(AttributeError):
        stack.images = IMAGES


# --- images that are made when they are asked for


def test_a_series_is_written_block_by_block_or_not_at_all(tmp_path):
    images = np.random.default_rng(0).normal(size=(7, 8, 8)).astype(np.float32)
    rotations = random_rotations(7, rng=1)
    asked, done = [], []

    def blocks(size):
        asked.append(size)
        return (images[start : start + size] for start in range(0, 7, size))

    series = ParticleSeries(7, 8, 2.5, rotations, np.ones((7, 2)), None, None, blocks)
    write_particles(tmp_path / "a.star", series, block=3, callback=done.append)
    assert (len(series), asked, done) == (7, [3], [3, 6, 7])
    with pytest.raises(ValueError, match=r"a\.mrcs must get 7 images, got 4$"):
        write_particles(tmp_path / "a.star", replace(series, blocks=lambda size: iter([images[:4]])))
    back = open_particles(tmp_path / "a.star").to_stack()
    np.testing.assert_array_equal(back.images, images)
    assert (back.rotations * rotations.inv()).magnitude().max() < 1e-7
    np.testing.assert_allclose(back.shifts_px, 1, atol=1e-7)
    assert back.ctf is None
