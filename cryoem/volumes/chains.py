"""Pseudo-atoms (n, 3), in angstrom, of the pieces that proteins and nucleic acids are made of.

Geometry from the textbooks: an alpha helix rises 1.5 angstrom and turns 100 degrees a residue, a strand rises
3.3 angstrom a residue, B-form DNA rises 3.4 angstrom and turns 34.3 degrees a base pair; both helices are
right-handed.
"""

from __future__ import annotations

import numpy as np


def _frame(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-handed orthonormal (u, v, axis)."""
    axis = axis / np.linalg.norm(axis)
    helper = np.eye(3)[np.argmin(np.abs(axis))]
    u = np.cross(helper, axis)
    u /= np.linalg.norm(u)
    return u, np.cross(axis, u), axis


def helix(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Right-handed alpha helix: C-alpha, peptide and side-chain pseudo-atoms (n, 3)."""
    u, v, axis = _frame(end - start)
    residue = np.arange(max(3, round(np.linalg.norm(end - start) / 1.5)))
    angle = np.deg2rad(100) * residue + rng.uniform(0, 2 * np.pi)

    def spiral(radius, angle, rise):
        return (
            start
            + np.outer(radius * np.cos(angle), u)
            + np.outer(radius * np.sin(angle), v)
            + np.outer(rise, axis)
        )

    side_chains = [
        spiral(radius, angle, 1.5 * residue) for radius in (3.4, rng.uniform(4.0, 6.0, len(residue)))
    ]
    backbone = [spiral(2.3, angle, 1.5 * residue), spiral(1.7, angle + np.deg2rad(50), 1.5 * residue + 0.75)]
    return np.concatenate(backbone + side_chains)


def strand(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Pleated beta strand in a sheet normal to the domain's z-axis: pseudo-atoms (n, 3)."""
    residue = np.arange(max(2, round(np.linalg.norm(end - start) / 3.3)))
    axis = (end - start) / np.linalg.norm(end - start)
    c_alpha = start + 3.3 * residue[:, None] * axis
    side = np.where(residue % 2, 1.0, -1.0)[:, None] * np.array([0, 0, 1.0])
    side_chains = [c_alpha + radius * side for radius in (2.4, 4.0)]
    return np.concatenate([c_alpha + 0.9 * side, c_alpha + 1.65 * axis, *side_chains])


def loop(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pseudo-atoms (n, 3) on a curve from one end of a rod to the next, bulging at random."""
    length = np.linalg.norm(end - start)
    t = np.linspace(0, 1, int(1.2 * length / 3.5) + 1)[1:, None]
    bulge = rng.normal(scale=2.0 + 0.1 * length, size=3)
    c_alpha = (1 - t) * start + t * end + 4 * t * (1 - t) * bulge
    return np.concatenate([c_alpha, c_alpha + rng.normal(scale=1.5, size=c_alpha.shape)])


def double_helix(axis_points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pseudo-atoms (n, 3) of right-handed B-form DNA (3.4 angstrom rise, 34.3 degrees a step) along a curve (m, 3)."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(axis_points, axis=0), axis=1))])
    rise = np.arange(0, arc[-1], 3.4)
    centre = np.stack([np.interp(rise, arc, axis_points[:, k]) for k in range(3)], axis=1)
    tangent = np.stack(
        [np.interp(rise, arc, column) for column in np.gradient(axis_points, arc, axis=0).T], axis=1
    )
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    u = np.cross(tangent, np.cross(axis_points[-1] - axis_points[0], rng.normal(size=3)))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(tangent, u)
    angle = np.deg2rad(34.3) * np.arange(len(rise))[:, None]
    major = np.cos(angle) * u + np.sin(angle) * v  # towards the major groove
    across = np.cross(tangent, major)
    half_minor_groove = np.deg2rad(70)
    backbone = [
        centre + radius * (sign * np.sin(half_minor_groove) * across - np.cos(half_minor_groove) * major)
        for radius in (9.5, 8.5, 7.0, 6.0)
        for sign in (-1, 1)
    ]
    bases = [
        centre + a * across + m * major for a in (-4.5, -2.7, -0.9, 0.9, 2.7, 4.5) for m in (-1.5, 1.0, 3.5)
    ]
    return np.concatenate(backbone + bases)
