"""Headers of MRC files (MRC2014 and its variants), for maps and stacks of images alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.files.reading import foreign_kind

HEADER_BYTES = 1024
DTYPES_BY_MODE = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
UNSIGNED_BY_MODE = {0: "u1", 1: "u2"}
IMOD_STAMP = (
    1146047817  # "IMOD" as an integer, at byte 152; bit flags follow, of which the first means signed bytes
)
LARGEST_SIDE_PX = 2**16 - 1  # in the wrong byte order, smaller sides exceed this limit
BYTE_ORDERS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}  # machine stamps; others are ignored
FEWEST_SECTIONS = 16  # to compare neighbouring sections
COMPARED_SECTIONS = 24
LARGEST_CHANGE_IN_MAPS = (
    0.6  # see section_change; 0.05 to 0.3 in maps, 0.6 if noise has the variance of the map
)
SMALLEST_CHANGE_IN_STACKS = 0.8  # 0.85 to 1.05 in stacks


@dataclass(frozen=True)
class MrcHeader:
    """Header of an MRC file.

    ``fields`` contains the fields under their lower-case MRC2014 names. ``shape`` is (nz, ny, nx): sections, rows and
    columns in file order. ``dtype`` is the type of the values with its byte order. ``start`` is the offset of the first
    value in bytes. ``states_sign`` is false if the values are integers and the header does not state clearly whether
    they are signed.
    """

    fields: np.void
    shape: tuple[int, int, int]
    dtype: np.dtype
    start: int
    states_sign: bool = True

    @property
    def end(self) -> int:
        """Length in bytes of a file with this header."""
        return self.start + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def has_map_id(self) -> bool:
        """Whether the header contains the MAP identifier."""
        return bytes(self.fields["map"])[:3] == b"MAP"

    def __str__(self) -> str:
        nz, ny, nx = self.shape
        return (
            f"its header states {nx} x {ny} x {nz} values of mode {self.fields['mode']}, or {self.end} bytes"
        )


def parse_header(content: bytes, path: Path, *, kind: str) -> MrcHeader:
    """Parse the first 1024 bytes of an MRC file; errors mention its ``kind`` ("a map" or "an MRC stack").

    The byte order is the one in which the sizes are valid; it must agree with the machine stamp. The stamp alone is not
    sufficient, because many files have none.
    """
    from mrcfile.dtypes import HEADER_DTYPE

    if found := foreign_kind(content) or _kind_of_text(content):
        raise ValueError(f"{path} is not {kind}: it is {found}")
    if len(content) < HEADER_BYTES:
        raise ValueError(
            f"{path} is not {kind}: its header must have {HEADER_BYTES} bytes, got {len(content)} bytes"
        )
    for byte_order in "><":
        fields = np.frombuffer(content, HEADER_DTYPE.newbyteorder(byte_order), count=1)[0]
        mode, extended = int(fields["mode"]), int(fields["nsymbt"])
        nz, ny, nx = shape = tuple(int(fields[name]) for name in ("nz", "ny", "nx"))
        sizes_make_sense = nz >= 0 and 0 < ny <= LARGEST_SIDE_PX and 0 < nx <= LARGEST_SIDE_PX
        if sizes_make_sense and extended >= 0 and mode in range(128):
            break
    else:
        raise ValueError(
            f"{path} is not {kind}: its header is implausible: size {nx} x {ny} x {nz}, mode {mode}, "
            f"extended header of {extended} bytes (nsymbt)"
        )
    stamp = bytes(fields["machst"])[:2]
    if BYTE_ORDERS.get(stamp, byte_order) != byte_order:
        raise ValueError(
            f"{path} has the machine stamp {stamp.hex(' ')}, which does not match the byte order of its header"
        )
    if mode not in DTYPES_BY_MODE:
        known = ", ".join(map(str, DTYPES_BY_MODE))
        raise ValueError(f"{path} has the unsupported mode {mode}; supported modes are {known}")
    unsigned, stated = _unsigned_integers(fields, mode, byte_order)
    dtype = np.dtype((UNSIGNED_BY_MODE if unsigned else DTYPES_BY_MODE)[mode]).newbyteorder(byte_order)
    return MrcHeader(fields, shape, dtype, HEADER_BYTES + extended, stated)


def _kind_of_text(content: bytes) -> str | None:
    """Return what a text file is, or None for binary files, such as MRC files, whose headers contain zeros."""
    if re.search(rb"[^\t\n\r\x20-\x7e]", content):
        return None
    return "a STAR or CIF table" if re.match(rb"(?:\s+|#[^\n]*\n)*data_", content) else "a text file"


def _unsigned_integers(fields: np.void, mode: int, byte_order: str) -> tuple[bool, bool]:
    """Return whether integers of mode 0 or 1 are unsigned, and whether the header states this clearly.

    In MRC2014, both modes are signed. Bytes were unsigned in older files, and are in those of IMOD unless the first bit
    of its flags is set. For other programs, only DMIN and DMAX can show the sign.
    """
    if mode not in UNSIGNED_BY_MODE:
        return False, True
    low, high = float(fields["dmin"]), float(fields["dmax"])
    signed, unsigned = (np.iinfo(types[mode]) for types in (DTYPES_BY_MODE, UNSIGNED_BY_MODE))
    has_range = low <= high and (low, high) != (0, 0)  # MRC2014: DMAX < DMIN if they are not known
    may_be_signed = has_range and signed.min <= low and high <= signed.max
    may_be_unsigned = has_range and low >= 0 and high <= unsigned.max
    stamp, flags = np.frombuffer(bytes(fields["extra2"])[40:48], f"{byte_order}i4")
    if mode == 0 and stamp == IMOD_STAMP:
        is_signed = bool(flags & 1)
        return not is_signed, not has_range or (may_be_signed if is_signed else may_be_unsigned)
    if may_be_unsigned and not may_be_signed:
        return True, True
    return False, may_be_signed or mode == 1


def sign_doubt(header: MrcHeader) -> str:
    """Return the warning about a header that does not state whether its integers are signed, without the path."""
    sign = "unsigned" if header.dtype.kind == "u" else "signed"
    return f"does not state clearly whether its bytes are signed (DMIN, DMAX, IMOD's flags); reading them as {sign}"


def section_change(read: Callable[[int], np.ndarray], n: int) -> float | None:
    """Return how much neighbouring sections differ, relative to sections that are a quarter of the file apart.

    The header does not distinguish maps from stacks, because programs set its fields differently. In a map, neighbours
    are alike; in a stack, they are as different as any other images.

    Parameters
    ----------
    read : callable
        Returns the section (y, x) with the given number, counted from 0.
    n : int
        Number of sections.

    Returns
    -------
    float or None
        Ratio of the mean squared differences. None if there are fewer than 16 sections or they do not differ.
    """
    if n < FEWEST_SECTIONS:
        return None
    lag, near, far = n // 4, 0.0, 0.0
    for number in np.unique(np.linspace(lag, 3 * n // 4 - 1, COMPARED_SECTIONS).astype(int)):
        section, neighbour, distant = (np.asarray(read(k), float) for k in (number, number + 1, number + lag))
        near += np.square(section - neighbour).mean()
        far += np.square(section - distant).mean()
    return near / far if far > 0 else None
