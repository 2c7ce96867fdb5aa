"""Damaged tables of particle images: RELION's STAR (3.0 and 3.1), XMIPP's metadata, cryoSPARC's records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from damage.case import Case
from damage.mrc import mrc
from damage.networks import npy_header

STACK = "stack.mrcs"
ROWS = 8
OPTICS = {
    "rlnOpticsGroup": "1",
    "rlnVoltage": "300.0",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnImagePixelSize": "2.0",
}
NUMBERS = {
    "rlnAngleRot": "10.0",
    "rlnAngleTilt": "20.0",
    "rlnAnglePsi": "30.0",
    "rlnOriginXAngst": "1.0",
    "rlnOriginYAngst": "-2.0",
    "rlnDefocusU": "15000.0",
    "rlnDefocusV": "14000.0",
    "rlnDefocusAngle": "45.0",
    "rlnPhaseShift": "0.0",
}
XMD_NUMBERS = {"anglePsi": "30.0", "shiftX": "1.0", "shiftY": "-2.0", "flip": "0", "samplingRate": "2.0"}


@dataclass(frozen=True)
class Table:
    """The text of a table before and after its rows, so that a value or a row can be replaced."""

    file: str
    image: str
    before: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self, *, columns=None, rows=None, before=None) -> bytes:
        """The file, with other columns, rows or beginning where they are given."""
        columns = self.columns if columns is None else columns
        rows = self.rows if rows is None else rows
        head = "data_particles\n\nloop_\n" + "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
        body = "".join(" ".join(row) + "\n" for row in rows)
        return ((self.before if before is None else before) + head + body + "\n").encode()

    def with_value(self, column: str, value: str, row: int = 2) -> bytes:
        """The file with one value replaced."""
        rows = [list(values) for values in self.rows]
        rows[row][self.columns.index(column)] = value
        return self.text(rows=rows)

    def without(self, column: str) -> bytes:
        """The file without one column."""
        at = self.columns.index(column)
        return self.text(
            columns=self.columns[:at] + self.columns[at + 1 :], rows=[r[:at] + r[at + 1 :] for r in self.rows]
        )


def _table(file: str, image: str, before: str, numbers: dict[str, str]) -> Table:
    rows = tuple((f"{i:06d}@{STACK}", *numbers.values()) for i in range(1, ROWS + 1))
    return Table(file, image, before, (image, *numbers), rows)


def optics_text(values: dict[str, str]) -> str:
    """RELION's table of optics groups, one group."""
    head = "data_optics\n\nloop_\n" + "".join(f"_{name} #{i}\n" for i, name in enumerate(values, 1))
    return head + " ".join(values.values()) + "\n\n\n"


STAR_31 = _table("job.star", "rlnImageName", optics_text(OPTICS), {**NUMBERS, "rlnOpticsGroup": "1"})
STAR_30 = _table(
    "older.star",
    "rlnImageName",
    "",
    {
        **{name: value for name, value in NUMBERS.items() if "Origin" not in name},
        "rlnOriginX": "0.5",
        "rlnOriginY": "-1.0",
        "rlnVoltage": "300.0",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnMagnification": "10000.0",
        "rlnDetectorPixelSize": "2.0",
    },
)
XMD = _table("job.xmd", "image", "# XMIPP_STAR_1 * \n# \n", XMD_NUMBERS)


def beside_stack(
    name: str, kind: str, file: str, content: bytes, says: str, *, reader: str = "particles"
) -> Case:
    """A case of one file with a whole stack of images beside it."""

    def make(folder: Path) -> Path:
        (folder / STACK).write_bytes(mrc("particles"))
        (folder / file).write_bytes(content)
        return folder / file

    return Case(name, reader, kind, make, file, says, content)


def whole() -> Iterator[Case]:
    """The tables that are not damaged."""
    for name, table in (("3.1", STAR_31), ("3.0", STAR_30), ("XMD", XMD)):
        yield beside_stack(f"whole {name}", "wrong value", table.file, table.text(), "")
    yield beside_stack("whole .cs", "wrong value", "job.cs", cs(records()), "")


def cases() -> Iterator[Case]:
    """All damaged tables."""
    for name, table in (("3.1", STAR_31), ("3.0", STAR_30), ("XMD", XMD)):
        for case in (*of_text(table), *of_values(table)):
            yield beside_stack(f"{name}: {case[0]}", case[1], table.file, *case[2:])
    yield from of_optics()
    yield from of_records()


