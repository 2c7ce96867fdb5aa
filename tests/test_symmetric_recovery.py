"""Symmetric particles from reduced distances to a map: orientations, gauge, reconstruction, refinement."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.distances import exact_distances, perturbed_distances
from cryoem.evaluation import pose_error, recovery_error
from cryoem.gauge import common_line_score, fix_gauge
from cryoem.projectors import project
from cryoem.reconstruction import reconstruct
from cryoem.recovery import recover_orientations
from cryoem.refinement import refine
from cryoem.resolution import fourier_shell_correlation
from cryoem.rotations import point_group, random_rotations
from cryoem.volumes import phantom

IMAGES = 400


@pytest.fixture(scope="module")
def particle():
    return phantom(symmetry="D2", size=32, voxel_size_angstrom=6.0, rng=0)


@pytest.fixture(scope="module")
def seen(particle):
    """Orientations and clean projections at them."""
    rotations = random_rotations(200, rng=0)
    return rotations, project(particle.data, rotations)


def at_some_copy(rotations: Rotation, symmetry: str) -> Rotation:
    group = point_group(symmetry)
    return rotations * group[np.random.default_rng(3).integers(len(group), size=len(rotations))]


@pytest.mark.parametrize("symmetry", ["C2", "C3", "C4", "D2", "D3"])
def test_exact_reduced_distances_give_exact_orientations(symmetry):
    true = random_rotations(IMAGES, rng=1)
    recovery = recover_orientations(exact_distances(true, symmetry=symmetry), symmetry=symmetry, rng=0)
    assert recovery.losses[-1] < 1e-12
    assert recovery_error(true, recovery.rotations, symmetry=symmetry) < 1e-6


@pytest.mark.parametrize("symmetry", ["C2", "D2", "D3"])
def test_errors_of_distances_average_out(symmetry):
    true = random_rotations(IMAGES, rng=1)
    distances = perturbed_distances(exact_distances(true, symmetry=symmetry), standard_deviation=0.2, rng=2)
    recovery = recover_orientations(distances, symmetry=symmetry, rng=0)
    assert recovery.losses[-1] < 0.2**2
    assert recovery_error(true, recovery.rotations, symmetry=symmetry) < 0.2**2


def test_landmarks_suffice_for_symmetric_particles_too():
    true = random_rotations(600, rng=1)
    distances = perturbed_distances(exact_distances(true, symmetry="D2"), standard_deviation=0.1, rng=2)
    recovery = recover_orientations(distances, symmetry="D2", landmarks=300, rng=0)
    assert recovery_error(true, recovery.rotations, symmetry="D2") < 0.04


def test_plain_distances_do_not_fit_a_symmetric_particle():
    true = random_rotations(IMAGES, rng=1)
    recovery = recover_orientations(exact_distances(true), symmetry="D2", rng=0)
    assert recovery.losses[-1] > 0.05


def test_too_few_images_near_one_another_are_refused():
    few = exact_distances(random_rotations(40, rng=0), symmetry="D2")
    with pytest.raises(ValueError, match=r"an image with 11 others within 0\.785 rad"):
        recover_orientations(few, symmetry="D2")
    with pytest.raises(ValueError, match="symmetry must be C1 for the stochastic method, got 'D2'"):
        recover_orientations(few, symmetry="D2", method="sgd")


def test_the_gauge_of_a_symmetric_particle_is_in_its_images(seen):
    true, images = seen
    turned = Rotation.from_euler("xyz", [0.4, -1.1, 2.0]) * at_some_copy(true, "D2")
    gauge = fix_gauge(images, turned, symmetry="D2", rng=0)
    assert pose_error(true, turned, symmetry="D2") > 0.3
    assert pose_error(true, gauge.rotations, symmetry="D2") < 0.03
    assert not gauge.inverted
    assert gauge.score == pytest.approx(
        common_line_score(images, true, symmetry="D2", pairs=20_000, rng=0), abs=0.02
    )


@pytest.mark.parametrize("method", ["fourier", "cgls"])
def test_the_map_has_the_symmetry_of_the_particle(particle, seen, method):
    true, images = seen
    few = slice(0, 40)
    made = reconstruct(
        images[few],
        at_some_copy(true, "D2")[few],
        pixel_size_angstrom=6.0,
        symmetry="D2",
        method=method,
        iterations=6,
    )
    inner = made.data[1:, 1:, 1:]  # of an even box, the part that a half turn maps onto itself
    for axes in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(np.flip(inner, axes), inner, atol=0.02 * inner.max())
    plain = reconstruct(images[few], true[few], pixel_size_angstrom=6.0, method=method, iterations=6)
    with_symmetry, without = (
        fourier_shell_correlation(m.data, particle.data, voxel_size_angstrom=6.0).correlation.mean()
        for m in (made, plain)
    )
    assert with_symmetry > without


def test_refinement_keeps_to_the_symmetry(particle, seen):
    true, images = seen
    noisy = images / images.std() + np.random.default_rng(0).standard_normal(images.shape, np.float32)
    off = at_some_copy(true, "D2") * Rotation.from_rotvec(
        np.random.default_rng(1).normal(scale=0.04, size=(len(true), 3))
    )
    refined = refine(
        noisy, off, pixel_size_angstrom=6.0, symmetry="D2", search_rounds=1, gradient_rounds=2, rng=0
    )
    before, after = (pose_error(true, r, symmetry="D2") for r in (off, refined.rotations))
    assert after < 0.7 * before
    inner = refined.map.data[1:, 1:, 1:]
    np.testing.assert_allclose(np.flip(inner, (0, 1)), inner, atol=0.02 * inner.max())
