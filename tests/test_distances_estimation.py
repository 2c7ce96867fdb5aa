"""Estimated distances: the effect of each step, independent of blocks and of where they are computed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cryoem import distances, particles
from cryoem.contrast import ContrastTransfer
from cryoem.distances import prediction
from cryoem.images import downsample, flip_phases, image_blocks, shift
from cryoem.rotations import random_rotations
from cryoem.volumes.density import DensityMap
from cryoem.volumes.phantoms import phantom

N, SIZE = 61, 24
CTF = ContrastTransfer(defocus_range_angstrom=(4_000.0, 9_000.0), inverted=True)


@pytest.fixture(scope="module")
def stack():
    density = DensityMap(phantom(size=SIZE).data, 5.0)
    return particles.simulate(density, N, ctf=CTF, shift_limit_px=1.5, noise_variance=0.1, rng=0)


@pytest.fixture(scope="module", params=[False, True], ids=["no shifts", "shifts"])
def encoder(request):
    keras.utils.set_random_seed(0)
    settings = distances.EncoderSettings(16, channels=6, blocks=1, with_shifts=request.param)
    return distances.TrainedEncoder(settings.build(), settings)


@pytest.mark.parametrize("block", [25, 1000])
def test_distances_are_those_of_corrected_images(stack, encoder, block, monkeypatch):
    monkeypatch.setattr(
        prediction, "image_blocks", lambda images: image_blocks(images, block_bytes=block * 4 * SIZE**2)
    )
    done, mapped = [], []

    def map_blocks(function, items):
        for item in items:
            mapped.append(len(item[0]))
            yield function(item)

    found = distances.estimate_distances(stack, encoder, map_blocks=map_blocks, callback=done.append)
    assert done == [*range(block, N, block), N]
    assert sum(mapped) == N
    small = downsample(flip_phases(stack.images, stack.optics), 16)
    shifts = np.zeros((N, 2))
    if encoder.settings.with_shifts:
        shifts = distances.predict_shifts(encoder.model, small)
        assert np.abs(shifts).max() > 0.01
    expected = distances.predict_distances(encoder.model, shift(small, -shifts))
    np.testing.assert_allclose(found.distances, expected, atol=2e-3)  # arccos amplifies rounding near 0
    np.testing.assert_allclose(found.shifts_px, shifts * SIZE / 16, atol=1e-3)
    assert found.landmarks is None
    # arrays need optics
    array = distances.estimate_distances(stack.images, encoder, optics=stack.optics)
    np.testing.assert_allclose(array.distances, found.distances, atol=2e-3)


def test_distances_to_landmarks_are_columns_of_all_distances(stack, encoder, monkeypatch):
    monkeypatch.setattr(prediction, "ROWS", 10)
    every = distances.estimate_distances(stack, encoder)
    some = distances.estimate_distances(stack, encoder, landmarks=15, rng=3)
    assert len(set(some.landmarks)) == 15
    np.testing.assert_allclose(some.distances, every.distances[:, some.landmarks], atol=2e-3)
    among = some.distances[some.landmarks]
    np.testing.assert_array_equal(among, among.T)
    assert not among.diagonal().any()
    np.testing.assert_array_equal(some.shifts_px, every.shifts_px)


def test_landmarks_are_spread_and_chosen_once():
    exact = distances.exact_distances(random_rotations(400, rng=0))
    chosen = distances.spread_landmarks(lambda i: exact[:, i], 400, 40, rng=np.random.default_rng(0))
    drawn = np.random.default_rng(1).choice(400, 40, replace=False)
    # distance from each image to its nearest landmark
    assert exact[:, chosen].min(axis=1).max() < 0.8 * exact[:, drawn].min(axis=1).max()
    biased = exact + 3  # the distance from an image to itself is not zero
    every = distances.spread_landmarks(lambda i: biased[:, i], 400, 400, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(every, np.arange(400))


def test_wrong_images_and_landmarks_are_one_sentence(stack, encoder):
    for landmarks in (11, N + 1):
        message = f"^landmarks must be between 12 and {N}, the number of images, got {landmarks}$"
        with pytest.raises(ValueError, match=message):
            distances.estimate_distances(stack, encoder, landmarks=landmarks)
    with pytest.raises(
        ValueError, match=r"^images must be at least 16 px wide, .*, got shape \(61, 15, 15\)$"
    ):
        distances.estimate_distances(stack.images[:, :15, :15], encoder)
    with pytest.raises(ValueError, match=r"^at least 2 images are required, got 1$"):
        distances.estimate_distances(stack[3:4], encoder)
    with pytest.raises(
        ValueError, match=rf"^defocus_angstrom must have one entry for each of the {N} images, got 4$"
    ):
        distances.estimate_distances(stack, encoder, optics=stack.optics[:4])
