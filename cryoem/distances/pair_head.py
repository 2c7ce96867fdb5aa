"""A learned feature distance: a small network on pairs of features, as in the ablation of the first paper.

The published network concatenates two feature vectors and has six dense layers with SELU. This one is narrower, since
it is applied to all pairs of a batch, and gives the same distance for (i, j) as for (j, i).

Source: arXiv 2104.06237, ablation of the feature distance.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

WIDTHS = (128, 64)
ROWS_AT_ONCE = 64


@keras.saving.register_keras_serializable("cryoem")
class PairHead(layers.Layer):
    """Last layer of an encoder: returns features unchanged, and contains the network that compares two of them.

    The weights are trained, saved and restored with the encoder.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, **kwargs):
        super().__init__(**kwargs)
        self.widths = tuple(widths)
        self._first = layers.Dense(self.widths[0], dtype=self.dtype_policy)
        self._second = layers.Dense(self.widths[0], use_bias=False, dtype=self.dtype_policy)
        self._hidden = [
            layers.Dense(width, activation="selu", dtype=self.dtype_policy) for width in self.widths[1:]
        ]
        self._last = layers.Dense(1, dtype=self.dtype_policy)

    def build(self, input_shape):
        for layer in (self._first, self._second):
            layer.build((None, input_shape[-1]))
        for layer, width in zip([*self._hidden, self._last], self.widths, strict=True):
            layer.build((None, None, width))

    def call(self, features):
        """(b, f) -> (b, f)"""
        return features

    def distances(self, features, others):
        """Distances between two sets of unit features: (n, f), (m, f) -> (n, m) in [0, pi]."""
        # a dense layer on a concatenated pair is the sum of one layer on each half, so pairs are never formed
        one_way = self._first(features)[:, None] + self._second(others)[None]  # (n, m, width)
        other_way = self._second(features)[:, None] + self._first(others)[None]
        return np.pi * (self._fraction(one_way) + self._fraction(other_way)) / 2

    def _fraction(self, x):
        """Fraction of pi: (n, m, width) -> (n, m)"""
        x = ops.selu(x)
        for layer in self._hidden:
            x = layer(x)
        return ops.sigmoid(self._last(x)[..., 0])

    def predict_distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """``distances`` of arrays, some rows at a time: (n, m) float32 radians."""
        others = np.asarray(others, np.float32)
        starts = range(0, len(features), ROWS_AT_ONCE)
        blocks = (features[start : start + ROWS_AT_ONCE].astype(np.float32) for start in starts)
        return np.concatenate([ops.convert_to_numpy(self.distances(block, others)) for block in blocks])


def head_of(encoder: keras.Model, feature_distance: str) -> PairHead | None:
    """Return the encoder's pair head, which the feature distance ``"mlp"`` needs; None for other distances."""
    if feature_distance != "mlp":
        return None
    heads = [layer for layer in encoder.layers if isinstance(layer, PairHead)]
    if not heads:
        raise ValueError("encoder must be built with pair_head=True for the feature distance 'mlp'")
    return heads[0]