Damage = tuple[str, str, bytes, str]


def of_text(table: Table) -> Iterator[Damage]:
    """Damage of the text: name, kind, content, what the error says."""
    text = table.text()
    image = f"_{table.image}".encode()
    yield "empty", "empty", b"", "table"
    yield "blank lines", "empty", b"\n\n \n", "table"
    yield "only a comment", "empty", b"# version 30001\n", "table"
    yield "a lone data_", "empty", b"data_particles\n", "nothing in data_particles"
    for number, column in enumerate(table.columns, 1):
        cut = text[: text.index(f"_{column} #{number}\n".encode(), len(table.before))]
        yield f"cut before the column {column}", "truncated", cut, "table|nothing in"
    yield "cut after the columns", "truncated", text[: text.index(b"000001@")], "no images|table"
    for row, part in ((1, 0.3), (3, 0.6), (8, 0.9)):
        start = text.index(f"{row:06d}@".encode())
        end = text.index(b"\n", start)
        cut = text[: start + int(part * (end - start))]
        yield f"cut in row {row}", "truncated", cut, f"row {row}"
    yield f"no column {table.image}", "missing field", table.without(table.image), table.image
    for column in table.columns:
        columns = (*table.columns, column)
        twice = table.text(columns=columns, rows=[(*row, "1.0") for row in table.rows])
        yield f"two columns {column}", "duplicate field", twice, column
    yield (
        "two tables of one name",
        "duplicate field",
        text + text[text.index(b"data_particles") :],
        "two data_particles",
    )
    short = table.text(rows=[*table.rows[:3], table.rows[3][:-1], *table.rows[4:]])
    yield "a short row", "missing field", short, "row 4"
    long = table.text(rows=[*table.rows[:3], (*table.rows[3], "5"), *table.rows[4:]])
    yield "a long row", "wrong value", long, "row 4"
    yield "no rows", "missing field", table.text(rows=[]), "no images|table"
    for name, damaged, kind in (
        ("Latin-1", text.replace(b"000003@", b"00000\xe9@"), "not UTF-8"),
        ("a lone continuation byte", text.replace(b"loop_", b"loop_ # \x80", 1), "not UTF-8"),
        ("UTF-16", text.decode().encode("utf-16"), "not UTF-8"),
        ("NUL bytes", text.replace(b"000003@", b"00\x000003@"), "not UTF-8"),
        ("zeros at the end", text + bytes(300), "truncated"),
        ("an escape sequence", text.replace(b"000003@", b"\x1b[31m3@"), "wrong value"),
    ):
        yield name, kind, damaged, "text"
    yield "HTML", "another format", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "table"
    yield "JSON", "another format", b'{"particles": []}\n', "table"
    yield "CSV", "another format", b"rlnImageName,rlnDefocusU\n1@stack.mrcs,1\n", "table"
    yield "an MRC stack", "another format", mrc("particles"), "text"
    yield "2 MB on a line", "absurd size", text + b"x" * 2_000_000, "text file"
    many = "".join(f"_c{i}\n" for i in range(1_000_000)).encode()
    yield "1,000,000 columns", "absurd size", text.replace(image, many + image, 1), "at most 10000 columns"
    yield "an open quote", "wrong value", text.replace(b"000003@", b"'00003@"), "quote"
    yield "a # in a name", "wrong value", text.replace(b"3@stack", b"3@st#ack"), "#"


