"""Symmetric particles: orientations from reduced distances, and errors up to the normaliser of the group."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.distances.exact import exact_distances, perturbed_distances
from cryoem.orientations import evaluation
from cryoem.orientations.evaluation import mirror, pose_error, recovery_error
from cryoem.orientations.recovery import recover_orientations
from cryoem.rotations import normaliser, point_group, random_rotations


def at_some_copy(rotations: Rotation, symmetry: str) -> Rotation:
    group = point_group(symmetry)
    return rotations * group[np.random.default_rng(3).integers(len(group), size=len(rotations))]


@pytest.mark.parametrize(("symmetry", "n"), [("C2", 120), ("D2", 150), ("D3", 250)])
def test_exact_reduced_distances_give_exact_orientations(symmetry, n):
    true = random_rotations(n, rng=1)
    recovery = recover_orientations(exact_distances(true, symmetry=symmetry), symmetry=symmetry, rng=0)
    assert recovery.losses[-1] < 1e-12
    assert recovery_error(true, recovery.rotations, symmetry=symmetry) < 1e-6


@pytest.mark.parametrize(
    ("symmetry", "n", "sigma", "landmarks", "error"),
    [("C2", 400, 0.2, None, 0.2**2), ("D2", 400, 0.1, 200, 0.04)],
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
    assert recover_orientations(plain, symmetry="C2", rng=0).losses[-1] > 0.05
    few = exact_distances(random_rotations(40, rng=0), symmetry="D2")
    message = r"at least one image must have 11 neighbours within 0\.785 rad, .* use more images"
    with pytest.raises(ValueError, match=message):
        recover_orientations(few, symmetry="D2")


@pytest.mark.parametrize("symmetry", ["C2", "C3", "D2", "D3", "T", "I"])
def test_copies_of_a_symmetric_particle_are_no_errors(symmetry, monkeypatch):
    monkeypatch.setattr(evaluation, "SEEDS", 2)  # without noise, any image determines the rotation
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


@pytest.mark.parametrize(("symmetry", "whole"), [("D2", "O"), ("D3", "D6"), ("T", "O"), ("O", "O")])
def test_one_frame_of_each_set_of_equivalent_ones_is_enough(symmetry, whole, monkeypatch):
    """Errors and orientations equal those found by trying every rotation of the normaliser."""
    monkeypatch.setattr(evaluation, "SEEDS", 2)
    true, wild = random_rotations(12, rng=0), random_rotations(12, rng=1)
    few = [align(true, wild, symmetry=symmetry) for align in (evaluation.align_to, evaluation.align_frame)]
    monkeypatch.setattr(evaluation, "normaliser", lambda symmetry: (point_group(whole), False))
    every = [align(true, wild, symmetry=symmetry) for align in (evaluation.align_to, evaluation.align_frame)]
    for a, b in zip(few, every, strict=True):
        np.testing.assert_allclose(a.errors, b.errors, atol=1e-12)
        assert (a.rotations.inv() * b.rotations).magnitude().max() < 1e-12
    assert len(point_group(whole)) == len(normaliser(symmetry)[0]) * len(point_group(symmetry))


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
