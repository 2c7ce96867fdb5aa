"""The published training method: pairs and their order, the Siamese network, and a short run that resumes."""

from __future__ import annotations

from itertools import permutations

import keras
import numpy as np
import pytest
from tiny_training import assert_same_training, eagerly, uncompiled  # noqa: F401 (a fixture)

from cryoem.distances.encoders import build_encoder
from cryoem.distances.losses import pair_loss, unit
from cryoem.distances.trained import EncoderSettings
from cryoem.experiments import published, published_method
from cryoem.experiments.published_method import (
    ShuffledStream,
    absolute_error,
    learn_as_published,
    pair_stream,
    sample_pairs,
    siamese_network,
    squared_error,
)
from cryoem.images import correct_images
from cryoem.particles.conditions import ImagingConditions
from cryoem.rotations import geodesic_distance, random_rotations
from cryoem.training.compilation import TrainingSchedule
from cryoem.volumes.phantoms import phantom

FLOAT32 = 1e-5  # several operations on numbers of order 1 in single precision
SETTINGS = EncoderSettings(8, architecture="published", feature_distance="cosine")


def tiny(*, settings: EncoderSettings = SETTINGS, seconds: float | None = None, **options):
    """Train for two epochs, on 28 pairs or 12 images."""
    defaults = {"projections": (12, 8), "pairs": 0.2, "batch_size": 16}
    schedule = TrainingSchedule(2, published_method.LEARNING_RATE, seconds=seconds)
    return learn_as_published(
        phantom(size=16), ImagingConditions(16), settings, schedule=schedule, **(defaults | options)
    )


# --- pairs


def test_pairs_are_as_many_as_published():
    split = published("table-1").set_index("images")
    used = split.loc[["training", "validation"]]
    assert tuple(used.projections) == published_method.PROJECTIONS
    assert split.loc["test", "pairs"] == split.loc["test", "projections"] ** 2
    for row in used.itertuples():
        pairs, distances = sample_pairs(random_rotations(row.projections, rng=0), rng=1)
        assert len(pairs) == len(distances) == row.pairs
    stream = pair_stream(np.zeros((2512, 1, 1)), np.zeros((63101, 2), int), np.zeros(63101), batch_size=256)
    assert len(stream) == 247


def test_distances_of_pairs_are_uniform_and_true():
    rotations = random_rotations(300, rng=0)
    pairs, distances = sample_pairs(rotations, fraction=0.02, rng=1)
    assert len(pairs) == 1800
    assert (pairs[:, 0] != pairs[:, 1]).all()
    true = geodesic_distance(rotations, rotations)[tuple(pairs.T)]
    np.testing.assert_allclose(distances, true, atol=FLOAT32)
    counts, _ = np.histogram(true, bins=np.arange(published_method.BINS + 1) * published_method.BIN_RAD)
    assert np.ptp(counts) <= 1
    # without resampling, most pairs are far apart
    near = (geodesic_distance(rotations, rotations)[np.triu_indices(300, 1)] < 1).mean()
    assert near < 0.1 < (true < 1).mean()
    # bins with enough pairs repeat none
    far = pairs[distances > 2]
    assert len(np.unique(far, axis=0)) == len(far)
    # the order is random
    assert abs(np.corrcoef(distances, np.arange(len(distances)))[0, 1]) < 0.2


def test_a_fraction_that_gives_no_pair_is_one_sentence():
    with pytest.raises(
        ValueError, match=r"^fraction is too small to draw a single pair from 5 projections, got 0.01$"
    ):
        sample_pairs(random_rotations(5, rng=0))
    with pytest.raises(ValueError, match=r"^fraction must be .*, got 0"):
        sample_pairs(random_rotations(5, rng=0), fraction=0)


def test_each_epoch_has_every_item_once_in_a_new_order():
    stream = ShuffledStream(lambda chosen: chosen, 10, batch_size=4, seed=3)
    again = ShuffledStream(lambda chosen: chosen, 10, batch_size=4, seed=3)
    orders = []
    for epoch in range(2):
        stream.epoch = again.epoch = epoch
        batches = [stream[index] for index in range(len(stream))]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        np.testing.assert_array_equal(batches[1], again[1])
        orders.append(np.concatenate(batches))
        assert set(orders[-1]) == set(range(10))
    assert not np.array_equal(*orders)


