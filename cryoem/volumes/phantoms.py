"""Phantoms: artificial particles made of helices, strands, loops and DNA, packed like a protein complex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import point_group
from cryoem.validation import positive_number
from cryoem.volumes.atoms import density_of_atoms
from cryoem.volumes.chains import double_helix, fill_ellipsoid
from cryoem.volumes.density import DensityMap

SMALLEST_SIZE = 16
DIAMETER_OVER_BOX = 0.65
LARGEST_RADIUS_OVER_BOX = 0.45
N_PLACEMENTS = 8  # number of trial placements of the asymmetric unit, the most compact of which is used
LARGEST_OVERLAP = 0.15  # fraction of the asymmetric unit's outline that is inside its copies


@dataclass(frozen=True)
class _Domain:
    """Ellipsoid that is filled by a domain."""

    centre: np.ndarray  # (3,)
    radii: np.ndarray  # (3,)
    orientation: Rotation

    def level(self, points: np.ndarray) -> np.ndarray:
        """Return (n,) values for points (n, 3): 0 at the centre, 1 on the surface."""
        return np.linalg.norm(self.orientation.apply(points - self.centre, inverse=True) / self.radii, axis=1)

    def outline(self) -> np.ndarray:
        """Return points (n, 3) on the surface."""
        return self.centre + self.orientation.apply(_spiral() * self.radii)


@dataclass(frozen=True)
class _Layout:
    """Domains of the asymmetric unit, and the axis (n, 3) of its double-helical arm, which may be empty."""

    domains: list[_Domain]
    arm: np.ndarray

    def outline(self) -> np.ndarray:
        """Return points (n, 3) on the domains and along the arm."""
        return np.concatenate([domain.outline() for domain in self.domains] + [self.arm])

    def scaled(self, scale: float) -> _Layout:
        domains = [_Domain(d.centre * scale, d.radii * scale, d.orientation) for d in self.domains]
        return _Layout(domains, self.arm * scale)

    def moved(self, rotation: Rotation, offset: np.ndarray | float) -> _Layout:
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
    """Make an artificial particle that resembles a protein complex.

    Without symmetry, the particle has five globular domains of different sizes in a chiral arrangement and a
    double-helical arm, so its orientations are well determined at 8 to 20 angstrom. With symmetry, it has three domains
    in the asymmetric unit, which touches its symmetry copies. The chains always have the dimensions of protein chains,
    so a larger box contains larger domains.

    Parameters
    ----------
    symmetry : str
        Point group of the particle, with axes as in ``cryoem.rotations.point_group``. Default: C1.
    size : int
        Edge length of the box in voxels, at least 16. Default: 64.
    voxel_size_angstrom : float
        Edge length of the voxels in angstrom. Default: 4.
    resolution_angstrom : float, optional
        Resolution in angstrom, as in ``density_from_model``, at most a quarter of the box edge. Default: two voxels.
    rng : numpy.random.Generator or int
        Random number generator or seed. Default: 0.

    Returns
    -------
    DensityMap
        Map with shape (size, size, size), values from 0 to 1, and the centre of mass at voxel ``size // 2``. The
        diameter of the particle is about two thirds of the box edge. The density is zero more than ``0.45 * size``
        voxels from the centre.

    Raises
    ------
    ValueError
        ``symmetry`` is unknown, ``size`` is below 16, or the voxel size or the resolution is out of range.
    """
    import gemmi

    group = point_group(symmetry)
    if size < SMALLEST_SIZE:
        raise ValueError(f"size must be at least {SMALLEST_SIZE} voxels, got {size}")
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if resolution_angstrom is None:
        resolution_angstrom = 2 * voxel_size_angstrom
    box_angstrom = size * voxel_size_angstrom
    if not resolution_angstrom <= box_angstrom / 4:
        raise ValueError(
            f"resolution_angstrom must be at most a quarter of the box edge of {box_angstrom:g} angstrom, "
            f"got {resolution_angstrom}"
        )
    rng = np.random.default_rng(rng)

    layout = _asymmetric_layout(rng) if len(group) == 1 else _symmetric_layout(group, rng)
    diameter = _diameter(_copies(layout.outline(), group))
    layout = layout.scaled(DIAMETER_OVER_BOX * box_angstrom / diameter)
    positions = _copies(_fill_layout(layout, group, rng), group)
    positions -= positions.mean(axis=0)
    furthest = np.linalg.norm(positions, axis=1).max()
    positions *= min(1.0, (LARGEST_RADIUS_OVER_BOX * box_angstrom - resolution_angstrom) / furthest)

    density = density_of_atoms(
        "phantom",
        [gemmi.Element("C")] * len(positions),
        positions,
        np.ones(len(positions)),
        voxel_size_angstrom=voxel_size_angstrom,
        resolution_angstrom=resolution_angstrom,
        box_size=size,
    )
    return DensityMap(density.data / density.data.max(), voxel_size_angstrom)


def _asymmetric_layout(rng: np.random.Generator) -> _Layout:
    """Place five domains along a right-handed screw, and an arm that starts at the second domain."""
    sizes = np.array([0.85, 1.0, 0.7, 0.6, 0.45]) * rng.uniform(0.92, 1.08, 5)
    steps = np.array([[0.3, 1.0, 0.0], [1.0, 0.1, 0.5], [0.1, -0.9, 0.8], [0.9, -0.5, -0.3]])
    domains = _chain_of_domains(sizes, steps, rng)
    t = np.linspace(0, 1, 40)[:, None]
    arm = domains[1].centre + 2.3 * t * np.array([-0.5, 0.8, -0.4]) + 0.5 * t**2 * np.array([-1.0, 0.2, 0.7])
    return _Layout(domains, arm).moved(Rotation.random(rng=rng), 0.0)


def _symmetric_layout(group: Rotation, rng: np.random.Generator) -> _Layout:
    """Place three domains, without an arm, so that they form a compact particle with their symmetry copies."""
    sizes = np.array([1.0, 0.75, 0.55]) * rng.uniform(0.92, 1.08, 3)
    domains = _chain_of_domains(sizes, np.array([[1.0, 0.2, 0.3], [0.2, 1.0, -0.6]]), rng)
    unit = _Layout(domains, np.empty((0, 3)))
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    to_copy = np.min([np.linalg.norm(g.apply(directions) - directions, axis=1) for g in group[1:]], axis=0)
    away = directions[np.argmax(to_copy)]  # as far as possible from the symmetry axes
    candidates = [
        _against_its_copies(unit, turn, away, group) for turn in Rotation.random(N_PLACEMENTS, rng=rng)
    ]
    return min(candidates, key=lambda layout: _diameter(_copies(layout.outline(), group)))


def _against_its_copies(unit: _Layout, turn: Rotation, away: np.ndarray, group: Rotation) -> _Layout:
    """Rotate the unit, then move it inwards until a fixed fraction of its outline is inside its symmetry copies."""
    near, far = 0.0, 20.0
    while far - near > 0.02:
        middle = (near + far) / 2
        layout = unit.moved(turn, middle * away)
        copies = [g.apply(layout.outline()) for g in group[1:]]
        inside = np.any([domain.level(points) < 1 for points in copies for domain in layout.domains], axis=0)
        near, far = (middle, far) if inside.mean() > LARGEST_OVERLAP else (near, middle)
    return unit.moved(turn, far * away)


def _chain_of_domains(sizes: np.ndarray, steps: np.ndarray, rng: np.random.Generator) -> list[_Domain]:
    """Return ellipsoids of random shape with approximately the given sizes, each overlapping the previous one."""
    steps = steps / np.linalg.norm(steps, axis=1, keepdims=True) + rng.normal(scale=0.08, size=steps.shape)
    distances = 0.8 * (sizes[1:] + sizes[:-1])
    centres = np.cumsum(np.concatenate([np.zeros((1, 3)), steps * distances[:, None]]), axis=0)
    return [
        _Domain(centre, size * rng.uniform(0.75, 1.25, 3), Rotation.random(rng=rng))
        for centre, size in zip(centres - centres.mean(axis=0), sizes, strict=True)
    ]


def _copies(points: np.ndarray, group: Rotation) -> np.ndarray:
    return np.concatenate([g.apply(points) for g in group])


def _diameter(points: np.ndarray) -> float:
    """Return the largest extent of points (n, 3) along any direction."""
    return float(np.ptp(points @ _spiral().T, axis=0).max())


def _spiral(n: int = 200) -> np.ndarray:
    """Return points (n, 3) on the unit sphere, on a spiral from pole to pole."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)


def _fill_layout(layout: _Layout, group: Rotation, rng: np.random.Generator) -> np.ndarray:
    """Return the pseudo-atoms (n, 3) of the asymmetric unit. Where domains overlap, the deeper atoms are kept."""
    atoms = []
    for index, domain in enumerate(layout.domains):
        points = domain.centre + domain.orientation.apply(fill_ellipsoid(domain.radii, rng))
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
