"""Density maps of atomic models in mmCIF and PDB files, including files with missing or misused columns."""

from __future__ import annotations

import gzip
import os
import re
import warnings
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from cryoem.files.reading import first_line, foreign_kind, is_gzip, why_unreadable
from cryoem.volumes.atoms import density_of_atoms
from cryoem.volumes.density import DensityMap

LARGEST_SUM_OF_ALTERNATES = 1.01  # of the occupancies of one atom, which are rounded to 0.01
CHARGE = re.compile(rb"|\d[+-]|[+-]\d")
MODEL_COLUMNS = {
    "Cartn_x": "coordinates",
    "Cartn_y": "coordinates",
    "Cartn_z": "coordinates",
    "type_symbol": "element symbols",
}
OTHER_CIF = {  # what a CIF file without Cartesian coordinates contains
    "_chem_comp_atom.": "it describes a ligand or residue (chemical component), not the atoms of a particle",
    "_chem_comp.": "it describes a ligand or residue (chemical component), not the atoms of a particle",
    "_refln.": "it contains structure factors (reflections), but no atoms",
    "_atom_site_fract_x": "it has the fractional coordinates of a crystal; Cartesian coordinates are needed",
    "_rlnImageName": "it is a RELION table",
}


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
        models or data blocks, only the first is used. If the occupancies of the alternate locations of an atom add up
        to more than 1, they are scaled to a sum of 1. Occupancies that are blank, or all 0, are taken as 1.
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
        If atoms of unknown element are omitted; there are several models or data blocks; occupancies are blank, all 0,
        or add up to more than 1 for one atom; or a PDB file has no END record.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read or has no atoms, a coordinate is not a finite number, the model is larger than 5000
        angstrom, an occupancy is outside [0, 10], the voxel size or the resolution is out of range, or ``box_size`` is
        too small.

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
    atoms, occupancies = _particle_atoms(name, structure)
    if not atoms:
        raise ValueError(f"{name} has no atoms other than waters and hydrogens")
    known = np.array([atom.element.atomic_number > 0 for atom in atoms])
    if not known.any():
        raise ValueError(f"{name} has only atoms of unknown element ({len(atoms)} atoms)")
    if not known.all():
        warnings.warn(
            f"{name}: omitting atoms of unknown element ({np.sum(~known)} of {len(atoms)} atoms)",
            UserWarning,
            stacklevel=2,
        )
    return density_of_atoms(
        name,
        [atom.element for atom, is_known in zip(atoms, known, strict=True) if is_known],
        np.array([atom.pos.tolist() for atom in atoms])[known],
        occupancies[known],
        voxel_size_angstrom=voxel_size_angstrom,
        resolution_angstrom=resolution_angstrom,
        box_size=box_size,
    )


