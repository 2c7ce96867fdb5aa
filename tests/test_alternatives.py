"""Alternative poses: misplaced images of nearly symmetric particles are found again."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.orientations.projection_matching import match_to_map, plausible_orientations
from cryoem.particles.simulation import simulate
from cryoem.reconstruction import rounds
from cryoem.reconstruction.alternatives import alternative_poses
from cryoem.reconstruction.pose_steps import coarse_size, full_images
from cryoem.reconstruction.refinement import refine
from cryoem.reconstruction.rounds import RefinementSchedule
from cryoem.rotations import Poses, geodesic_distance, point_group, random_small_rotations
from cryoem.volumes.density import DensityMap, crop_or_pad, resample
from cryoem.volumes.phantoms import phantom

PIXEL_ANGSTROM = 4.0
NEAR_SYMMETRY = Rotation.from_euler("z", 180, degrees=True)
GRADIENT = RefinementSchedule(search_rounds=0, gradient_rounds=3)
ONE_GROUP = np.eye(3)[None]


def turned_by_half(volume: np.ndarray) -> np.ndarray:
    """Rotate a volume by 180 degrees around z, about the voxel ``size // 2``."""
    turned = np.zeros_like(volume)
    turned[:, 1:, 1:] = volume[:, :0:-1, :0:-1]
    return turned


def mixture(particle: np.ndarray, share: float) -> DensityMap:
    mixed = (1 - share) * particle + share * turned_by_half(particle)
    return DensityMap(mixed.astype(np.float32), PIXEL_ANGSTROM)


@pytest.fixture(scope="module")
def nearly_symmetric(particle):
    return mixture(particle, 0.4)


def refined(stack, poses, **options):
    return refine(stack.images, poses, **{"pixel_size_angstrom": PIXEL_ANGSTROM, "rng": 0} | options)


def misplaced(stack) -> tuple[np.ndarray, Poses]:
    """Turn every eighth image to the near copy of its pose; return which, and all poses."""
    wrong = np.arange(len(stack)) % 8 == 0
    return wrong, stack.poses.replaced(wrong, Poses(stack.rotations * NEAR_SYMMETRY, stack.shifts_px))


@pytest.mark.parametrize("shift_limit_px", [0.0, 2.0])
def test_images_in_the_near_copy_of_their_pose_are_found_again(shift_limit_px, nearly_symmetric):
    stack = simulate(
        nearly_symmetric, 200, image_size=32, noise_variance=0.1, shift_limit_px=shift_limit_px, rng=0
    )
    schedule = RefinementSchedule(search_rounds=1, gradient_rounds=1)
    result = refined(stack, misplaced(stack)[1], refine_shifts=shift_limit_px > 0, schedule=schedule)
    errors = (result.rotations * stack.rotations.inv()).magnitude()
    assert errors.max() < 0.1


def test_images_that_are_found_again_do_not_delay_the_end(nearly_symmetric, monkeypatch):
    calls = []
    monkeypatch.setattr(rounds, "alternative_poses", partial(counted, calls))
    stack = simulate(crop_or_pad(nearly_symmetric, 24), 120, noise_variance=1.0, rng=0)
    start = misplaced(stack)[1]
    history = refined(stack, start, schedule=GRADIENT).history
    assert history[0]["relocated"] >= 12
    assert history[1]["relocated"] == 0
    assert [entry["kind"] for entry in history] == ["gradient", "gradient", "joint", "joint"]
    assert len(calls) == 3  # in the first rounds of both halves, and of all images
    # however large the tolerance, they take the steps of another round
    history = refined(stack, start, schedule=replace(GRADIENT, tolerance=1.0)).history
    assert [entry["kind"] for entry in history][:2] == ["gradient", "gradient"]


def test_images_do_not_leave_their_true_poses(nearly_symmetric):
    stack = simulate(crop_or_pad(nearly_symmetric, 24), 120, noise_variance=0.1, rng=0)
    history = refined(stack, stack.poses, schedule=GRADIENT).history
    assert sum(entry["relocated"] for entry in history) == 0


def test_few_noisy_images_leave_their_true_poses():
    group = point_group("C4")
    density = phantom(size=24, symmetry="C4")
    stack = simulate(density, 200, noise_variance=2.0, rng=0)
    near = Rotation.from_rotvec(random_small_rotations((200,), radius=0.13, rng=0))
    result = refined(stack, near * stack.rotations, symmetry="C4")

    def count_far(rotations: Rotation) -> int:
        errors = [(rotations * turn * stack.rotations.inv()).magnitude() for turn in group]
        return np.count_nonzero(np.min(errors, axis=0) > 0.5)

    # the true map itself finds more images elsewhere
    assert 0 < count_far(result.rotations) < 0.75 * count_far(match_to_map(stack, density).poses.rotations)


def counted(calls: list, images, *arguments, **options) -> Poses:
    calls.append(len(images))
    return alternative_poses(images, *arguments, **options)


@pytest.mark.parametrize("finest", [10, 16])
def test_alternatives_of_misplaced_images_are_their_true_poses(finest, nearly_symmetric):
    stack = simulate(nearly_symmetric, 200, image_size=32, noise_variance=0.1, rng=0)
    wrong, start = misplaced(stack)
    size = coarse_size(32, finest)
    volume = resample(nearly_symmetric, PIXEL_ANGSTROM * 32 / size).data
    found = alternative_poses(
        full_images(stack.images, stack.optics),
        start,
        crop_or_pad(DensityMap(volume, 1.0), size).data,
        (finest, finest),
        group=ONE_GROUP,
        refine_shifts=False,
        rng=np.random.default_rng(0),
    )
    assert (found.rotations * stack.rotations.inv()).magnitude().max() < 0.05
    # the others have no plausible alternative
    np.testing.assert_array_equal(found[~wrong].rotations.as_quat(), start[~wrong].rotations.as_quat())


@pytest.mark.parametrize(
    ("symmetry", "share", "noise_variance"), [("C1", 0.4, 1.0), ("C1", 0.45, 0.01), ("C2", 0.5, 1.0)]
)
def test_plausible_orientations_are_apart_and_contain_the_true_one(symmetry, share, noise_variance, particle):
    density = mixture(particle, share)
    stack = simulate(density, 50, image_size=32, noise_variance=noise_variance, rng=0)
    index, rotations = plausible_orientations(
        stack.images,
        density,
        optics=stack.optics,
        group=point_group(symmetry).as_matrix(),
        within=5.0,
        apart_rad=0.5,
        most=3,
        rng=np.random.default_rng(0),
    )
    counts = np.bincount(index, minlength=50)
    assert counts.min() >= 1
    assert counts.max() <= 3
    for i in range(50):
        some = rotations[index == i]
        assert geodesic_distance(stack.rotations[[i]], some, symmetry=symmetry).min() < 0.15
        apart = geodesic_distance(some, some, symmetry=symmetry)
        assert (apart[~np.eye(len(some), dtype=bool)] > 0.3).all()
