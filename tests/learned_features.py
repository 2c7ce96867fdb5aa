"""Features that are exact by construction, and a smooth particle, for testing learned distances."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def quaternions32(rotations: Rotation) -> np.ndarray:
    return rotations.as_quat().astype(np.float32)


def matrix_features(rotations: Rotation) -> np.ndarray:
    """Return vec(R) / sqrt 3, (n, 9), whose inner products are the faithful kernel."""
    return (rotations.as_matrix().reshape(-1, 9) / np.sqrt(3)).astype(np.float32)


def turned(psi: float, rotations: Rotation) -> Rotation:
    """Return the orientations whose images are rotated in plane by psi."""
    return Rotation.from_rotvec([0, 0, psi]) * rotations


def smooth_particle(size: int, width_px: float = 3.0) -> np.ndarray:
    """Return blobs so wide that sampling has almost no effect: (size, size, size)."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*3 * [np.arange(size) - size // 2], indexing="ij"), axis=-1)
    centres = rng.uniform(-0.16, 0.16, (10, 3)) * size
    return sum(np.exp(-((grid - c) ** 2).sum(axis=-1) / (2 * width_px**2)) for c in centres).astype(
        np.float32
    )
