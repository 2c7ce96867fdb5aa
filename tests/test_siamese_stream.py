"""Training data: fresh images, those of the seed, those asked for."""

from __future__ import annotations

import numpy as np
import pytest
from learned_features import off_diagonal
from scipy.spatial.transform import Rotation

from cryoem import imaging
from cryoem.projectors import project
from cryoem.rotations import geodesic_distance, viewing_directions
from cryoem.siamese import (
    ProjectionStream,
)
from cryoem.volumes import DensityMap, phantom

FLOAT32 = 1e-5  # a few operations on numbers of order 1 in single precision
SIGMAS = 5  # of a statistical estimate: one false alarm in a million


# --- the stream


@pytest.fixture(scope="module")
def particle() -> DensityMap:
    return phantom(size=24)


def stream_of(density_map: DensityMap, **options) -> ProjectionStream:
    defaults = {"image_size": 24, "network_image_size": 16, "batch_size": 8, "steps": 3, "seed": 1}
    return ProjectionStream(density_map, **(defaults | options))


@pytest.mark.parametrize(("full", "size"), [(24, 24), (24, 16), (24, 17), (25, 16), (25, 17), (30, 24)])
def test_a_batch_is_what_simulation_and_downsampling_give(particle, full, size):
    images, quaternions = stream_of(particle, image_size=full, network_image_size=size)[0]
    assert images.shape == (8, size, size)
    assert images.dtype == quaternions.dtype == np.float32
    clean = project(particle.data, Rotation.from_quat(quaternions), image_size=full)
    clean /= imaging.clean_deviation(particle, image_size=full)
    np.testing.assert_allclose(images, imaging.downsample(clean, size), atol=FLOAT32 * clean.max())


def test_a_batch_of_images_smaller_than_the_particle_is_cropped_not_folded():
    position = np.arange(24) - 12
    z, y, x = np.meshgrid(position, position, position, indexing="ij")
    blobs = [np.exp(-((x - centre) ** 2 + y**2 + z**2) / (2 * 1.3**2)) for centre in (2, 8)]
    density_map = DensityMap(sum(blobs), 1.0)  # the second blob is often outside of an image of 14 pixels
    images, quaternions = stream_of(density_map, image_size=14, network_image_size=14)[0]
    clean = project(density_map.data, Rotation.from_quat(quaternions), image_size=14)
    clean /= imaging.clean_deviation(density_map, image_size=14)
    np.testing.assert_allclose(images, clean, atol=10 * FLOAT32 * clean.max())


def test_batches_are_reproducible_and_never_repeat(particle):
    stream, again = (stream_of(particle, noise_variance=1.0, shift_limit_px=2.0) for _ in range(2))
    assert len(stream) == 3
    seen = []
    for epoch in range(3):
        stream.epoch = again.epoch = epoch
        backwards = {index: again[index] for index in reversed(range(3))}
        for index in range(3):
            images, quaternions = stream[index]
            np.testing.assert_array_equal(images, backwards[index][0])
            np.testing.assert_array_equal(quaternions, backwards[index][1])
            seen.append(quaternions)
    other_seed = stream_of(particle, noise_variance=1.0, seed=2)[0][1]
    orientations = Rotation.from_quat(np.concatenate([*seen, other_seed]))
    between = off_diagonal(geodesic_distance(orientations, orientations))
    assert between.min() > 1e-3  # 80 orientations drawn independently are that close once in a million times


def test_a_stream_does_not_repeat_what_simulate_draws_with_the_same_seed(particle):
    stream = stream_of(particle, network_image_size=24, noise_variance=1.0, seed=5)
    stack = imaging.simulate(particle, 8, noise_variance=1.0, rng=5)  # to validate on, say
    nearest = geodesic_distance(Rotation.from_quat(stream[0][1]), stack.rotations).min()
    assert nearest > 1e-3


def test_noise_and_shifts_are_those_of_the_full_images(particle):
    options = {"batch_size": 600, "image_size": 24, "network_image_size": 17}
    clean, quaternions = stream_of(particle, **options)[0]
    noisy, same = stream_of(particle, noise_variance=4.0, **options)[0]
    np.testing.assert_array_equal(quaternions, same)
    noise = noisy - clean
    assert noise.var() == pytest.approx(4.0 * (17 / 24) ** 2, rel=SIGMAS * np.sqrt(2 / noise.size))
    shifted, same = stream_of(particle, shift_limit_px=2.0, **options)[0]
    np.testing.assert_array_equal(quaternions, same)
    moves = (centroids(shifted) - centroids(clean)) * 24 / 17
    # the centroid sees the ripple of a filtered image as well
    assert np.abs(moves).max() < 2.0 * 1.1
    np.testing.assert_allclose(moves.std(axis=0), 2 / np.sqrt(6), rtol=0.1)


def centroids(images: np.ndarray) -> np.ndarray:
    """Centre of density (x, y) in pixels from the origin: (n, 2)."""
    position = np.arange(images.shape[1]) - images.shape[1] // 2
    total = images.sum(axis=(1, 2))
    return np.stack([images.sum(axis=1) @ position / total, images.sum(axis=2) @ position / total], axis=1)


def test_a_finite_training_set_repeats_and_an_infinite_one_does_not(particle):
    finite, same = (
        stream_of(particle, distinct=20, noise_variance=1.0, shift_limit_px=1.0) for _ in range(2)
    )
    endless = stream_of(particle, noise_variance=1.0, shift_limit_px=1.0)
    seen = {"finite": set(), "endless": set()}
    for epoch in range(8):
        for name, stream in (("finite", finite), ("endless", endless)):
            stream.epoch = epoch
            for index in range(len(stream)):
                images, quaternions = stream[index]
                pairs = {(i.tobytes(), q.tobytes()) for i, q in zip(images, quaternions, strict=True)}
                assert len(pairs) == 8  # none twice in a batch
                seen[name] |= pairs
    assert len(seen["finite"]) == 20  # each image always with its own noise, shift and orientation
    assert len(seen["endless"]) == 8 * 3 * 8
    for a, b in zip(finite[1], same[1], strict=True):
        assert not np.array_equal(a, b)  # another epoch
    same.epoch = finite.epoch
    for a, b in zip(finite[1], same[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert finite.made_from["distinct"] == 20
    assert "distinct" not in endless.made_from


def test_the_coverage_is_that_asked_for(particle):
    quaternions = stream_of(particle, coverage="half", batch_size=200)[0][1]
    assert (viewing_directions(Rotation.from_quat(quaternions))[:, 2] > -FLOAT32).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_image_size": 25}, "network_image_size must be between 2 and image_size 24, got 25"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 2, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"distinct": 7}, "distinct must be a whole number of at least 8, got 7"),
        (
            {"coverage": "sphere"},
            "coverage must be one of so3, euler, half, quarter, preferred, got 'sphere'",
        ),
        (
            {"batch_size": 1},
            "batch_size must be a whole number of at least 2, got 1",
        ),  # no pair: the loss is 0 / 0
        ({"noise_variance": -1.0}, "noise_variance must be a finite number of at least 0, got -1"),
        ({"shift_limit_px": -1.0}, "shift_limit_px must be a finite number of at least 0, got -1"),
    ],
)
def test_a_wrong_stream_is_one_sentence(particle, options, message):
    with pytest.raises(ValueError, match=message):
        stream_of(particle, **options)[0]
