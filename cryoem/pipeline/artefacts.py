"""Arrays in HDF5 files: named datasets with units, and the parameters that made them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

import cryoem
from cryoem.errors import first_line
from cryoem.pipeline.files import canonical_json
from cryoem.plain_files import open_hdf5
from cryoem.whole_files import written_aside

SEAL = b"cryoem arrays, sha256 from byte 512 on: "
SEAL_BYTES = 512


def save_arrays(path: Path, arrays: Mapping[str, tuple], *, parameters: dict) -> None:
    """Write arrays to an HDF5 file, all of it or nothing.

    Parameters
    ----------
    path : the file; its folder is made, an old file is replaced.
    arrays : dataset name -> ``(array, units)`` or ``(array, units, description)``; numbers or booleans of any shape.
    parameters : what made the arrays, anything JSON can hold; ``is_current`` compares them.

    The file carries the attributes ``parameters`` (canonical JSON), ``cryoem_version`` and
    ``created_unix_seconds``, every dataset ``units`` and ``description``.  Its first 512 bytes, which HDF5 leaves to
    the user, hold the sha256 of the rest.

    Raises
    ------
    ValueError : an array does not hold numbers or booleans, its units are not text, or there is none at all.
    OSError : the file cannot be written, such as on a full disk.
    """
    if not arrays:
        raise ValueError(f"arrays must name at least one dataset for {path}, got none")
    datasets = {name: _checked(name, entry) for name, entry in arrays.items()}
    with written_aside(path) as aside:
        with h5py.File(aside, "w", userblock_size=SEAL_BYTES) as file:
            file.attrs["parameters"] = canonical_json(parameters)
            file.attrs["cryoem_version"] = cryoem.__version__
            file.attrs["created_unix_seconds"] = time.time()
            for name, (array, units, description) in datasets.items():
                dataset = file.create_dataset(name, data=array)
                dataset.attrs["units"] = units
                dataset.attrs["description"] = description
        seal(aside)


def load_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read datasets of an HDF5 file that ``save_arrays`` wrote.

    Parameters
    ----------
    path : the file.
    names : the datasets to read, all of them by default.

    Returns
    -------
    Dataset name -> array.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : the file is truncated or was not written by ``save_arrays``, is not as it was written, or has no
        dataset of that name.
    """
    with _open(path) as file:
        names = list(file) if names is None else list(names)
        for name in names:
            if name not in file:
                raise ValueError(f"{path} must hold the dataset {name!r}, it holds {', '.join(file)}")
        return {name: file[name][()] for name in names}


def stored_parameters(path: Path) -> dict:
    """The parameters that ``save_arrays`` stored with a file; raises as ``load_arrays``."""
    with _open(path) as file:
        try:
            parameters = json.loads(file.attrs["parameters"])
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} must have JSON in its attribute 'parameters': {first_line(error)}"
            ) from None
        if not isinstance(parameters, dict):
            raise ValueError(
                f"{path} must have a dictionary in its attribute 'parameters', got {parameters!r:.80}"
            )
        return parameters


def is_current(path: Path, parameters: dict) -> bool:
    """True when ``path`` is a whole file of ``save_arrays`` made with the same parameters."""
    try:
        return canonical_json(stored_parameters(path)) == canonical_json(parameters)
    except (FileNotFoundError, ValueError):
        return False


def seal(path: Path) -> None:
    """Write the sha256 of an HDF5 file into its first 512 bytes, which are not counted."""
    with open(path, "r+b") as stream:
        content = SEAL + _sha256(stream).encode() + b"\n"
        stream.seek(0)
        stream.write(content.ljust(SEAL_BYTES, b"\0"))


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    _check_seal(Path(path))
    with open_hdf5(path) as file:
        if "parameters" not in file.attrs:
            raise ValueError(f"{path} was not written by this package: it has no attribute 'parameters'")
        groups = [name for name in file if not isinstance(file[name], h5py.Dataset)]
        if groups:
            raise ValueError(f"{path} was not written by this package: it holds the group {groups[0]!r}")
        yield file


def _check_seal(path: Path) -> None:
    """Hold a file against its checksum before HDF5 sees it, which some damage makes crash."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as stream:
        content = stream.read(SEAL_BYTES)
        if not content.startswith(SEAL):
            raise ValueError(
                f"{path} is not a whole HDF5 file of this version: it must begin with {SEAL.decode()!r}, "
                f"got {content[: len(SEAL)]!r}"
            )
        if content != (SEAL + _sha256(stream).encode() + b"\n").ljust(SEAL_BYTES, b"\0"):
            raise ValueError(f"{path} is not a whole HDF5 file: its sha256 is not the one that was written")


def _sha256(stream: BinaryIO) -> str:
    """Of an open file from byte 512 on."""
    stream.seek(SEAL_BYTES)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(name: str, entry: tuple) -> tuple[np.ndarray, str, str]:
    if not (
        isinstance(entry, tuple) and len(entry) in (2, 3) and all(isinstance(text, str) for text in entry[1:])
    ):
        raise ValueError(
            f"arrays[{name!r}] must be (array, units) or (array, units, description), got {entry!r:.80}"
        )
    array = np.asarray(entry[0])
    if array.dtype.kind not in "biufc":
        raise ValueError(f"arrays[{name!r}] must hold numbers or booleans, got dtype {array.dtype}")
    return array, entry[1], entry[2] if len(entry) == 3 else ""
