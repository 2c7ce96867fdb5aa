"""Losses over all pairs of a batch, and the distances that each kind of feature stands for.

An encoder maps B images to features (B, n_features); a loss compares all B^2 pairs of features with the
geodesic distances of the B orientations, so each image passes the network once.  ``y_true`` holds quaternions
(B, 4), xyzw.

Kinds of feature distance
-------------------------
``"kernel"``     the inner product of unit features is (1 + 2 cos d) / 3, which is a positive semi-definite
                 function of two rotations (the inner product of vec(R) / sqrt 3) and so can be met exactly.
                 The default.
``"cosine"``     the published one, 2 arccos of the cosine similarity (arXiv 2104.06237, eq. 5); no embedding
                 can meet it.
``"euclidean"``  the distance of the features themselves, scaled to [0, pi] for unit features.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

KINDS = ("kernel", "cosine", "euclidean")
_CLIP = 1e-6


def _unit(features):
    return features / ops.maximum(ops.norm(features, axis=-1, keepdims=True), 1e-9)


def true_kernel(quaternions):
    """(1 + 2 cos d) / 3 of all pairs of (B, 4) quaternions: (B, B)."""
    overlap = ops.matmul(quaternions, ops.transpose(quaternions))
    return (4 * ops.square(overlap) - 1) / 3


def true_distance(quaternions):
    """Geodesic distance of all pairs of (B, 4) quaternions: (B, B) radians."""
    overlap = ops.abs(ops.matmul(quaternions, ops.transpose(quaternions)))
    return 2 * ops.arccos(ops.clip(overlap, 0, 1 - _CLIP))


def _off_diagonal_mean(squares):
    """Mean of a (B, B) matrix without its diagonal, which every unit feature meets for nothing."""
    batch = ops.cast(ops.shape(squares)[0], squares.dtype)
    return (ops.sum(squares) - ops.trace(squares)) / ops.maximum(batch * (batch - 1), 1)


@keras.saving.register_keras_serializable("cryoem")
def kernel_loss(y_true, y_pred):
    """Mean squared error of the faithful kernel over all pairs of different images."""
    features = _unit(y_pred)
    return _off_diagonal_mean(ops.square(ops.matmul(features, ops.transpose(features)) - true_kernel(y_true)))


@keras.saving.register_keras_serializable("cryoem")
def cosine_loss(y_true, y_pred):
    """Mean squared error of the published distance over all pairs of different images, rad^2."""
    features = _unit(y_pred)
    similarity = ops.clip(ops.matmul(features, ops.transpose(features)), -1 + _CLIP, 1 - _CLIP)
    return _off_diagonal_mean(ops.square(2 * ops.arccos(similarity) - true_distance(y_true)))


@keras.saving.register_keras_serializable("cryoem")
def euclidean_loss(y_true, y_pred):
    """Mean squared error of the Euclidean feature distance over all pairs of different images, rad^2."""
    features = _unit(y_pred)
    squared = ops.maximum(2 - 2 * ops.matmul(features, ops.transpose(features)), _CLIP)
    return _off_diagonal_mean(ops.square(np.pi / 2 * ops.sqrt(squared) - true_distance(y_true)))


LOSSES = {"kernel": kernel_loss, "cosine": cosine_loss, "euclidean": euclidean_loss}


def _kernel_distance(similarity):
    return ops.arccos(ops.clip((3 * similarity - 1) / 2, -1, 1))


def _cosine_distance(similarity):
    return ops.minimum(2 * ops.arccos(ops.clip(similarity, -1, 1)), np.pi)


def _euclidean_distance(similarity):
    return ops.minimum(np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, 0)), np.pi)


_DECODERS = {"kernel": _kernel_distance, "cosine": _cosine_distance, "euclidean": _euclidean_distance}


def _distance_error(kind: str):
    def distance_error_rad(y_true, y_pred):
        features = _unit(y_pred)
        distance = _DECODERS[kind](ops.matmul(features, ops.transpose(features)))
        return _off_diagonal_mean(ops.abs(distance - true_distance(y_true)))

    return distance_error_rad


METRICS = {kind: _distance_error(kind) for kind in KINDS}


def unit_features(features: np.ndarray) -> np.ndarray:
    """(n, f) features scaled to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def distances_from_features(features: np.ndarray, others: np.ndarray, *, kind: str) -> np.ndarray:
    """Decode features into distances.

    Parameters
    ----------
    features, others : (n, f) and (m, f) float; normalised here.
    kind : the feature distance that the encoder was trained with.

    Returns
    -------
    (n, m) float32 radians in [0, pi].

    Raises
    ------
    ValueError : ``kind`` is not known.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    similarity = (unit_features(features) @ unit_features(others).T).astype(np.float32)
    return ops.convert_to_numpy(_DECODERS[kind](similarity))
