"""What holds of rotations, distances, projections, shifts and correlations whatever they are given."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from cryoem import imaging
from cryoem.evaluation import mirror
from cryoem.projectors import backproject, project
from cryoem.resolution import fourier_shell_correlation
from cryoem.rotations import (
    from_cryosparc_pose,
    from_relion_euler_deg,
    geodesic_distance,
    origin_displacements,
    point_group,
    random_rotations,
    to_relion_euler_deg,
    viewing_directions,
)

ANGLE_RAD = 1e-6  # acos and Euler angles near their ends lose half of the digits of a double
FLOAT32 = 2e-5  # relative, of sums over some thousand values
GROUPS = ("C1", "C2", "C3", "C7", "D2", "D3", "D5", "T", "O", "I")

components = st.floats(-1, 1)


@st.composite
def rotations(draw, most: int = 4, n: int | None = None) -> Rotation:
    """A sequence of rotations, those near the identity, half a turn and gimbal lock among them."""
    n = draw(st.integers(1, most)) if n is None else n
    quaternions = draw(arrays(float, (n, 4), elements=components))
    assume((np.linalg.norm(quaternions, axis=1) > 1e-3).all())
    return Rotation.from_quat(quaternions)


def assert_same(a: Rotation, b: Rotation) -> None:
    np.testing.assert_allclose(a.as_matrix(), b.as_matrix(), rtol=0, atol=ANGLE_RAD)


# --- conversions


@given(rotations())
def test_relion_angles_come_back(orientations):
    angles = to_relion_euler_deg(orientations)
    assert angles.shape == (len(orientations), 3)
    assert_same(from_relion_euler_deg(angles), orientations)


@given(arrays(float, (3, 3), elements=st.floats(-720, 720)))
def test_relion_angles_mean_the_same_a_full_turn_on(angles):
    assert_same(from_relion_euler_deg(angles + 360.0), from_relion_euler_deg(angles))
    rot, tilt, psi = angles.T
    other = np.stack([rot + 180, -tilt, psi + 180], axis=1)
    assert_same(from_relion_euler_deg(other), from_relion_euler_deg(angles))


@given(rotations())
def test_cryosparc_poses_are_rotation_vectors_of_the_inverse(orientations):
    assert_same(from_cryosparc_pose(orientations.inv().as_rotvec()), orientations)


@given(rotations())
def test_the_view_is_along_the_third_row(orientations):
    seen = viewing_directions(orientations)
    np.testing.assert_allclose(orientations.apply(seen), np.tile([0, 0, 1.0], (len(seen), 1)), atol=ANGLE_RAD)


@given(rotations())
def test_a_mirror_twice_is_none(orientations):
    assert_same(mirror(mirror(orientations)), orientations)


@given(rotations(n=3), arrays(float, (2, 3, 2), elements=st.floats(-50, 50)))
def test_what_the_origin_explains_of_displacements_is_a_projection(orientations, displacements):
    first, second = displacements
    together = origin_displacements(orientations, first + second)
    found = origin_displacements(orientations, first)
    apart = found + origin_displacements(orientations, second)
    np.testing.assert_allclose(together, apart, atol=ANGLE_RAD)
    np.testing.assert_allclose(origin_displacements(orientations, found), found, atol=ANGLE_RAD)
    assert np.linalg.norm(found) <= np.linalg.norm(first) + ANGLE_RAD


# --- groups and distances


@pytest.mark.parametrize("symmetry", GROUPS)
@settings(max_examples=20)
@given(data=st.data())
def test_point_groups_are_groups(symmetry, data):
    group = point_group(symmetry)
    i, j = (data.draw(st.integers(0, len(group) - 1)) for _ in range(2))
    for element in (group[i] * group[j], group[i].inv()):
        assert np.count_nonzero((group.inv() * element).magnitude() < ANGLE_RAD) == 1
    assert np.count_nonzero(group.magnitude() < ANGLE_RAD) == 1


@pytest.mark.parametrize("symmetry", GROUPS)
@settings(max_examples=20)
@given(a=rotations(n=3), b=rotations(n=2), turn=rotations(n=1), data=st.data())
def test_distances_are_a_metric_on_orientations_up_to_symmetry(symmetry, a, b, turn, data):
    distances = geodesic_distance(a, b, symmetry=symmetry)
    assert distances.shape == (3, 2)
    assert (distances >= 0).all()
    assert (distances <= np.pi + ANGLE_RAD).all()
    np.testing.assert_allclose(geodesic_distance(b, a, symmetry=symmetry), distances.T, atol=ANGLE_RAD)
    np.testing.assert_allclose(np.diag(geodesic_distance(a, a, symmetry=symmetry)), 0, atol=ANGLE_RAD)
    within = geodesic_distance(a, a, symmetry=symmetry)
    assert (
        distances[:, None] <= within[:, :, None] + distances[None] + 3 * ANGLE_RAD
    ).all()  # the triangle's law
    group = point_group(symmetry)
    copies = a * group[data.draw(st.integers(0, len(group) - 1))]
    np.testing.assert_allclose(geodesic_distance(copies, b, symmetry=symmetry), distances, atol=ANGLE_RAD)
    turned = geodesic_distance(turn[0] * a, turn[0] * b, symmetry=symmetry)
    np.testing.assert_allclose(turned, distances, atol=ANGLE_RAD)
    assert (distances <= geodesic_distance(a, b) + ANGLE_RAD).all()


@given(st.integers(1, 50), st.integers(0, 2**32 - 1), st.sampled_from(["so3", "half", "quarter", "euler"]))
def test_a_seed_gives_the_same_orientations_again(n, seed, coverage):
    first, second = (random_rotations(n, coverage=coverage, rng=seed) for _ in range(2))
    assert len(first) == n
    np.testing.assert_array_equal(first.as_quat(), second.as_quat())


# --- projections


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 13)] * 3),
    size=st.integers(2, 15),
    orientations=rotations(),
    seed=st.integers(0, 99),
)
def test_backprojection_is_the_adjoint_of_projection(shape, size, orientations, seed):
    rng = np.random.default_rng(seed)
    volume = rng.normal(size=shape).astype(np.float32)
    images = rng.normal(size=(len(orientations), size, size)).astype(np.float32)
    projected = project(volume, orientations, image_size=size, backend="fourier").astype(float)
    smeared = backproject(images, orientations, volume_shape=shape, backend="fourier").astype(float)
    scale = np.linalg.norm(volume) * np.linalg.norm(images) * np.sqrt(max(shape))
    assert abs(np.vdot(projected, images) - np.vdot(volume, smeared)) < FLOAT32 * scale


@settings(max_examples=25)
@given(
    n=st.integers(3, 13), orientations=rotations(), weight=st.floats(-8, 8, width=32), seed=st.integers(0, 99)
)
def test_projection_is_linear_and_each_image_is_its_orientations_own(n, orientations, weight, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, n, n)).astype(np.float32)
    together = project(a + np.float32(weight) * b, orientations, backend="fourier")
    apart = project(a, orientations, backend="fourier") + weight * project(b, orientations, backend="fourier")
    np.testing.assert_allclose(together, apart, atol=FLOAT32 * n**1.5 * (1 + abs(weight)) * 4)
    alone = project(a, orientations[:1], backend="fourier")
    np.testing.assert_allclose(project(a, orientations, backend="fourier")[:1], alone, atol=FLOAT32 * n**1.5)


# --- shifts


@settings(max_examples=40)
@given(
    size=st.integers(1, 8).map(lambda n: 2 * n + 1),
    shifts=arrays(float, (2, 3, 2), elements=st.floats(-20, 20)),
    seed=st.integers(0, 99),
)
def test_shifts_of_odd_images_add_up_and_keep_all_that_is_there(size, shifts, seed):
    images = np.random.default_rng(seed).normal(size=(3, size, size)).astype(np.float32)
    twice = imaging.shift(imaging.shift(images, shifts[0]), shifts[1])
    np.testing.assert_allclose(twice, imaging.shift(images, shifts.sum(axis=0)), atol=FLOAT32 * 20)
    np.testing.assert_allclose(imaging.shift(twice, -shifts.sum(axis=0)), images, atol=FLOAT32 * 20)
    np.testing.assert_allclose(twice.sum(axis=(1, 2)), images.sum(axis=(1, 2)), atol=FLOAT32 * size**2 * 10)
    np.testing.assert_allclose(np.square(twice).sum(), np.square(images).sum(), rtol=FLOAT32 * 10)


@settings(max_examples=25)
@given(
    size=st.integers(1, 16),
    shifts=arrays(int, (3, 2), elements=st.integers(-40, 40)),
    seed=st.integers(0, 99),
)
def test_whole_shifts_move_pixels_round(size, shifts, seed):
    images = np.random.default_rng(seed).normal(size=(3, size, size)).astype(np.float32)
    moved = [np.roll(image, (y, x), axis=(0, 1)) for image, (x, y) in zip(images, shifts, strict=True)]
    np.testing.assert_allclose(imaging.shift(images, shifts.astype(float)), moved, atol=FLOAT32 * 10)


# --- Fourier shell correlation


@settings(max_examples=40)
@given(n=st.integers(2, 12), factor=st.floats(0.125, 100, width=32), seed=st.integers(0, 99))
def test_shells_correlate_whatever_the_scale_and_alike_from_either_side(n, factor, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, n, n))
    same = fourier_shell_correlation(a, factor * a)
    np.testing.assert_allclose(same.correlation, 1, atol=1e-9)
    np.testing.assert_allclose(fourier_shell_correlation(a, -factor * a).correlation, -1, atol=1e-9)
    there, back = fourier_shell_correlation(a, b), fourier_shell_correlation(b, a)
    np.testing.assert_allclose(there.correlation, back.correlation, atol=1e-9)
    assert (np.abs(there.correlation) <= 1 + 1e-9).all()
    np.testing.assert_allclose(
        fourier_shell_correlation(factor * a, b).correlation, there.correlation, atol=1e-9
    )
