"""Density maps of atomic models, computed from electron form factors."""

from __future__ import annotations

import gzip
import os
import warnings
from pathlib import Path

import numpy as np

from cryoem.validation import positive_number
from cryoem.volumes.density import DensityMap, three_sizes

LARGEST_BOX_VOXELS = 1024**3
LARGEST_EXTENT_ANGSTROM = 5000.0  # the size of a large virus; larger models indicate a damaged file
LARGEST_OCCUPANCY = 10.0
RELATIVE_CUTOFF = 1e-5  # density below this fraction of an atom's peak is neglected


def density_from_model(
    model,
    *,
    voxel_size_angstrom: float,
    resolution_angstrom: float,
    box_size: int | tuple[int, int, int] | None = None,
) -> DensityMap:
    """Compute the electrostatic potential of an atomic model at a given resolution.

    The model is centred in the box. Waters and hydrogens are omitted.

    Parameters
    ----------
    model : path-like or gemmi.Structure
        Path of an mmCIF or PDB file (optionally gzipped), or a structure, which is not modified. If it contains several
        models, only the first is used.
    voxel_size_angstrom : float
        Edge length of the voxels in angstrom.
    resolution_angstrom : float
        Resolution in angstrom, at least twice the voxel size. Each atom is blurred by a Gaussian whose Fourier
        transform falls to 1/e at this resolution (B = 4 resolution^2). The B factors in the file are not used.
    box_size : int or tuple of int, optional
        Edge length of the box in voxels, or its three edge lengths (z, y, x). Default: just large enough for the model
        with a margin of ``resolution_angstrom`` on each side.

    Returns
    -------
    DensityMap
        Map (z, y, x) along the axes of the model, with the centre of mass at voxel ``n // 2``, in form factor units
        (angstrom per cubic angstrom). The origin is set so that the map overlays the model.

    Warns
    -----
    UserWarning
        Atoms of unknown element are omitted, or a PDB file has no END record.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file cannot be read or has no atoms, a coordinate is not a finite number, the model is larger than 5000
        angstrom, an occupancy is outside [0, 10], all occupancies are 0, the voxel size or the resolution is out of
        range, or ``box_size`` is too small.

    References
    ----------
    Form factors: Peng et al., Acta Cryst. A52 (1996) 257, as tabulated in gemmi. Definition of resolution: ``molmap``
    in UCSF Chimera.
    """
    import gemmi

    if isinstance(model, gemmi.Structure):
        name, structure = f"structure {model.name!r}", model.clone()
    else:
        name, structure = os.fspath(model), _read_structure(Path(model))
    if len(structure) > 0:
        structure.remove_hydrogens()
        structure.remove_waters()
    atoms = [site.atom.clone() for site in structure[0].all()] if len(structure) > 0 else []
    if not atoms:
        raise ValueError(f"{name} has no atoms other than waters and hydrogens")
    known = [atom for atom in atoms if atom.element.atomic_number > 0]
    if not known:
        raise ValueError(f"{name} has only atoms of unknown element ({len(atoms)} atoms)")
    if len(known) < len(atoms):
        warnings.warn(
            f"{name}: omitting atoms of unknown element ({len(atoms) - len(known)} of {len(atoms)} atoms)",
            UserWarning,
            stacklevel=2,
        )
    return density_of_atoms(
        name,
        [atom.element for atom in known],
        np.array([atom.pos.tolist() for atom in known]),
        np.array([atom.occ for atom in known]),
        voxel_size_angstrom=voxel_size_angstrom,
        resolution_angstrom=resolution_angstrom,
        box_size=box_size,
    )


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
    """Compute the potential of gemmi elements at positions (n, 3). Errors state the ``name`` of the model."""
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


def _read_structure(path: Path):
    import gemmi

    if not path.is_file():
        raise FileNotFoundError(f"no atomic model at {path}")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not an atomic model in mmCIF or PDB format: {reason}") from None
    if structure.input_format == gemmi.CoorFormat.Pdb:
        _check_pdb(path)
    return structure


def _check_pdb(path: Path) -> None:
    """Check the coordinates in a PDB file, because gemmi silently reads a non-numeric coordinate as zero."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as lines:
        record = b""
        for number, line in enumerate(lines, start=1):
            record = line[:6].rstrip() or record
            if record not in (b"ATOM", b"HETATM"):
                continue
            for axis, start in zip("xyz", (30, 38, 46), strict=True):
                text = line[start : start + 8]
                try:
                    float(text)
                except ValueError:
                    raise ValueError(
                        f"{path}: coordinates must be numbers, got {text.decode('latin-1')!r} as {axis} "
                        f"in line {number}"
                    ) from None
    if record in (b"ATOM", b"HETATM"):
        warnings.warn(f"{path} has no END record; atoms may be missing", UserWarning, stacklevel=4)


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
