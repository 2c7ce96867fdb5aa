"""A learned distance: a small network on pairs of features, as in the first paper's ablation.

The published one joins the two feature vectors and passes them through six dense layers with SELU.  This one is
narrower, since it sees all pairs of a batch, and says the same of (i, j) as of (j, i).

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
    """The end of an encoder: passes features on as they are, and holds the network that compares two of them.

    Being part of the encoder, its weights are trained, saved and restored with it.
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
        # a dense layer on a joined pair is the sum of one on either, so that no pair is ever joined
        one_way = self._first(features)[:, None] + self._second(others)[None]  # (n, m, width)
        other_way = self._second(features)[:, None] + self._first(others)[None]
        return np.pi * (self._share(one_way) + self._share(other_way)) / 2

    def _share(self, x):
        x = ops.selu(x)
        for layer in self._hidden:
            x = layer(x)
        return ops.sigmoid(self._last(x)[..., 0])

    def predict_distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """As ``distances``, of arrays and some rows at a time: (n, m) float32 radians."""
        others = np.asarray(others, np.float32)
        blocks = [
            ops.convert_to_numpy(self.distances(features[at : at + ROWS_AT_ONCE].astype(np.float32), others))
            for at in range(0, len(features), ROWS_AT_ONCE)
        ]
        return np.concatenate(blocks)

    def get_config(self):
        return {**super().get_config(), "widths": self.widths}


def head_of(encoder: keras.Model, feature_distance: str) -> PairHead | None:
    """The pair head that a feature distance needs: the encoder's for ``"mlp"``, else None.

    Raises
    ------
    ValueError : the encoder was built without one.
    """
    if feature_distance != "mlp":
        return None
    heads = [layer for layer in encoder.layers if isinstance(layer, PairHead)]
    if not heads:
        raise ValueError(
            "encoder must be built with pair_head=True for the feature distance 'mlp', got one without a pair head"
        )
    return heads[0]
