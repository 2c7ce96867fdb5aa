"""Orientations and a map from images alone, and the expectation step over all poses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem import orientations, particles
from cryoem.contrast import ContrastTransfer
from cryoem.orientations import expectation_maximisation
from cryoem.orientations.rings import RingGrid, expect, harmonics_of, ring_images, values_of
from cryoem.projection import project
from cryoem.rotations import Poses
from cryoem.volumes import phantom

PARTICLE = phantom(size=24)
GRID = RingGrid(rings=8, angles=32)


@pytest.fixture
def short(monkeypatch):
    """Use fewer rounds and coarser grids than by default."""
    for name, value in {
        "START_ROUNDS": 24,
        "LAST_DIRECTIONS": 300,
        "LAST_RINGS": 9,
        "ANGLES_PER_RING": 24,
    }.items():
        monkeypatch.setattr(expectation_maximisation, name, value)


def on_rings(rotations: Rotation, shifts_px: np.ndarray | None = None):
    stack = particles.simulate(PARTICLE, Poses(rotations, shifts_px), image_size=32, rng=0)
    return ring_images(stack.images, GRID)


def test_harmonics_represent_the_values_of_rings():
    values = on_rings(Rotation.random(3, rng=0)).values
    again = values_of(harmonics_of(values, GRID.angles), GRID.angles)
    np.testing.assert_allclose(again, values, atol=2e-3 * np.abs(values).max())


def test_rings_of_noise_have_its_variance(rng):
    noise = rng.normal(size=(1000, 32, 32)).astype(np.float32)
    values = ring_images(noise, GRID).values[:, 1:]  # the first ring is affected by the subtracted background
    assert np.mean(np.abs(values) ** 2) == pytest.approx(1, rel=0.02)


def test_the_expectation_finds_the_direction_the_angle_and_the_displacement(rng):
    directions = Rotation.random(40, rng=1)
    chosen, psi = rng.integers(40, size=12), 2 * np.pi / 36 * rng.integers(36, size=12)
    offsets = np.stack(np.meshgrid([-2.0, 0, 2], [-2.0, 0, 2]), axis=-1).reshape(-1, 2)
    shifts = offsets[rng.integers(9, size=12)]
    turned = Rotation.from_rotvec(np.outer(psi, [0, 0, 1])) * directions[chosen]
    images = on_rings(turned, shifts)
    references = on_rings(directions).values
    noise = np.full(GRID.rings, 0.05)
    found = expect(images, references, noise, rings=8, angles=36, offsets_px=offsets)
    np.testing.assert_array_equal(found.reference, chosen)
    np.testing.assert_allclose(np.exp(1j * found.angles_rad), np.exp(1j * psi), atol=1e-6)
    np.testing.assert_allclose(found.displacements_px, shifts)
    np.testing.assert_allclose(found.centres_px, shifts, atol=0.1)
    assert found.weights.sum() == pytest.approx(12 * GRID.rings)
    # the sums are the images, rotated back onto their references
    counts = np.bincount(chosen, minlength=40)
    expected = references[counts > 0] * counts[counts > 0][:, None, None]
    np.testing.assert_allclose(found.sums[counts > 0], expected, atol=0.06 * np.abs(expected).max())
    assert (found.noise < 0.01 * np.mean(np.abs(references) ** 2)).all()


@pytest.mark.parametrize(
    ("noise_variance", "shift_limit_px", "ctf"),
    [(0.5, 0.0, None), (0.1, 2.0, ContrastTransfer(defocus_range_angstrom=(4e3, 1e4)))],
    ids=["centred", "shifted, CTF"],
)
def test_orientations_of_an_unknown_particle(noise_variance, shift_limit_px, ctf, short):
    conditions = {"noise_variance": noise_variance, "shift_limit_px": shift_limit_px, "ctf": ctf}
    stack = particles.simulate(PARTICLE, 150, image_size=32, rng=2, **conditions)
    found = orientations.ab_initio(stack, shift_limit_px=shift_limit_px, starts=2, rng=1)
    aligned = orientations.align_frame(stack.rotations, found.poses.rotations)
    assert np.mean(aligned.errors < 0.3) > 0.95
    assert aligned.median_error < 0.12
    assert len(found.likelihoods) == 2
    assert np.median(found.agreement) == 1
    # the map projects to the images
    clean = project(found.map.data, found.poses.rotations, image_size=found.map.data.shape[0])
    assert clean.shape[1] * found.map.voxel_size_angstrom == pytest.approx(32 * PARTICLE.voxel_size_angstrom)
    first, second = (half.data.ravel() for half in found.half_maps)
    assert np.corrcoef(first, second)[0, 1] > 0.9


def test_doubtful_results_are_named(short, rng):
    with pytest.warns(UserWarning, match="the starts disagree on the orientations of most images"):
        orientations.ab_initio(
            rng.normal(size=(60, 32, 32)).astype(np.float32), pixel_size_angstrom=4.0, starts=2
        )
    stack = particles.simulate(PARTICLE, 100, image_size=32, rng=2)
    with pytest.warns(UserWarning, match="the contrast of the images is probably inverted"):
        orientations.ab_initio(-stack.images, pixel_size_angstrom=4.0, starts=1)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((5, 32, 32)), {}, "at least 20 images are required, got 5"),
        (np.zeros((30, 12, 12)), {}, "12"),
        (np.zeros((30, 32, 32)), {"shift_limit_px": -1.0}, "shift_limit_px must be"),
        (np.zeros((30, 32, 32)), {"starts": 0}, "starts must be"),
    ],
)
def test_wrong_input_is_one_sentence(images, options, message):
    with pytest.raises(ValueError, match=message):
        orientations.ab_initio(images, pixel_size_angstrom=4.0, **options)
