"""Helpers for the figure tests: a density to draw, and access to traces and annotations by name."""

import numpy as np


def ball(shape, centre_zyx, radius):
    """Return a soft ball: 1 inside, 0 outside, and exactly 0.5 at the radius (voxels)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid - np.asarray(centre_zyx), axis=-1)
    return np.clip(0.5 + (radius - distance) / 2, 0, 1).astype(np.float32)


def trace(figure, name):
    (found,) = [t for t in figure.data if t.name == name]
    return found


def annotations(figure):
    return [a.text for a in figure.layout.annotations]
