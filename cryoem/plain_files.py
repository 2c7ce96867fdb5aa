"""HDF5, JSON and NumPy files that may come from anywhere: opened only where they are whole and hold plain data."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cryoem.errors import first_line

MOST_JSON_BYTES = 10_000_000
KINDS = "biufc"  # of NumPy types: numbers and booleans, nothing that would have to be interpreted
MOST_OBJECTS = 100_000
DAMAGE = (OSError, KeyError, RuntimeError, TypeError, AttributeError, UnicodeError)  # what h5py makes of it


def read_json(path: str | os.PathLike) -> dict:
    """The dictionary that a JSON file holds.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : it is longer than 10 MB, no UTF-8, no JSON, nested too deeply, or no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path} must be at most {MOST_JSON_BYTES} bytes, got {path.stat().st_size}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON dictionary, got {content!r:.80}")
    return content


def _refuse_constant(text: str):
    raise ValueError(f"{text} is no number of JSON")


def read_npy(path: str | os.PathLike, *, shape: tuple[int, ...]) -> np.ndarray:
    """The finite real numbers in a NumPy file (``.npy``) of a shape that is known before.

    Raises
    ------
    ValueError : it is not a whole NumPy file, or one of another shape or of anything but finite numbers.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # which takes no pickle and allocates nothing
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise ValueError(f"{path} is not a whole NumPy file: {first_line(error)}") from None
    if mapped.shape != shape or mapped.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold numbers {shape}, got {mapped.dtype} {mapped.shape}")
    array = np.array(mapped)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{path} must be finite, got {np.count_nonzero(~np.isfinite(array))} non-finite values"
        )
    return array


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file of any length, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def open_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading, all of whose contents were looked at before anything is read or allocated.

    Groups and datasets of numbers or booleans are all there may be, each dataset as many bytes in this very file as
    its shape takes: neither links, external or virtual datasets, which lead to other files, nor compression, behind
    which any size can hide.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : it is not a whole HDF5 file, or holds something else; also where damage shows while it is open.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with h5py.File(path, "r") as file:
            _check_group(file, path)
            yield file
    except DAMAGE as error:
        raise ValueError(f"{path} is not a whole HDF5 file: {first_line(error)}") from None


def check_hdf5(path: str | os.PathLike) -> None:
    """Raise as ``open_hdf5`` where another library is to read the file."""
    with open_hdf5(path):
        pass


def _check_group(file: h5py.File, path: Path) -> None:
    """Walk through all groups of a file, without following anything but hard links, and each object once."""
    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            inside = f"{group.name.rstrip('/')}/{name}".lstrip("/")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(
                    f"{path} must hold its own data, got the link {inside!r}, which may lead anywhere"
                )
            found = group[name]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                raise ValueError(
                    f"{path} must hold each object once, got {inside!r} again under another name"
                )
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise ValueError(f"{path} must hold at most {MOST_OBJECTS} objects, got more")
            if isinstance(found, h5py.Group):
                waiting.append(found)
            else:
                _check_dataset(found, inside, path)


def _check_dataset(dataset, name: str, path: Path) -> None:
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path} must hold groups and datasets, got {name!r}, which is neither")
    if dataset.dtype.kind not in KINDS or dataset.dtype.subdtype:
        raise ValueError(f"{path} must hold numbers, got the dataset {name!r} of type {dataset.dtype}")
    if dataset.external or dataset.is_virtual:
        raise ValueError(
            f"{path} must hold its own data, got the dataset {name!r}, which lies in another file"
        )
    if dataset.shape is None:
        raise ValueError(f"{path} must hold numbers, got the dataset {name!r} without any")
    claimed, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if claimed != stored or stored > path.stat().st_size:
        raise ValueError(
            f"{path} must hold all of the dataset {name!r}: its shape {dataset.shape} takes {claimed} bytes, "
            f"got {stored} in a file of {path.stat().st_size}"
        )
