"""The learned feature distance: what it computes, that it trains with the encoder, and what it refuses."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cryoem.rotations import random_rotations
from cryoem.siamese import (
    EncoderSettings,
    ProjectionStream,
    build_encoder,
    distances_from_features,
    encode,
    load_encoder,
    predict_distances,
    save_encoder,
    train,
)
from cryoem.siamese.losses import loss_of, metric_of, true_distance
from cryoem.siamese.pair_head import PairHead, head_of
from cryoem.volumes import phantom

FLOAT32 = 1e-5


@pytest.fixture
def head() -> PairHead:
    keras.utils.set_random_seed(1)
    head = PairHead(widths=(7, 5))
    head(np.zeros((1, 6), np.float32))
    return head


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(np.minimum(x, 0)) - 1))


def test_it_is_a_network_on_joined_pairs_the_same_for_both_orders(head, rng):
    features, others = (rng.normal(size=(n, 6)).astype(np.float32) for n in (4, 3))
    first, bias, second, hidden, hidden_bias, last, last_bias = (
        np.asarray(weight, float) for weight in head.get_weights()
    )
    joined_weights = np.concatenate([first, second])

    def one_way(a, b):
        x = selu(np.concatenate([a, b]) @ joined_weights + bias)
        x = selu(x @ hidden + hidden_bias)
        return 1 / (1 + np.exp(-(x @ last + last_bias)[0]))

    expected = [[np.pi * (one_way(a, b) + one_way(b, a)) / 2 for b in others] for a in features]
    np.testing.assert_allclose(head.predict_distances(features, others), expected, atol=FLOAT32)
    np.testing.assert_array_equal(np.asarray(head(features)), features)


def test_rows_at_once_change_nothing(head, rng):
    features = rng.normal(size=(150, 6)).astype(np.float32)
    whole = np.asarray(head.distances(features, features))
    np.testing.assert_allclose(head.predict_distances(features, features), whole, atol=FLOAT32)


def test_loss_and_metric_are_those_of_its_distances(head, rng):
    quaternions = random_rotations(5, rng=0).as_quat().astype(np.float32)
    features = rng.normal(size=(5, 6)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    error = (head.predict_distances(unit, unit) - np.asarray(true_distance(quaternions)))[
        ~np.eye(5, dtype=bool)
    ]
    loss, metric = (make("mlp", head=head)(quaternions, features) for make in (loss_of, metric_of))
    assert float(loss) == pytest.approx((error**2).mean(), rel=FLOAT32)
    assert float(metric) == pytest.approx(np.abs(error).mean(), rel=FLOAT32)


def test_head_and_encoder_train_together_and_come_back(tmp_path, rng):
    density = phantom(size=24)
    stream = ProjectionStream(density, image_size=24, network_image_size=16, batch_size=8, steps=3)
    settings = EncoderSettings(16, n_features=9, channels=8, blocks=1, feature_distance="mlp")
    keras.utils.set_random_seed(2)
    encoder = settings.build()
    before = head_of(encoder, "mlp").get_weights()
    images, quaternions = stream[0]
    history = train(encoder, stream, epochs=1, validation=(images, quaternions), feature_distance="mlp")
    assert np.isfinite(history["val_distance_error_rad"]).all()
    after = head_of(encoder, "mlp").get_weights()
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
    save_encoder(tmp_path / "e.weights.h5", encoder, settings)
    again, same = load_encoder(tmp_path / "e.weights.h5")
    assert same == settings
    distances = predict_distances(encoder, images, feature_distance="mlp")
    np.testing.assert_array_equal(distances, predict_distances(again, images, feature_distance="mlp"))
    np.testing.assert_array_equal(distances, distances.T)
    assert distances.min() >= 0
    assert distances.max() <= np.float32(np.pi)
    views = np.split(encode(encoder, images), 2, axis=1)
    expected = np.mean(
        [distances_from_features(f, f, kind="mlp", head=encoder.layers[-1]) for f in views], axis=0
    )
    off_diagonal = ~np.eye(len(images), dtype=bool)
    np.testing.assert_allclose(distances[off_diagonal], expected[off_diagonal], atol=FLOAT32)


def test_an_encoder_without_a_head_is_refused(rng):
    encoder = build_encoder(16, n_features=9, channels=8, blocks=1)
    assert head_of(encoder, "kernel") is None
    with pytest.raises(
        ValueError, match=r"encoder must be built with pair_head=True .* got one without a pair head"
    ):
        predict_distances(encoder, rng.normal(size=(3, 16, 16)), feature_distance="mlp")
    for refuse in (lambda: loss_of("mlp"), lambda: metric_of("mlp")):
        with pytest.raises(
            ValueError, match="feature_distance 'mlp' must come with the pair head of its encoder"
        ):
            refuse()
    with pytest.raises(ValueError, match="kind 'mlp' must come with the pair head of its encoder, got None"):
        distances_from_features(np.eye(2), np.eye(2), kind="mlp")
