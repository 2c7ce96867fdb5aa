"""Arrays in HDF5 files: named datasets with units, and the parameters that produced them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

import cryoem
from cryoem.files.reading import canonical_json
from cryoem.files.writing import atomic_write

NUMBERS = "biufc"  # the kinds of NumPy types that are stored: numbers and booleans
SEAL = b"cryoem arrays, sha256 from byte 512 on: "
SEAL_BYTES = 512


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, tuple], *, parameters: dict) -> None:
    """Write arrays to an HDF5 file, atomically.

    The file has the attributes ``parameters`` (canonical JSON), ``cryoem_version`` and ``created_unix_seconds``; each
    dataset has ``units`` and ``description``. The first 512 bytes, which HDF5 reserves for users, contain the sha256
    of the rest.

    Parameters
    ----------
    path : path-like
        The file. Missing folders are created; an existing file is replaced.
    arrays : mapping
        Dataset name to ``(array, units)`` or ``(array, units, description)``.
    parameters : dict
        Parameters that produced the arrays, in types that JSON supports.

    Raises
    ------
    ValueError
        There are no arrays, or an entry does not contain numbers or booleans and their units.
    OSError
        The file cannot be written, for example because the disk is full.
    """
    if not arrays:
        raise ValueError(f"arrays must name at least one dataset for {path}, got none")
    with atomic_write(path) as partial:
        with h5py.File(partial, "w", userblock_size=SEAL_BYTES) as file:
            file.attrs["parameters"] = canonical_json(parameters)
            file.attrs["cryoem_version"] = cryoem.__version__
            file.attrs["created_unix_seconds"] = time.time()
            for name, entry in arrays.items():
                texts = entry[1:] if isinstance(entry, tuple) else ()
                if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
                    raise ValueError(
                        f"arrays[{name!r}] must be (array, units) or (array, units, description), got {entry!r:.80}"
                    )
                values = np.asarray(entry[0])
                if values.dtype.kind not in NUMBERS:
                    raise ValueError(
                        f"arrays[{name!r}] must contain numbers or booleans, got dtype {values.dtype}"
                    )
                file[name] = values
                file[name].attrs.update(units=texts[0], description="".join(texts[1:]))
        seal = _seal(partial)
        with open(partial, "r+b") as stream:
            stream.write(seal)


def load_arrays(path: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read datasets of an HDF5 file that ``save_arrays`` wrote, all of them by default.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is damaged, was not written by ``save_arrays``, or has no dataset of that name.
    """
    with _open(path) as file:
        names = list(file) if names is None else list(names)
        for name in names:
            if name not in file:
                raise ValueError(f"{path} has no dataset {name!r}; it has {', '.join(file)}")
        return {name: file[name][()] for name in names}


def stored_parameters(path: str | os.PathLike) -> dict:
    """Return the parameters that ``save_arrays`` stored in a file; raises as ``load_arrays``."""
    with _open(path) as file:
        return json.loads(file.attrs["parameters"])


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Open a file that ``save_arrays`` wrote, after verifying its checksum: some damage makes HDF5 crash."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with open(path, "rb") as stream:
        seal = stream.read(SEAL_BYTES)
    if not seal.startswith(SEAL):
        raise ValueError(f"{path} was not written by this package, or is damaged: it has no checksum")
    if seal != _seal(path):
        raise ValueError(f"{path} is damaged: its checksum does not match")
    with h5py.File(path, "r") as file:
        yield file


def _seal(path: Path) -> bytes:
    """Return the expected first bytes of a file: a marker, and the sha256 of all bytes after it."""
    with open(path, "rb") as stream:
        stream.seek(SEAL_BYTES)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return (SEAL + digest.encode() + b"\n").ljust(SEAL_BYTES, b"\0")
