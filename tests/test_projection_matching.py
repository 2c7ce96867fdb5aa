"""Images compared with volume slices: the true pose correlates best, and one step corrects a small error."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_projections import FLOAT32, INTERPOLATION, cpu

from cryoem.contrast import ContrastTransfer
from cryoem.images import fourier_disc, half_planes_from_images, shift
from cryoem.projection.fourier import transform
from cryoem.projection.matching import correlate_candidates, displaced, gauss_newton_steps, take_steps
from cryoem.rotations import Poses, random_rotations, random_small_rotations


@pytest.fixture(scope="module")
def slices(particle):
    """The spectrum of the particle, and transforms, orientations, frequencies and weights of three images."""
    rotations, disc = random_rotations(3, rng=3), fourier_disc(32)
    inside = np.hypot(*disc.frequencies.T) < 0.35
    planes = half_planes_from_images(cpu(particle, rotations))[:, disc.index[inside]]
    return transform(particle), planes, rotations, disc.frequencies[inside], disc.weights[inside]


def test_the_true_orientation_correlates_best(slices, particle):
    spectrum, planes, rotations, *disc = slices
    candidates = np.stack([rotations.as_matrix(), random_rotations(3, rng=2).as_matrix()], axis=1)
    scores = correlate_candidates(spectrum, planes, candidates, *disc)
    assert scores.shape == (3, 2)
    np.testing.assert_allclose(scores[:, 0], 1, atol=INTERPOLATION)
    assert (scores[:, 1] < 0.95).all()
    assert (np.abs(scores) <= 1 + FLOAT32).all()
    against = correlate_candidates(transform(-particle), planes, candidates, *disc)
    np.testing.assert_allclose(against, -scores, atol=FLOAT32)


@pytest.mark.parametrize("unknowns", [3, 5])
def test_a_gauss_newton_step_corrects_small_turns_and_displacements(slices, unknowns):
    spectrum, planes, true, *disc = slices
    turns = 0.01 * np.array([[1.0, 0, 0], [0, -1, 0.5], [0.3, 0.2, -1]])
    shifts = (unknowns == 5) * np.array([[0.2, -0.1], [0.0, 0.15], [-0.25, 0.05]])
    seen = displaced(3 * planes, disc[0], shifts)  # the contrast may vary
    start = Rotation.from_rotvec(-turns) * true
    steps, inverse, scores = gauss_newton_steps(spectrum, seen, start, *disc, with_shifts=unknowns == 5)
    assert inverse.shape == (3, unknowns, unknowns)
    before = correlate_candidates(spectrum, seen, start.as_matrix()[:, None], *disc)[:, 0]
    np.testing.assert_allclose(scores, before, atol=FLOAT32)
    np.testing.assert_allclose(steps[:, :3], turns, atol=0.002)
    np.testing.assert_allclose(steps[:, 3:], shifts[:, : unknowns - 3], atol=0.02)


def test_a_step_that_lowers_the_correlation_is_tried_again_at_half_its_length(slices):
    spectrum, planes, true, *disc = slices
    fine = np.hypot(*disc[0].T) > 0.12
    planes, true = np.repeat(planes[:, fine], 20, axis=0), true[np.repeat(np.arange(3), 20)]
    disc = [each[fine] for each in disc]
    turns = Rotation.from_rotvec(random_small_rotations((60,), radius=0.5, rng=4))
    start = Poses(turns * true, np.zeros((60, 2)))
    bounds = {"with_shifts": False, "largest_step": 1.0, "largest_shift": 1.0}
    reached, scores = zip(
        *(take_steps(spectrum, planes, start, *disc, steps=n, **bounds)[:2] for n in (1, 2, 3, 8)),
        strict=True,
    )
    assert (np.diff(scores, axis=0) >= -FLOAT32).all()
    first = (reached[0].rotations * start.rotations.inv()).magnitude()
    assert first.max() == pytest.approx(1.0)
    likely = (first < 1e-6) & (
        scores[0] > 0
    )  # from a negative correlation, steps lead to an inverted contrast
    assert 1 < likely.sum() < 30
    assert (scores[3] > scores[0])[likely].all()


def test_displaced_transforms_are_those_of_shifted_images(small_volume):
    images, disc = cpu(small_volume, random_rotations(3, rng=1), image_size=25), fourier_disc(25)
    moves = np.array([[0.5, -1.0], [2.0, 0.0], [-0.3, 0.7]])
    found, expected = half_planes_from_images(images), half_planes_from_images(shift(images, moves))
    found = displaced(found[:, disc.index], disc.frequencies, moves)
    np.testing.assert_allclose(found, expected[:, disc.index], atol=FLOAT32 * np.abs(expected).max())


def test_slices_match_through_their_own_contrast_transfer_only(slices):
    spectrum, planes, rotations, *disc = slices
    transfers = ContrastTransfer().at(disc[0] / 4.0, np.array([4e3, 9e3, 2e4]))
    matrices = rotations.as_matrix()[:, None]
    own, another, none = (
        correlate_candidates(spectrum, planes * transfers, matrices, *disc, seen)
        for seen in (transfers, transfers[::-1].copy(), None)
    )
    np.testing.assert_allclose(own, 1, atol=INTERPOLATION)
    assert (another[[0, 2]] < 0.9).all()
    assert (none < 0.5).all()
