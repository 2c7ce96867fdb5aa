"""Feature distances: the kernel of a point group, losses over all pairs of a batch, and decoding into distances.

An encoder maps B images to features (B, n_features). The loss compares the features of all pairs of different images
with the distances between the B orientations, so each image passes through the network only once. ``y_true`` contains
the orientations as quaternions (B, 4) in xyzw order.

Kinds of feature distance
-------------------------
``"kernel"`` (default)
    The inner product of unit features represents ``(1 + 2 cos d) / 3``. This is the inner product of two rotation
    matrices divided by 3, so features can match it exactly. It equals ``cos^2(d / 2)`` minus its mean over all
    rotations, scaled to 1 at d = 0.
``"cosine"``
    The published distance: 2 arccos of the cosine similarity (arXiv 2104.06237, eq. 5). No embedding matches it
    exactly.
``"euclidean"``
    The Euclidean distance between unit features, scaled to [0, pi].
``"mlp"``
    A small network that compares pairs of features and is trained with the encoder (its ``PairHead``).

Symmetry
--------
For a particle with point group G, distances are to the nearest symmetric copy. The kernel is the sum

    S(R_i, R_j) = sum over g in G of cos^{2p}(d(R_i, R_j g) / 2),

minus its mean and scaled to 1 where the symmetric copies coincide. Sums and even powers of cos(d / 2) are also inner
products, so features can match this kernel too. The nearest copy dominates the sum. The power p is the smallest for
which the features distinguish all orientations: they are harmonics of degree p at most, and an n-fold axis requires
degree n.

``S`` is a function of the distance to the nearest copy only near d = 0. Elsewhere, distances with the same ``S`` vary,
and the decoded distance is their mean over all pairs of orientations. Their standard deviation is at most 0.03 (I) to
0.16 rad (D3).

Sums and powers of positive definite functions are positive definite (Schur). Their use here is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of, point_group
from cryoem.training.backend import layers, ops

KINDS = ("kernel", "cosine", "euclidean", "mlp")
_CLIP = 1e-6
BINS = 128
SAMPLES = 400_000
HIGHEST_BY_GROUP = {"T": 3, "O": 4, "I": 6}


@dataclass(frozen=True)
class SymmetricKernel:
    """Kernel of a point group.

    ``distances`` is the mean distance in radians, tabulated at equally spaced values of ``sqrt(1 - kernel)`` from 0 to
    ``largest``.
    """

    power: int
    turns: np.ndarray  # (k, 4, 4): q @ turns[g] is the quaternion of R g
    mean: float  # of S
    highest: float  # value of S
    largest: float
    distances: np.ndarray  # (bins,)


def highest_harmonic(symmetry: str) -> int:
    """Return the power p of a point group's kernel, which is also the highest degree of the features."""
    order = len(point_group(symmetry))
    if order == 1:
        return 1
    name = str(symmetry).upper()
    return HIGHEST_BY_GROUP.get(name) or max(2, int(re.sub(r"\D", "", name)))


