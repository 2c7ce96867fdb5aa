"""Geometry of projections: axes, Euler angles, displacements, handedness and symmetries."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_projections import INTERPOLATION, cpu, relative

from cryoem import images, volumes
from cryoem.images import plane_frequencies
from cryoem.rotations import from_relion_euler_deg, point_group, random_rotations


def origin(shape) -> np.ndarray:
    return np.array([n // 2 for n in shape])


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (14, 17, 16)])
def test_a_voxel_projects_to_its_pixel_at_every_axis_aligned_orientation(shape):
    offset = np.array([4, -3, 2])  # x, y, z
    volume = np.zeros(shape)
    volume[tuple(origin(shape) + offset[::-1])] = 1
    rotations = point_group("O")
    images = cpu(volume, rotations, image_size=17)
    for image, (x, y, _) in zip(images, np.rint(rotations.apply(offset)).astype(int), strict=True):
        expected = np.zeros((17, 17))
        expected[8 + y, 8 + x] = 1
        np.testing.assert_allclose(image, expected, atol=5 * INTERPOLATION)


@pytest.mark.parametrize(
    ("angles", "expected_xy"),
    [
        ((0, 0, 0), (4, -3)),
        ((0, 180, 0), (-4, -3)),
        ((90, 0, 0), (-3, -4)),
        ((0, 0, 90), (-3, -4)),
        ((0, 90, 0), (-2, -3)),
    ],
)
def test_a_voxel_projects_to_its_pixel_at_known_euler_angles(angles, expected_xy):
    volume = np.zeros((16, 16, 16))
    volume[8 + 2, 8 - 3, 8 + 4] = 1
    (image,) = cpu(volume, from_relion_euler_deg([angles]))
    y, x = np.unravel_index(image.argmax(), image.shape)
    assert (x - 8, y - 8) == expected_xy
    assert image.max() == pytest.approx(1, abs=5 * INTERPOLATION)


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (15, 16, 17)])
def test_the_central_voxel_never_moves(shape):
    volume = np.zeros(shape)
    volume[tuple(origin(shape))] = 1
    for size in (16, 17):
        images = cpu(volume, random_rotations(20, rng=1), image_size=size)
        peaks = images.reshape(20, -1).argmax(axis=1)
        np.testing.assert_array_equal(peaks, (size // 2) * size + size // 2)


def test_moving_the_volume_moves_the_image(small_volume):
    size, by = 36, np.array([2, -1, 3])  # x, y, z
    volume = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), size).data
    rotations = random_rotations(5, rng=1)
    moved = cpu(np.roll(volume, by[::-1], axis=(0, 1, 2)), rotations)
    frequencies = plane_frequencies(size)
    phases = np.exp(-2j * np.pi * frequencies @ rotations.apply(by)[:, :2].T).T
    planes = images.half_planes_from_images(cpu(volume, rotations)) * phases
    assert relative(moved, images.images_from_half_planes(planes, size)) <= 2 * INTERPOLATION


@pytest.mark.parametrize("size", [26, 27])
def test_the_opposite_view_is_the_mirror_image_and_the_image_turns_with_the_microscope(small_volume, size):
    rotations = random_rotations(5, rng=1)
    front = cpu(small_volume, rotations, image_size=size)
    back = cpu(small_volume, Rotation.from_rotvec([0, np.pi, 0]) * rotations, image_size=size)
    turned = cpu(small_volume, Rotation.from_rotvec([0, 0, np.pi / 2]) * rotations, image_size=size)
    # in an even box, row and column 0 have no counterpart
    front, back, turned = (images[:, 1 - size % 2 :, 1 - size % 2 :] for images in (front, back, turned))
    assert relative(back, front[:, :, ::-1]) <= 2 * INTERPOLATION
    assert relative(turned, front[:, ::-1].swapaxes(1, 2)) <= 2 * INTERPOLATION  # x' = -y, y' = x


@pytest.mark.parametrize("edge", [26, 27])
def test_the_mirrored_map_gives_the_same_images_at_mirrored_orientations(small_volume, edge):
    volume = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), edge).data
    mirrored = volume[::-1] if edge % 2 else np.roll(volume[::-1], 1, axis=0)
    rotations = random_rotations(5, rng=1)
    j = np.diag([1, 1, -1])
    images = cpu(mirrored, Rotation.from_matrix(j @ rotations.as_matrix() @ j))
    assert relative(images, cpu(volume, rotations)) <= 2 * INTERPOLATION


def test_orientations_of_a_symmetric_particle_give_the_same_image():
    volume = volumes.phantom(symmetry="D2", size=24).data
    (rotation,) = random_rotations(1, rng=1)
    images = cpu(volume, Rotation.concatenate([rotation * g for g in point_group("D2")]))
    for image in images[1:]:
        assert relative(image, images[0]) < 0.02  # the phantom is symmetric up to sampling errors