# --- network and loss


def test_the_loss_of_pairs_is_the_loss_of_all_pairs_of_a_batch(rng):
    keras.utils.set_random_seed(0)
    encoder = build_encoder(8, architecture="published")
    images = rng.normal(scale=3, size=(6, 8, 8)).astype(np.float32)
    rotations = random_rotations(6, rng=0)
    quaternions = rotations.as_quat().astype(np.float32)
    first, second = np.array(list(permutations(range(6), 2))).T
    distances = geodesic_distance(rotations, rotations)[first, second].astype(np.float32)
    predicted = siamese_network(encoder).predict([images[first], images[second]], verbose=0)
    assert np.ptp(predicted) > 0.1
    features = encoder.predict(images, verbose=0)
    for absolute, error in ((True, absolute_error), (False, squared_error)):
        together = float(pair_loss("cosine", absolute=absolute)(quaternions, features))
        apart = float(np.mean(error(distances, predicted)))
        assert together == pytest.approx(apart, rel=10 * FLOAT32)


def test_features_of_zero_length_have_finite_gradients():
    import tensorflow as tf

    features = tf.Variable([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        scaled = unit(features)
        total = tf.reduce_sum(scaled * [1.0, 2.0])
    np.testing.assert_allclose(scaled, [[0, 0], [0.6, 0.8]], atol=FLOAT32)
    assert np.isfinite(tape.gradient(total, features)).all()


# --- training


@pytest.mark.parametrize("pairs", [0.2, "batch"])
@uncompiled
def test_a_training_reports_its_errors_and_resumes(pairs, tmp_path):
    whole = tiny(pairs=pairs)
    history = whole.history
    for part in ("", "val_"):
        assert history[f"{part}distance_error_rad"] == history[f"{part}loss"]
        assert (np.square(history[f"{part}loss"]) < history[f"{part}squared_error_rad2"]).all()
    assert history["step"] == ([1, 2] if pairs == "batch" else [2, 4])
    assert set(history["learning_rate"]) == {np.float32(published_method.LEARNING_RATE)}
    # two parts, the first of which ends after one epoch
    for seconds, epochs in ((1e-3, 1), (None, 2)):
        part = tiny(pairs=pairs, seconds=seconds, checkpoints=tmp_path)
        assert len(part.history["loss"]) == epochs
    assert_same_training((whole.encoder, whole.history), (part.encoder, part.history))


@uncompiled
def test_a_training_resumes_on_a_machine_that_rounds_differently(tmp_path, monkeypatch):
    def rounding_differently(images, **options):
        return correct_images(images, **options) * np.float32(1 + 1e-6)

    tiny(seconds=1e-3, checkpoints=tmp_path)
    monkeypatch.setattr(published_method, "correct_images", rounding_differently)
    assert len(tiny(checkpoints=tmp_path).history["loss"]) == 2
    with pytest.raises(ValueError, match=r"different training run \(imaging .*'noise_variance': 0\.0"):
        learn_as_published(
            phantom(size=16),
            ImagingConditions(16, 1.0),
            SETTINGS,
            schedule=TrainingSchedule(2, published_method.LEARNING_RATE),
            projections=(12, 8),
            pairs=0.2,
            batch_size=16,
            checkpoints=tmp_path,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "all"}, "pairs must be a fraction of all pairs or 'batch', got 'all'"),
        ({"batch_size": 1}, "batch_size must be .* 2, got 1"),
        (
            {"settings": EncoderSettings(8, feature_distance="cosine")},
            "architecture must be 'published' for the published method, got 'polar'",
        ),
        (
            {"settings": EncoderSettings(8, architecture="published")},
            "feature_distance must be 'cosine' for the published method, got 'kernel'",
        ),
        (
            {
                "settings": EncoderSettings(
                    8, architecture="published", feature_distance="cosine", symmetry="D2"
                )
            },
            "symmetry must be 'C1' for the published method, got 'D2'",
        ),
    ],
)
def test_a_wrong_training_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        tiny(**options)
