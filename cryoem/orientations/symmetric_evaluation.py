"""Errors of recovered orientations of a symmetric particle, relative to the nearest copy ``R g`` of the truth.

Symmetry leaves less undetermined.  The axes fix the particle's frame up to the rotations N that map the point group
onto itself (its normaliser): the 24 of the octahedron for D2; any rotation about the axis, and the half turns about
axes perpendicular to it, for C_n with n >= 2.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of, normaliser, point_group

SEEDS = 12
SAMPLE = 200
FARTHEST_RAD = 0.6  # errors beyond this count as this while maps are compared
ROUNDS = 30


def best_map(true: Rotation, recovered: Rotation, symmetry: str, *, turned: bool) -> Rotation:
    """Find the n orientations ``A recovered N g`` of least mean error; A is free only if ``turned``.

    Raises
    ------
    ValueError
        If the group is unknown or its normaliser is not finite, see ``rotations.normaliser``.
    """
    group = point_group(symmetry)
    frames, about_axis = normaliser(symmetry)
    rng = np.random.default_rng(0)
    sample = rng.permutation(len(true))[:SAMPLE]
    best = (np.inf, None)
    for frame in frames:
        # try every frame with the turns that match one image exactly
        moved = recovered * frame
        turns = Rotation.identity(1)
        if turned:
            seeds = sample[:SEEDS]
            turns = Rotation.concatenate(
                [true[int(i)] * g * moved[int(i)].inv() for i in seeds for g in group]
            )
        for turn in turns:
            errors = (true[sample].inv() * nearest(true[sample], turn * moved[sample], group)).magnitude()
            score = np.minimum(errors, FARTHEST_RAD).mean()
            if score < best[0]:
                best = (score, turn * moved)
    return _refined(true, best[1], group, turned=turned, about_axis=about_axis)


def nearest(true: Rotation, recovered: Rotation, group: Rotation) -> Rotation:
    """Return the copy of each recovered orientation that is nearest to the true one: n orientations."""
    copies = copies_of(recovered, group)  # (n, k, 4)
    overlaps = np.abs(np.einsum("na,nka->nk", true.as_quat(), copies))
    return Rotation.from_quat(copies[np.arange(len(copies)), overlaps.argmax(axis=1)])


def _refined(true, moved, group, *, turned: bool, about_axis: bool) -> Rotation:
    """Fit the continuous freedom to all images; outliers count less."""
    for _ in range(ROUNDS):
        moved = nearest(true, moved, group)
        if turned:
            wanted = true * moved.inv()
            moved = wanted.mean(weights=_weights(true, moved)) * moved
        if about_axis:
            wanted = (moved.inv() * true).as_rotvec()[:, 2]
            angle = np.average(wanted, weights=_weights(true, moved))
            moved = moved * Rotation.from_rotvec([0, 0, angle])
    return nearest(true, moved, group)


def _weights(true, moved):
    return 1 / np.maximum((true.inv() * moved).magnitude(), 1e-6)
