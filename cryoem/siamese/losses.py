"""Losses over all pairs of a batch, and the distances that each kind of feature stands for.

An encoder maps B images to features (B, n_features); a loss compares all B^2 pairs of features with the
distances of the B orientations, so each image passes the network once.  ``y_true`` holds quaternions
(B, 4), xyzw.  Of a symmetric particle, distances are to the nearest copy.

Kinds of feature distance
-------------------------
``"kernel"``     the inner product of unit features is (1 + 2 cos d) / 3, which is a positive semi-definite
                 function of two rotations (the inner product of vec(R) / sqrt 3) and so can be met exactly;
                 with symmetry, what ``kernels`` makes of it.  The default.
``"cosine"``     the published one, 2 arccos of the cosine similarity (arXiv 2104.06237, eq. 5); no embedding
                 can meet it.
``"euclidean"``  the distance of the features themselves, scaled to [0, pi] for unit features.
``"mlp"``        a small network on pairs of features, trained with the encoder: the ``PairHead`` at its end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

from cryoem.siamese.kernels import kernel_of
from cryoem.siamese.pair_head import PairHead

KINDS = ("kernel", "cosine", "euclidean", "mlp")
_CLIP = 1e-6


def _unit(features):
    return features / ops.maximum(ops.norm(features, axis=-1, keepdims=True), 1e-9)


def _overlaps(quaternions, symmetry):
    """|cos(d / 2)| between all pairs of (B, 4) quaternions and all copies of the second: (B, B, k)."""
    copies = ops.einsum("na,kab->nkb", quaternions, kernel_of(symmetry).turns.astype("float32"))
    return ops.abs(ops.einsum("ma,nka->mnk", quaternions, copies))


def true_kernel(quaternions, symmetry: str = "C1"):
    """What the inner products of all pairs of features should be, from (B, 4) quaternions: (B, B)."""
    kernel = kernel_of(symmetry)
    total = ops.sum(_overlaps(quaternions, symmetry) ** (2 * kernel.power), axis=-1)
    return (total - kernel.mean) / (kernel.highest - kernel.mean)


def true_distance(quaternions, symmetry: str = "C1"):
    """Distance of all pairs of (B, 4) quaternions: (B, B) radians."""
    nearest = ops.max(_overlaps(quaternions, symmetry), axis=-1)
    return 2 * ops.arccos(ops.clip(nearest, 0, 1 - _CLIP))


def _off_diagonal_mean(squares):
    """Mean of a (B, B) matrix without its diagonal, which every unit feature meets for nothing."""
    batch = ops.cast(ops.shape(squares)[0], squares.dtype)
    return (ops.sum(squares) - ops.trace(squares)) / ops.maximum(batch * (batch - 1), 1)


def _kernel_loss(similarity, quaternions, symmetry):
    return ops.square(similarity - true_kernel(quaternions, symmetry))


def _cosine_loss(similarity, quaternions, symmetry):
    distance = 2 * ops.arccos(ops.clip(similarity, -1 + _CLIP, 1 - _CLIP))
    return ops.square(distance - true_distance(quaternions, symmetry))


def _euclidean_loss(similarity, quaternions, symmetry):
    distance = np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, _CLIP))
    return ops.square(distance - true_distance(quaternions, symmetry))


_LOSSES = {"kernel": _kernel_loss, "cosine": _cosine_loss, "euclidean": _euclidean_loss}


def loss_of(feature_distance: str, symmetry: str = "C1", *, head: PairHead | None = None) -> Callable:
    """The loss (y_true, y_pred) of a kind of feature distance: the mean squared error, over all pairs of different
    images, of the kernel, or of the distance in rad^2.  ``head`` is that of the encoder, for ``"mlp"``.

    Raises
    ------
    ValueError : the feature distance or the point group is unknown, or the head is missing.
    """
    _check(feature_distance, head)
    kernel_of(symmetry)

    def loss(y_true, y_pred):
        features = _unit(y_pred)
        if feature_distance == "mlp":
            distance = head.distances(features, features)
            return _off_diagonal_mean(ops.square(distance - true_distance(y_true, symmetry)))
        return _off_diagonal_mean(
            _LOSSES[feature_distance](ops.matmul(features, ops.transpose(features)), y_true, symmetry)
        )

    return loss


def metric_of(feature_distance: str, symmetry: str = "C1", *, head: PairHead | None = None) -> Callable:
    """``distance_error_rad`` (y_true, y_pred): mean absolute error of the decoded distances; as ``loss_of``."""
    _check(feature_distance, head)
    kernel_of(symmetry)

    def distance_error_rad(y_true, y_pred):
        features = _unit(y_pred)
        if feature_distance == "mlp":
            distance = head.distances(features, features)
        else:
            distance = _DECODERS[feature_distance](ops.matmul(features, ops.transpose(features)), symmetry)
        return _off_diagonal_mean(ops.abs(distance - true_distance(y_true, symmetry)))

    return distance_error_rad


def _kernel_distance(similarity, symmetry):
    kernel = kernel_of(symmetry)
    if len(kernel.turns) == 1:
        return ops.arccos(ops.clip((3 * similarity - 1) / 2, -1, 1))
    table = kernel.distances.astype("float32")
    far = ops.sqrt(ops.maximum(1 - similarity, 0))
    position = ops.minimum(far / kernel.largest, 1) * (len(table) - 1)
    below = ops.minimum(ops.floor(position), len(table) - 2)
    share = position - below
    index = ops.cast(below, "int32")
    return (1 - share) * ops.take(table, index) + share * ops.take(table, index + 1)


def _cosine_distance(similarity, symmetry):
    return ops.minimum(2 * ops.arccos(ops.clip(similarity, -1, 1)), np.pi)


def _euclidean_distance(similarity, symmetry):
    return ops.minimum(np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, 0)), np.pi)


_DECODERS = {"kernel": _kernel_distance, "cosine": _cosine_distance, "euclidean": _euclidean_distance}


def _check(feature_distance: str, head: PairHead | None, *, name: str = "feature_distance") -> None:
    if feature_distance not in KINDS:
        raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {feature_distance!r}")
    if feature_distance == "mlp" and head is None:
        raise ValueError(f"{name} 'mlp' must come with the pair head of its encoder, got None")


def unit_features(features: np.ndarray) -> np.ndarray:
    """(n, f) features scaled to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def distances_from_features(
    features: np.ndarray,
    others: np.ndarray,
    *,
    kind: str,
    symmetry: str = "C1",
    head: PairHead | None = None,
) -> np.ndarray:
    """Decode features into distances.

    Parameters
    ----------
    features, others : (n, f) and (m, f) float; normalised here.
    kind, symmetry : the feature distance that the encoder was trained with.
    head : that of the encoder, for ``"mlp"``.

    Returns
    -------
    (n, m) float32 radians in [0, pi].

    Raises
    ------
    ValueError : ``kind`` or the point group is not known, or the head is missing.
    """
    _check(kind, head, name="kind")
    if kind == "mlp":
        return head.predict_distances(unit_features(features), unit_features(others))
    similarity = (unit_features(features) @ unit_features(others).T).astype(np.float32)
    return ops.convert_to_numpy(_DECODERS[kind](similarity, symmetry))
