"""JSON, compressed and foreign files, checksums, one-line error messages, and the folders of the project."""

from __future__ import annotations

import atexit
import functools
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path

FIRST_PHASE = "0-data-preparation"
GZIP_MAGIC = b"\x1f\x8b"
FOREIGN_KINDS = {  # first bytes, in lower case, of files that are often saved under another file's name
    b"<!doctype html": "a web page (HTML)",
    b"<html": "a web page (HTML)",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for",
    b"bzh": "compressed with bzip2; unpack it first",
    b"\xfd7zxz": "compressed with xz; unpack it first",
    b"pk\x03\x04": "a ZIP archive",
    b"%pdf": "a PDF document",
    b"\x89hdf": "an HDF5 file",
    b"\x89png": "a PNG picture",
    b"\x93numpy": "a NumPy or cryoSPARC file",
}


def read_json(path: str | os.PathLike) -> dict:
    """Read a file that contains a JSON object, and return it as a dictionary.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not valid JSON in UTF-8, or its top-level value is not an object.
    """

    def refuse(text: str):
        raise ValueError(f"{text} is not a valid JSON number")

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        # By default, Python's parser accepts NaN and infinity, which are not valid JSON.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, got {content!r:.80}")
    return content


def canonical_json(value: dict) -> str:
    """Serialise a dictionary as JSON with sorted keys and no spaces, so that equal dictionaries produce equal text.

    Raises
    ------
    ValueError
        A number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def foreign_kind(start: bytes) -> str | None:
    """Return what a file is ("a web page (HTML)"), given its first bytes, if it is a well-known kind of other file."""
    if not start:
        return "empty"
    beginning = start[:100].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for magic, kind in FOREIGN_KINDS.items() if beginning.startswith(magic)), None)


def is_gzip(path: str | os.PathLike) -> bool:
    """Return whether a file is compressed with gzip, whatever its name."""
    with open(path, "rb") as stream:
        return stream.read(2) == GZIP_MAGIC


def uncompressed(path: str | os.PathLike) -> Path:
    """Return the path itself or, if the file is compressed with gzip, that of an unpacked copy for random access.

    The copy is made once per process in the temporary folder (``$TMPDIR``), and removed when the process ends.

    Raises
    ------
    OSError
        The file is damaged, or there is no room for the copy.
    """
    path = Path(path)
    if not is_gzip(path):
        return path
    state = path.stat()
    return _unpacked(path.resolve(), state.st_mtime_ns, state.st_size)


@functools.cache
def _unpacked(path: Path, _changed_ns: int, _n_bytes: int) -> Path:
    """Unpack a file in one state, which its time of change and its length identify."""
    handle, copy = tempfile.mkstemp(dir=_temporary_folder())
    try:
        with open(handle, "wb") as target, gzip.open(path) as source:
            shutil.copyfileobj(source, target, 2**20)
    except (OSError, EOFError, zlib.error) as error:
        os.unlink(copy)
        raise OSError(why_unreadable(error)) from None
    return Path(copy)


@functools.cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="cryoem-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal. Memory use is independent of the file's size."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def sources_sha256() -> str:
    """Return a checksum of the names and contents of all modules in this package, computed once per process.

    The checksum distinguishes results produced by different code with the same version number.
    """
    package = Path(__file__).resolve().parents[1]
    sha256 = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        sha256.update(content)
    return sha256.hexdigest()


def why_unreadable(error: Exception) -> str:
    """Return why a file, which may be compressed with gzip, cannot be read, as the end of a sentence."""
    if isinstance(error, (EOFError, zlib.error)):
        return "its compressed data are damaged or incomplete"
    return getattr(error, "strerror", None) or first_line(error)


def first_line(error: Exception) -> str:
    """Return the first line of an error message without final punctuation, or the class name if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")


def data_folder() -> Path:
    """Return the absolute path of the folder for downloads and results.

    The folder is ``$CRYOEM_HOME`` if this variable is set, and otherwise ``data/`` in the project folder. The project
    folder is the first folder that contains ``pyproject.toml`` and ``notebooks/``, searching upwards from the working
    folder. If no such folder exists, the working folder is used instead. This function does not create the data folder.
    """
    if home := os.environ.get("CRYOEM_HOME"):
        return Path(home).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder / "data"
    return here / "data"


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: ``notebooks/`` in a checkout, or the copy in the installed package.

    Raises
    ------
    FileNotFoundError
        Neither folder contains the notebooks for phase 0.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package.parent / "notebooks", package / "_notebooks")
    for folder in folders:
        if (folder / FIRST_PHASE).is_dir():
            return folder
    raise FileNotFoundError(
        f"notebooks not found: neither {folders[0]} nor {folders[1]} contains {FIRST_PHASE}/"
    )
