"""JSON, checksums, and error messages of other packages in one line."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON file that contains an object, as a dictionary.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not valid JSON in UTF-8, or does not contain an object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, got {content!r:.80}")
    return content


def _refuse_constant(text: str):
    """Reject NaN and infinity, which Python's parser accepts."""
    raise ValueError(f"{text} is not a valid JSON number")


def canonical_json(value: dict) -> str:
    """Return JSON with sorted keys and no spaces, so that equal dictionaries give equal texts.

    Raises
    ------
    ValueError
        A number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(path: str | os.PathLike) -> str:
    """Return the sha256 of a file in hexadecimal digits; memory use is independent of the file's size."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def sources_sha256() -> str:
    """Return one checksum of the names and contents of all modules of this package, computed once per process.

    It distinguishes results of different code with the same version number.
    """
    package = Path(__file__).resolve().parents[1]
    sha256 = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        sha256.update(content)
    return sha256.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without its final point, or the error's class name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")
