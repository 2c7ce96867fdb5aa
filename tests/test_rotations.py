"""Orientations: group laws, the four samplings, conversions both ways, distances exact at 0 and at pi."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.rotations import (
    COVERAGES,
    from_relion_euler_deg,
    geodesic_distance,
    point_group,
    random_rotations,
    random_small_rotations,
    to_relion_euler_deg,
    viewing_directions,
)

ROUNDING = 1e-12  # a few operations on float64
STANDARD_ERRORS = 5  # a statistic further out than this is no accident, and the seeds are fixed anyway


def angles_between(a: Rotation, b: Rotation) -> np.ndarray:
    return (a.inv() * b).magnitude()


def about(axis: str, angle: float) -> np.ndarray:
    """Right-handed rotation of vectors about z or y, written out."""
    c, s = np.cos(angle), np.sin(angle)
    if axis == "z":
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


# --- sampling


@pytest.mark.parametrize("coverage", COVERAGES)
def test_same_seed_same_orientations(coverage):
    first, second = (random_rotations(20, coverage=coverage, rng=3).as_quat() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, random_rotations(20, coverage=coverage, rng=4).as_quat())


def test_a_generator_moves_on_and_the_global_state_does_not():
    rng, before = np.random.default_rng(0), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = random_rotations(5, rng=rng), random_rotations(5, rng=rng)
    assert angles_between(first, second).min() > 1e-3
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_as_many_orientations_as_asked_for(coverage, n):
    assert len(random_rotations(n, coverage=coverage, rng=0)) == n


def test_so3_is_uniform():
    n = 20_000
    vectors = random_rotations(n, rng=0).as_matrix().reshape(n, 9)
    bound = STANDARD_ERRORS / np.sqrt(n)
    assert np.abs(vectors.mean(axis=0)).max() < bound
    assert np.abs(vectors.T @ vectors / n - np.eye(9) / 3).max() < bound
    angle = Rotation.from_matrix(vectors.reshape(n, 3, 3)).magnitude()
    assert angle.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=bound)  # density (1 - cos) / pi


def test_half_and_quarter_cover_their_part_of_the_sphere_evenly():
    n = 20_000
    for coverage, mean_y in (("half", 0.0), ("quarter", 0.5)):
        x, y, z = viewing_directions(random_rotations(n, coverage=coverage, rng=0)).T
        assert z.min() > 0
        assert coverage == "half" or y.min() >= 0
        np.testing.assert_allclose(
            [x.mean(), y.mean(), z.mean()], [0, mean_y, 0.5], atol=STANDARD_ERRORS / np.sqrt(n)
        )


def test_euler_sampling_is_uniform_in_each_angle():
    n = 20_000
    rot, tilt, psi = to_relion_euler_deg(random_rotations(n, coverage="euler", rng=0)).T
    for angle, period in ((rot, 360), (tilt, 180), (psi, 360)):
        shares = np.histogram(angle % period, bins=6, range=(0, period))[0] / n
        np.testing.assert_allclose(shares, 1 / 6, atol=STANDARD_ERRORS * np.sqrt(1 / 6 / n))


def test_preferred_directions_crowd_about_two_axes():
    n = 20_000
    rotations = random_rotations(n, coverage="preferred", rng=0)
    x, _, z = viewing_directions(rotations).T
    near_z = z > x
    assert near_z.mean() == pytest.approx(0.5, abs=STANDARD_ERRORS / np.sqrt(n))
    # cosines of a von Mises-Fisher distribution of concentration k: mean coth k - 1/k, median 1 + ln(1/2) / k
    cosine = np.where(near_z, z, x)
    assert cosine.mean() == pytest.approx(1 - 1 / 10, abs=STANDARD_ERRORS * 0.1 / np.sqrt(n) + 1e-3)
    assert np.median(cosine) == pytest.approx(np.cos(np.deg2rad(21.5)), abs=5e-3)
    psi = to_relion_euler_deg(rotations)[:, 2] % 360
    shares = np.histogram(psi, bins=6, range=(0, 360))[0] / n
    np.testing.assert_allclose(shares, 1 / 6, atol=STANDARD_ERRORS * np.sqrt(1 / 6 / n))


def test_small_rotations_fill_a_ball():
    n, radius = 20_000, 0.2
    vectors = random_small_rotations((n // 4, 4), radius=radius, rng=0)
    assert vectors.shape == (n // 4, 4, 3)
    length = np.linalg.norm(vectors, axis=-1)
    assert length.max() <= radius * (1 + ROUNDING)
    assert ((length / radius) ** 3).mean() == pytest.approx(0.5, abs=STANDARD_ERRORS / np.sqrt(12 * n))
    assert np.abs(vectors.mean(axis=(0, 1))).max() < STANDARD_ERRORS * radius / np.sqrt(n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"n": -3}, "n must be a whole number of at least 1, got -3"),
        ({"n": 2.5}, r"n must be a whole number of at least 1, got 2\.5"),
        (
            {"n": 3, "coverage": "sphere"},
            "coverage must be one of so3, euler, half, quarter, preferred, got 'sphere'",
        ),
    ],
)
def test_sampling_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_rotations(**arguments)


# --- Euler angles


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 50, 70), (200, 179, -20), (-90, 0, 45), (10, 180, 20)])
def test_euler_angles_are_three_elementary_rotations(angles):
    rot, tilt, psi = np.deg2rad(angles)
    expected = about("z", -psi) @ about("y", -tilt) @ about("z", -rot)
    np.testing.assert_allclose(from_relion_euler_deg(angles).as_matrix(), expected, atol=ROUNDING)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_euler_angles_there_and_back(coverage):
    rotations = random_rotations(200, coverage=coverage, rng=1)
    angles = to_relion_euler_deg(rotations)
    assert angles[:, 1].min() >= 0
    assert angles[:, 1].max() <= 180
    assert angles_between(from_relion_euler_deg(angles), rotations).max() < ROUNDING


@pytest.mark.parametrize("tilt_deg", [0.0, 1e-9, 1e-6, 1e-4, 179.9999, 180 - 1e-6, 180.0])
def test_euler_angles_there_and_back_at_the_poles(tilt_deg):
    angles = np.stack([np.linspace(-170, 170, 9), np.full(9, tilt_deg), np.linspace(350, 10, 9)], axis=1)
    rotations = from_relion_euler_deg(angles)
    back = from_relion_euler_deg(to_relion_euler_deg(rotations))
    assert (
        angles_between(back, rotations).max() < 1e-7
    )  # an arccosine of 1 - t^2 / 2 keeps half of the digits


@pytest.mark.parametrize("tilt_deg", [0.0, 180.0])
def test_psi_is_zero_at_the_poles(tilt_deg):
    rot, tilt, psi = to_relion_euler_deg(from_relion_euler_deg([25.0, tilt_deg, 40.0]))
    assert (tilt, psi) == pytest.approx((tilt_deg, 0))
    assert rot % 360 == pytest.approx(65 if tilt_deg == 0 else 25 - 40 + 360)


def test_rot_is_the_longitude_and_tilt_the_angle_from_z_of_the_view():
    rot, tilt = np.deg2rad([20, 65])
    direction = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    for psi in (0, 33, 250):
        np.testing.assert_allclose(
            viewing_directions(from_relion_euler_deg([20, 65, psi])), direction, atol=ROUNDING
        )


def test_one_triple_makes_one_orientation():
    assert from_relion_euler_deg([10, 20, 30]).single
    assert to_relion_euler_deg(from_relion_euler_deg([10, 20, 30])) == pytest.approx([10, 20, 30])
    assert len(from_relion_euler_deg(np.array([[10, 20, 30]]))) == 1


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        (np.zeros((3, 2)), r"angles must be \(n, 3\) or \(3,\), got \(3, 2\)"),
        (np.zeros((2, 2, 3)), r"got \(2, 2, 3\)"),
        (7.0, r"got \(\)"),
        ([[0, np.nan, np.inf]], "angles must be finite, got 2 non-finite"),
    ],
)
def test_euler_angles_refuse(angles, message):
    with pytest.raises(ValueError, match=message):
        from_relion_euler_deg(angles)


# --- point groups


@pytest.mark.parametrize(
    ("name", "order"),
    [("C1", 1), ("C7", 7), ("D2", 4), ("D5", 10), ("T", 12), ("O", 24), ("I", 60), ("d2", 4)],
)
def test_point_groups_are_groups(name, order):
    group = point_group(name)
    assert len(group) == order
    assert group[0].magnitude() < ROUNDING
    distance = geodesic_distance(group, group)
    assert (distance + np.eye(order)).min() > 0.1  # all different
    products = Rotation.concatenate([g * group for g in group])
    assert geodesic_distance(products, group).min(axis=1).max() < 1e-7


@pytest.mark.parametrize("n", [2, 3, 4])
def test_main_axis_is_z_and_a_twofold_of_the_dihedral_groups_is_x(n):
    turn = Rotation.from_rotvec([0, 0, 2 * np.pi / n])
    flip = Rotation.from_rotvec([np.pi, 0, 0])
    for name in (f"C{n}", f"D{n}"):
        assert geodesic_distance(turn, point_group(name)).min() < 1e-7
    assert geodesic_distance(flip, point_group(f"D{n}")).min() < 1e-7


@pytest.mark.parametrize("name", ["", "C", "C0", "D-1", "E2", "I2", "C2 ", "2"])
def test_unknown_point_groups_are_refused(name):
    with pytest.raises(ValueError, match=f"symmetry must be Cn, Dn, T, O or I, got '{name}'"):
        point_group(name)


# --- distances


def test_distance_is_the_angle_of_the_relative_rotation():
    a, b = random_rotations(30, rng=1), random_rotations(20, rng=2)
    distance = geodesic_distance(a, b)
    assert distance.shape == (30, 20)
    for j in range(20):
        np.testing.assert_allclose(distance[:, j], angles_between(a, b[j]), atol=ROUNDING)


@pytest.mark.parametrize(
    "angle", [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 2.8e-3, 2.9e-3, 0.1, 1.0, 3.0, np.pi - 1e-9, np.pi]
)
def test_distance_is_exact_from_zero_to_pi(angle):
    start = random_rotations(10, rng=0)
    axes = np.random.default_rng(1).normal(size=(10, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    distance = geodesic_distance(start, start * Rotation.from_rotvec(angle * axes)).diagonal()
    np.testing.assert_allclose(distance, angle, atol=1e-12, rtol=1e-12)


def test_distance_does_not_see_the_gauge():
    a, b = random_rotations(15, rng=1), random_rotations(15, rng=2)
    left, right = random_rotations(2, rng=3)
    distance = geodesic_distance(a, b)
    np.testing.assert_allclose(geodesic_distance(left * a * right, left * b * right), distance, atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(a.inv(), b.inv()), distance, atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(b, a), distance.T, atol=ROUNDING)


@pytest.mark.parametrize("symmetry", ["C2", "C3", "D2", "D3", "T", "O", "I"])
def test_symmetric_distance_is_the_least_over_the_group(symmetry):
    a, b = random_rotations(8, rng=1), random_rotations(9, rng=2)
    group = point_group(symmetry)
    reduced = geodesic_distance(a, b, symmetry=symmetry)
    every = np.stack([geodesic_distance(a, b * g) for g in group])
    np.testing.assert_allclose(reduced, every.min(axis=0), atol=ROUNDING)
    for g in group[:5]:
        np.testing.assert_allclose(geodesic_distance(a * g, b, symmetry=symmetry), reduced, atol=1e-7)
    copies = Rotation.concatenate([a[0] * g for g in group])
    assert geodesic_distance(a[:1], copies, symmetry=symmetry).max() < 1e-7


def test_small_distances_keep_their_digits_under_symmetry():
    start = random_rotations(5, rng=0)
    step = Rotation.from_rotvec([0, 0, 1e-8])
    copies = start * step * point_group("D2")[2]
    np.testing.assert_allclose(geodesic_distance(start, copies, symmetry="D2").diagonal(), 1e-8, rtol=1e-6)


def test_a_single_orientation_has_distances_too():
    many = random_rotations(4, rng=0)
    np.testing.assert_array_equal(geodesic_distance(many[0], many), geodesic_distance(many[:1], many))
    np.testing.assert_array_equal(geodesic_distance(many, many[0]), geodesic_distance(many, many[:1]))


def test_distance_refuses_an_unknown_symmetry():
    with pytest.raises(ValueError, match="symmetry must be Cn, Dn, T, O or I, got 'Q'"):
        geodesic_distance(random_rotations(2, rng=0), random_rotations(2, rng=0), symmetry="Q")
