"""The kernel: target of the inner product of two unit features, and the distance decoded from it.

For a particle without symmetry the kernel is ``(1 + 2 cos d) / 3``: the inner product of two rotation matrices over 3,
which features can match exactly. It equals ``cos^2(d / 2)`` minus its mean over all rotations, scaled to 1 at d = 0.
For a particle with the point group G the kernel is the sum

    S(R_i, R_j) = sum over g in G of cos^{2p}(d(R_i, R_j g) / 2),

minus its mean and scaled to 1 where the symmetric copies coincide. Sums and even powers of cos(d / 2) are also
inner products, so that features can match this kernel as well; the nearest copy dominates the sum. The power p is the
smallest for which the features separate all orientations: they are harmonics of degree p at most, and an n-fold axis
needs degree n.

``S`` is not exactly a function of the reduced distance. It is near d = 0; elsewhere it varies within
``SymmetricKernel.spread``. The decoded distance is the mean over all pairs of orientations.

Sums and powers of positive definite functions are positive definite (Schur); their use here is our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of, point_group

BINS = 128
SAMPLES = 400_000
HIGHEST_BY_GROUP = {"T": 3, "O": 4, "I": 6}


@dataclass(frozen=True)
class SymmetricKernel:
    """The kernel of one point group.

    ``distances`` and ``spread`` are the mean and standard deviation of the distance, radians, at equally spaced values
    of ``sqrt(1 - kernel)`` from 0 to ``largest``.
    """

    power: int
    turns: np.ndarray  # (k, 4, 4): q @ turns[g] is the quaternion of R g
    mean: float  # of S
    highest: float  # value of S
    largest: float
    distances: np.ndarray  # (bins,)
    spread: np.ndarray  # (bins,)


def highest_harmonic(symmetry: str) -> int:
    """Return the power p of a point group's kernel, which is also the highest degree of the features."""
    order = len(point_group(symmetry))
    if order == 1:
        return 1
    name = str(symmetry).upper()
    return HIGHEST_BY_GROUP.get(name) or max(2, int(re.sub(r"\D", "", name)))


@lru_cache(maxsize=16)
def symmetric_kernel(symmetry: str) -> SymmetricKernel:
    """Return the kernel of a point group. Distances are averaged over a fixed set of random rotations."""
    group, power = point_group(symmetry), highest_harmonic(symmetry)
    # mean of S: E[x^{2p}] of a coordinate x on the unit sphere of quaternions, for each rotation of the group
    mean = len(group) * comb(2 * power, power) / ((power + 1) * 4**power)
    highest = float(np.sum(np.cos(group.magnitude() / 2) ** (2 * power)))
    # random relative orientations: equally spaced angles about random axes, weighted as rotations are distributed
    rng = np.random.default_rng(0)
    angles = np.pi * (np.arange(SAMPLES) + 0.5) / SAMPLES
    axes = rng.standard_normal((SAMPLES, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    weights = np.sin(angles / 2) ** 2
    # reduced distance and kernel of each
    overlaps = np.abs(copies_of(Rotation.from_rotvec(angles[:, None] * axes), group)[..., 3])
    reduced = 2 * np.arccos(np.minimum(overlaps.max(axis=1), 1))
    values = (np.sum(overlaps ** (2 * power), axis=1) - mean) / (highest - mean)
    # mean and spread of the distance in bins of sqrt(1 - kernel); empty bins are interpolated
    far = np.sqrt(np.maximum(1 - values, 0))
    largest = float(far.max())
    edges = np.linspace(0, largest, BINS)
    nearest = np.rint(far / largest * (BINS - 1)).astype(int)
    count = np.maximum(np.bincount(nearest, weights, BINS), 1e-12)
    average = np.bincount(nearest, weights * reduced, BINS) / count
    squares = np.bincount(nearest, weights * reduced**2, BINS) / count
    average[0] = 0
    average = np.interp(edges, edges[count > 1e-12], average[count > 1e-12])
    spread = np.sqrt(np.maximum(squares - average**2, 0))
    # rows of each turn: the basis quaternions times g
    turns = np.stack([(Rotation.from_quat(np.eye(4)) * g).as_quat() for g in group])
    return SymmetricKernel(power, turns, mean, highest, largest, average, spread)
