"""Symmetric particles: orientations from reduced distances, and their errors up to the normaliser of the group."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.distances.exact import exact_distances, perturbed_distances
from cryoem.orientations import symmetric_evaluation
from cryoem.orientations.evaluation import mirror, pose_error, recovery_error
from cryoem.orientations.recovery import recover_orientations
from cryoem.rotations import normaliser, point_group, random_rotations


def at_some_copy(rotations: Rotation, symmetry: str) -> Rotation:
    group = point_group(symmetry)
    return rotations * group[np.random.default_rng(3).integers(len(group), size=len(rotations))]


@pytest.mark.parametrize("symmetry", ["C2", "C3", "D2", "D3"])
def test_exact_reduced_distances_give_exact_orientations(symmetry):
    true = random_rotations(250, rng=1)
    recovery = recover_orientations(exact_distances(true, symmetry=symmetry), symmetry=symmetry, rng=0)
    assert recovery.losses[-1] < 1e-12
    assert recovery_error(true, recovery.rotations, symmetry=symmetry) < 1e-6


@pytest.mark.parametrize(
    ("symmetry", "n", "sigma", "landmarks", "error"),
    [("C2", 400, 0.2, None, 0.2**2), ("D3", 400, 0.2, None, 0.2**2), ("D2", 600, 0.1, 300, 0.04)],
)
def test_errors_of_distances_average_out(symmetry, n, sigma, landmarks, error):
    true = random_rotations(n, rng=1)
    distances = exact_distances(true, symmetry=symmetry)
    distances = perturbed_distances(distances, standard_deviation=sigma, rng=2)
    recovery = recover_orientations(distances, symmetry=symmetry, landmarks=landmarks, rng=0)
    assert recovery.losses[-1] < sigma**2
    assert recovery_error(true, recovery.rotations, symmetry=symmetry) < error


def test_plain_distances_do_not_fit_a_symmetric_particle_and_few_images_are_refused():
    plain = exact_distances(random_rotations(250, rng=1))
    assert recover_orientations(plain, symmetry="D2", rng=0).losses[-1] > 0.05
    few = exact_distances(random_rotations(40, rng=0), symmetry="D2")
    message = r"an image with at least 11 neighbours within 0\.785 rad .* use more images"
    with pytest.raises(ValueError, match=message):
        recover_orientations(few, symmetry="D2")


@pytest.mark.parametrize("symmetry", ["C2", "C3", "C4", "D2", "D3", "D4", "T", "O", "I"])
def test_copies_of_a_symmetric_particle_are_no_errors(symmetry, monkeypatch):
    monkeypatch.setattr(symmetric_evaluation, "SEEDS", 2)  # without noise, any image gives the turn
    true = random_rotations(20, rng=0)
    frames, about_axis = normaliser(symmetry)
    frame = frames[len(frames) // 2] * Rotation.from_rotvec([0, 0, 0.07 * about_axis])
    turn = random_rotations(1, rng=1)[0]
    same = at_some_copy(true * frame, symmetry)
    assert pose_error(true, same, symmetry=symmetry) < 1e-6
    assert pose_error(true, mirror(same), symmetry=symmetry) < 1e-6
    assert recovery_error(true, turn * same, symmetry=symmetry) < 1e-6
    assert pose_error(true, turn * same, symmetry=symmetry) > 0.1
    assert recovery_error(true, same.inv(), symmetry=symmetry) > 0.1


@pytest.mark.parametrize("symmetry", ["C4", "D3"])
def test_errors_of_a_symmetric_particle_are_not_underestimated(symmetry):
    true = random_rotations(300, rng=0)
    vectors = np.random.default_rng(5).normal(scale=0.05 / np.sqrt(3), size=(300, 3))
    off = true * Rotation.from_rotvec(vectors)
    expected = (true.inv() * off).magnitude().mean()
    copies = at_some_copy(off, symmetry)
    recovered = random_rotations(1, rng=1)[0] * copies
    assert recovery_error(true, recovered, symmetry=symmetry) == pytest.approx(expected, rel=0.03)
    assert pose_error(true, copies, symmetry=symmetry) == pytest.approx(expected, rel=0.03)
