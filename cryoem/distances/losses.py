"""Losses over all pairs of a batch, and the decoding of features into distances.

An encoder maps B images to features (B, n_features). A loss compares all B^2 pairs of features with the distances of
the B orientations, so each image passes through the network once. ``y_true`` are quaternions (B, 4), xyzw. For a
symmetric particle, distances are to the nearest symmetric copy.

Kinds of feature distance
-------------------------
``"kernel"``
    The inner product of unit features is (1 + 2 cos d) / 3. It is a positive semi-definite function of two rotations
    (the inner product of vec(R) / sqrt 3), so features can match it exactly. With symmetry, see ``kernels``. The
    default.
``"cosine"``
    The published distance: 2 arccos of the cosine similarity (arXiv 2104.06237, eq. 5). No embedding matches it
    exactly.
``"euclidean"``
    The Euclidean distance of unit features, scaled to [0, pi].
``"mlp"``
    A small network on pairs of features, trained with the encoder: the ``PairHead`` at its end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

from cryoem.distances.kernels import symmetric_kernel
from cryoem.distances.pair_head import PairHead

KINDS = ("kernel", "cosine", "euclidean", "mlp")
_CLIP = 1e-6


def pair_loss(feature_distance: str, symmetry: str = "C1", *, head: PairHead | None = None) -> Callable:
    """Return the loss (y_true, y_pred): mean squared error over all pairs of different images.

    The error is that of the kernel for ``"kernel"``, otherwise of the distance, rad^2. ``head`` is the pair head of the
    encoder, for ``"mlp"``.
    """
    _check(feature_distance, head)
    symmetric_kernel(symmetry)  # raises if the point group is unknown

    def loss(y_true, y_pred):
        features = _unit(y_pred)
        similarity = ops.matmul(features, ops.transpose(features))
        if feature_distance == "kernel":
            return _off_diagonal_mean(ops.square(similarity - true_kernel(y_true, symmetry)))
        if feature_distance == "mlp":
            distance = head.distances(features, features)
        elif feature_distance == "cosine":  # clipped, as the next, so that gradients are finite
            distance = 2 * ops.arccos(ops.clip(similarity, -1 + _CLIP, 1 - _CLIP))
        else:
            distance = np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, _CLIP))
        return _off_diagonal_mean(ops.square(distance - true_distance(y_true, symmetry)))

    return loss


def pair_error(feature_distance: str, symmetry: str = "C1", *, head: PairHead | None = None) -> Callable:
    """Return the metric ``distance_error_rad`` (y_true, y_pred): mean absolute error of the decoded distances."""
    _check(feature_distance, head)
    symmetric_kernel(symmetry)

    def distance_error_rad(y_true, y_pred):
        features = _unit(y_pred)
        if feature_distance == "mlp":
            distance = head.distances(features, features)
        else:
            similarity = ops.matmul(features, ops.transpose(features))
            distance = _decode(feature_distance, similarity, symmetry)
        return _off_diagonal_mean(ops.abs(distance - true_distance(y_true, symmetry)))

    return distance_error_rad


def distances_from_features(
    features: np.ndarray,
    others: np.ndarray,
    *,
    kind: str,
    symmetry: str = "C1",
    head: PairHead | None = None,
) -> np.ndarray:
    """Decode features into distances: (n, m) float32, radians in [0, pi].

    Parameters
    ----------
    features, others : (n, f) and (m, f) arrays
        Features; they are normalised here.
    kind, symmetry : str
        Feature distance and point group that the encoder was trained with.
    head : PairHead, optional
        Pair head of the encoder, for ``"mlp"``.

    Raises
    ------
    ValueError
        If ``kind`` or the point group is unknown, or the head is missing.
    """
    _check(kind, head, name="kind")
    if kind == "mlp":
        return head.predict_distances(unit_features(features), unit_features(others))
    similarity = (unit_features(features) @ unit_features(others).T).astype(np.float32)
    return ops.convert_to_numpy(_decode(kind, similarity, symmetry))


def unit_features(features: np.ndarray) -> np.ndarray:
    """Scale (n, f) features to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def true_kernel(quaternions, symmetry: str = "C1"):
    """Target inner products of all pairs of features, from (B, 4) quaternions: (B, B)."""
    kernel = symmetric_kernel(symmetry)
    total = ops.sum(_overlaps(quaternions, symmetry) ** (2 * kernel.power), axis=-1)
    return (total - kernel.mean) / (kernel.highest - kernel.mean)


def true_distance(quaternions, symmetry: str = "C1"):
    """Distances of all pairs of (B, 4) quaternions: (B, B) radians."""
    nearest = ops.max(_overlaps(quaternions, symmetry), axis=-1)
    return 2 * ops.arccos(ops.clip(nearest, 0, 1 - _CLIP))


def _overlaps(quaternions, symmetry):
    """|cos(d / 2)| between all pairs of (B, 4) quaternions and all copies of the second: (B, B, k)."""
    copies = ops.einsum("na,kab->nkb", quaternions, symmetric_kernel(symmetry).turns.astype("float32"))
    return ops.abs(ops.einsum("ma,nka->mnk", quaternions, copies))


def _unit(features):
    return features / ops.maximum(ops.norm(features, axis=-1, keepdims=True), 1e-9)


def _off_diagonal_mean(squares):
    """Mean of a (B, B) matrix without its diagonal, where unit features are always exact."""
    batch = ops.cast(ops.shape(squares)[0], squares.dtype)
    return (ops.sum(squares) - ops.trace(squares)) / ops.maximum(batch * (batch - 1), 1)


def _decode(kind: str, similarity, symmetry: str):
    """Distances of inner products of unit features."""
    if kind == "cosine":
        return ops.minimum(2 * ops.arccos(ops.clip(similarity, -1, 1)), np.pi)
    if kind == "euclidean":
        return ops.minimum(np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, 0)), np.pi)
    kernel = symmetric_kernel(symmetry)
    if len(kernel.turns) == 1:
        return ops.arccos(ops.clip((3 * similarity - 1) / 2, -1, 1))
    # interpolate the table of distances linearly
    table = kernel.distances.astype("float32")
    far = ops.sqrt(ops.maximum(1 - similarity, 0))
    position = ops.minimum(far / kernel.largest, 1) * (len(table) - 1)
    below = ops.minimum(ops.floor(position), len(table) - 2)
    share = position - below
    index = ops.cast(below, "int32")
    return (1 - share) * ops.take(table, index) + share * ops.take(table, index + 1)


def _check(feature_distance: str, head: PairHead | None, *, name: str = "feature_distance") -> None:
    if feature_distance not in KINDS:
        raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {feature_distance!r}")
    if feature_distance == "mlp" and head is None:
        raise ValueError(f"{name} 'mlp' needs the pair head of the encoder, got None")
