"""Arrays in HDF5 files, stored as named datasets with units and with the parameters that produced them."""

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

NUMBERS = "biufc"  # kinds of NumPy dtypes that can be stored: numbers and booleans
SEAL = b"cryoem arrays, sha256 from byte 512 on: "
SEAL_BYTES = 512
BLOCK_BYTES = 2**26
MAPPED_BYTES = 2**26  # size from which arrays are mapped from the file instead of read


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, tuple], *, parameters: dict) -> None:
    """Write named arrays to an HDF5 file atomically.

    The attributes of the file are ``parameters`` (canonical JSON), ``cryoem_version`` and ``created_unix_seconds``.
    Each dataset has the attributes ``units`` and ``description``. The first 512 bytes are an HDF5 user block with the
    SHA-256 checksum of the rest of the file.

    Parameters
    ----------
    path : path-like
        Path of the HDF5 file. Missing parent folders are created, and an existing file is replaced.
    arrays : mapping
        Arrays to write: a mapping from dataset names to ``(array, units)`` or ``(array, units, description)``. Images
        in files, which have a ``shape`` but no ``dtype``, are read and written block by block, as float32.
    parameters : dict
        Parameters that produced the arrays. The values must be JSON-serialisable.

    Raises
    ------
    ValueError
        ``arrays`` is empty, an entry has no units or contains anything other than numbers and booleans, or a parameter
        is NaN or infinite.
    OSError
        The file cannot be written, for example because the disk is full.
    """
    if not arrays:
        raise ValueError(f"arrays is empty; pass at least one dataset to write to {path}")
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
                values, (units, *description) = entry[0], texts
                if hasattr(values, "shape") and not hasattr(values, "dtype"):
                    _write_blocks(file.create_dataset(name, values.shape, np.float32), values)
                else:
                    values = np.asarray(values)
                    if values.dtype.kind not in NUMBERS:
                        raise ValueError(
                            f"arrays[{name!r}] must contain numbers or booleans, got dtype {values.dtype}"
                        )
                    file[name] = values
                file[name].attrs.update(units=units, description="".join(description))
        seal = _seal(partial)
        with open(partial, "r+b") as stream:
            stream.write(seal)


def _write_blocks(dataset: h5py.Dataset, images) -> None:
    n, count = len(images), max(1, BLOCK_BYTES * len(images) // dataset.nbytes)
    for start in range(0, n, count):
        dataset[start : start + count] = np.asarray(images[start : start + count])


def load_arrays(path: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read datasets from a file written by ``save_arrays``.

    Parameters
    ----------
    path : path-like
        Path of the HDF5 file.
    names : iterable of str, optional
        Names of the datasets to read. Default: all datasets.

    Returns
    -------
    dict
        The arrays, keyed by dataset name. Arrays of at least ``MAPPED_BYTES`` are mapped from the file: after the
        checksum has been verified, their values are read when they are used.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is damaged, was not written by ``save_arrays``, or lacks one of the datasets.
    """
    with _open(path) as file:
        names = list(file) if names is None else list(names)
        for name in names:
            if name not in file:
                raise ValueError(f"{path} has no dataset {name!r}; it has {', '.join(file)}")
        return {name: _values(path, file[name]) for name in names}


def _values(path: str | os.PathLike, dataset: h5py.Dataset) -> np.ndarray:
    """Return the values of a dataset. Large ones are mapped from the file, and changes to them stay in memory."""
    offset = dataset.id.get_offset()  # None unless the dataset is contiguous
    if offset is None or dataset.nbytes < MAPPED_BYTES:
        return dataset[()]
    return np.memmap(path, dataset.dtype, "c", offset, dataset.shape)


def stored_parameters(path: str | os.PathLike) -> dict:
    """Return the parameters stored in a file by ``save_arrays``. Raises the same errors as ``load_arrays``."""
    with _open(path) as file:
        return json.loads(file.attrs["parameters"])


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Verify the checksum of a file written by ``save_arrays``, and open it; damaged files can crash HDF5."""
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
    """Return the expected first 512 bytes of a file: a marker and the SHA-256 of all bytes after this block."""
    with open(path, "rb") as stream:
        stream.seek(SEAL_BYTES)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return (SEAL + digest.encode() + b"\n").ljust(SEAL_BYTES, b"\0")
