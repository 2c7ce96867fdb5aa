"""Registry of maps and atomic models, with their sources, checksums and downloads.

Valid names are ``"5j0n"`` and ``"beta-galactosidase"`` (maps), any PDB entry (``"1u19"``, or ``"PDB-5j0n"`` if the
plain name is a map), any EMDB entry (``"EMD-1234"``); only for ``load``, ``"phantom"`` or ``"phantom-D2"``; and, only
for ``fetch``, the particles ``"ribosome-tilts"`` and ``"ribosome-tilts-stack"``.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryoem.files.reading import data_folder, first_line, sha256_of
from cryoem.files.writing import check_writable, write_text
from cryoem.memory import check_box
from cryoem.validation import positive_number, suggestion, whole_number
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

DEFAULT_VOXEL_SIZE_ANGSTROM = 4.0
BLOCK_BYTES = 1_000_000
MAP_ID_AT = 208  # offset in bytes in the header of an MRC file
PHANTOM_BOX_ANGSTROM = 256.0
DARK_RATIO = 2.0  # of the depth of a map to its height, above which its contrast is taken to be inverted
PHANTOM = "phantom(-[A-Za-z0-9]+)?"
MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".mrcs")
MODEL_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
LOCAL_MODELS = (".cif.gz", ".cif", ".pdb.gz", ".pdb")  # of PDB entries in CRYOEM_DATA, in order of preference


@dataclass(frozen=True)
class Entry:
    """A file in the registry. ``sha256`` is None if the checksum is not known before the first download."""

    name: str
    file_name: str
    url: str
    sha256: str | None
    licence: str
    description: str


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="5j0n",
            file_name="5j0n.mrc",
            url="https://raw.githubusercontent.com/JelenaBanjac/protein-reconstruction/master/data/5j0n.mrc",
            sha256="48d3147ccc6d17c11e57651b43e65494e2cef2e3bb92de4938c29a5189d837ee",
            licence="MIT; PDB entry CC0",
            description="lambda excision HJ intermediate: density of PDB 5J0N, 69 x 57 x 75 voxels of 3.667 angstrom",
        ),
        Entry(
            name="beta-galactosidase",
            file_name="beta-galactosidase.mrc",
            url="https://raw.githubusercontent.com/nglviewer/ngl/master/data/betaGal.mrc",
            sha256="f61dc559d1d9b1b35987a6138d8acd7668cdb9d66a3b0478b39fc1c6e58b2f23",
            licence="CC0 (EMDB)",
            description="beta-galactosidase (D2), an experimental map, 100^3 voxels of 3.54 angstrom",
        ),
    )
}
RIBOSOME_TILTS = "https://raw.githubusercontent.com/ml-struct-bio/cryodrgn/main/tests/data/"
PARTICLE_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="ribosome-tilts",
            file_name="sta_testing_bin8.star",
            url=RIBOSOME_TILTS + "sta_testing_bin8.star",
            sha256="47b24d3a4344d321807d84fdfa899f1454853a20bced60164e2fc4a173d5b763",
            licence="GPL-3 repository",
            description="table of 219 experimental images from tilt series of six ribosomes, with poses and CTF",
        ),
        Entry(
            name="ribosome-tilts-stack",
            file_name="ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs",
            url=RIBOSOME_TILTS + "ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs",
            sha256="a7ca3284b6906cf9f446e6c5f85d4640312aaccb10d7208a30f0a59066dfb48a",
            licence="GPL-3 repository",
            description="images of ribosome-tilts, 64 px wide",
        ),
    )
}


def check_name(name: str) -> None:
    """Raise a ValueError unless ``load`` accepts this name, which is not a path. Nothing is downloaded."""
    if not re.fullmatch(PHANTOM, name):
        find_entry(name)


def find_entry(name: str) -> Entry:
    """Return the registry entry with the given name.

    Parameters
    ----------
    name : str
        Name of an entry in ``ENTRIES``, or a PDB or EMDB identifier.

    Raises
    ------
    ValueError
        The name is unknown, or it is a PDB identifier that resembles a name in ``ENTRIES``. With the prefix ``PDB-``,
        the latter is accepted.
    """
    if re.search(r"[/\\]|\.\.", name):
        raise ValueError(f"name must be a registry name, not a path, got {name!r}")
    for entries in (ENTRIES, PARTICLE_ENTRIES):
        if name.lower() in entries:
            return entries[name.lower()]
    if match := re.fullmatch(r"(?:PDB-)?([1-9][A-Z0-9]{3})", name, re.IGNORECASE | re.ASCII):
        identifier = match[1].upper()
        if name.upper() == identifier and (nearest := suggestion(name, ENTRIES)):
            raise ValueError(
                f"name must be one of {', '.join(ENTRIES)}, or PDB-{name} for the PDB entry, got {name!r}{nearest}"
            )
        return Entry(
            name=name,
            file_name=f"{identifier.lower()}.cif.gz",
            url=f"https://files.rcsb.org/download/{identifier}.cif.gz",
            sha256=None,
            licence="CC0 (PDB)",
            description=f"atomic model of PDB entry {identifier}",
        )
    if match := re.fullmatch(r"EMD-([0-9]{4,5})", name, re.IGNORECASE | re.ASCII):
        number = match[1]
        return Entry(
            name=name,
            file_name=f"emd_{number}.map.gz",
            url=f"https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-{number}/map/emd_{number}.map.gz",
            sha256=None,
            licence="CC0 (EMDB)",
            description=f"primary map of EMDB entry EMD-{number}",
        )
    known = [*ENTRIES, "phantom", *(f"EMD-{number}" for number in re.findall("[0-9]{4,5}", name))]
    raise ValueError(
        f"name must be one of {', '.join(ENTRIES)}, a PDB id such as 1u19 or an EMDB id such as EMD-1234, "
        f"got {name!r}{suggestion(name, known)}"
    )


def fetch(name: str) -> Path:
    """Return the local path of a registry file, and download the file on first use.

    A file in ``$CRYOEM_DATA`` or its subfolders ``maps/``, ``models/`` and ``particles/`` takes precedence over a file
    in ``data_folder()``. In ``$CRYOEM_DATA``, the model of a PDB entry may also be a ``.cif``, ``.pdb.gz`` or ``.pdb``
    file. The file for an entry in ``ENTRIES`` or ``PARTICLE_ENTRIES`` must have the SHA-256 given there. The checksums
    for other PDB and EMDB entries are not known in advance. When such a file in ``data_folder()`` is first used, its
    completeness is checked and its SHA-256 is stored next to it in ``<file>.sha256``. Afterwards, the file must have
    this checksum. To accept a new release of the entry, delete both files.

    Parameters
    ----------
    name : str
        Name of an entry in ``ENTRIES``, or a PDB or EMDB identifier.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    ValueError
        The name is unknown; the file is damaged, has a different SHA-256 or belongs to a different entry; or the stored
        SHA-256 is damaged.
    ConnectionError
        The download failed.
    """
    entry = find_entry(name)
    if local := _given_file(entry):
        if entry.sha256 is not None:
            _verify(local, entry.sha256)
        return local
    path = data_folder() / entry.file_name
    is_new = not path.is_file()
    if is_new:
        check_writable(path)
        _download(entry, path)
    record = path.with_name(path.name + ".sha256")
    if entry.sha256 is not None or record.is_file():
        _verify(path, entry.sha256 or _recorded(record))
        return path
    try:
        _check_first_use(entry, path)
    except ValueError:
        if is_new:
            path.unlink()
        raise
    write_text(record, f"{sha256_of(path)}  {path.name}\n")
    return path


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
        path = _given_file(entry) or data_folder() / entry.file_name
    return path if path.is_file() else None


def _given_file(entry: Entry) -> Path | None:
    """Return the file of an entry in ``$CRYOEM_DATA``, or None if there is none."""
    if not (root := os.environ.get("CRYOEM_DATA")):
        return None
    stem = entry.file_name.removesuffix(".cif.gz")
    names = [entry.file_name] if stem == entry.file_name else [stem + suffix for suffix in LOCAL_MODELS]
    folders = (".", "maps", "models", "particles")
    paths = (Path(root) / folder / name for folder, name in itertools.product(folders, names))
    return next((path for path in paths if path.is_file()), None)


def is_path(name_or_path: str | os.PathLike) -> bool:
    """Return True for a path, which contains a folder or a suffix other than ``.gz``, unlike registry names."""
    name = os.fspath(name_or_path)
    return isinstance(name_or_path, Path) or os.sep in name or _suffix(name) != ""


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


def check_suffix(path: Path) -> None:
    """Raise a ValueError unless the name of a file ends like that of a map or an atomic model."""
    if _suffix(path.name) not in MAP_SUFFIXES + MODEL_SUFFIXES:
        known = ", ".join(MAP_SUFFIXES + MODEL_SUFFIXES)
        raise ValueError(f"{path} is not a map or an atomic model: its name must end in one of {known}")


def _suffix(file_name: str) -> str:
    """Return the suffix in lower case, disregarding compression: ``.cif`` for ``1u19.cif.gz``."""
    return Path(file_name.lower().removesuffix(".gz")).suffix


def _download(entry: Entry, path: Path) -> None:
    """Download a file with a progress bar.

    pooch writes to a temporary file, so a failed download leaves no file behind.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # otherwise, pooch recommends hard-coding the checksum
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            entry.url, known_hash=entry.sha256, fname=path.name, path=path.parent, progressbar=True
        )
    except OSError as error:  # base class of the exceptions in requests
        response = getattr(error, "response", None)
        reason = error.strerror or "no connection to the server"
        if response is not None:
            reason = f"the server answered {response.status_code}"
        raise ConnectionError(f"could not download {entry.name!r} from {entry.url}: {reason}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the download of {entry.name!r} from {entry.url} failed verification: {reason}"
        ) from None


