"""Steps of the experiments: particles of equal size, training on several of them, nearest neighbours."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_maps import gaussian_ball

from cryoem import volumes
from cryoem.distances.training import ProjectionStream
from cryoem.experiments import trials
from cryoem.experiments.catalogue import EXPERIMENTS
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import simulate
from cryoem.rotations import geodesic_distance, point_group, random_rotations


@pytest.mark.parametrize("sigma_angstrom", [9.0, 20.0])
def test_particles_of_all_sizes_are_fitted_to_the_same_diameter(tmp_path, sigma_angstrom):
    ball = gaussian_ball((48, 40, 44), 4.0, sigma_angstrom, offset_angstrom=(8, -4, 4))
    volumes.write_map(tmp_path / "ball.mrc", ball)
    fitted = trials.fitted_particle(str(tmp_path / "ball.mrc"), 32)
    assert fitted.data.shape == (32, 32, 32)
    inside = np.argwhere(fitted.data > trials.OUTLINE * fitted.data.max()) - 16
    diameter = 2 * np.linalg.norm(inside, axis=1).max()
    assert diameter == pytest.approx(trials.DIAMETER_OVER_BOX * 32, abs=2)  # px
    assert np.abs(inside.mean(axis=0)).max() < 1


def test_a_phantom_is_named_by_its_seed():
    first, second = (trials.fitted_particle(f"phantom {seed}", 32).data for seed in (1, 2))
    np.testing.assert_array_equal(first, volumes.phantom(size=32, rng=1).data)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.9


def streams_of(*seeds: int) -> list[ProjectionStream]:
    return [
        ProjectionStream(
            volumes.phantom(size=16, rng=seed),
            ImagingConditions(16),
            network_image_size=12,
            batch_size=4,
            steps=4,
        )
        for seed in seeds
    ]


def test_particles_take_turns_and_never_share_a_batch():
    streams = streams_of(0, 1, 2)
    turns = trials.AlternatingStream(streams)
    assert len(turns) == 4
    seen = []
    for epoch in range(3):
        turns.epoch = epoch
        for index in range(4):
            images, quaternions = turns[index]
            same = [np.array_equal(images, stream[index][0]) for stream in streams]
            assert sum(same) == 1
            seen.append(same.index(True))
            assert len(quaternions) == 4
    assert seen == [step % 3 for step in range(12)]  # goes on where the last epoch ended


def test_a_stream_of_other_particles_does_not_continue_a_training():
    def fingerprint(*seeds):
        return trials.AlternatingStream(streams_of(*seeds)).fingerprint

    assert fingerprint(0, 1) == fingerprint(0, 1)
    assert fingerprint(0, 1) != fingerprint(0, 2)


def test_exact_distances_find_the_nearest_neighbours():
    rotations = random_rotations(80, rng=0)
    exact = geodesic_distance(rotations, rotations)
    far = {row["quantity"]: row["value"] for row in trials.measure_neighbours(-exact, rotations)}
    near = {row["quantity"]: row["value"] for row in trials.measure_neighbours(exact, rotations)}
    assert near["neighbour_distance_rad"] == pytest.approx(near["nearest_distance_rad"])
    assert far["nearest_distance_rad"] == near["nearest_distance_rad"]
    assert far["neighbour_distance_rad"] > exact.mean() > near["neighbour_distance_rad"]


@pytest.mark.parametrize("turned", [False, True])
def test_equivalent_orientations_of_a_symmetric_particle_are_not_errors(turned):
    rng = np.random.default_rng(0)
    density = volumes.phantom(size=16, symmetry="D2")
    stack = simulate(density, 60, image_size=16, rng=1)
    group = point_group("D2")
    error = Rotation.from_rotvec([0, 0.1, 0])
    found = error * stack.rotations * group[rng.choice(4, 60, p=[0.7, 0.1, 0.1, 0.1])]
    if turned:
        found = found * Rotation.from_rotvec([1.0, 2.0, 0.5])

    def measured(symmetry):
        rows = trials.measure_method(lambda _: found, stack, refined=False, seed=0, symmetry=symmetry)
        return {row["quantity"]: row["value"] for row in rows}["pose_error_rad"]

    assert measured("D2") == pytest.approx(0.1, abs=0.02)
    assert measured("C1") > 0.5


@pytest.mark.parametrize("size", ["quick", "paper"])
def test_no_particle_is_both_trained_on_and_unseen(size):
    points = EXPERIMENTS["generalisation"].grid(size).points()
    others = [point for point in points if point["trained_on"] in ("no particle", "other particles")]
    assert {point["training_count"] for point in others} == {0, 1, 2, 4, 8, 16, 64}
    for point in others:
        assert len(set(point["training"])) == point["training_count"]
        assert not set(point["training"]) & set(point["tested"])
    own = [point for point in points if point not in others]
    assert {point["trained_on"] for point in own} == set(own[0]["tested"])
