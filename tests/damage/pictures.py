"""Damaged photographs, and damaged tables of experiments."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from damage.case import Case, file_case

SIDE = 16
TABLE = b"experiment,noise_variance,quantity,value\nnoise,0.0,error_rad,0.01\nnoise,16.0,error_rad,0.07\n"


def picture(form: str) -> bytes:
    """A valid grey picture of 16 x 16 px."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG file that claims a size, with these compressed rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def whole() -> Iterator[Case]:
    """The files that are not damaged."""
    for form in ("PNG", "JPEG", "TIFF"):
        yield file_case(f"whole {form}", "picture", "wrong value", f"a.{form.lower()}", picture(form), "")
    yield file_case("whole table", "results", "wrong value", "noise.csv", TABLE, "")


def cases() -> Iterator[Case]:
    """All damaged pictures and tables of results."""
    for form in ("PNG", "JPEG", "TIFF"):
        content, file = picture(form), f"a.{form.lower()}"
        for length in (0, 1, 3, 4, 8, 12, 20, len(content) // 2):
            kind = "truncated" if length else "empty"
            yield file_case(
                f"{form} cut to {length}", "picture", kind, file, content[:length], "picture|JPEG, PNG"
            )
        for byte in (0, 1, 2):
            flipped = content[:byte] + bytes([content[byte] ^ 16]) + content[byte + 1 :]
            yield file_case(
                f"{form}, byte {byte} flipped", "picture", "bit flip", file, flipped, "JPEG, PNG|picture"
            )
    rows = zlib.compress(bytes(SIDE * (SIDE + 1)))
    for width, height, kind in (
        (100_000, 100_000, "10 GB claimed"),
        (2**31 - 1, 2**31 - 1, "absurd size"),
        (0, 0, "absurd size"),
        (30_000, 30_000, "absurd size"),
    ):
        name = f"PNG of {width} x {height}"
        yield file_case(name, "picture", kind, "a.png", png(width, height, rows), "picture")
    bomb = zlib.compress(bytes(20_000 * 20_001), 9)
    yield file_case(
        "PNG that grows to 400 MB", "picture", "absurd size", "a.png", png(20_000, 20_000, bomb), "picture"
    )
    for name, content in (
        ("HTML", b"<!DOCTYPE html>"),
        ("a GIF", b"GIF89a" + bytes(50)),
        ("a pickle", b"\x80\x04N."),
    ):
        yield file_case(name, "picture", "another format", "a.png", content, "JPEG, PNG")
    yield from of_results()


def of_results() -> Iterator[Case]:
    """Damaged tables of an experiment."""
    for name, kind, content, says in (
        ("empty", "empty", b"", "table|columns"),
        ("no rows", "missing field", TABLE.splitlines(keepends=True)[0], "row"),
        ("cut in the columns", "truncated", TABLE[:20], "columns"),
        ("no value", "missing field", TABLE.replace(b"value\n", b"other\n"), "value"),
        ("no quantity", "missing field", TABLE.replace(b"quantity", b"other"), "quantity"),
        ("two columns value", "duplicate field", TABLE.replace(b"noise_variance", b"value"), "value"),
        ("a long row", "wrong value", TABLE + b"noise,1,error_rad,0.1,5,6\n", "table|columns"),
        ("text for a value", "wrong value", TABLE.replace(b"0.01", b"abc"), "value"),
        ("NaN for a value", "not finite", TABLE.replace(b"0.01", b"nan"), "value"),
        ("infinity for a value", "not finite", TABLE.replace(b"0.01", b"inf"), "value"),
        ("a row cut short", "truncated", TABLE[:-6], "value"),
        ("Latin-1", "not UTF-8", TABLE.replace(b"noise,16", b"no\xefse,16"), "UTF-8|utf-8|table"),
        ("UTF-16", "not UTF-8", TABLE.decode().encode("utf-16"), "table|columns|utf-8"),
        ("NUL bytes", "not UTF-8", bytes(500), "table|columns"),
        ("an open quote", "wrong value", TABLE.replace(b"noise,16", b'"noise,16'), "table|columns|value"),
        ("HTML", "another format", b"<!DOCTYPE html><html></html>\n", "columns"),
    ):
        yield file_case(f"results: {name}", "results", kind, "noise.csv", content, says)
