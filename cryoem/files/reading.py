"""JSON, checksums, one-line error messages, and the folders of the project."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

FIRST_PHASE = "0-data-preparation"


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
