"""A damaged input, and what its reader must say of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KINDS = (
    "truncated",
    "bit flip",
    "not finite",
    "absurd size",
    "10 GB claimed",
    "wrong byte order",
    "missing field",
    "duplicate field",
    "not UTF-8",
    "empty",
    "another format",
    "wrong value",
    "leads outside",
)


@dataclass(frozen=True)
class Case:
    """One damaged input.

    ``make(folder)`` writes it into an empty folder and gives the path for ``reader``, a name in ``worker.READERS``;
    ``blames`` is the part of a path that the error must hold, ``says`` a regular expression that names the field or
    the fault and must be found in it; ``kind`` is one of ``KINDS``.
    """

    name: str
    reader: str
    kind: str
    make: Callable[[Path], Path]
    blames: str
    says: str
    content: bytes | None = None  # of a case that is one file

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        re.compile(self.says)

    def __str__(self) -> str:
        return f"{self.reader}: {self.name}"


def file_case(name: str, reader: str, kind: str, file: str, content: bytes, says: str) -> Case:
    """A case that is one file of known bytes."""

    def make(folder: Path) -> Path:
        (folder / file).write_bytes(content)
        return folder / file

    return Case(name, reader, kind, make, file, says, content)
