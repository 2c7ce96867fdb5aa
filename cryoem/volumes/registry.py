"""Registry of maps and atomic models, with their sources, checksums and downloads.

Valid names are ``"5j0n"`` and ``"beta-galactosidase"`` (maps), any PDB entry (``"1u19"``, or ``"PDB-5j0n"`` if the
plain name is a map), any EMDB entry (``"EMD-1234"``), and the particles ``"ribosome-tilts"`` and
``"ribosome-tilts-stack"``.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryoem.files.reading import data_folder, first_line, sha256_of
from cryoem.files.writing import check_writable, write_text
from cryoem.validation import suggestion

BLOCK_BYTES = 1_000_000
MAP_ID_AT = 208  # offset in bytes in the header of an MRC file
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
    if local := given_file(entry):
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


def given_file(entry: Entry) -> Path | None:
    """Return the file of an entry in ``$CRYOEM_DATA``, or None if there is none."""
    if not (root := os.environ.get("CRYOEM_DATA")):
        return None
    stem = entry.file_name.removesuffix(".cif.gz")
    names = [entry.file_name] if stem == entry.file_name else [stem + suffix for suffix in LOCAL_MODELS]
    folders = (".", "maps", "models", "particles")
    paths = (Path(root) / folder / name for folder, name in itertools.product(folders, names))
    return next((path for path in paths if path.is_file()), None)


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
