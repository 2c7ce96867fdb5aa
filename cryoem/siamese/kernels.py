"""What the inner product of two unit features stands for, and how a distance is read off it.

Of a particle without symmetry it is ``(1 + 2 cos d) / 3``, the inner product of two rotation matrices over 3: a
function of the distance d that features can meet exactly.  It is ``cos^2(d / 2)`` less its mean over all
rotations, scaled to 1 at d = 0.  Of a particle with the point group G it is, likewise, the sum

    S(R_i, R_j) = sum over g in G of cos^{2p}(d(R_i, R_j g) / 2),

less its mean and scaled to 1 where the copies coincide.  Sums and even powers of cos(d / 2) are inner products, too, so
that features can meet this one as well; and the nearest copy dominates.  The power p is the least with which
features tell all orientations apart: they are harmonics of degree p at most, and an n-fold axis needs degree n.

``S`` is no function of the reduced distance alone, but nearly so: near 0 exactly, and else within the spread that
``SymmetricKernel.spread`` gives.  The distance that is read off it is the mean over all pairs of orientations.

Source: sums and powers of positive definite functions are positive definite (Schur); this use of them is ours.
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
HIGHEST_OF = {"T": 3, "O": 4, "I": 6}


@dataclass(frozen=True)
class SymmetricKernel:
    """The kernel of one point group.

    ``symmetry``; ``power``: p; ``turns`` (k, 4, 4): ``q @ turns[g]`` is the quaternion of ``R g``; ``mean`` and
    ``highest`` of S; ``largest``: of ``sqrt(1 - kernel)``; ``distances`` (bins,): the mean distance, radians, at
    equally spaced values of ``sqrt(1 - kernel)`` from 0 to ``largest``; ``spread`` (bins,): standard deviation.
    """

    symmetry: str
    power: int
    turns: np.ndarray
    mean: float
    highest: float
    largest: float
    distances: np.ndarray
    spread: np.ndarray


def highest_harmonic(symmetry: str) -> int:
    """The power p of a point group's kernel, which is also the highest degree of the features.

    Raises
    ------
    ValueError : the group is unknown.
    """
    order = len(point_group(symmetry))
    if order == 1:
        return 1
    name = str(symmetry).upper()
    return HIGHEST_OF.get(name) or max(2, int(re.sub(r"\D", "", name)))


@lru_cache(maxsize=16)
def kernel_of(symmetry: str) -> SymmetricKernel:
    """The kernel of a point group; errors as ``highest_harmonic``.

    Distances are averaged over random rotations, the same ones every time.
    """
    group, power = point_group(symmetry), highest_harmonic(symmetry)
    # E[x^{2p}] of a coordinate x on the unit sphere of quaternions
    mean = len(group) * comb(2 * power, power) / ((power + 1) * 4**power)
    highest = float(np.sum(np.cos(group.magnitude() / 2) ** (2 * power)))
    rng = np.random.default_rng(0)
    angles = np.pi * (np.arange(SAMPLES) + 0.5) / SAMPLES  # every distance alike, weighted as rotations are
    axes = rng.standard_normal((SAMPLES, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    overlaps = np.abs(copies_of(Rotation.from_rotvec(angles[:, None] * axes), group)[..., 3])
    reduced = 2 * np.arccos(np.minimum(overlaps.max(axis=1), 1))
    values = (np.sum(overlaps ** (2 * power), axis=1) - mean) / (highest - mean)
    far = np.sqrt(np.maximum(1 - values, 0))
    largest = float(far.max())
    edges = np.linspace(0, largest, BINS)
    nearest = np.rint(far / largest * (BINS - 1)).astype(int)
    weights = np.sin(angles / 2) ** 2
    count = np.maximum(np.bincount(nearest, weights, BINS), 1e-12)
    average = np.bincount(nearest, weights * reduced, BINS) / count
    squares = np.bincount(nearest, weights * reduced**2, BINS) / count
    average[0] = 0
    average = np.interp(edges, edges[count > 1e-12], average[count > 1e-12])
    spread = np.sqrt(np.maximum(squares - average**2, 0))
    turns = np.stack(
        [(Rotation.from_quat(np.eye(4)) * g).as_quat() for g in group]
    )  # rows: the basis, turned
    return SymmetricKernel(str(symmetry).upper(), power, turns, mean, highest, largest, average, spread)
