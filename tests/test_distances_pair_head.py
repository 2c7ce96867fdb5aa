"""The learned feature distance: what it computes, and what it refuses. Its training: ``test_distances_training``."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from learned_features import off_diagonal, quaternions32, unit

from cryoem.distances.encoders import build_encoder
from cryoem.distances.losses import distances_from_features, pair_error, pair_loss, true_distance
from cryoem.distances.pair_head import PairHead, head_of
from cryoem.distances.prediction import encode, predict_distances
from cryoem.rotations import random_rotations

FLOAT32 = 1e-5


@pytest.fixture
def head() -> PairHead:
    keras.utils.set_random_seed(1)
    head = PairHead(widths=(7, 5))
    head(np.zeros((1, 6), np.float32))
    return head


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1))


def test_it_is_a_network_on_concatenated_pairs_the_same_for_both_orders(head, rng):
    features, others = (rng.normal(size=(n, 6)).astype(np.float32) for n in (4, 3))
    first, bias, second, hidden, hidden_bias, last, last_bias = (
        np.asarray(weight, float) for weight in head.get_weights()
    )
    weights = np.concatenate([first, second])

    def one_way(a, b):
        x = selu(np.concatenate([a, b]) @ weights + bias)
        x = selu(x @ hidden + hidden_bias)
        return 1 / (1 + np.exp(-(x @ last + last_bias)[0]))

    expected = [[np.pi * (one_way(a, b) + one_way(b, a)) / 2 for b in others] for a in features]
    np.testing.assert_allclose(head.predict_distances(features, others), expected, atol=FLOAT32)
    np.testing.assert_array_equal(np.asarray(head(features)), features)
    many = rng.normal(size=(150, 6)).astype(np.float32)  # more rows than are passed at a time
    np.testing.assert_allclose(head.predict_distances(many, many), head.distances(many, many), atol=FLOAT32)


def test_loss_and_metric_are_those_of_its_distances(head, rng):
    quaternions = quaternions32(random_rotations(5, rng=0))
    features = rng.normal(size=(5, 6)).astype(np.float32)
    distances = head.predict_distances(unit(features), unit(features))
    error = off_diagonal(distances - np.asarray(true_distance(quaternions)))
    loss, metric = (make("mlp", head=head)(quaternions, features) for make in (pair_loss, pair_error))
    assert float(loss) == pytest.approx((error**2).mean(), rel=FLOAT32)
    assert float(metric) == pytest.approx(np.abs(error).mean(), rel=FLOAT32)


def test_predicted_distances_are_the_mean_over_both_views(rng):
    encoder = build_encoder(16, n_features=9, channels=8, blocks=1, pair_head=True)
    images = rng.normal(size=(6, 16, 16))
    distances = predict_distances(encoder, images, feature_distance="mlp")
    np.testing.assert_array_equal(distances, distances.T)
    assert 0 <= distances.min() < distances.max() <= np.float32(np.pi)
    views, head = np.split(encode(encoder, images), 2, axis=1), head_of(encoder, "mlp")
    expected = np.mean([distances_from_features(f, f, kind="mlp", head=head) for f in views], axis=0)
    np.testing.assert_allclose(off_diagonal(distances), off_diagonal(expected), atol=FLOAT32)


def test_an_encoder_without_a_head_is_refused(rng):
    encoder = build_encoder(16, n_features=9, channels=8, blocks=1)
    assert head_of(encoder, "kernel") is None
    with pytest.raises(ValueError, match="encoder must be built with pair_head=True"):
        predict_distances(encoder, rng.normal(size=(3, 16, 16)), feature_distance="mlp")
    for refuse in (
        lambda: pair_loss("mlp"),
        lambda: pair_error("mlp"),
        lambda: distances_from_features(np.eye(2), np.eye(2), kind="mlp"),
    ):
        with pytest.raises(ValueError, match="'mlp' needs the pair head of the encoder, got None"):
            refuse()
