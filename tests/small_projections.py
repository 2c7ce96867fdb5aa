"""Helpers for testing projection: the CPU reference, noise, measures of agreement and tolerances."""

import numpy as np

from cryoem.projection.projectors import backproject, project

INTERPOLATION = 2e-3  # relative L2 error of a slice, as stated in docs/conventions.md
FLOAT32 = 1e-5  # same computation in a different order; relative to the largest value


def smooth_noise(shape, seed=0) -> np.ndarray:
    """Return white noise, which has all frequencies and reaches the faces of the box."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cpu(volume, rotations, **options):
    return project(volume, rotations, backend="fourier", **options)


def cpu_adjoint(images, rotations, volume_shape):
    return backproject(images, rotations, volume_shape=volume_shape, backend="fourier")


def relative(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def correlations(a, b) -> np.ndarray:
    a, b = (v.reshape(len(v), -1) - v.mean(axis=(1, 2))[:, None] for v in (a, b))
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
