"""Errors against the truth: what is free, what is not, and that the best map is found."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from cryoem.evaluation import align_frame, align_to, mirror, pose_error, recovery_error
from cryoem.rotations import (
    from_relion_euler_deg,
    geodesic_distance,
    normaliser,
    point_group,
    random_rotations,
    random_small_rotations,
)

ZERO = 1e-10  # radians; float64 through an iteration
SIZES = [1, 2, 3, 5, 40, 500]


def orientations(kind: str, n: int) -> Rotation:
    if kind == "cluster":
        return (
            Rotation.from_rotvec(random_small_rotations((n,), radius=0.05, rng=0))
            * random_rotations(1, rng=1)[0]
        )
    if kind == "tilt series":
        return Rotation.from_rotvec(np.linspace(-1, 1, n)[:, None] * [0, 1, 0])
    return random_rotations(n, coverage=kind, rng=0)


def turned(rotations: Rotation, radians: float, seed: int = 5) -> Rotation:
    """Every orientation off by a random rotation of about so many radians."""
    vectors = np.random.default_rng(seed).normal(scale=radians / np.sqrt(3), size=(len(rotations), 3))
    return rotations * Rotation.from_rotvec(vectors)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["so3", "half", "cluster", "tilt series"])
def test_what_distances_leave_open_is_free_in_e_or(kind, n):
    true = orientations(kind, n)
    for seed in range(3):
        a, b = random_rotations(2, rng=seed)
        for recovered in (a * true * b, a * true.inv() * b, mirror(a * true * b)):
            assert recovery_error(true, recovered) < ZERO


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["so3", "half", "cluster", "tilt series"])
def test_the_frame_of_the_particle_and_its_hand_are_free_in_the_pose_error(kind, n):
    true = orientations(kind, n)
    for frame in random_rotations(3, rng=0):
        for recovered in (true * frame, mirror(true * frame), mirror(true) * frame):
            assert pose_error(true, recovered) < ZERO


def test_the_axes_of_the_images_are_not_free_in_the_pose_error():
    true = random_rotations(300, rng=0)
    for angle in (0.1, 0.5, 2.0):
        recovered = Rotation.from_rotvec([0, angle * 0.6, angle * 0.8]) * true
        assert pose_error(true, recovered) > 0.5 * angle
        assert recovery_error(true, recovered) < ZERO
    assert pose_error(true, true.inv()) > 1


def test_half_a_turn_of_all_images_is_the_mirror():
    true = random_rotations(100, rng=0)
    found = align_frame(true, Rotation.from_rotvec([0, 0, np.pi]) * true)
    assert found.mean_error < ZERO
    assert found.mirrored
    assert not align_frame(true, true).mirrored


def test_the_mirror_is_its_own_inverse_and_keeps_distances():
    rotations = random_rotations(20, rng=0)
    assert (mirror(mirror(rotations)).inv() * rotations).magnitude().max() < ZERO
    np.testing.assert_allclose(
        geodesic_distance(mirror(rotations), mirror(rotations)),
        geodesic_distance(rotations, rotations),
        atol=1e-7,
    )
    np.testing.assert_allclose(mirror(rotations[0]).as_matrix(), mirror(rotations).as_matrix()[0], atol=ZERO)


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
    assert (found.rotations.inv() * noisy).magnitude().max() < 0.03  # what noise leaves of the gauge
    assert len(found.errors) == 200


@pytest.mark.parametrize("error", [align_to, align_frame])
def test_an_error_is_no_more_than_the_noise_and_not_much_less(error):
    true = random_rotations(1000, rng=0)
    recovered = turned(true, 0.2)
    noise = (true.inv() * recovered).magnitude().mean()
    assert 0.98 * noise < error(true, recovered).mean_error <= noise + ZERO


def brute_force(true: Rotation, recovered: list[Rotation], *, left: bool, start: int) -> float:
    """Least mean angle over rotations on the right, and on the left too where asked, from several starts."""
    least = np.inf
    for candidate in recovered:
        for seed in range(start):
            a, b = random_rotations(2, rng=seed)

            def mean_angle(x, a=a, b=b, candidate=candidate):
                moved = candidate * (Rotation.from_rotvec(x[:3]) * b)
                if left:
                    moved = Rotation.from_rotvec(x[3:]) * a * moved
                return (true.inv() * moved).magnitude().mean()

            options = {"xtol": 1e-6, "ftol": 1e-9}
            least = min(
                least, minimize(mean_angle, np.zeros(6 if left else 3), method="Powell", options=options).fun
            )
    return least


@pytest.mark.parametrize(("n", "noise"), [(3, 0.3), (6, 0.05), (6, 0.8)])
def test_no_other_map_is_better(n, noise):
    true = random_rotations(n, rng=n)
    a, b = random_rotations(2, rng=1)
    disturbed = turned(true, noise)
    found = recovery_error(true, a * disturbed * b)
    assert found <= 1.005 * brute_force(true, [disturbed, disturbed.inv()], left=True, start=3)
    found = pose_error(true, disturbed * b)
    assert found <= 1.005 * brute_force(true, [disturbed, mirror(disturbed)], left=False, start=5)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
def test_outliers_do_not_move_the_map(share):
    n = 300
    true = random_rotations(n, rng=0)
    a, b = random_rotations(2, rng=1)
    wild = Rotation.concatenate([random_rotations(int(share * n), rng=2), true[int(share * n) :]])
    for errors in (align_to(true, a * wild * b).errors, align_frame(true, wild * b).errors):
        assert errors[int(share * n) :].max() < 1e-6  # a mean square would shift all of them


def test_unrelated_orientations_have_a_large_error():
    a, b = random_rotations(500, rng=0), random_rotations(500, rng=1)
    assert 1.8 < recovery_error(a, b) <= pose_error(a, b) < 2.25


def test_orientations_at_the_poles_and_half_turns():
    true = Rotation.concatenate(
        [from_relion_euler_deg([[0, 0, 0], [0, 180, 0], [180, 180, 0]]), random_rotations(5, rng=0)]
    )
    for frame in (Rotation.from_rotvec([np.pi, 0, 0]), Rotation.from_rotvec([0, 0, np.pi])):
        assert pose_error(true, true * frame) < ZERO
        assert recovery_error(true, frame * true.inv()) < ZERO


FOUR = random_rotations(4, rng=0)


@pytest.mark.parametrize("error", [recovery_error, pose_error])
@pytest.mark.parametrize(
    ("true", "recovered", "message"),
    [
        (FOUR, FOUR[:3], "true and recovered must be equally many, got 4 and 3"),
        (FOUR[:0], FOUR[:0], "true must hold at least one rotation in a sequence, got a single or an empty"),
        (FOUR[0], FOUR[1], "true must hold at least one rotation in a sequence, got a single or an empty"),
        (FOUR, FOUR[0], "recovered must hold at least one rotation in a sequence, got a single or an empty"),
        (FOUR, FOUR.as_quat(), "recovered must be a scipy Rotation, got ndarray"),
    ],
    ids=["unequal", "empty", "single", "single recovered", "quaternions"],
)
def test_orientations_that_cannot_be_compared_are_refused(error, true, recovered, message):
    with pytest.raises(ValueError, match=message):
        error(true, recovered)


GROUPS = ["C2", "C3", "C4", "D2", "D3", "D4", "T", "O", "I"]


def scattered(rotations: Rotation, symmetry: str) -> Rotation:
    """Every orientation at a copy of its own."""
    group = point_group(symmetry)
    return rotations * group[np.random.default_rng(7).integers(len(group), size=len(rotations))]


@pytest.mark.parametrize("symmetry", GROUPS)
def test_the_normaliser_maps_the_group_onto_itself(symmetry):
    group, (frames, about_axis) = point_group(symmetry), normaliser(symmetry)
    if about_axis:
        frames = Rotation.concatenate([frames, Rotation.from_rotvec([[0, 0, 0.123]])])
    for frame in frames:
        moved = frame * group * frame.inv()
        assert geodesic_distance(moved, group).min(axis=1).max() < 1e-6
    outside = Rotation.from_rotvec([0.3, 0.2, 0.1])
    assert geodesic_distance(outside * group * outside.inv(), group).min(axis=1).max() > 0.1


@pytest.mark.parametrize("symmetry", GROUPS)
def test_copies_of_a_symmetric_particle_do_not_count_as_errors(symmetry):
    true = random_rotations(60, rng=0)
    frames, about_axis = normaliser(symmetry)
    frame = frames[len(frames) // 2] * Rotation.from_rotvec([0, 0, 0.07 * about_axis])
    turn = random_rotations(1, rng=1)[0]
    same = scattered(true * frame, symmetry)
    assert pose_error(true, same, symmetry=symmetry) < 1e-6
    assert pose_error(true, mirror(same), symmetry=symmetry) < 1e-6
    assert recovery_error(true, turn * same, symmetry=symmetry) < 1e-6
    assert pose_error(true, turn * same, symmetry=symmetry) > 0.1
    assert recovery_error(true, same.inv(), symmetry=symmetry) > 0.1


@pytest.mark.parametrize("symmetry", ["C2", "C4", "D2", "D3"])
def test_errors_of_a_symmetric_particle_have_the_size_that_they_have(symmetry):
    true = random_rotations(300, rng=0)
    off = turned(true, 0.05)
    expected = (true.inv() * off).magnitude().mean()
    recovered = random_rotations(1, rng=1)[0] * scattered(off, symmetry)
    assert recovery_error(true, recovered, symmetry=symmetry) == pytest.approx(expected, rel=0.03)
    assert pose_error(true, scattered(off, symmetry), symmetry=symmetry) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("symmetry", "sentence"), [("C1", "more than C1, got 'C1'"), ("D1", "from D2 on")])
def test_a_normaliser_needs_axes(symmetry, sentence):
    with pytest.raises(ValueError, match=sentence):
        normaliser(symmetry)
