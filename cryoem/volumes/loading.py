"""Density maps by path or name: from map files, atomic models, the registry or phantoms."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from cryoem.files.reading import data_folder
from cryoem.memory import check_box
from cryoem.validation import positive_number, whole_number
from cryoem.volumes.density import (
    DensityMap,
    crop_or_pad,
    low_pass,
    resample,
    solvent_level,
    subtract_solvent,
)
from cryoem.volumes.maps import read_map
from cryoem.volumes.models import density_from_model
from cryoem.volumes.phantoms import SMALLEST_SIZE, phantom
from cryoem.volumes.registry import fetch, find_entry, given_file

DEFAULT_VOXEL_SIZE_ANGSTROM = 4.0
PHANTOM_BOX_ANGSTROM = 256.0
PHANTOM = "phantom(-[A-Za-z0-9]+)?"
DARK_RATIO = 2.0  # of the depth of a map to its height, above which its contrast is taken to be inverted
MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".mrcs")
MODEL_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")


def load(
    name_or_path: str | os.PathLike,
    *,
    voxel_size_angstrom: float | None = None,
    resolution_angstrom: float | None = None,
    size: int | None = None,
    as_map: bool = False,
) -> DensityMap:
    """Load the density map of a particle from a file or the registry, or make a phantom.

    If the solvent around the particle has a density other than 0, it is subtracted with a warning. ``read_map`` returns
    the values in the file.

    Parameters
    ----------
    name_or_path : str or path-like
        Path of a map or an atomic model, a registry name, ``"phantom"`` or ``"phantom-<symmetry>"``.
    voxel_size_angstrom : float, optional
        Voxel size in angstrom. Maps are resampled to it, or assumed to have it if their header has no cell. Default:
        the voxel size in the header for maps, and 4 angstrom for models and phantoms. If ``size`` is given, the default
        for phantoms is 256 angstrom divided by ``size``.
    resolution_angstrom : float, optional
        Resolution in angstrom to which maps are low-pass filtered, or at which models and phantoms are computed.
        Default: maps are not filtered, and models and phantoms have a resolution of two voxels.
    size : int, optional
        Edge length of a cubic box in voxels. Maps are cropped or padded about their centre, models must fit into the
        box, and phantoms fill the box. Default: the box in the file for maps, a box that fits the model for models, and
        a box 256 angstrom wide for phantoms.
    as_map : bool
        Whether a map file that looks like a stack of images is known to be a map, as in ``read_map``. Default: False.

    Returns
    -------
    DensityMap
        The density map.

    Warns
    -----
    UserWarning
        The solvent level of a map was not 0; a map is dark on a bright solvent, as if its contrast were inverted; or
        ``read_map`` or ``density_from_model`` warns.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        A number is out of range, the suffix is unknown, the map has no positive density or is constant, or
        ``read_map``, ``density_from_model`` or ``fetch`` rejects the file.
    MemoryError
        The map does not fit into memory.
    ConnectionError
        The download failed.
    """
    name = os.fspath(name_or_path)
    if size is not None:
        size = whole_number(size, name="size", at_least=1)
        check_box(size**3)
    made_at = DEFAULT_VOXEL_SIZE_ANGSTROM if voxel_size_angstrom is None else voxel_size_angstrom
    positive_number(made_at, name="voxel_size_angstrom")
    if re.fullmatch(PHANTOM, name):
        if size is None:
            size = max(SMALLEST_SIZE, round(PHANTOM_BOX_ANGSTROM / made_at))
            check_box(size**3)
        elif voxel_size_angstrom is None:
            made_at = PHANTOM_BOX_ANGSTROM / size
        return phantom(
            symmetry=name.partition("-")[2] or "C1",
            size=size,
            voxel_size_angstrom=made_at,
            resolution_angstrom=resolution_angstrom,
        )
    path = Path(name) if is_path(name_or_path) else fetch(name)
    check_suffix(path)
    if _suffix(path.name) in MODEL_SUFFIXES:
        resolution = 2 * made_at if resolution_angstrom is None else resolution_angstrom
        return density_from_model(
            path, voxel_size_angstrom=made_at, resolution_angstrom=resolution, box_size=size
        )
    density_map = read_map(path, default_voxel_size_angstrom=voxel_size_angstrom or 1.0, as_map=as_map)
    if level := solvent_level(density_map):
        warnings.warn(
            f"{path} has the density {level:.4g} at the edge of its box, where the solvent should be 0; "
            f"subtracting {level:.4g} from the map",
            UserWarning,
            stacklevel=2,
        )
        density_map = subtract_solvent(density_map)
    if resolution_angstrom is not None:
        density_map = low_pass(density_map, resolution_angstrom)
    if voxel_size_angstrom is not None and voxel_size_angstrom != density_map.voxel_size_angstrom:
        check_box(density_map.data.size * (density_map.voxel_size_angstrom / voxel_size_angstrom) ** 3)
        density_map = resample(density_map, voxel_size_angstrom)
    if size is not None:
        density_map = crop_or_pad(density_map, size)
    low, high = density_map.data.min(), density_map.data.max()
    if not (high > low and high > 0):
        raise ValueError(
            f"{path}: the density must vary and be positive somewhere, got values from {low} to {high}"
        )
    if -low > DARK_RATIO * high:
        warnings.warn(
            f"{path} is darker than its solvent (values from {low:.4g} to {high:.4g}), as if its contrast were "
            "inverted; density must be positive, so multiply such a map by -1",
            UserWarning,
            stacklevel=2,
        )
    return density_map


def check_name(name: str) -> None:
    """Raise a ValueError unless ``load`` accepts this name, which is not a path. Nothing is downloaded."""
    if not re.fullmatch(PHANTOM, name):
        find_entry(name)


def find_file(name_or_path: str | os.PathLike) -> Path | None:
    """Return the file that ``load`` reads, or None for a phantom or a file that is not on this machine.

    Nothing is downloaded or verified. Raises a ValueError if a name is unknown.
    """
    name = os.fspath(name_or_path)
    if re.fullmatch(PHANTOM, name):
        return None
    if is_path(name_or_path):
        path = Path(name)
    else:
        entry = find_entry(name)
        path = given_file(entry) or data_folder() / entry.file_name
    return path if path.is_file() else None


def is_path(name_or_path: str | os.PathLike) -> bool:
    """Return True for a path, which contains a folder or a suffix other than ``.gz``, unlike registry names."""
    name = os.fspath(name_or_path)
    return isinstance(name_or_path, Path) or os.sep in name or _suffix(name) != ""


def check_suffix(path: Path) -> None:
    """Raise a ValueError unless the name of a file ends like that of a map or an atomic model."""
    if _suffix(path.name) not in MAP_SUFFIXES + MODEL_SUFFIXES:
        known = ", ".join(MAP_SUFFIXES + MODEL_SUFFIXES)
        raise ValueError(f"{path} is not a map or an atomic model: its name must end in one of {known}")


def _suffix(file_name: str) -> str:
    """Return the suffix in lower case, disregarding compression: ``.cif`` for ``1u19.cif.gz``."""
    return Path(file_name.lower().removesuffix(".gz")).suffix
