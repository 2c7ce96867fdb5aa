"""Electrostatic potential of atoms, from electron form factors."""

from __future__ import annotations

import numpy as np

from cryoem.memory import check_box
from cryoem.validation import positive_number
from cryoem.volumes.density import DensityMap, three_sizes

LARGEST_BOX_VOXELS = 1024**3
LARGEST_EXTENT_ANGSTROM = 5000.0  # the size of a large virus; larger models indicate a damaged file
LARGEST_OCCUPANCY = 10.0
RELATIVE_CUTOFF = 1e-5  # density below this fraction of an atom's peak is neglected


def density_of_atoms(
    name: str,
    elements: list,
    positions: np.ndarray,
    occupancies: np.ndarray,
    *,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
    box_size: int | tuple[int, int, int] | None,
) -> DensityMap:
    """Compute the potential of gemmi elements at positions (n, 3). Errors mention the ``name`` of the model."""
    import gemmi

    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if not (np.isfinite(resolution_angstrom) and resolution_angstrom >= 2 * voxel_size_angstrom):
        raise ValueError(
            f"resolution_angstrom must be at least twice the voxel size of {voxel_size_angstrom} angstrom, "
            f"got {resolution_angstrom}"
        )
    _check_atoms(name, positions, occupancies)
    # The integral of an atom's potential is its form factor at 0, so these weights yield the centre of mass.
    weights = occupancies * [sum(element.c4322.a) for element in elements]
    mass_centre = weights @ positions / weights.sum()
    positions = positions - mass_centre
    shape = _box(name, positions, voxel_size_angstrom, resolution_angstrom, box_size)
    check_box(float(np.prod(shape, dtype=float)))
    centre_angstrom = np.array([n // 2 for n in reversed(shape)]) * voxel_size_angstrom

    calculator = gemmi.DensityCalculatorE()
    calculator.blur = 4 * resolution_angstrom**2
    calculator.cutoff = RELATIVE_CUTOFF * weights.max() * (4 * np.pi / calculator.blur) ** 1.5
    nx, ny, nz = reversed(shape)
    edges = [n * voxel_size_angstrom for n in (nx, ny, nz)]
    calculator.grid.set_unit_cell(gemmi.UnitCell(*edges, 90, 90, 90))
    calculator.grid.set_size(nx, ny, nz)
    blurred = gemmi.Atom()
    blurred.b_iso = 0
    for element, position, occupancy in zip(
        elements, (positions + centre_angstrom).tolist(), occupancies, strict=True
    ):
        blurred.element, blurred.pos, blurred.occ = element, gemmi.Position(*position), occupancy
        calculator.add_atom_density_to_grid(blurred)
    data = calculator.grid.array.T  # (x, y, z) -> (z, y, x)
    return DensityMap(data, voxel_size_angstrom, tuple(mass_centre - centre_angstrom))


def _check_atoms(name: str, positions: np.ndarray, occupancies: np.ndarray) -> None:
    """Raise an error unless positions (n, 3) and occupancies (n,) are plausible for a particle."""
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}: coordinates must be finite, got {positions[np.argmin(finite)].tolist()} "
            f"for atom {int(np.argmin(finite)) + 1}"
        )
    extent = np.ptp(positions, axis=0)
    if extent.max() > LARGEST_EXTENT_ANGSTROM:
        raise ValueError(
            f"{name}: the extent of the model must be at most {LARGEST_EXTENT_ANGSTROM:g} angstrom, "
            f"got {extent.max():.4g} along {'xyz'[int(np.argmax(extent))]}"
        )
    outside = ~((occupancies >= 0) & (occupancies <= LARGEST_OCCUPANCY))
    if outside.any() or not occupancies.any():
        found = occupancies[np.argmax(outside)]
        raise ValueError(
            f"{name}: occupancies must be from 0 to {LARGEST_OCCUPANCY:g} and not all 0, got {found:g} "
            f"for atom {int(np.argmax(outside)) + 1}"
        )


def _box(
    name: str, positions: np.ndarray, voxel_size_angstrom: float, margin: float, box_size
) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of a box that contains positions (n, 3), which are relative to voxel ``n // 2``."""
    from scipy.fft import next_fast_len

    reach_px = np.abs(positions[:, ::-1]).max(axis=0) / voxel_size_angstrom  # z, y, x
    if box_size is None:
        half = np.ceil(reach_px + margin / voxel_size_angstrom)
        if np.prod(2 * half + 1) > LARGEST_BOX_VOXELS:
            edges = " x ".join(f"{2 * n + 1:.0f}" for n in half)
            raise ValueError(
                f"voxel_size_angstrom is too small: {voxel_size_angstrom} requires {edges} voxels for {name}"
            )
        return tuple(next_fast_len(2 * int(n) + 1, real=True) for n in half)
    shape = three_sizes("box_size", box_size)
    too_small = [(n - 1) // 2 < reach for n, reach in zip(shape, reach_px, strict=True)]
    if any(too_small):
        needed = " x ".join(str(2 * int(np.ceil(reach)) + 1) for reach in reach_px)
        raise ValueError(
            f"box_size must be at least {needed} voxels (z, y, x) to contain {name}, got {box_size}"
        )
    return shape