def _read_structure(path: Path):
    """Read an mmCIF or PDB file, whatever its name and optionally gzipped, as a ``gemmi.Structure``.

    Warns
    -----
    UserWarning
        If occupancies are blank, and taken as 1, or a PDB file has no END record.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged or is not an atomic model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no atomic model at {path}")
    try:
        with gzip.open(path) if is_gzip(path) else open(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read the atomic model {path}: {why_unreadable(error)}") from None
    what = f"{path} is not an atomic model in mmCIF or PDB format"
    if found := foreign_kind(content):
        raise ValueError(f"{what}: it is {found}")
    is_cif = re.match(rb"(?:\s+|#[^\n]*\n)*data_", content.removeprefix(b"\xef\xbb\xbf"), re.IGNORECASE)
    try:
        structure, blank = _from_mmcif(content, path, what) if is_cif else _from_pdb(content, path, what)
    except (RuntimeError, IndexError) as error:  # raised by gemmi, where "string" is the name of the file
        reason = re.sub(r"^string:(\d+)(:\d+\(\d+\))?:? ?", r"line \1: ", first_line(error))
        raise ValueError(f"{path} is damaged: {reason}") from None
    if blank:
        warnings.warn(
            f"{path} has no occupancy for {blank} atoms; taking their occupancies as 1",
            UserWarning,
            stacklevel=3,
        )
    return structure


def _from_mmcif(content: bytes, path: Path, what: str) -> tuple[object, int]:
    """Return the structure, and the number of atoms without an occupancy, which gemmi sets to 1."""
    import gemmi

    try:
        document = gemmi.cif.read_string(content.decode("utf-8", "replace"))
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    if blocks := [block for block in document if len(block.find_mmcif_category("_atom_site."))]:
        if len(blocks) > 1:
            warnings.warn(
                f"{path} has {len(blocks)} data blocks with atoms; using only the first",
                UserWarning,
                stacklevel=4,
            )
        for column, content in MODEL_COLUMNS.items():
            if not blocks[0].find_values(f"_atom_site.{column}"):
                raise ValueError(f"{path} has no {content} (_atom_site.{column}), which are required")
        occupancies = blocks[0].find_values("_atom_site.occupancy")
        n_atoms = len(blocks[0].find_values("_atom_site.Cartn_x"))
        blank = sum(value in ("?", ".") for value in occupancies) if occupancies else n_atoms
        return gemmi.make_structure_from_block(blocks[0]), blank
    text = content.decode("utf-8", "replace")
    reason = next(
        (reason for name, reason in OTHER_CIF.items() if name in text), "it has no atoms (_atom_site)"
    )
    raise ValueError(f"{what}: {reason}")


def _from_pdb(content: bytes, path: Path, what: str) -> tuple[object, int]:
    """Return the structure, and the number of atoms without an occupancy, which are set to 1.

    gemmi silently reads coordinates and occupancies that are not numbers as 0.
    """
    import gemmi

    lines, record, n_atoms, blank = [], b"", 0, 0
    for number, line in enumerate(content.splitlines(), start=1):
        record = line[:6].rstrip() or record
        if record in (b"ATOM", b"HETATM"):
            n_atoms += 1
            for name, start in (("x", 30), ("y", 38), ("z", 46)):
                _number(line[start : start + 8], f"{path}: coordinates must be numbers", name, number)
            if line[54:60].strip():
                _number(line[54:60], f"{path}: occupancies must be numbers", "occupancy", number)
            else:
                blank += 1
                line = line[:54].ljust(54) + b"  1.00" + line[60:]
            line = _without_old_columns(line)
        lines.append(line)
    if n_atoms == 0:
        raise ValueError(f"{what}: it has no atoms (no data_ block, and no ATOM or HETATM records)")
    if record in (b"ATOM", b"HETATM"):
        warnings.warn(f"{path} has no END record; atoms may be missing", UserWarning, stacklevel=4)
    # one character per byte, because the format has fixed columns
    return gemmi.read_pdb_string(b"\n".join(lines).decode("ascii", "replace").replace("\ufffd", "?")), blank


def _number(text: bytes, rule: str, name: str, line: int) -> None:
    try:
        float(text)
    except ValueError:
        raise ValueError(f"{rule}, got {text.decode('latin-1')!r} as {name} in line {line}") from None


def _without_old_columns(line: bytes) -> bytes:
    """Blank columns 73 to 80 of an atom record unless they end in an element and a charge.

    Before 1996, these columns contained the PDB identifier and the line number. gemmi then derives the element from the
    atom name.
    """
    import gemmi

    element, charge = line[76:78].strip(), line[78:80].strip()
    is_element = not element.isalpha() or gemmi.Element(element.decode()).atomic_number > 0
    return line if CHARGE.fullmatch(charge) and is_element else line[:72]


def _particle_atoms(name: str, structure) -> tuple[list, np.ndarray]:
    """Return the atoms of the first model without waters and hydrogens, and their occupancies (n,).

    The alternate locations of an atom share an occupancy of at most 1. The structure is modified.

    Warns
    -----
    UserWarning
        If there are several models; all occupancies are 0, and taken as 1; or the occupancies of alternate locations
        add up to more than 1, and are scaled.
    """
    if len(structure) == 0:
        return [], np.empty(0)
    if len(structure) > 1:
        warnings.warn(f"{name} has {len(structure)} models; using only the first", UserWarning, stacklevel=3)
    structure.remove_hydrogens()
    structure.remove_waters()
    sites = list(structure[0].all())
    occupancies = np.array([site.atom.occ for site in sites])
    if sites and not occupancies.any():
        warnings.warn(f"{name} has only occupancies of 0; taking them as 1", UserWarning, stacklevel=3)
        occupancies[:] = 1
    same = defaultdict(list)  # the alternates of an atom, even if they are in different residues
    for index, site in enumerate(sites):
        same[site.chain.name, str(site.residue.seqid), site.atom.name].append(index)
    scaled = 0
    for alternates in same.values():
        total = occupancies[alternates].sum()
        if total > LARGEST_SUM_OF_ALTERNATES and any(sites[index].atom.has_altloc() for index in alternates):
            occupancies[alternates] /= max(total, 1)
            scaled += len(alternates) > 1
    if scaled:
        warnings.warn(
            f"{name}: the occupancies of the alternate locations of {scaled} atoms add up to more than 1; "
            "scaling them to 1",
            UserWarning,
            stacklevel=3,
        )
    return [site.atom.clone() for site in sites], occupancies