def of_values(table: Table) -> Iterator[Damage]:
    """Damage of single values."""
    for column in table.columns[1:]:
        if column == "rlnOpticsGroup":
            continue
        for value, kind in (
            ("nan", "not finite"),
            ("inf", "not finite"),
            ("-inf", "not finite"),
            ("1e400", "not finite"),
            ("abc", "wrong value"),
            ("1,5", "wrong value"),
            ("<NA>", "missing field"),
        ):
            yield f"{column} is {value}", kind, table.with_value(column, value), column
    for value, kind, says in (
        (f"000000@{STACK}", "wrong value", "image 0"),
        (f"000009@{STACK}", "wrong value", "image 9"),
        (f"-00001@{STACK}", "wrong value", "."),
        (f"{'9' * 30}@{STACK}", "absurd size", "image 9"),
        (f"{'9' * 5000}@{STACK}", "absurd size", "image|number"),
        (f"@{STACK}", "missing field", "."),
        (STACK, "missing field", "number"),
        ("000001@", "missing field", "number@stack"),
        ("000001@absent.mrcs", "wrong value", "absent.mrcs"),
        ("000001@../../absent.mrcs", "leads outside", "absent.mrcs"),
        ("000001@/absent/absent.mrcs", "leads outside", "absent.mrcs"),
        (f"000001@{'x' * 5000}.mrcs", "absurd size", "."),
        (f"000001@{'x' * 300}.mrcs", "absurd size", "xxx"),
        ("''", "missing field", "row 3"),
    ):
        yield f"image {value:.40}, {len(value)} characters", kind, table.with_value(table.image, value), says
    pixel = "rlnDetectorPixelSize" if "rlnDetectorPixelSize" in table.columns else "samplingRate"
    if pixel in table.columns:
        for value in ("0", "-2.0", "1e300", "4.0"):
            kind = "absurd size" if value == "1e300" else "wrong value"
            yield f"{pixel} is {value} in one row", kind, table.with_value(pixel, value), "pixel size"
    if "rlnMagnification" in table.columns:
        for value in ("0", "-1.0"):
            yield (
                f"rlnMagnification is {value}",
                "wrong value",
                table.with_value("rlnMagnification", value),
                "pixel size",
            )


def of_optics() -> Iterator[Case]:
    """Damage of RELION's optics groups."""

    def case(name: str, kind: str, before: str, says: str) -> Case:
        return beside_stack(f"optics: {name}", kind, STAR_31.file, STAR_31.text(before=before), says)

    for column in OPTICS:
        less = {name: value for name, value in OPTICS.items() if name != column}
        if column not in (
            "rlnOpticsGroup",
            "rlnImagePixelSize",
        ):  # one group needs no number; headers have sizes
            yield case(f"no {column}", "missing field", optics_text(less), column)
        twice = optics_text(OPTICS).replace("\nloop_\n", f"\nloop_\n_{column} #0\n", 1)
        yield case(f"two {column}", "duplicate field", twice.replace("\n1 300", "\n1 1 300"), column)
        for value, kind in (("nan", "not finite"), ("abc", "wrong value"), ("1e400", "not finite")):
            if column == "rlnOpticsGroup":
                continue
            yield case(f"{column} is {value}", kind, optics_text({**OPTICS, column: value}), column)
    yield case(
        "another group", "wrong value", optics_text({**OPTICS, "rlnOpticsGroup": "2"}), "optics group 1"
    )
    group = optics_text(OPTICS)
    row = " ".join(OPTICS.values()) + "\n"
    yield case("a group twice", "duplicate field", group.replace(row, row + row), "once|group")
    yield case("no rows", "missing field", group.replace(row, ""), "optics|row")
    yield case("a short row", "missing field", group.replace(row, "1 300.0\n"), "row 1")
    for column, value in (
        ("rlnVoltage", "-300"),
        ("rlnVoltage", "0"),
        ("rlnAmplitudeContrast", "7"),
        ("rlnImagePixelSize", "0"),
        ("rlnImagePixelSize", "-1"),
    ):
        says = "pixel size" if "Pixel" in column else "contrast|voltage"
        yield case(f"{column} is {value}", "wrong value", optics_text({**OPTICS, column: value}), says)


def records() -> np.ndarray:
    """Eight particles as cryoSPARC has them."""
    fields = [
        ("uid", "<u8"),
        ("blob/path", "S20"),
        ("blob/idx", "<u4"),
        ("blob/psize_A", "<f4"),
        ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"),
        ("ctf/amp_contrast", "<f4"),
        ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"),
        ("ctf/df_angle_rad", "<f4"),
        ("alignments3D/pose", "<f4", (3,)),
        ("alignments3D/shift", "<f4", (2,)),
    ]
    table = np.zeros(ROWS, fields)
    table["uid"], table["blob/idx"], table["blob/path"] = np.arange(ROWS), np.arange(ROWS), STACK.encode()
    table["blob/psize_A"], table["ctf/accel_kv"], table["ctf/cs_mm"] = 2.0, 300.0, 2.7
    table["ctf/amp_contrast"], table["ctf/df1_A"], table["ctf/df2_A"] = 0.1, 15_000, 14_000
    return table


def cs(table: np.ndarray, *, descr: str | None = None, shape: str | None = None) -> bytes:
    """Records as a NumPy file, whose header may claim another type or shape."""
    descr = repr(table.dtype.descr) if descr is None else descr
    shape = repr(table.shape) if shape is None else shape
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + table.tobytes()


