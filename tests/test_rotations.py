"""Orientations: sampling, conversions both ways, point groups, distances exact at 0 and at pi, poses."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from cryoem.rotations import (
    COVERAGES,
    Poses,
    as_poses,
    even_orientations,
    from_cryosparc_pose,
    from_relion_euler_deg,
    geodesic_distance,
    normaliser,
    origin_displacements,
    point_group,
    random_rotations,
    random_small_rotations,
    to_relion_euler_deg,
    viewing_directions,
)

ROUNDING = 1e-12  # several operations in float64
ANGLE_RAD = 1e-6  # arccosines and Euler angles near their limits lose half the digits of a double
STANDARD_ERRORS = 5  # limit for statistics, which chance does not exceed; the seeds are fixed
GROUPS = ("C1", "C2", "C3", "C7", "D2", "D3", "D5", "T", "O", "I")


@st.composite
def rotations(draw, n: int = 3) -> Rotation:
    """Return rotations, including some near the identity, half a turn and gimbal lock."""
    quaternions = draw(arrays(float, (n, 4), elements=st.floats(-1, 1)))
    assume((np.linalg.norm(quaternions, axis=1) > 1e-3).all())
    return Rotation.from_quat(quaternions)


def angles_between(a: Rotation, b: Rotation) -> np.ndarray:
    return (a.inv() * b).magnitude()


def about(axis: str, angle: float) -> np.ndarray:
    """Rotate vectors about z or y by the right-hand rule, with an explicit formula."""
    c, s = np.cos(angle), np.sin(angle)
    if axis == "z":
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


# --- sampling


def test_euler_angles_may_be_uniform_in_ranges():
    ranges = ((-30, 60), (0, 90), (100, 100))
    rot, tilt, psi = to_relion_euler_deg(random_rotations(20_000, coverage=ranges, rng=0)).T
    for angle, (low, high) in ((rot, ranges[0]), (tilt, ranges[1])):
        assert low <= angle.min() < low + 0.1
        assert high - 0.1 < angle.max() <= high
        assert angle.mean() == pytest.approx((low + high) / 2, abs=1)
    np.testing.assert_allclose(psi, 100)
    for wrong in (((0, 1), (0, 1)), ((0, 1), (2, 1), (0, 1)), ((0, np.nan), (0, 1), (0, 1))):
        with pytest.raises(ValueError, match=r"coverage must be three ranges|_range must be two angles"):
            random_rotations(2, coverage=wrong)


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_the_seed_determines_the_orientations_and_a_generator_advances(coverage, n):
    rng, before = np.random.default_rng(3), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, second = (
        random_rotations(n, coverage=coverage, rng=seed).as_quat() for seed in (3, rng, rng)
    )
    assert first.shape == (n, 4)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_so3_is_uniform():
    n = 20_000
    vectors = random_rotations(n, rng=0).as_matrix().reshape(n, 9)
    bound = STANDARD_ERRORS / np.sqrt(n)
    assert np.abs(vectors.mean(axis=0)).max() < bound
    assert np.abs(vectors.T @ vectors / n - np.eye(9) / 3).max() < bound
    angle = Rotation.from_matrix(vectors.reshape(n, 3, 3)).magnitude()
    assert angle.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=bound)  # density (1 - cos) / pi


@pytest.mark.parametrize("n", [100, 1001])
def test_even_orientations_cover_the_sphere_without_in_plane_rotation(n):
    found = even_orientations(n)
    directions = viewing_directions(found)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=3 / n)
    nearest = np.sort(np.arccos(np.clip(directions @ directions.T, -1, 1)), axis=1)[:, 1]
    assert nearest.min() > 0.75 * nearest.max()
    assert (directions[: n // 2, 2] > 0).all()
    np.testing.assert_allclose(to_relion_euler_deg(found)[:, 2], 0, atol=1e-9)
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        even_orientations(0)


def test_half_and_quarter_cover_their_part_of_the_sphere_uniformly():
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


def test_preferred_directions_concentrate_about_two_axes():
    n = 20_000
    drawn = random_rotations(n, coverage="preferred", rng=0)
    x, _, z = viewing_directions(drawn).T
    near_z = z > x
    assert near_z.mean() == pytest.approx(0.5, abs=STANDARD_ERRORS / np.sqrt(n))
    # cosines of a von Mises-Fisher distribution with concentration k: mean coth k - 1/k, median 1 + ln(1/2) / k
    cosine = np.where(near_z, z, x)
    assert cosine.mean() == pytest.approx(1 - 1 / 10, abs=STANDARD_ERRORS * 0.1 / np.sqrt(n) + 1e-3)
    assert np.median(cosine) == pytest.approx(np.cos(np.deg2rad(21.5)), abs=5e-3)


def test_small_rotations_fill_a_ball():
    n, radius = 20_000, 0.2
    vectors = random_small_rotations((n // 4, 4), radius=radius, rng=0)
    assert vectors.shape == (n // 4, 4, 3)
    length = np.linalg.norm(vectors, axis=-1)
    assert length.max() <= radius * (1 + ROUNDING)
    assert ((length / radius) ** 3).mean() == pytest.approx(0.5, abs=STANDARD_ERRORS / np.sqrt(12 * n))
    assert np.abs(vectors.mean(axis=(0, 1))).max() < STANDARD_ERRORS * radius / np.sqrt(n)


# --- conversions


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 50, 70), (200, 179, -20), (-90, 0, 45), (10, 180, 20)])
def test_euler_angles_are_three_elementary_rotations(angles):
    rot, tilt, psi = np.deg2rad(angles)
    expected = about("z", -psi) @ about("y", -tilt) @ about("z", -rot)
    single = from_relion_euler_deg(angles)
    assert single.single
    np.testing.assert_allclose(single.as_matrix(), expected, atol=ROUNDING)


@settings(max_examples=50)
@given(rotations())
def test_conversions_are_inverses_of_each_other(orientations):
    angles = to_relion_euler_deg(orientations)
    assert angles.shape == (3, 3)
    assert ((angles[:, 1] >= 0) & (angles[:, 1] <= 180)).all()
    for back in (from_relion_euler_deg(angles), from_cryosparc_pose(orientations.inv().as_rotvec())):
        np.testing.assert_allclose(back.as_matrix(), orientations.as_matrix(), rtol=0, atol=ANGLE_RAD)


@pytest.mark.parametrize("tilt_deg", [0.0, 1e-9, 1e-6, 1e-4, 90.0, 179.9999, 180 - 1e-6, 180.0])
def test_euler_angles_convert_at_the_poles_and_exactly_away_from_them(tilt_deg):
    angles = np.stack([np.linspace(-170, 170, 9), np.full(9, tilt_deg), np.linspace(350, 10, 9)], axis=1)
    given = from_relion_euler_deg(angles)
    back = from_relion_euler_deg(to_relion_euler_deg(given))
    # an arccosine of 1 - t^2 / 2 keeps half the digits
    assert angles_between(back, given).max() < (ROUNDING if tilt_deg == 90 else 1e-7)
    if tilt_deg in (0, 180):
        rot, tilt, psi = to_relion_euler_deg(from_relion_euler_deg([25.0, tilt_deg, 40.0]))
        assert (tilt, psi) == pytest.approx((tilt_deg, 0))
        assert rot % 360 == pytest.approx(65 if tilt_deg == 0 else 25 - 40 + 360)


def test_rot_is_the_longitude_and_tilt_the_angle_from_z_of_the_view():
    rot, tilt = np.deg2rad([20, 65])
    direction = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    for psi in (0, 33, 250):
        seen = from_relion_euler_deg([20, 65, psi])
        np.testing.assert_allclose(viewing_directions(seen), direction, atol=ROUNDING)
        np.testing.assert_allclose(seen.apply(direction), [0, 0, 1], atol=ROUNDING)


# --- point groups


@pytest.mark.parametrize(
    ("name", "order"), [*zip(GROUPS, (1, 2, 3, 7, 4, 6, 10, 12, 24, 60), strict=True), ("d2", 4)]
)
def test_point_groups_are_groups(name, order):
    group = point_group(name)
    assert len(group) == order
    assert group[0].magnitude() < ROUNDING
    distance = geodesic_distance(group, group)
    assert (distance + np.eye(order)).min() > 0.1  # all different
    products = Rotation.concatenate([g * group for g in group])
    assert geodesic_distance(products, group).min(axis=1).max() < 1e-7


def test_main_axis_is_z_and_a_twofold_of_the_dihedral_groups_is_x():
    flip = Rotation.from_rotvec([np.pi, 0, 0])
    for n in (2, 3, 4):
        turn = Rotation.from_rotvec([0, 0, 2 * np.pi / n])
        for name in (f"C{n}", f"D{n}"):
            assert geodesic_distance(turn, point_group(name)).min() < 1e-7
        assert geodesic_distance(flip, point_group(f"D{n}")).min() < 1e-7


@pytest.mark.parametrize("symmetry", ["C2", "C3", "C4", "D2", "D3", "D4", "T", "O", "I"])
def test_the_normaliser_maps_the_group_onto_itself(symmetry):
    group, (frames, about_axis) = point_group(symmetry), normaliser(symmetry)
    if about_axis:
        frames = Rotation.concatenate([frames, Rotation.from_rotvec([[0, 0, 0.123]])])
    for frame in frames:
        moved = frame * group * frame.inv()
        assert geodesic_distance(moved, group).min(axis=1).max() < 1e-6
    outside = Rotation.from_rotvec([0.3, 0.2, 0.1])
    assert geodesic_distance(outside * group * outside.inv(), group).min(axis=1).max() > 0.1


@pytest.mark.parametrize(("symmetry", "free"), [("C1", (0, 1, 2)), ("C3", (2,)), ("D2", ())])
def test_the_origin_is_free_where_the_symmetry_leaves_it(symmetry, free):
    drawn = random_rotations(50, rng=0)
    for axis in range(3):
        moved = drawn.as_matrix()[:, :2, axis] * 1.7
        explained = origin_displacements(drawn, moved, symmetry=symmetry)
        np.testing.assert_allclose(
            explained, moved if axis in free else 0, atol=1e-9 if axis in free else 0.5
        )
    assert origin_displacements(drawn, np.zeros((50, 2)), symmetry=symmetry) == pytest.approx(0)
    # it is a projection
    other = np.random.default_rng(1).normal(size=(50, 2))
    once = origin_displacements(drawn, other, symmetry=symmetry)
    np.testing.assert_allclose(origin_displacements(drawn, once, symmetry=symmetry), once, atol=ANGLE_RAD)
    assert np.linalg.norm(once) <= np.linalg.norm(other)


# --- distances


def test_distance_is_exact_from_zero_to_pi():
    start = random_rotations(10, rng=0)
    axes = np.random.default_rng(1).normal(size=(10, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for angle in (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 2.8e-3, 2.9e-3, 0.1, 1.0, 3.0, np.pi - 1e-9, np.pi):
        distance = geodesic_distance(start, start * Rotation.from_rotvec(angle * axes)).diagonal()
        np.testing.assert_allclose(distance, angle, atol=1e-12, rtol=1e-12)
    # small distances keep their precision under symmetry
    copies = start * Rotation.from_rotvec([0, 0, 1e-8]) * point_group("D2")[2]
    np.testing.assert_allclose(geodesic_distance(start, copies, symmetry="D2").diagonal(), 1e-8, rtol=1e-6)


def test_distance_does_not_depend_on_the_gauge():
    a, b = random_rotations(15, rng=1), random_rotations(20, rng=2)
    left, right = random_rotations(2, rng=3)
    distance = geodesic_distance(a, b)
    assert distance.shape == (15, 20)
    np.testing.assert_allclose(distance[:, 3], angles_between(a, b[3]), atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(left * a * right, left * b * right), distance, atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(a.inv(), b.inv()), distance, atol=ROUNDING)
    np.testing.assert_array_equal(geodesic_distance(a, b[0]), geodesic_distance(a, b[:1]))


@pytest.mark.parametrize("symmetry", GROUPS)
@settings(max_examples=10)
@given(a=rotations(3), b=rotations(2), turn=rotations(1), data=st.data())
def test_distances_are_a_metric_on_orientations_up_to_symmetry(symmetry, a, b, turn, data):
    distances, within = (geodesic_distance(a, other, symmetry=symmetry) for other in (b, a))
    assert ((distances >= 0) & (distances <= np.pi + ANGLE_RAD)).all()
    np.testing.assert_allclose(geodesic_distance(b, a, symmetry=symmetry), distances.T, atol=ANGLE_RAD)
    np.testing.assert_allclose(np.diag(within), 0, atol=ANGLE_RAD)
    triangle = within[:, :, None] + distances[None] + 3 * ANGLE_RAD
    assert (distances[:, None] <= triangle).all()
    group = point_group(symmetry)
    copies = a * group[data.draw(st.integers(0, len(group) - 1))]
    for moved in ((copies, b), (turn[0] * a, turn[0] * b)):
        np.testing.assert_allclose(geodesic_distance(*moved, symmetry=symmetry), distances, atol=ANGLE_RAD)
    least = np.min([geodesic_distance(a, b * g) for g in group], axis=0)
    np.testing.assert_allclose(distances, least, atol=ANGLE_RAD)


# --- poses


def test_poses_keep_rotations_and_shifts_together():
    drawn, shifts = random_rotations(6, rng=0), np.arange(12).reshape(6, 2)
    poses = Poses(drawn, shifts)
    assert len(poses) == 6
    assert poses.shifts_px.dtype == float
    for index in (slice(1, 5, 2), [3, 0], np.arange(6) > 3):
        some = poses[index]
        np.testing.assert_array_equal(some.rotations.as_quat(), drawn[index].as_quat())
        np.testing.assert_array_equal(some.shifts_px, shifts[index])
    assert as_poses(poses, count=6) is poses
    np.testing.assert_array_equal(as_poses(drawn).shifts_px, np.zeros((6, 2)))


# --- errors

TWO = random_rotations(2, rng=0)


def test_unknown_point_groups_and_coverages_are_refused():
    for name in ("", "C", "C0", "D-1", "E2", "I2", "C2 ", "2"):
        with pytest.raises(ValueError, match=f"^symmetry must be Cn, Dn, T, O or I, got '{name}'$"):
            geodesic_distance(TWO, TWO, symmetry=name)
    with pytest.raises(ValueError, match=r"^coverage must be one of so3, euler, half, .*, got 'sphere'$"):
        random_rotations(3, coverage="sphere")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (random_rotations, (0,), "n must be an integer >= 1, got 0"),
        (from_relion_euler_deg, (np.zeros((3, 2)),), r"angles must be \(n, 3\) or \(3,\), got \(3, 2\)"),
        (
            from_relion_euler_deg,
            ([[0, np.nan, np.inf]],),
            "angles must be finite, got NaN or infinity in 2 of 3 values",
        ),
        (from_cryosparc_pose, (np.zeros((2, 2, 3)),), r"pose must be .*, got \(2, 2, 3\)"),
        (normaliser, ("C1",), "symmetry must not be C1, got 'C1'"),
        (normaliser, ("D1",), "symmetry must be Cn, Dn with n >= 2, T, O or I, got 'D1'"),
        (Poses, (TWO.as_matrix(),), "rotations must be a scipy Rotation, got ndarray"),
        (Poses, (TWO[0],), "rotations must be a non-empty sequence of rotations, got a single.*"),
        (Poses, (TWO, np.zeros((3, 2))), r"shifts_px must be \(2, 2\), got \(3, 2\)"),
        (
            lambda *a: as_poses(*a, count=3),
            (TWO,),
            "poses must have one entry for each of the 3 images, got 2",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(function, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(*arguments)
