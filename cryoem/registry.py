"""Known maps and atomic models: where they come from, what they must hash to, and how to get them.

Names are ``"5j0n"`` and ``"beta-galactosidase"`` (maps), any PDB entry (``"1u19"``, or ``"PDB-5j0n"`` where
the plain name is a map), any EMDB entry (``"EMD-1234"``) and, for ``load``, ``"phantom"`` or
``"phantom-D2"``.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryoem.checks import positive_number, whole_number
from cryoem.errors import first_line
from cryoem.folders import data_folder
from cryoem.plain_files import sha256_of
from cryoem.volumes import DensityMap, crop_or_pad, density_from_model, low_pass, phantom, read_map, resample
from cryoem.volumes.phantom import SMALLEST_SIZE
from cryoem.whole_files import written_aside

DEFAULT_VOXEL_SIZE_ANGSTROM = 4.0
BLOCK_BYTES = 1_000_000
MAP_ID_AT = 208  # bytes into the header of an MRC file
PHANTOM_BOX_ANGSTROM = 256.0
MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".mrcs")
MODEL_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")


@dataclass(frozen=True)
class Entry:
    """One file of the registry; ``sha256`` is None where it cannot be known before the first download."""

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


def find_entry(name: str) -> Entry:
    """What is known of a registry name, listed or a PDB or EMDB identifier.

    Raises
    ------
    ValueError : the name is none of these, or looks like a path.
    """
    if re.search(r"[/\\]|\.\.", name):
        raise ValueError(f"name must be a registry name, not a path, got {name!r}")
    if name.lower() in ENTRIES:
        return ENTRIES[name.lower()]
    if match := re.fullmatch(r"(?:PDB-)?([1-9][A-Z0-9]{3})", name, re.IGNORECASE | re.ASCII):
        identifier = match.group(1)
        return Entry(
            name=name,
            file_name=f"{identifier.lower()}.cif.gz",
            url=f"https://files.rcsb.org/download/{identifier.upper()}.cif.gz",
            sha256=None,
            licence="CC0 (PDB)",
            description=f"atomic model of PDB entry {identifier.upper()}",
        )
    if match := re.fullmatch(r"EMD-([0-9]{4,5})", name, re.IGNORECASE | re.ASCII):
        number = match.group(1)
        return Entry(
            name=name,
            file_name=f"emd_{number}.map.gz",
            url=f"https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-{number}/map/emd_{number}.map.gz",
            sha256=None,
            licence="CC0 (EMDB)",
            description=f"primary map of EMDB entry EMD-{number}",
        )
    known = ", ".join(ENTRIES)
    raise ValueError(
        f"name must be one of {known}, a PDB id such as 1u19 or an EMDB id such as EMD-1234, got {name!r}"
    )


def fetch(name: str) -> Path:
    """Local path of a registry file, downloaded at first use.

    A file of that name in ``$CRYOEM_DATA``, or its folders ``maps/`` and ``models/``, comes first; then
    ``data_folder()``; then the network.  Listed entries are held against their sha256 wherever they lie.  No
    hash of another PDB or EMDB entry is known in advance: at its first use a file in ``data_folder()`` must be whole,
    by the checksum of gzip, and that entry's; its sha256 is recorded in ``<file>.sha256`` next to it, and every later
    use is held against that.  Delete both files to accept a new release of the entry.

    Raises
    ------
    ValueError : the name is not known, a file does not have the sha256 it must have, or is not that entry's, or the
        record of the sha256 is damaged.
    ConnectionError : the download failed.
    """
    entry = find_entry(name)
    local = _find_local(entry)
    if local is not None:
        _verify(local, entry.sha256)
        return local
    path = data_folder() / entry.file_name
    is_new = not path.is_file()
    if is_new:
        _download(entry, path)
    if entry.sha256 is not None:
        _verify(path, entry.sha256)
        return path
    record = path.with_name(path.name + ".sha256")
    if record.is_file():
        _verify(path, _recorded(record))
        return path
    try:
        _check_first_use(entry, path)
    except ValueError:
        if is_new:
            path.unlink()
        raise
    with written_aside(record) as aside:
        aside.write_text(f"{sha256_of(path)}  {path.name}\n", encoding="ascii")
    return path


def load(
    name_or_path: str | os.PathLike,
    *,
    voxel_size_angstrom: float | None = None,
    resolution_angstrom: float | None = None,
    size: int | None = None,
) -> DensityMap:
    """A density map from a file, a registry name, or the phantom.

    Parameters
    ----------
    name_or_path : path of a map or an atomic model, a name that ``fetch`` knows, ``"phantom"`` or
        ``"phantom-<symmetry>"``.
    voxel_size_angstrom : a map is resampled to it, by default kept; a map whose header has none is taken to
        have it; models and phantoms are made at it, by default 4.
    resolution_angstrom : a map is low-pass filtered to it, by default kept; models and phantoms are made at
        it, by default two voxels.
    size : edge of a cubic box in voxels.  A map is cut or padded to it about its centre, a model must fit in, a phantom
        fills it: with a voxel size that makes the box 256 angstrom wide where none is given.  By default a map keeps
        its box, a model gets the smallest, and a phantom one of 256 angstrom.

    Raises
    ------
    FileNotFoundError, ValueError, ConnectionError : see ``read_map``, ``density_from_model``, ``phantom``,
        ``fetch`` and ``crop_or_pad``; a size is below 1 or not positive.
    """
    name = os.fspath(name_or_path)
    if size is not None:
        size = whole_number(size, name="size", at_least=1)
    if voxel_size_angstrom is not None:
        positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    made_at = DEFAULT_VOXEL_SIZE_ANGSTROM if voxel_size_angstrom is None else voxel_size_angstrom
    if re.fullmatch("phantom(-[A-Za-z0-9]+)?", name):
        symmetry = name.partition("-")[2] or "C1"
        if size is not None and voxel_size_angstrom is None:
            made_at = PHANTOM_BOX_ANGSTROM / size
        return phantom(
            symmetry=symmetry,
            size=max(SMALLEST_SIZE, round(PHANTOM_BOX_ANGSTROM / made_at)) if size is None else size,
            voxel_size_angstrom=made_at,
            resolution_angstrom=resolution_angstrom,
        )
    is_path = isinstance(name_or_path, Path) or os.sep in name or _suffix(name) != ""
    path = Path(name) if is_path else fetch(name)
    if _suffix(path.name) in MODEL_SUFFIXES:
        resolution = 2 * made_at if resolution_angstrom is None else resolution_angstrom
        return density_from_model(
            path, voxel_size_angstrom=made_at, resolution_angstrom=resolution, box_size=size
        )
    if _suffix(path.name) not in MAP_SUFFIXES:
        known = ", ".join(MAP_SUFFIXES + MODEL_SUFFIXES)
        raise ValueError(
            f"{path} must be a map or an atomic model ({known}), got the suffix {_suffix(path.name)!r}"
        )
    density_map = read_map(path, default_voxel_size_angstrom=voxel_size_angstrom or 1.0)
    if resolution_angstrom is not None:
        density_map = low_pass(density_map, resolution_angstrom)
    if voxel_size_angstrom is not None and voxel_size_angstrom != density_map.voxel_size_angstrom:
        density_map = resample(density_map, voxel_size_angstrom)
    if size is not None:
        density_map = crop_or_pad(density_map, size)
    low, high = density_map.data.min(), density_map.data.max()
    if not (high > low and high > 0):
        raise ValueError(
            f"{path} must hold a particle brighter than its surroundings, got densities {low} to {high}"
        )
    return density_map


def _suffix(file_name: str) -> str:
    """Lower-case suffix, that of compression aside: ``.cif`` of ``1u19.cif.gz``."""
    return Path(file_name.lower().removesuffix(".gz")).suffix


def _find_local(entry: Entry) -> Path | None:
    root = os.environ.get("CRYOEM_DATA")
    if not root:
        return None
    candidates = (Path(root) / folder / entry.file_name for folder in (".", "maps", "models"))
    return next((path for path in candidates if path.is_file()), None)


def _download(entry: Entry, path: Path) -> None:
    """Download with a progress bar; pooch writes elsewhere first, so that a broken download leaves no file."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # else it advises, at length, to hard-code the hash
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            entry.url, known_hash=entry.sha256, fname=path.name, path=path.parent, progressbar=True
        )
    except OSError as error:  # requests derives its exceptions from it
        response = getattr(error, "response", None)
        answer = (
            "no connection to the server"
            if response is None
            else f"the server answered {response.status_code}"
        )
        reason = error.strerror or answer
        raise ConnectionError(f"could not download {entry.name!r} from {entry.url}: {reason}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the download of {entry.name!r} from {entry.url} was refused: {reason}") from None


