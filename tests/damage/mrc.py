"""Damaged MRC files: density maps (gzipped, too) and stacks of particle images."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from damage.case import Case, file_case

HEADER_BYTES = 1024
SIDE = 8
VOXEL = 2.0
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
STAMPS = {"<": (0x44, 0x44, 0, 0), ">": (0x11, 0x11, 0, 0)}
BIG = 1358  # BIG ** 3 voxels of mode 2 are 10 GB
READERS = (("map", "map.mrc"), ("particles", "stack.mrcs"))


def mrc(reader: str, *, mode: int = 2, order: str = "<", extra: bytes = b"", seed: int = 0) -> bytes:
    """A valid map of 8 x 8 x 8 voxels, or a stack of 8 images of 8 x 8 px, byte for byte.

    ``extra`` is the extended header.
    """
    header = np.zeros((), HEADER_DTYPE.newbyteorder(order))
    for axis in "xyz":
        header["n" + axis] = header["m" + axis] = SIDE
        header["cella"][axis] = SIDE * VOXEL
    for angle in ("alpha", "beta", "gamma"):
        header["cellb"][angle] = 90
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["mode"], header["ispg"], header["nversion"] = mode, 1, 20140
    header["nsymbt"] = len(extra)
    header["map"], header["machst"] = b"MAP ", STAMPS[order]
    if reader == "particles":
        header["mz"], header["cella"]["z"], header["ispg"] = 1, VOXEL, 0
    return header.tobytes() + extra + pixels(mode=mode, order=order, seed=seed).tobytes()


def pixels(*, mode: int = 2, order: str = "<", seed: int = 0) -> np.ndarray:
    """(8, 8, 8) values as the file has them; small, positive and whole, so that every mode holds them."""
    values = np.random.default_rng(seed).integers(1, 100, (SIDE, SIDE, SIDE))
    return values.astype(np.dtype(DTYPES[mode]).newbyteorder(order))


def field_offsets() -> Iterator[tuple[str, int, np.dtype]]:
    """Every number and text of the header: name, first byte, type."""
    for name in HEADER_DTYPE.names:
        dtype, offset = HEADER_DTYPE.fields[name][:2]
        if dtype.names:
            yield from (
                (f"{name}.{part}", offset + dtype.fields[part][1], dtype[part]) for part in dtype.names
            )
        else:
            yield name, offset, dtype


OFFSETS = {name: (offset, dtype) for name, offset, dtype in field_offsets()}


def with_field(content: bytes, name: str, value, order: str = "<") -> bytes:
    """The file with a number of its header replaced."""
    offset, dtype = OFFSETS[name]
    new = np.array(value).astype(dtype.newbyteorder(order)).tobytes()
    return content[:offset] + new + content[offset + len(new) :]


def with_flipped_bit(content: bytes, byte: int, bit: int) -> bytes:
    """The file with one bit of one byte turned over."""
    return content[:byte] + bytes([content[byte] ^ (1 << bit)]) + content[byte + 1 :]


def flipped_field(content: bytes, name: str, bit: int, order: str) -> bytes:
    """The file with bit ``bit`` (0 is the least) of a 4-byte field turned over."""
    byte = bit // 8 if order == "<" else 3 - bit // 8
    return with_flipped_bit(content, OFFSETS[name][0] + byte, bit % 8)


def whole() -> Iterator[Case]:
    """The files that are not damaged, in every mode and either byte order."""
    for reader, file in READERS:
        for mode in DTYPES:
            for order in "<>":
                content = mrc(reader, mode=mode, order=order, extra=bytes(64))
                yield file_case(
                    f"whole {file}, mode {mode}, {order}", reader, "wrong value", file, content, ""
                )
    packed = gzip.compress(mrc("map"), mtime=0)
    yield file_case("whole map in gzip", "map", "wrong value", "map.mrc.gz", packed, "")


def cases() -> Iterator[Case]:
    """All damaged MRC files."""
    for reader, file in READERS:
        yield from truncated(reader, file)
        yield from flipped(reader, file)
        yield from not_finite(reader, file)
        yield from absurd(reader, file)
        yield from in_the_wrong_order(reader, file)
        yield from of_another_kind(reader, file)
    yield from only_of_maps()
    yield from gzipped()


def truncated(reader: str, file: str) -> Iterator[Case]:
    """Cut at the start of every field of the header, and in the data."""
    content = mrc(reader)
    for name, (offset, _) in OFFSETS.items():
        kind = "empty" if offset == 0 else "truncated"
        yield file_case(f"cut at header field {name}", reader, kind, file, content[:offset], "header")
    for mode in DTYPES:
        for order in "<>":
            whole = mrc(reader, mode=mode, order=order)
            says = r"truncated.*header claims"
            name = f"mode {mode}, {'big' if order == '>' else 'little'}-endian, last byte missing"
            yield file_case(name, reader, "truncated", file, whole[:-1], says)
    half = content[: HEADER_BYTES + (len(content) - HEADER_BYTES) // 2]
    yield file_case("half of the data missing", reader, "truncated", file, half, "truncated")
    yield file_case("no data", reader, "truncated", file, content[:HEADER_BYTES], "truncated")
    inside = mrc(reader, extra=bytes(512))[: HEADER_BYTES + 256]
    yield file_case("cut in the extended header", reader, "truncated", file, inside, "truncated")


def flipped(reader: str, file: str) -> Iterator[Case]:
    """One bit of a header field turned over, such that header and file contradict each other."""
    says = {
        "nx": r"claims|square|nx",
        "ny": r"claims|square|ny",
        "nz": r"claims|nz",
        "mode": r"mode",
        "nsymbt": r"claims|nsymbt",
        "mapc": r"MAPC",
        "mapr": r"MAPC",
        "maps": r"MAPC",
    }
    bits = {
        "nx": (0, 1, 2, 4, 9, 20, 31),
        "ny": (0, 2, 5, 16, 30, 31),
        "nz": (4, 5, 8, 15, 20, 30, 31),
        "mode": (3, 4, 6, 7, 15, 31),
        "nsymbt": (0, 4, 10, 20, 30),
        "mapc": (1, 2, 7, 31),
        "mapr": (0, 6, 31),
        "maps": (1, 3, 31),
    }
    for order in "<>":
        content = mrc(reader, order=order)
        for name, turned in bits.items():
            for bit in turned:
                yield file_case(
                    f"bit {bit} of {name} flipped, {order}",
                    reader,
                    "bit flip",
                    file,
                    flipped_field(content, name, bit, order),
                    says[name],
                )


def not_finite(reader: str, file: str) -> Iterator[Case]:
    """NaN and infinity among pixels, in both byte orders and both floating-point modes."""
    for mode in (2, 12):
        for order in "<>":
            content, size = mrc(reader, mode=mode, order=order), np.dtype(DTYPES[mode]).itemsize
            for index, value in ((0, np.nan), (SIDE**3 // 2, np.inf), (SIDE**3 - 1, -np.inf)):
                bad = np.array(value).astype(np.dtype(DTYPES[mode]).newbyteorder(order)).tobytes()
                at = HEADER_BYTES + index * size
                changed = content[:at] + bad + content[at + size :]
                name = f"{value} at pixel {index}, mode {mode}, {order}"
                yield file_case(name, reader, "not finite", file, changed, "finite")
    for value in (np.nan, np.inf, -np.inf):
        changed = with_field(mrc(reader), "cella.x", value)
        yield file_case(f"cella.x is {value}", reader, "not finite", file, changed, "cell|pixel size")


def absurd(reader: str, file: str) -> Iterator[Case]:
    """Sizes that no file has, up to those whose product no computer holds."""
    content = mrc(reader)
    largest = 2**31 - 1
    for name in ("nx", "ny", "nz", "nsymbt"):
        for value in (-1, -(2**31), largest):
            changed = with_field(content, name, value)
            says = "nsymbt" if name == "nsymbt" and value < 0 else f"claims|{name}|square"
            yield file_case(f"{name} is {value}", reader, "absurd size", file, changed, says)
    for name in ("nx", "ny", "nz"):
        changed = with_field(content, name, 0)
        yield file_case(f"{name} is 0", reader, "absurd size", file, changed, r"claims|\bn[xyz]\b")
    for sizes in ((BIG, BIG, BIG), (50_000, 50_000, 1), (65_535, 65_535, largest), (1024, 1024, 2560)):
        changed = content
        for name, value in zip(("nx", "ny", "nz"), sizes, strict=True):
            changed = with_field(changed, name, value)
        kind = "absurd size" if sizes[2] == largest else "10 GB claimed"
        says = "claims|density map, got"
        yield file_case(f"{sizes} of {len(content)} bytes", reader, kind, file, changed, says)
    for mode in (-1, 3, 4, 5, 7, 101, 128, largest):
        changed = with_field(content, "mode", mode)
        yield file_case(f"mode is {mode}", reader, "wrong value", file, changed, "mode")
    huge = with_field(with_field(content, "cella.x", 1e30), "cella.y", 1e30)
    huge = with_field(huge, "cella.z", 1e30)
    yield file_case("a cell of 1e30 angstrom", reader, "absurd size", file, huge, "cell|pixel size")
    negative = with_field(content, "cella.x", -20.0)
    yield file_case("a negative cell", reader, "wrong value", file, negative, "cell|pixel size")


def in_the_wrong_order(reader: str, file: str) -> Iterator[Case]:
    """Header and data, or header and machine stamp, of different byte orders."""
    little, big = mrc(reader, order="<"), mrc(reader, order=">")
    for name, header, data in (("little", little, big), ("big", big, little)):
        mixed = header[:HEADER_BYTES] + data[HEADER_BYTES:]
        stamped = mixed[:212] + data[212:216] + mixed[216:]
        says = "machine stamp"
        yield file_case(f"{name}-endian header alone", reader, "wrong byte order", file, stamped, says)
    for name in ("nx", "ny", "nz", "mode"):
        changed = with_field(little, name, 2 if name == "mode" else SIDE, order=">")
        yield file_case(
            f"{name} in the other order", reader, "wrong byte order", file, changed, "claims|mode"
        )


def of_another_kind(reader: str, file: str) -> Iterator[Case]:
    """Files of other kinds under this name."""
    for name, content in (
        ("an HTML page", b"<!DOCTYPE html><html><body>404 Not Found</body></html>".ljust(2000)),
        ("an HDF5 file", b"\x89HDF\r\n\x1a\n".ljust(4096, b"\0")),
        ("a PNG picture", b"\x89PNG\r\n\x1a\n".ljust(4096, b"\xff")),
        ("zeros", bytes(4096)),
        ("ones", b"\xff" * 4096),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1179900\n"),
    ):
        yield file_case(name, reader, "another format", file, content, "is not a")


def only_of_maps() -> Iterator[Case]:
    """What is damage in a map and not in a stack, or is seen in a map alone."""
    content = mrc("map")
    for order in "<>":
        whole = mrc("map", order=order)
        for name, bits, says in (
            ("nx", (5,), "claims|nx"),
            ("ny", (1,), "claims"),
            ("nz", (0, 1, 2), "claims|nz"),
            ("mode", (1, 2), "claims|mode"),
            ("mx", (0, 2, 8, 31), "cubic|intervals"),
            ("my", (0, 2, 16, 31), "cubic|intervals"),
            ("mz", (1, 2, 30, 31), "cubic|intervals"),
            ("cella.x", (15, 22, 24, 30, 31), "cell|cubic"),
            ("cella.y", (16, 23, 27, 31), "cell|cubic"),
            ("cella.z", (17, 25, 29, 31), "cell|cubic"),
            ("cellb.alpha", (20, 26, 31), "right angles"),
            ("cellb.beta", (19, 24, 31), "right angles"),
            ("cellb.gamma", (22, 30, 31), "right angles"),
        ):
            for bit in bits:
                changed = flipped_field(whole, name, bit, order)
                yield file_case(
                    f"bit {bit} of {name} flipped, {order}", "map", "bit flip", "map.mrc", changed, says
                )
    extended = with_field(mrc("map", extra=bytes(range(256)) * 2), "nsymbt", 0)
    yield file_case("nsymbt lost", "map", "wrong value", "map.mrc", extended, "claims")
    doubled = content + content[HEADER_BYTES:]
    yield file_case("more data than claimed", "map", "wrong value", "map.mrc", doubled, "claims")
    for axis in "xyz":
        for value in (np.nan, np.inf):
            changed = with_field(content, f"origin.{axis}", value)
            name = f"origin.{axis} is {value}"
            yield file_case(name, "map", "not finite", "map.mrc", changed, "origin")
    for axes in ((1, 1, 3), (1, 2, 4), (0, 2, 3), (-1, 2, 3)):
        changed = content
        for name, value in zip(("mapc", "mapr", "maps"), axes, strict=True):
            changed = with_field(changed, name, value)
        yield file_case(f"axes {axes}", "map", "wrong value", "map.mrc", changed, "MAPC, MAPR, MAPS")
    volumes = with_field(content, "ispg", 401)
    yield file_case("a stack of volumes", "map", "wrong value", "map.mrc", volumes, "one density map")


def gzipped() -> Iterator[Case]:
    """Maps in gzip, damaged outside and inside."""
    whole = mrc("map")
    packed = gzip.compress(whole, mtime=0)
    file = "map.mrc.gz"
    for length in (2, 5, 10, 20, len(packed) // 2, len(packed) - 9, len(packed) - 4, len(packed) - 1):
        yield file_case(
            f"gzip cut to {length} bytes", "map", "truncated", file, packed[:length], "cannot read"
        )
    for byte, what in ((2, "method"), (len(packed) - 8, "CRC"), (len(packed) - 4, "length")):
        changed = with_flipped_bit(packed, byte, 3)
        yield file_case(f"gzip, {what} flipped", "map", "bit flip", file, changed, "cannot read")
    for byte in range(40, len(packed) - 8, 150):
        changed = with_flipped_bit(packed, byte, 2)
        yield file_case(
            f"gzip, byte {byte} flipped", "map", "bit flip", file, changed, "cannot read|claims|is not a map"
        )
    for name, content, kind in (
        ("half of the data", whole[:2000], "truncated"),
        ("half of the header", whole[:500], "truncated"),
        ("nothing", b"", "empty"),
    ):
        yield file_case(
            f"gzip of {name}", "map", kind, file, gzip.compress(content, mtime=0), "header|truncated"
        )
    claims = whole
    for name in ("nx", "ny", "nz"):
        claims = with_field(claims, name, BIG)
    inside = gzip.compress(claims, mtime=0)
    yield file_case("gzip that claims 10 GB", "map", "10 GB claimed", file, inside, "claims")
    bomb = gzip.compress(claims + bytes(300_000_000), mtime=0)
    yield file_case("gzip that grows to 300 MB of 10 GB", "map", "10 GB claimed", file, bomb, "claims")
    longer = gzip.compress(whole + bytes(300_000_000), mtime=0)
    yield file_case("gzip that grows to 300 MB", "map", "absurd size", file, longer, "claims")
