"""The steps of the search for poses without a map: displacements, maps, and images that are found again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem import contrast, particles
from cryoem.contrast import ContrastTransfer
from cryoem.orientations import pose_search
from cryoem.orientations.maximisation import CoarseMaps
from cryoem.orientations.pose_search import PoseSearch
from cryoem.orientations.rings import RingGrid
from cryoem.rotations import Poses, point_group, random_rotations
from cryoem.volumes import phantom
from cryoem.volumes.density import soft_sphere

PARTICLE = phantom(size=24)


@pytest.mark.parametrize(
    ("deviation_px", "rings", "surveyed"),
    [(2.0, 20, [8, 16]), (8.0, 20, [5, 10, 20]), (2.0, 6, []), (0.1, 4, [])],
)
def test_displacements_are_surveyed_on_the_rings_that_they_resolve(
    deviation_px, rings, surveyed, monkeypatch, rng
):
    stack = particles.simulate(PARTICLE, 3, image_size=116, rng=1)
    search = PoseSearch(stack.images, stack.optics, deviation_px)
    used = []

    def expect_nothing(state, index, tried, rng, *, rings, **sampling):
        used.append(rings)
        return SimpleNamespace(shares=np.ones(tried.shape[:2])), None

    monkeypatch.setattr(search, "_expect", expect_nothing)
    tried = search._everywhere(None, np.arange(3), rng, rings, pose_search.SURVEY)
    assert used == surveyed
    limit = pose_search.SURVEY.largest * deviation_px
    assert np.linalg.norm(tried, axis=-1).max() < limit + min(3, np.sqrt(2) * limit)


def test_images_are_expected_to_correlate_as_they_do_in_their_true_poses(rng):
    ctf = ContrastTransfer(defocus_range_angstrom=(4e3, 2e4))
    stack = particles.simulate(PARTICLE, 300, image_size=32, noise_variance=2.0, ctf=ctf, rng=1)
    search, every = PoseSearch(stack.images, stack.optics, 1.0), np.arange(300)
    state = search.random_state(every, rng, clears=True)
    _, poses = search.improved(state, np.ones(300), stack.poses, rng)
    state.noise = search._expect(
        state, every, poses.shifts_px[:, None], rng, rings=search.rings, directions=300, angles=56
    )[0].noise
    relative = search.between_samples(state, poses)[1] / search._expected_correlations(state)
    assert np.median(relative) == pytest.approx(1, abs=0.1)
    turned = Poses(poses.rotations * Rotation.from_rotvec([1.5, 0, 0]), poses.shifts_px)
    wrong = search.between_samples(state, turned)[1] / search._expected_correlations(state)
    assert np.mean(wrong < pose_search.LOW) > 0.9
    assert np.mean(relative < pose_search.LOW) < 0.1


@pytest.mark.parametrize("limit_px", [0.0, 4.0])
def test_images_left_in_a_wrong_pose_are_found_with_the_final_map(limit_px, rng):
    stack = particles.simulate(
        PARTICLE, 150, image_size=32, noise_variance=0.2, shift_limit_px=limit_px, rng=1
    )
    search = PoseSearch(stack.images, stack.optics, limit_px / np.sqrt(6))
    wrong, right = np.arange(5), np.arange(5, 150)
    # displaced ones are also expected where they are not
    start = Poses(
        Rotation.concatenate([random_rotations(5, rng=3), stack.rotations[right]]),
        np.concatenate([-stack.poses.shifts_px[wrong], stack.poses.shifts_px[right]]),
    )
    state = search.random_state(right, rng, clears=True)
    evidence = np.where(np.arange(150) < 5, -1.0, 1.0)
    evidence, found = search.improved(state, evidence, start, rng)
    if limit_px:
        assert evidence.min() > 0
    before, after = ((stack.rotations.inv() * each.rotations).magnitude() for each in (start, found))
    assert before[wrong].min() > 0.5
    assert after.max() < 0.2
    np.testing.assert_allclose(found.shifts_px, stack.poses.shifts_px, atol=0.5)


def test_a_start_whose_numbers_overflowed_is_never_the_best(rng):
    search = PoseSearch(rng.normal(size=(20, 32, 32)).astype(np.float32), contrast.Optics(4.0), 0.0)
    every = np.arange(20)
    state = search.random_state(every, rng, clears=True)
    assert np.isfinite(search.likelihood(state, every, np.zeros(20)))
    assert search.likelihood(state, every, np.full(20, np.nan)) == -np.inf


@pytest.mark.parametrize("symmetry", ["C3", "D2", "O", "I"])
def test_symmetric_maps_of_the_search_are_those_of_all_copies(symmetry, rng):
    maps = CoarseMaps(RingGrid(6, 48), coverage=1.0)
    matrices, group = random_rotations(200, rng=0).as_matrix(), point_group(symmetry).as_matrix()
    sums, weights = rng.normal(size=(200, 6, 48, 2)) @ [1, 1j], rng.uniform(0, 2, (200, 6))
    sums, noise = sums.astype(np.complex64), np.full(6, 5.0)
    copies = (matrices[:, None] @ group).reshape(
        -1, 3, 3
    )  # in this order, the same slices measure the signal
    repeated = (np.repeat(each, len(group), axis=0) for each in (sums, weights))
    expected = maps.volume(*repeated, noise, copies)
    found = maps.volume(sums, weights, noise, matrices, group)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_maps_of_the_search_have_no_solvent_unless_the_particle_is_dark(rng):
    maps = CoarseMaps(RingGrid(14, 48), coverage=1.0)
    particle = 8 * soft_sphere(maps.mask.shape, 4.0, 2.0)
    noisy = ((particle + rng.normal(size=particle.shape)) * maps.mask).astype(np.float32)
    cleared = maps.without_solvent(noisy)
    solvent, inside = (particle == 0) & (maps.mask == 1), particle == 8
    assert cleared.min() == 0
    assert np.mean(cleared[solvent] > 0) < 0.1
    np.testing.assert_allclose(cleared[inside], noisy[inside] - 4 / noisy[inside], rtol=0.05)
    np.testing.assert_array_equal(maps.without_solvent(-noisy), -noisy)
    np.testing.assert_array_equal(maps.without_solvent(particle), particle)  # nothing is negative
