"""The published stochastic recovery: it solves small problems from some of its random starts, and tells from which."""

import numpy as np
import pytest

from cryoem.evaluation import recovery_error
from cryoem.recovery import recover_orientations
from cryoem.recovery.stochastic import FRAMES, descend
from cryoem.rotations import geodesic_distance, random_rotations

EXACT = 1e-3  # radians, E_OR; distances in single precision are good to the square root of its rounding


@pytest.fixture(scope="module")
def problem():
    """40 orientations of a quarter of the sphere and their distances."""
    rotations = random_rotations(40, coverage="quarter", rng=10)
    return rotations, geodesic_distance(rotations, rotations)


def recover(distances, **options):
    return recover_orientations(distances, method="sgd", **({"steps": 60, "rng": 0} | options))


def test_some_start_solves_an_exact_problem_and_its_loss_tells(problem):
    rotations, distances = problem
    for seed in range(12):  # every second or third start ends in the solution, the others in a local minimum
        recovery = recover(distances, steps=1000, rng=seed)
        solved = recovery_error(rotations, recovery.rotations) < EXACT
        assert solved == (recovery.losses[-1] < EXACT**2)
        if solved:
            return
    pytest.fail("no start of twelve recovered the orientations")


def test_the_loss_falls_from_that_of_random_orientations(problem):
    rotations, distances = problem
    recovery = recover(distances, steps=300)
    assert recovery.start == "random"
    assert len(recovery.losses) == FRAMES
    assert len(recovery.frames) == FRAMES + 1
    assert recovery.losses[-1] < 0.2 * recovery.losses[0]
    start, end = (recovery_error(rotations, frame) for frame in (recovery.frames[0], recovery.rotations))
    assert end < start
    np.testing.assert_array_equal(recovery.frames[-1].as_quat(), recovery.rotations.as_quat())


def test_the_loss_is_the_mean_squared_mismatch(problem):
    _, distances = problem
    at_rest = recover(distances, steps=200, learning_rate=1e-9)
    frozen = at_rest.rotations
    mismatch = np.square(distances - geodesic_distance(frozen, frozen))[~np.eye(40, dtype=bool)]
    pairs = 200 * 256
    assert at_rest.losses.mean() == pytest.approx(mismatch.mean(), abs=5 * mismatch.std() / np.sqrt(pairs))


def test_a_descent_is_that_of_its_seed(problem):
    _, distances = problem
    one, same, other = (recover(distances, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.rotations.as_quat(), same.rotations.as_quat())
    np.testing.assert_array_equal(one.losses, same.losses)
    assert not np.array_equal(one.losses, other.losses)


@pytest.mark.parametrize("steps", [1, 7, FRAMES, FRAMES + 1])
def test_few_steps_give_as_many_frames_as_they_can(problem, steps):
    recovery = recover(problem[1], steps=steps)
    assert len(recovery.losses) == min(steps, FRAMES)
    assert len(recovery.frames) == len(recovery.losses) + 1
    assert np.isfinite(recovery.losses).all()
    np.testing.assert_allclose(np.linalg.norm(recovery.rotations.as_quat(), axis=1), 1, atol=1e-12)  # float64


def test_identical_orientations_do_not_break_the_gradient():
    rotations = random_rotations(1, rng=0)[np.zeros(8, int)]
    recovery = recover(geodesic_distance(rotations, rotations), steps=600)
    assert np.isfinite(recovery.losses).all()
    assert recovery.losses[-1] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number, got nan"),
    ],
)
def test_a_wrong_descent_is_one_sentence(problem, options, message):
    with pytest.raises(ValueError, match=message):
        descend(
            problem[1], **({"steps": 2, "learning_rate": 0.05, "rng": np.random.default_rng(0)} | options)
        )
