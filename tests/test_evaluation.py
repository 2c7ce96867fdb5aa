"""Errors relative to the truth: which gauges are free, and the alignment with the smallest error."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from cryoem.orientations.evaluation import (
    align_frame,
    align_shifts,
    align_to,
    pose_error,
    recovery_error,
)
from cryoem.rotations import geodesic_distance, mirror, random_rotations, random_small_rotations

ZERO = 1e-10  # radians; float64 after an iteration


def orientations(kind: str, n: int) -> Rotation:
    if kind == "cluster":
        vectors = random_small_rotations((n,), radius=0.05, rng=0)
        return Rotation.from_rotvec(vectors) * random_rotations(1, rng=1)[0]
    if kind == "tilt series":
        return Rotation.from_rotvec(np.linspace(-1, 1, n)[:, None] * [0, 1, 0])
    return random_rotations(n, coverage=kind, rng=0)


def turned(rotations: Rotation, radians: float) -> Rotation:
    """Perturb every orientation by a random rotation of about this many radians."""
    vectors = np.random.default_rng(5).normal(scale=radians / np.sqrt(3), size=(len(rotations), 3))
    return rotations * Rotation.from_rotvec(vectors)


@pytest.mark.parametrize("n", [1, 2, 3, 100])
@pytest.mark.parametrize("kind", ["so3", "cluster", "tilt series"])
def test_the_gauge_of_distances_and_the_frame_of_images_are_free(kind, n):
    true = orientations(kind, n)
    a, b = random_rotations(2, rng=1)
    for recovered in (a * true * b, a * true.inv() * b, mirror(a * true * b)):
        assert recovery_error(true, recovered) < ZERO
    for recovered in (true * b, mirror(true * b), mirror(true) * b):
        assert pose_error(true, recovered) < ZERO


def test_outliers_change_the_mean_error_more_than_the_median():
    true = random_rotations(101, rng=0)
    angles = np.linspace(0, 0.02, 101) + np.where(np.arange(101) == 7, 2.0, 0.0)
    recovered = true * Rotation.from_rotvec(angles[:, None] * [0, 0, 1])
    aligned = align_to(true, recovered)
    np.testing.assert_array_equal(aligned.median_error, np.sort(aligned.errors)[50])
    assert aligned.median_error < 0.02 < aligned.mean_error


def test_the_axes_of_the_images_are_not_free_in_the_pose_error():
    true = random_rotations(300, rng=0)
    for angle in (0.1, 0.5, 2.0):
        recovered = Rotation.from_rotvec([0, angle * 0.6, angle * 0.8]) * true
        assert pose_error(true, recovered) > 0.5 * angle
        assert recovery_error(true, recovered) < ZERO
    assert pose_error(true, true.inv()) > 1


def test_the_mirror_is_half_a_turn_of_all_images_and_keeps_distances():
    true = random_rotations(100, rng=0)
    found = align_frame(true, Rotation.from_rotvec([0, 0, np.pi]) * true)
    assert found.mean_error < ZERO
    assert found.mirrored
    assert not align_frame(true, true).mirrored
    mirrored = mirror(true)
    assert (mirror(mirrored).inv() * true).magnitude().max() < ZERO
    distances = geodesic_distance(true, true)
    np.testing.assert_allclose(geodesic_distance(mirrored, mirrored), distances, atol=1e-7)
    np.testing.assert_allclose(mirror(true[0]).as_matrix(), mirrored.as_matrix()[0], atol=ZERO)


@pytest.mark.parametrize("transposed", [False, True])
def test_alignment_lands_on_the_truth_and_says_how(transposed):
    true = random_rotations(200, rng=0)
    a, b = random_rotations(2, rng=1)
    noisy = turned(true, 0.1)
    recovered = a * noisy * b
    found = align_to(true, recovered.inv() if transposed else recovered)
    assert found.inverted == transposed
    np.testing.assert_allclose((found.rotations.inv() * true).magnitude(), found.errors, atol=ZERO)
    assert found.mean_error == pytest.approx(found.errors.mean())
    assert (found.rotations.inv() * noisy).magnitude().max() < 0.03  # uncertainty of the gauge due to noise
    assert len(found.errors) == 200


@pytest.mark.parametrize("error", [align_to, align_frame])
def test_an_error_is_no_more_than_the_noise_and_not_much_less(error):
    true = random_rotations(1000, rng=0)
    recovered = turned(true, 0.2)
    noise = (true.inv() * recovered).magnitude().mean()
    assert 0.98 * noise < error(true, recovered).mean_error <= noise + ZERO


def brute_force(true: Rotation, recovered: list[Rotation], *, left: bool, starts: int) -> float:
    """Minimise the mean angle over rotations on the right and, if needed, on the left, from several starts."""

    def mean_angle(x, a, b, candidate):
        moved = candidate * (Rotation.from_rotvec(x[:3]) * b)
        if left:
            moved = Rotation.from_rotvec(x[3:]) * a * moved
        return (true.inv() * moved).magnitude().mean()

    options = {"xtol": 1e-6, "ftol": 1e-9}
    return min(
        minimize(
            mean_angle,
            np.zeros(6 if left else 3),
            args=(*random_rotations(2, rng=seed), candidate),
            method="Powell",
            options=options,
        ).fun
        for candidate in recovered
        for seed in range(starts)
    )


@pytest.mark.parametrize(("n", "noise"), [(3, 0.3), (6, 0.8)])
def test_no_other_map_is_better(n, noise):
    true = random_rotations(n, rng=n)
    a, b = random_rotations(2, rng=1)
    disturbed = turned(true, noise)
    found = recovery_error(true, a * disturbed * b)
    assert found <= 1.005 * brute_force(true, [disturbed, disturbed.inv()], left=True, starts=3)
    found = pose_error(true, disturbed * b)
    assert found <= 1.005 * brute_force(true, [disturbed, mirror(disturbed)], left=False, starts=5)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_outliers_do_not_move_the_map(share):
    n, wrong = 300, int(300 * share)
    true = random_rotations(n, rng=0)
    a, b = random_rotations(2, rng=1)
    wild = Rotation.concatenate([random_rotations(wrong, rng=2), true[wrong:]])
    for errors in (align_to(true, a * wild * b).errors, align_frame(true, wild * b).errors):
        assert errors[wrong:].max() < 1e-6  # a mean square would shift all of them


def test_shifts_are_compared_about_the_same_origin(rng):
    rotations, true = random_rotations(50, rng=0), rng.normal(size=(50, 2))
    moved = true + rotations.as_matrix()[:, :2] @ [1.0, -2.0, 0.5]
    np.testing.assert_allclose(align_shifts(true, moved, rotations), true, atol=1e-9)
    with pytest.raises(ValueError, match=r"^found_px must be \(50, 2\), got \(49, 2\)$"):
        align_shifts(true, true[1:], rotations)


FOUR = random_rotations(4, rng=0)


@pytest.mark.parametrize("error", [recovery_error, pose_error])
@pytest.mark.parametrize(
    ("true", "recovered", "message"),
    [
        (FOUR, FOUR[:3], "true and recovered must have the same length, got 4 and 3"),
        (
            FOUR[:0],
            FOUR[:0],
            "true must be a non-empty sequence of rotations, got .*",
        ),
        (FOUR, FOUR.as_quat(), "recovered must be a scipy Rotation, got ndarray"),
    ],
    ids=["unequal", "empty", "quaternions"],
)
def test_orientations_that_cannot_be_compared_are_refused(error, true, recovered, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        error(true, recovered)
