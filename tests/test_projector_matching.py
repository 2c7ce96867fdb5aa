"""Images beside slices of a volume: the true orientation correlates best, and a step undoes a small turn."""

import numpy as np
from scipy.spatial.transform import Rotation
from small_projections import FLOAT32, INTERPOLATION, cpu

from cryoem import projectors
from cryoem.projectors import fourier, plane_frequencies
from cryoem.projectors.matching import correlate_candidates, gauss_newton_steps
from cryoem.reconstruction import once_each
from cryoem.rotations import random_rotations


def test_the_true_orientation_correlates_best(small_volume):
    rotations = random_rotations(4, rng=1)
    planes = projectors.half_planes_from_images(cpu(small_volume, rotations))
    frequencies = plane_frequencies(24)
    candidates = np.stack([rotations.as_matrix(), random_rotations(4, rng=2).as_matrix()], axis=1)
    scores = correlate_candidates(
        fourier.transform(small_volume), planes, candidates, frequencies, once_each(frequencies)
    )
    assert scores.shape == (4, 2)
    np.testing.assert_allclose(scores[:, 0], 1, atol=INTERPOLATION)
    assert (scores[:, 1] < 0.95).all()
    assert (np.abs(scores) <= 1 + FLOAT32).all()
    against = correlate_candidates(
        fourier.transform(-small_volume), planes, candidates, frequencies, once_each(frequencies)
    )
    np.testing.assert_allclose(against, -scores, atol=FLOAT32)


def test_a_gauss_newton_step_undoes_a_small_turn(small_volume):
    true = random_rotations(6, rng=1)
    turn = 0.02 * np.random.default_rng(2).normal(size=(6, 3))
    planes = 3 * projectors.half_planes_from_images(cpu(small_volume, true))  # the contrast is free
    frequencies = plane_frequencies(24)
    step, _ = gauss_newton_steps(
        fourier.transform(small_volume),
        planes,
        Rotation.from_rotvec(turn) * true,
        frequencies,
        once_each(frequencies),
        difference=0.01,
    )
    assert np.abs(step + turn).max() < 0.15 * np.abs(turn).max()
