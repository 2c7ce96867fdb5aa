"""A particle out of nothing: helices, strands, loops and a double helix, packed like a protein complex."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import positive_number
from cryoem.rotations import point_group
from cryoem.volumes.chains import double_helix, helix, loop, strand
from cryoem.volumes.maps import DensityMap
from cryoem.volumes.models import density_from_model

SMALLEST_SIZE = 16
DIAMETER_OVER_BOX = 0.65
LARGEST_RADIUS_OVER_BOX = 0.45
UP = np.array([0.0, 0.0, 1.0])  # the normal of a domain's layers
LAYER_SPACING_ANGSTROM = 10.0
ROD_SPACING_ANGSTROM = {"helix": 9.5, "strand": 4.8}
ROD_LENGTH_ANGSTROM = {"helix": (12.0, 34.0), "strand": (12.0, 26.0)}
SHORTEST_ROD_ANGSTROM = 8.0
TILT = {"helix": 0.15, "strand": 0.04}  # standard deviation, as a slope
N_PLACEMENTS = 8  # tried, for the most compact
LARGEST_OVERLAP = 0.15  # of the outline of the asymmetric unit with its copies


@dataclass(frozen=True)
class _Domain:
    """Ellipsoid that a domain fills."""

    centre: np.ndarray  # (3,)
    radii: np.ndarray  # (3,)
    orientation: Rotation

    def level(self, points: np.ndarray) -> np.ndarray:
        """(n,): 0 at the centre, 1 on the surface."""
        return np.linalg.norm(self.orientation.apply(points - self.centre, inverse=True) / self.radii, axis=1)


@dataclass(frozen=True)
class _Layout:
    """Domains of the asymmetric unit and the axis (n, 3) of its arm of double helix, which may be empty."""

    domains: list[_Domain]
    arm: np.ndarray

    def scaled(self, scale: float) -> _Layout:
        domains = [_Domain(d.centre * scale, d.radii * scale, d.orientation) for d in self.domains]
        return _Layout(domains, self.arm * scale)

    def moved(self, rotation: Rotation, offset: np.ndarray) -> _Layout:
        domains = [
            _Domain(rotation.apply(d.centre) + offset, d.radii, rotation * d.orientation)
            for d in self.domains
        ]
        return _Layout(domains, rotation.apply(self.arm) + offset if len(self.arm) else self.arm)


def phantom(
    *,
    symmetry: str = "C1",
    size: int = 64,
    voxel_size_angstrom: float = 4.0,
    resolution_angstrom: float | None = None,
    rng: np.random.Generator | int | None = 0,
) -> DensityMap:
    """A particle that looks like a protein complex.

    Without symmetry: five globular domains of differing sizes in a chiral arrangement and an arm of double
    helix, so that its orientations are well determined at 8-20 angstrom.  With symmetry: three domains, and
    their copies under ``point_group(symmetry)``, touching.  The chains have the geometry of proteins (helices
    of 1.5 angstrom rise, 100 degrees a residue and 2.3 angstrom radius, strands 4.8 angstrom apart), whatever
    the voxel size: a larger box holds larger domains.

    Parameters
    ----------
    symmetry : point group, with the axes of ``cryoem.rotations.point_group``.
    size : edge of the box in voxels, at least 16.
    voxel_size_angstrom : edge of the voxels.
    resolution_angstrom : as for ``density_from_model``, at most a quarter of the box; by default two voxels.
    rng : generator or seed.

    Returns
    -------
    DensityMap (size, size, size), not negative, maximum 1, centre of mass on voxel ``size // 2``.  The
    particle's diameter is about two thirds of the box and it lies within 0.45 ``size`` voxels of the centre;
    beyond, the density is zero.

    Raises
    ------
    ValueError : ``symmetry`` is not known, ``size`` is below 16, or a length is out of range.
    """
    group = point_group(symmetry)
    if size < SMALLEST_SIZE:
        raise ValueError(f"size must be at least {SMALLEST_SIZE} voxels, got {size}")
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if resolution_angstrom is None:
        resolution_angstrom = 2 * voxel_size_angstrom
    box_angstrom = size * voxel_size_angstrom
    if not resolution_angstrom <= box_angstrom / 4:
        raise ValueError(
            f"resolution_angstrom must be at most a quarter of the box of {box_angstrom:g} angstrom, "
            f"got {resolution_angstrom}"
        )
    rng = np.random.default_rng(rng)

    layout = _asymmetric_layout(rng) if len(group) == 1 else _symmetric_layout(group, rng)
    diameter = _diameter(_copies(_layout_outline(layout), group))
    layout = layout.scaled(DIAMETER_OVER_BOX * box_angstrom / diameter)
    positions = _copies(_fill_layout(layout, group, rng), group)
    positions -= positions.mean(axis=0)
    furthest = np.linalg.norm(positions, axis=1).max()
    positions *= min(1.0, (LARGEST_RADIUS_OVER_BOX * box_angstrom - resolution_angstrom) / furthest)

    density = density_from_model(
        _structure(positions),
        voxel_size_angstrom=voxel_size_angstrom,
        resolution_angstrom=resolution_angstrom,
        box_size=size,
    )
    return DensityMap(density.data / density.data.max(), voxel_size_angstrom)


def _asymmetric_layout(rng: np.random.Generator) -> _Layout:
    """Five domains along a right-handed screw, and an arm that leaves the second."""
    sizes = np.array([0.85, 1.0, 0.7, 0.6, 0.45]) * rng.uniform(0.92, 1.08, 5)
    steps = np.array([[0.3, 1.0, 0.0], [1.0, 0.1, 0.5], [0.1, -0.9, 0.8], [0.9, -0.5, -0.3]])
    domains = _chain_of_domains(sizes, steps, rng)
    t = np.linspace(0, 1, 40)[:, None]
    arm = domains[1].centre + 2.3 * t * np.array([-0.5, 0.8, -0.4]) + 0.5 * t**2 * np.array([-1.0, 0.2, 0.7])
    return _Layout(domains, arm).moved(Rotation.random(rng=rng), np.zeros(3))


def _symmetric_layout(group: Rotation, rng: np.random.Generator) -> _Layout:
    """Three domains, turned and placed so that they and their copies make a compact whole; no arm."""
    sizes = np.array([1.0, 0.75, 0.55]) * rng.uniform(0.92, 1.08, 3)
    domains = _chain_of_domains(sizes, np.array([[1.0, 0.2, 0.3], [0.2, 1.0, -0.6]]), rng)
    unit = _Layout(domains, np.empty((0, 3)))
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    to_copy = np.min([np.linalg.norm(g.apply(directions) - directions, axis=1) for g in group[1:]], axis=0)
    away = directions[np.argmax(to_copy)]  # as far from the axes as can be
    candidates = [
        _against_its_copies(unit, turn, away, group) for turn in Rotation.random(N_PLACEMENTS, rng=rng)
    ]
    return min(candidates, key=lambda layout: _diameter(_copies(_layout_outline(layout), group)))


def _against_its_copies(unit: _Layout, turn: Rotation, away: np.ndarray, group: Rotation) -> _Layout:
    """The unit turned, then moved in from afar until it meets its copies."""
    near, far = 0.0, 20.0
    while far - near > 0.02:
        middle = (near + far) / 2
        overlap = _overlap_with_copies(unit.moved(turn, middle * away), group)
        near, far = (middle, far) if overlap > LARGEST_OVERLAP else (near, middle)
    return unit.moved(turn, far * away)


def _overlap_with_copies(layout: _Layout, group: Rotation) -> float:
    """Fraction of the outline of the asymmetric unit that lies in a copy."""
    points = _layout_outline(layout)
    inside = np.zeros(len(points), bool)
    for g in group[1:]:
        for domain in layout.domains:
            inside |= domain.level(g.apply(points)) < 1
    return float(inside.mean())


def _chain_of_domains(sizes: np.ndarray, steps: np.ndarray, rng: np.random.Generator) -> list[_Domain]:
    """Ellipsoids of random shape about ``sizes``, each overlapping the one before in the (jittered) direction given."""
    steps = steps / np.linalg.norm(steps, axis=1, keepdims=True) + rng.normal(scale=0.08, size=steps.shape)
    distances = 0.8 * (sizes[1:] + sizes[:-1])
    centres = np.cumsum(np.concatenate([np.zeros((1, 3)), steps * distances[:, None]]), axis=0)
    return [
        _Domain(centre, size * rng.uniform(0.75, 1.25, 3), Rotation.random(rng=rng))
        for centre, size in zip(centres - centres.mean(axis=0), sizes, strict=True)
    ]


def _outline(domain: _Domain) -> np.ndarray:
    """Points (n, 3) on an ellipsoid: a spiral from pole to pole."""
    n = 200
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    sphere = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)
    return domain.centre + domain.orientation.apply(sphere * domain.radii)


def _layout_outline(layout: _Layout) -> np.ndarray:
    return np.concatenate([_outline(domain) for domain in layout.domains] + [layout.arm])


def _copies(points: np.ndarray, group: Rotation) -> np.ndarray:
    return np.concatenate([g.apply(points) for g in group])


def _diameter(points: np.ndarray) -> float:
    directions = _outline(_Domain(np.zeros(3), np.ones(3), Rotation.identity()))
    return float(np.ptp(points @ directions.T, axis=0).max())


def _fill_layout(layout: _Layout, group: Rotation, rng: np.random.Generator) -> np.ndarray:
    """Pseudo-atoms (n, 3) of the asymmetric unit; where domains or copies overlap, each keeps what is deeper in it."""
    atoms = []
    for index, domain in enumerate(layout.domains):
        points = _fill_domain(domain, rng)
        own_level = domain.level(points)
        for other_index, other in enumerate(layout.domains):
            for copy_index, g in enumerate(group):
                if (other_index, copy_index) != (index, 0):
                    keep = own_level <= other.level(g.apply(points))
                    points, own_level = points[keep], own_level[keep]
        atoms.append(points)
    if len(layout.arm):
        points = double_helix(layout.arm, rng)
        outside = np.min([domain.level(points) for domain in layout.domains], axis=0) > 1
        atoms.append(points[outside])
    return np.concatenate(atoms)


def _fill_domain(domain: _Domain, rng: np.random.Generator) -> np.ndarray:
    """Pseudo-atoms (n, 3) in angstrom: stacked layers of helices or strands joined by loops, within the ellipsoid."""
    radii = domain.radii
    n_layers = max(1, round(2 * radii[2] / LAYER_SPACING_ANGSTROM - 0.4))
    heights = (np.arange(n_layers) - (n_layers - 1) / 2) * LAYER_SPACING_ANGSTROM
    heading = rng.uniform(0, np.pi)
    first_is_helix = rng.random() < 0.7
    rods = []  # (kind, start, end) in the order of the chain
    for layer, height in enumerate(heights):
        kind = "helix" if (layer % 2 == 0) == first_is_helix or rng.random() < 0.25 else "strand"
        rods += _rods_of_layer(kind, height, heading, radii, rng)
        heading += np.deg2rad(-40 + rng.normal(scale=25))
    atoms = [helix(start, end, rng) if kind == "helix" else strand(start, end) for kind, start, end in rods]
    atoms += [loop(before[2], after[1], rng) for before, after in pairwise(rods)]
    return domain.centre + domain.orientation.apply(_warped(np.concatenate(atoms), rng))


def _warped(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3) after a smooth random bending, so that no row stays straight or evenly spaced."""
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
    """Axes of the helices or strands of one layer, side by side across the ellipsoid, every other one reversed."""
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    across = np.cross(UP, along)
    spacing = ROD_SPACING_ANGSTROM[kind]
    unevenness = 0.1 * spacing
    n_rods = int(radii[:2].max() / spacing)
    rods = []
    for i in range(-n_rods, n_rods + 1):
        base = (i * spacing + rng.normal(scale=unevenness)) * across
        base[2] = height + rng.normal(scale=unevenness)
        # the ellipsoid's chord along the rod: |(base + t along) / radii| = 1
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


def _structure(positions: np.ndarray):
    """A gemmi structure of carbon atoms at positions (n, 3) angstrom."""
    import gemmi

    structure = gemmi.Structure()
    structure.name = "phantom"
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    residue.name = "UNK"
    atom = gemmi.Atom()
    atom.name, atom.element = "C", gemmi.Element("C")
    for position in positions.tolist():
        atom.pos = gemmi.Position(*position)
        residue.add_atom(atom)
    chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure.add_model(model)
    return structure