def _check_first_use(entry: Entry, path: Path) -> None:
    """Raise an error unless the file is a complete gzip file that begins like the entry."""
    try:
        with gzip.open(path) as stream:
            start = stream.read(BLOCK_BYTES)
            while stream.read(BLOCK_BYTES):
                pass  # the checksum is at the end
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete gzip file from {entry.url}: {first_line(error)}"
        ) from None
    if entry.file_name.endswith(".cif.gz"):
        where, expected = "at its beginning", f"data_{path.name.split('.')[0].upper()}"
        found = start[: len(expected)]
    else:
        where, expected, found = "in its header", "MAP", start[MAP_ID_AT : MAP_ID_AT + 3]
    if found.upper() != expected.upper().encode():
        raise ValueError(f"{path} must contain {expected!r} {where}, got {found.decode('latin-1')!r}")


def _recorded(record: Path) -> str:
    """Return the SHA-256 that was stored on first use."""
    text = record.read_bytes()[:200].decode("latin-1")
    if not re.match(r"[0-9a-f]{64}\s", text):
        raise ValueError(
            f"{record} must begin with a SHA-256, got {text[:80]!r}; delete it to accept the downloaded file"
        )
    return text[:64]


def _verify(path: Path, sha256: str) -> None:
    """Raise an error unless the file has the given SHA-256."""
    found = sha256_of(path)
    if found != sha256:
        raise ValueError(f"{path} is damaged or was changed: its SHA-256 must be {sha256}, got {found}")
