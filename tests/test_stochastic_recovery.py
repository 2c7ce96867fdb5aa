"""Stochastic recovery, ours and as published, solves small problems from some starts, and its loss shows which."""

import numpy as np
import pytest

from cryoem.orientations.descent import has_converged
from cryoem.orientations.evaluation import recovery_error
from cryoem.orientations.recovery import recover_orientations
from cryoem.rotations import geodesic_distance, random_rotations

EXACT = 1e-3  # radians: E_OR, the square root of the rounding error of distances in single precision


@pytest.fixture(scope="module")
def problem():
    """40 orientations in a quarter of the sphere, and their distances."""
    rotations = random_rotations(40, coverage="quarter", rng=10)
    return rotations, geodesic_distance(rotations, rotations)


def recover(distances, **options):
    return recover_orientations(distances, method="sgd", **({"steps": 60, "rng": 0} | options))


def test_some_start_solves_an_exact_problem_and_its_loss_shows_it(problem):
    rotations, distances = problem
    for seed in range(12):  # every second or third start reaches the solution, the others a local minimum
        recovery = recover(distances, steps=600, rng=seed)
        assert recovery.start == "random"
        np.testing.assert_array_equal(recovery.frames[-1].as_quat(), recovery.rotations.as_quat())
        solved = recovery_error(rotations, recovery.rotations) < EXACT
        assert solved == (recovery.losses[-1] < EXACT**2)
        if solved:
            assert recovery.losses[-1] < 0.2 * recovery.losses[0]
            assert recovery_error(rotations, recovery.frames[0]) > 0.1
            return
    pytest.fail("no start of twelve recovered the orientations")


def test_the_loss_is_the_mean_squared_mismatch(problem):
    _, distances = problem
    at_rest = recover(distances, steps=100, learning_rate=1e-9)
    frozen = at_rest.rotations
    mismatch = np.square(distances - geodesic_distance(frozen, frozen))[~np.eye(40, dtype=bool)]
    pairs = 100 * 256
    assert at_rest.losses.mean() == pytest.approx(mismatch.mean(), abs=5 * mismatch.std() / np.sqrt(pairs))


def test_the_seed_determines_the_descent(problem):
    _, distances = problem
    one, same, other = (recover(distances, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.rotations.as_quat(), same.rotations.as_quat())
    np.testing.assert_array_equal(one.losses, same.losses)
    assert not np.array_equal(one.losses, other.losses)


def test_identical_orientations_do_not_break_the_gradient():
    recovery = recover(np.zeros((8, 8)), steps=400)
    assert np.isfinite(recovery.losses).all()
    assert recovery.losses[-1] < 1e-3


# --- as published


def test_the_published_recovery_is_exact_for_exact_distances():
    rotations = random_rotations(60, rng=3)
    distances = geodesic_distance(rotations, rotations)
    for seed in range(1, 5):  # one start in two ends in the solution
        recovery = recover_orientations(distances, method="published", steps=20_000, rng=seed)
        if recovery.losses[-1] < 1e-8:
            break
    assert recovery.start == "random"
    assert recovery_error(rotations, recovery.rotations) < EXACT
    assert len(recovery.losses) < 20  # it ended when it converged, before its limit
    start = recovery.frames[0].as_matrix()[
        :, 2, 2
    ]  # cosine of the tilt, which Euler-uniform orientations crowd at 1
    assert np.mean(np.abs(start) > np.cos(np.pi / 4)) > 0.4  # 0.29 on SO(3)


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        (np.full(2000, 0.04), True),  # level
        (np.full(1999, 0.04), False),  # too few steps to compare
        (0.04 + 1e-6 * np.arange(3000), False),  # 1e-3 between the means of 1,000 steps
        (np.concatenate([np.full(500, 1.0), np.full(1000, 0.9e-8)]), True),  # small
        (np.concatenate([np.full(500, 1.0), np.full(1000, 1.1e-8)]), False),
    ],
)
def test_the_published_recovery_converges_when_its_loss_is_level_or_small(losses, converged):
    assert has_converged(losses) == converged