def of_records() -> Iterator[Case]:
    """Damage of cryoSPARC's records."""

    def case(name: str, kind: str, content: bytes, says: str) -> Case:
        return beside_stack(f".cs: {name}", kind, "job.cs", content, says)

    table = records()
    content = cs(table)
    for length in (0, 1, 5, 6, 7, 8, 9, 10, 40, 100, 300):
        yield case(f"cut to {length}", "truncated" if length else "empty", content[:length], "NumPy")
    for length in (len(content) - table.nbytes, len(content) - 100, len(content) - 1):
        yield case(f"cut to {length}", "truncated", content[:length], "as long as its header")
    yield case("longer", "wrong value", content + b"x", "as long as its header")
    for byte in range(8):
        flipped = content[:byte] + bytes([content[byte] ^ 4]) + content[byte + 1 :]
        yield case(f"byte {byte} flipped", "bit flip", flipped, "NumPy")
    for shape, kind in (
        ("(100000000,)", "10 GB claimed"),
        ("(9223372036854775807,)", "absurd size"),
        (f"({'9' * 40},)", "absurd size"),
        ("(-8,)", "absurd size"),
        ("(0,)", "empty"),
        ("(2, 4)", "wrong value"),
        ("()", "wrong value"),
        ("'8'", "wrong value"),
        ("(8.0,)", "wrong value"),
        ("(" * 500, "absurd size"),
        ("__import__('os').system('true')", "leads outside"),
    ):
        says = "NumPy|records|as long as|no images"
        yield case(f"shape {shape:.40}", kind, cs(table, shape=shape), says)
    for descr, kind in (
        ("'|O'", "wrong value"),
        ("[('blob/path', '|O'), ('blob/idx', '<u4')]", "wrong value"),
        ("[('blob/path', '|S20'), ('blob/path', '|S20')]", "duplicate field"),
        ("[('a', '<f4', (1000000, 1000000))]", "10 GB claimed"),
        ("[('a', '|S2000000000')]", "10 GB claimed"),
        ("'<f4'", "missing field"),
        ("[]", "missing field"),
        ("[('a', '<M8[ns]')]", "wrong value"),
        ("[('a', 'bogus')]", "wrong value"),
        ("lambda: 0", "leads outside"),
    ):
        says = "NumPy|records|numbers and text|as long as|no images"
        yield case(f"type {descr:.40}", kind, cs(table, descr=descr), says)
    big = table.astype(table.dtype.newbyteorder(">"))
    yield case("big-endian data", "wrong byte order", cs(big, descr=repr(table.dtype.descr)), ".")
    for field in table.dtype.names:
        others = [name for name in table.dtype.names if name != field]
        if field in ("blob/path", "blob/idx", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast"):
            less = np.empty(ROWS, [(name, table.dtype[name]) for name in others])
            for name in others:
                less[name] = table[name]
            yield case(f"no {field}", "missing field", cs(less), field)
        if table.dtype[field].base.kind == "f":
            for value in (np.nan, np.inf):
                changed = table.copy()
                changed[field][3] = value
                yield case(f"{field} is {value}", "not finite", cs(changed), field)
    for field, value, kind, says in (
        ("blob/idx", 8, "wrong value", "image 9"),
        ("blob/idx", 2**32 - 1, "absurd size", "image"),
        ("blob/path", b"", "missing field", "row 4"),
        ("blob/path", b"absent.mrcs", "wrong value", "absent.mrcs"),
        ("blob/path", b"../../absent.mrcs", "leads outside", "absent.mrcs"),
        ("blob/path", b"\xff\xfe.mrcs", "not UTF-8", "blob/path"),
        ("blob/psize_A", 0, "wrong value", "pixel size"),
        ("blob/psize_A", -1, "wrong value", "pixel size"),
        ("blob/psize_A", 4, "wrong value", "pixel size"),
        ("ctf/accel_kv", 200, "wrong value", "voltage"),
    ):
        changed = table.copy()
        changed[field][3] = value
        yield case(f"{field} is {value!r}", kind, cs(changed), says)
    yield case("a pickle", "another format", b"\x80\x04\x95" + bytes(50), "NumPy")
    yield case("a zip archive", "another format", b"PK\x03\x04" + bytes(100), "NumPy")
    yield case("a STAR file", "another format", STAR_30.text(), "NumPy")
    yield case("plain numbers", "another format", npy_header("<f4", (8,)) + bytes(32), "records")
