"""The symmetry axes of a map whose orientation is arbitrary.

A map with point group G in the frame A has equal slices at the orientations ``R`` and ``R A^T g A``. Rotation axes of
the highest order are found first, by comparing slices of the map with those of the rotated map for axes all over the
half sphere. The rotation about the best axes is then searched in steps, and the best frame is improved.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from cryoem.projection import fourier

VIEWS = 16  # slices that are compared
RINGS, ANGLES = (2, 8), 24  # first and last ring, and points on half a ring
AXES, KEPT_AXES, APART = 500, 6, 0.96  # directions of the half sphere; the best, with cosines below APART
SPINS = 72
ELEMENTS = 5  # of the group, that are compared in the search
FINE_RAD = 0.05


def symmetry_frame(
    volume: np.ndarray, group: Rotation, *, rng: np.random.Generator
) -> tuple[Rotation, float]:
    """Find the rotation of a map onto the axes of a point group.

    Parameters
    ----------
    volume : (k, k, k) array
        Map, about its centre.
    group : Rotation
        Elements of the group, identity first, in the frame of ``cryoem.rotations.point_group``.
    rng : Generator

    Returns
    -------
    frame : Rotation
        ``x_group = frame @ x_map``. It is determined up to rotations that map the group onto itself.
    correlation : float
        Mean correlation of the map with its symmetric copies, on rings 2 to 8 with equal weights.
    """
    compared = _Comparison(volume, rng)
    others = group[1:]
    # elements of the highest order have the smallest angle
    first = others[0]
    axis = first.as_rotvec() / first.magnitude()
    i = np.arange(AXES) + 0.5
    z, azimuth = 1 - i / AXES, np.pi * (1 + np.sqrt(5)) * i
    axes = np.stack([*(np.sqrt(1 - z**2) * np.stack([np.cos(azimuth), np.sin(azimuth)])), z], axis=1)
    scores = compared.correlations(Rotation.from_rotvec(axes * first.magnitude()))
    kept: list[np.ndarray] = []
    for best in np.argsort(-scores):
        if len(kept) < KEPT_AXES and all(abs(axes[best] @ other) < APART for other in kept):
            kept.append(axes[best])
    spins = Rotation.from_rotvec(np.linspace(0, 2 * np.pi, SPINS, endpoint=False)[:, None] * axis)
    onto = [Rotation.align_vectors([axis], [found])[0] for found in kept]
    frames = Rotation.concatenate([spins * rotation for rotation in onto])
    some = others[rng.permutation(len(others))[:ELEMENTS]]

    def disagreement(step: np.ndarray, frame: Rotation) -> float:
        moved = Rotation.from_rotvec(step) * frame
        return -float(compared.correlations(moved.inv() * some * moved).mean())

    start = frames[int(np.argmin([disagreement(np.zeros(3), frame) for frame in frames]))]
    simplex = FINE_RAD * np.concatenate([np.zeros((1, 3)), np.eye(3)])
    fine = scipy.optimize.minimize(
        disagreement, np.zeros(3), args=(start,), method="Nelder-Mead", options={"initial_simplex": simplex}
    )
    frame = Rotation.from_rotvec(fine.x) * start
    return frame, float(compared.correlations(frame.inv() * others * frame).mean())


class _Comparison:
    """Slices of a map in random views, to be compared with slices of the rotated map."""

    def __init__(self, volume: np.ndarray, rng: np.random.Generator):
        self.spectrum = fourier.transform(volume)
        angle = np.pi * np.arange(ANGLES) / ANGLES
        radius = np.arange(RINGS[0], min(RINGS[1], len(volume) // 2 - 1) + 1)[:, None]
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        self.shape, self.frequencies = points.shape[:2], points.reshape(-1, 2) / len(volume)
        self.views = Rotation.random(VIEWS, rng=rng)
        self.reference = self._slices(self.views)

    def correlations(self, rotations: Rotation) -> np.ndarray:
        """Return the correlation with the map rotated by each of the k rotations: (k,)."""
        copies = Rotation.concatenate([self.views * rotation for rotation in rotations])
        slices = self._slices(copies).reshape(len(rotations), *self.reference.shape)
        return np.mean((slices.conj() * self.reference).real.sum(axis=(1, 3)), axis=1)

    def _slices(self, rotations: Rotation) -> np.ndarray:
        """Return slices (k, rings, angles), with the mean power of each ring in each set of views scaled to one."""
        values = fourier.read_slices(self.spectrum, rotations.as_matrix(), self.frequencies)
        values = values.reshape(-1, VIEWS, *self.shape)
        power = np.sum(np.abs(values) ** 2, axis=(1, 3), keepdims=True)
        return (values / np.sqrt(np.maximum(power, np.finfo(np.float32).tiny))).reshape(-1, *self.shape)