def _check_first_use(entry: Entry, path: Path) -> None:
    """Raise unless a file of gzip is whole, and begins as that entry does: more is not known of it."""
    try:
        with gzip.open(path) as stream:
            start = stream.read(BLOCK_BYTES)
            while stream.read(BLOCK_BYTES):
                pass  # the checksum stands at the end
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file, of {entry.url}: {first_line(error)}") from None
    is_model = entry.file_name.endswith(".cif.gz")
    expected = f"data_{path.name.split('.')[0].upper()}" if is_model else "MAP"
    found = start[: len(expected)].upper() if is_model else start[MAP_ID_AT : MAP_ID_AT + 3]
    if found != (expected.upper() if is_model else expected).encode():
        what = "begin with" if is_model else "have, as a map has, in its header"
        raise ValueError(f"{path} must {what} {expected!r}, got {found.decode('latin-1')!r}")


def _recorded(record: Path) -> str:
    """The sha256 that a record holds."""
    text = record.read_bytes()[:200].decode("latin-1")
    if not re.match(r"[0-9a-f]{64}\s", text):
        raise ValueError(
            f"{record} must begin with a sha256, got {text[:80]!r}: remove it to accept the file beside it as it is"
        )
    return text[:64]


def _verify(path: Path, sha256: str | None) -> None:
    """Raise unless a file has the digest it must have; without one there is nothing to hold it against."""
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise ValueError(f"{path} must have the sha256 {sha256}, got {found}")
