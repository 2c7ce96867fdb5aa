"""Changes of the bytes of files, and headers of MRC files with integers."""

from __future__ import annotations

from collections.abc import Callable

import mrcfile
import numpy as np

Change = Callable[[bytes], bytes]


def replaced(old: str, new: str) -> Change:
    """Replace text that must be present."""

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


def fields(**values) -> Change:
    """Change fields in an MRC header."""

    def change(content: bytes) -> bytes:
        content = bytearray(content)
        header = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, count=1)
        for name, value in values.items():
            header[name] = value
        return bytes(content)

    return change


def at(position: int, new: bytes) -> Change:
    """Overwrite bytes."""
    return lambda content: content[:position] + new + content[position + len(new) :]


def imod_stamp(flags: int, byte_order: str = "<") -> bytes:
    """Return the second block of extra bytes in a header by IMOD: the stamp and its bit flags, from byte 152."""
    return bytes(40) + np.array([1146047817, flags], f"{byte_order}i4").tobytes() + bytes(36)


# The type of the integers in a file, header fields, and the type as which they must be read. MRC2014 says signed.
INTEGER_HEADERS = [
    ("u1", {"dmin": 0, "dmax": 255}, "u1"),
    ("u1", {"dmin": 12, "dmax": 220}, "u1"),
    ("u1", {"dmin": 0, "dmax": -1, "extra2": imod_stamp(0)}, "u1"),
    ("u1", {"dmin": 0, "dmax": 255, "extra2": imod_stamp(0)}, "u1"),
    ("i1", {"dmin": -128, "dmax": 127, "extra2": imod_stamp(1)}, "i1"),
    ("i1", {"dmin": -128, "dmax": 127}, "i1"),
    ("u2", {"mode": 1, "dmin": 0, "dmax": 60_000}, "u2"),
    ("i2", {"mode": 1, "dmin": 0, "dmax": 0}, "i2"),
]
UNCLEAR_INTEGERS = [
    ("i1", {"dmin": 0, "dmax": -1}, "signed"),
    ("i1", {"dmin": 0, "dmax": 0}, "signed"),
    ("i1", {"dmin": -40, "dmax": 200}, "signed"),
    ("u1", {"dmin": -128, "dmax": 127, "extra2": imod_stamp(0)}, "unsigned"),
    ("i1", {"dmin": 0, "dmax": 255, "extra2": imod_stamp(1)}, "signed"),
]


def integers(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return integers over the whole range of a type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max, shape, dtype, endpoint=True)