@lru_cache(maxsize=16)
def symmetric_kernel(symmetry: str) -> SymmetricKernel:
    """Return the kernel of a point group, with distances averaged over a fixed set of random rotations."""
    group, power = point_group(symmetry), highest_harmonic(symmetry)
    # mean of S: for each rotation of the group, E[x^{2p}] of a coordinate x of a random unit quaternion
    mean = len(group) * comb(2 * power, power) / ((power + 1) * 4**power)
    highest = float(np.sum(np.cos(group.magnitude() / 2) ** (2 * power)))
    # sample relative orientations: equally spaced angles about random axes, weighted by the density of rotations
    rng = np.random.default_rng(0)
    angles = np.pi * (np.arange(SAMPLES) + 0.5) / SAMPLES
    axes = rng.standard_normal((SAMPLES, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    weights = np.sin(angles / 2) ** 2
    # distance to the nearest copy, and kernel, of each
    overlaps = np.abs(copies_of(Rotation.from_rotvec(angles[:, None] * axes), group)[..., 3])
    reduced = 2 * np.arccos(np.minimum(overlaps.max(axis=1), 1))
    values = (np.sum(overlaps ** (2 * power), axis=1) - mean) / (highest - mean)
    # tabulate the mean distance in bins of sqrt(1 - kernel), interpolating empty bins
    far = np.sqrt(np.maximum(1 - values, 0))
    largest = float(far.max())
    edges = np.linspace(0, largest, BINS)
    nearest = np.rint(far / largest * (BINS - 1)).astype(int)
    count = np.maximum(np.bincount(nearest, weights, BINS), 1e-12)
    average = np.bincount(nearest, weights * reduced, BINS) / count
    average[0] = 0
    average = np.interp(edges, edges[count > 1e-12], average[count > 1e-12])
    # the rows of each matrix are the basis quaternions times g
    turns = np.stack([(Rotation.from_quat(np.eye(4)) * g).as_quat() for g in group])
    return SymmetricKernel(power, turns, mean, highest, largest, average)


def pair_loss(
    feature_distance: str,
    symmetry: str = "C1",
    *,
    head: layers.Layer | None = None,
    absolute: bool = False,
) -> Callable:
    """Return the loss (y_true, y_pred): the mean squared or ``absolute`` error over all pairs of different images.

    For ``"kernel"`` this is the error of the kernel; for the other kinds, the error of the distance in radians.
    ``head`` is the pair head of the encoder, required for ``"mlp"``.
    """
    size_of = ops.abs if absolute else ops.square
    _check(feature_distance, head)
    symmetric_kernel(symmetry)  # raise early if the point group is unknown

    def loss(y_true, y_pred):
        features = unit(y_pred)
        similarity = ops.matmul(features, ops.transpose(features))
        if feature_distance == "kernel":
            return _off_diagonal_mean(size_of(similarity - true_kernel(y_true, symmetry)))
        if feature_distance == "mlp":
            distance = head.distances(features, features)
        elif feature_distance == "cosine":
            distance = cosine_distance(similarity)
        else:  # clipped, so that gradients are finite
            distance = np.pi / 2 * ops.sqrt(ops.maximum(2 - 2 * similarity, _CLIP))
        return _off_diagonal_mean(size_of(distance - true_distance(y_true, symmetry)))

    return loss


def pair_error(feature_distance: str, symmetry: str = "C1", *, head: layers.Layer | None = None) -> Callable:
    """Return the metric ``distance_error_rad`` (y_true, y_pred): the mean absolute error of decoded distances."""
    _check(feature_distance, head)
    symmetric_kernel(symmetry)

    def distance_error_rad(y_true, y_pred):
        features = unit(y_pred)
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
    head: layers.Layer | None = None,
) -> np.ndarray:
    """Decode features into distances.

    Parameters
    ----------
    features, others : (n, f) and (m, f) arrays
        Features, which do not need to be normalised.
    kind, symmetry : str
        Feature distance and point group with which the encoder was trained.
    head : PairHead, optional
        Pair head of the encoder, required for ``"mlp"``.

    Returns
    -------
    (n, m) array
        Distances in radians, float32 in [0, pi].

    Raises
    ------
    ValueError
        If ``kind`` or the point group is unknown, or if ``"mlp"`` is used without a head.
    """
    _check(kind, head, name="kind")
    if kind == "mlp":
        return head.predict_distances(unit_features(features), unit_features(others))
    similarity = (unit_features(features) @ unit_features(others).T).astype(np.float32)
    return ops.convert_to_numpy(_decode(kind, similarity, symmetry))


def unit_features(features: np.ndarray) -> np.ndarray:
    """Scale (n, f) features to unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def true_kernel(quaternions, symmetry: str = "C1"):
    """Compute the target inner products of all pairs of features from (B, 4) quaternions: (B, B)."""
    kernel = symmetric_kernel(symmetry)
    total = ops.sum(_overlaps(quaternions, symmetry) ** (2 * kernel.power), axis=-1)
    return (total - kernel.mean) / (kernel.highest - kernel.mean)


def true_distance(quaternions, symmetry: str = "C1"):
    """Compute the distances between all pairs of (B, 4) quaternions: (B, B), in radians."""
    nearest = ops.max(_overlaps(quaternions, symmetry), axis=-1)
    return 2 * ops.arccos(ops.clip(nearest, 0, 1 - _CLIP))


def _overlaps(quaternions, symmetry):
    """Compute |cos(d / 2)| between all pairs of (B, 4) quaternions, for all copies of the second: (B, B, k)."""
    copies = ops.einsum("na,kab->nkb", quaternions, symmetric_kernel(symmetry).turns.astype("float32"))
    return ops.abs(ops.einsum("ma,nka->mnk", quaternions, copies))


def unit(features):
    """Scale features to length 1 along the last axis; zeros stay zero, with finite gradients."""
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    return features / ops.sqrt(ops.maximum(squares, 1e-18))


def cosine_distance(similarity):
    """Compute the published distance in radians, 2 arccos of inner products clipped to keep gradients finite."""
    return 2 * ops.arccos(ops.clip(similarity, -1 + _CLIP, 1 - _CLIP))


def _off_diagonal_mean(squares):
    """Return the mean of a (B, B) matrix without its diagonal, where unit features have no error."""
    batch = ops.cast(ops.shape(squares)[0], squares.dtype)
    return (ops.sum(squares) - ops.trace(squares)) / ops.maximum(batch * (batch - 1), 1)


def _decode(kind: str, similarity, symmetry: str):
    """Convert inner products of unit features to distances."""
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


def _check(feature_distance: str, head: layers.Layer | None, *, name: str = "feature_distance") -> None:
    if feature_distance not in KINDS:
        raise ValueError(f"{name} must be one of {', '.join(KINDS)}, got {feature_distance!r}")
    if feature_distance == "mlp" and head is None:
        raise ValueError(f"{name} 'mlp' requires the pair head of the encoder, got None")
