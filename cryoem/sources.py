"""Which code of this package runs."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def sources_sha256() -> str:
    """One checksum of the names and the content of all modules of this package, as they are when first asked for.

    It tells results of different code apart that share a version number, as between releases.
    """
    folder = Path(__file__).resolve().parent
    sha256 = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        sha256.update(content)
    return sha256.hexdigest()
