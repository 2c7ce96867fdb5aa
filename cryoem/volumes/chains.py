"""Pseudo-atoms of protein secondary structure and DNA, as (n, 3) positions in angstrom.

The geometry is that of textbooks: an alpha helix rises by 1.5 angstrom and turns by 100 degrees per residue, a beta
strand rises by 3.3 angstrom per residue, and B-form DNA rises by 3.4 angstrom and turns by 34.3 degrees per base pair.
Both helices are right-handed.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

UP = np.array([0.0, 0.0, 1.0])  # normal to the layers of a domain
LAYER_SPACING_ANGSTROM = 10.0
ROD_SPACING_ANGSTROM = {"helix": 9.5, "strand": 4.8}
ROD_LENGTH_ANGSTROM = {"helix": (12.0, 34.0), "strand": (12.0, 26.0)}
SHORTEST_ROD_ANGSTROM = 8.0
TILT = {"helix": 0.15, "strand": 0.04}  # standard deviation of the slope


def _frame(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a right-handed orthonormal frame (u, v, axis)."""
    axis = axis / np.linalg.norm(axis)
    helper = np.eye(3)[np.argmin(np.abs(axis))]
    u = np.cross(helper, axis)
    u /= np.linalg.norm(u)
    return u, np.cross(axis, u), axis


def helix(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the C-alpha, peptide and side-chain pseudo-atoms (n, 3) of a right-handed alpha helix."""
    u, v, axis = _frame(end - start)
    residue = np.arange(max(3, round(np.linalg.norm(end - start) / 1.5)))
    angle = np.deg2rad(100) * residue + rng.uniform(0, 2 * np.pi)

    def spiral(radius, angle, rise):
        in_plane = np.outer(radius * np.cos(angle), u) + np.outer(radius * np.sin(angle), v)
        return start + in_plane + np.outer(rise, axis)

    side_chains = [
        spiral(radius, angle, 1.5 * residue) for radius in (3.4, rng.uniform(4.0, 6.0, len(residue)))
    ]
    backbone = [spiral(2.3, angle, 1.5 * residue), spiral(1.7, angle + np.deg2rad(50), 1.5 * residue + 0.75)]
    return np.concatenate(backbone + side_chains)


def strand(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the pseudo-atoms (n, 3) of a pleated beta strand, in a sheet normal to the z-axis of the domain."""
    residue = np.arange(max(2, round(np.linalg.norm(end - start) / 3.3)))
    axis = (end - start) / np.linalg.norm(end - start)
    c_alpha = start + 3.3 * residue[:, None] * axis
    side = np.where(residue % 2, 1.0, -1.0)[:, None] * np.array([0, 0, 1.0])
    side_chains = [c_alpha + radius * side for radius in (2.4, 4.0)]
    return np.concatenate([c_alpha + 0.9 * side, c_alpha + 1.65 * axis, *side_chains])


def loop(start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pseudo-atoms (n, 3) of a randomly curved loop from the end of one rod to the start of the next."""
    length = np.linalg.norm(end - start)
    t = np.linspace(0, 1, int(1.2 * length / 3.5) + 1)[1:, None]
    bulge = rng.normal(scale=2.0 + 0.1 * length, size=3)
    c_alpha = (1 - t) * start + t * end + 4 * t * (1 - t) * bulge
    return np.concatenate([c_alpha, c_alpha + rng.normal(scale=1.5, size=c_alpha.shape)])


def double_helix(axis_points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pseudo-atoms (n, 3) of right-handed B-form DNA along a curve (m, 3)."""
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


def fill_ellipsoid(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pseudo-atoms (n, 3) of stacked layers of helices or strands that fill an ellipsoid.

    The layers are normal to the third axis. Loops join the helices and strands into a chain.
    """
    n_layers = max(1, round(2 * radii[2] / LAYER_SPACING_ANGSTROM - 0.4))
    heights = (np.arange(n_layers) - (n_layers - 1) / 2) * LAYER_SPACING_ANGSTROM
    heading = rng.uniform(0, np.pi)
    first_is_helix = rng.random() < 0.7
    rods = []  # (kind, start, end), in chain order
    for layer, height in enumerate(heights):
        kind = "helix" if (layer % 2 == 0) == first_is_helix or rng.random() < 0.25 else "strand"
        rods += _rods_of_layer(kind, height, heading, radii, rng)
        heading += np.deg2rad(-40 + rng.normal(scale=25))
    atoms = [helix(start, end, rng) if kind == "helix" else strand(start, end) for kind, start, end in rods]
    atoms += [loop(before[2], after[1], rng) for before, after in pairwise(rods)]
    return _warped(np.concatenate(atoms), rng)


def _warped(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bend points (n, 3) smoothly and at random, so that no row remains straight or evenly spaced."""
    moved = points.copy()
    for wavelength, amplitude in ((90.0, 4.0), (50.0, 1.8), (35.0, 0.8)):  # angstrom
        direction, shift = rng.normal(size=(2, 3, 3))
        direction *= 2 * np.pi / wavelength / np.linalg.norm(direction, axis=1, keepdims=True)
        moved += (
            amplitude
            * np.sin(points @ direction.T + rng.uniform(0, 2 * np.pi, 3))
            @ (shift / np.linalg.norm(shift, axis=1, keepdims=True))
        )
    return moved


def _rods_of_layer(
    kind: str, height: float, heading: float, radii: np.ndarray, rng: np.random.Generator
) -> list:
    """Return the axes of the parallel helices or strands in one layer. Every second row is reversed."""
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    across = np.cross(UP, along)
    spacing = ROD_SPACING_ANGSTROM[kind]
    unevenness = 0.1 * spacing
    n_rods = int(radii[:2].max() / spacing)
    rods = []
    for i in range(-n_rods, n_rods + 1):
        base = (i * spacing + rng.normal(scale=unevenness)) * across
        base[2] = height + rng.normal(scale=unevenness)
        # The rod fills the chord of the ellipsoid: |(base + t along) / radii| = 1.
        a, b = np.sum((along / radii) ** 2), np.sum(along * base / radii**2)
        discriminant = b**2 - a * (np.sum((base / radii) ** 2) - 1)
        half = np.sqrt(max(discriminant, 0)) / a
        in_the_middle = i == 0 and abs(height) < LAYER_SPACING_ANGSTROM / 2
        if half < SHORTEST_ROD_ANGSTROM / 2 and not in_the_middle:
            continue
        half = max(half, SHORTEST_ROD_ANGSTROM / 2)
        pieces = []
        t = -half
        while half - t > SHORTEST_ROD_ANGSTROM / 2:
            t_end = min(half, t + rng.uniform(*ROD_LENGTH_ANGSTROM[kind]))
            tilt = rng.normal(scale=TILT[kind], size=2) @ np.stack([across, UP])
            middle = base + ((t + t_end) / 2 - b / a) * along
            arm = (t_end - t) / 2 * (along + tilt)
            pieces.append((middle - arm, middle + arm))
            t = t_end + rng.uniform(2.0, 7.0)
        if i % 2:
            pieces = [(end, start) for start, end in reversed(pieces)]
        rods += [(kind, start, end) for start, end in pieces]
    return rods
