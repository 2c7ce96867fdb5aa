"""Damaged atomic models, mmCIF and PDB, gzipped or not."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

from damage.case import Case, file_case

ATOMS = (("N", 1.0, 2.0, 3.0), ("C", 2.4, 2.1, 3.2), ("C", 3.1, 3.3, 2.5), ("O", 4.2, 3.1, 2.0))
COLUMNS = (
    "group_PDB",
    "id",
    "type_symbol",
    "label_atom_id",
    "label_alt_id",
    "label_comp_id",
    "label_asym_id",
    "label_entity_id",
    "label_seq_id",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "occupancy",
    "B_iso_or_equiv",
    "auth_seq_id",
    "auth_asym_id",
    "pdbx_PDB_model_num",
)


def rows() -> list[list[str]]:
    """Values of the atoms' table."""
    return [
        [
            "ATOM",
            str(i),
            element,
            f"{element}{i}",
            ".",
            "ALA",
            "A",
            "1",
            "1",
            f"{x:.3f}",
            f"{y:.3f}",
            f"{z:.3f}",
            "1.00",
            "20.0",
            "1",
            "A",
            "1",
        ]
        for i, (element, x, y, z) in enumerate(ATOMS, start=1)
    ]


def mmcif(values: list[list[str]] | None = None, columns: tuple[str, ...] = COLUMNS) -> bytes:
    """An mmCIF file of one residue."""
    values = rows() if values is None else values
    head = "data_TEST\n#\nloop_\n" + "".join(f"_atom_site.{column}\n" for column in columns)
    return (head + "".join(" ".join(row) + "\n" for row in values) + "#\n").encode()


def with_value(column: str, value: str, row: int = 1) -> bytes:
    """The mmCIF file with one value replaced."""
    values = rows()
    values[row][COLUMNS.index(column)] = value
    return mmcif(values)


def without(column: str) -> bytes:
    """The mmCIF file without a column."""
    at = COLUMNS.index(column)
    return mmcif([row[:at] + row[at + 1 :] for row in rows()], COLUMNS[:at] + COLUMNS[at + 1 :])


def pdb() -> bytes:
    """A PDB file of the same residue."""
    lines = [
        f"ATOM  {i:5d} {element + str(i):<4s} ALA A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
        f"  1.00 20.00          {element:>2s}\n"
        for i, (element, x, y, z) in enumerate(ATOMS, start=1)
    ]
    return "".join([*lines, "END\n"]).encode()


def whole() -> Iterator[Case]:
    """The files that are not damaged."""
    for file, content in (
        ("model.cif", mmcif()),
        ("model.pdb", pdb()),
        ("model.cif.gz", gzip.compress(mmcif(), mtime=0)),
        ("model.pdb.gz", gzip.compress(pdb(), mtime=0)),
    ):
        yield file_case(f"whole {file}", "model", "wrong value", file, content, "")


def cases() -> Iterator[Case]:
    """All damaged models."""

    def case(name: str, kind: str, content: bytes, says: str, file: str = "model.cif") -> Case:
        return file_case(name, "model", kind, file, content, says)

    whole = mmcif()
    yield case("empty mmCIF", "empty", b"", "mmCIF or PDB|atoms")
    yield case("empty PDB", "empty", b"", "mmCIF or PDB|atoms", "model.pdb")
    yield case("blank", "empty", b"\n \n\n", "mmCIF or PDB|atoms")
    yield case("no atoms", "missing field", b"data_TEST\n_entry.id TEST\n", "atoms")
    yield case("columns without rows", "missing field", mmcif([]), "mmCIF or PDB|atoms")
    for column in ("Cartn_x", "Cartn_y", "Cartn_z", "type_symbol", "label_atom_id"):
        yield case(f"no column {column}", "missing field", without(column), f"atoms|{column}|element")
        twice = mmcif([[*row, "1"] for row in rows()], (*COLUMNS, column))
        yield case(f"column {column} twice", "duplicate field", twice, "(?i)duplicate|twice")
    for line in range(4, 20, 3):
        cut = b"\n".join(whole.split(b"\n")[:line]) + b"\n"
        yield case(f"cut after line {line}", "truncated", cut, "mmCIF or PDB|atoms")
    for row in range(len(ATOMS)):
        cut = whole[: whole.index(rows()[row][3].encode()) + 4]
        yield case(f"cut inside atom {row + 1}", "truncated", cut, "mmCIF or PDB")
    for column in ("Cartn_x", "Cartn_y", "Cartn_z"):
        for value in ("nan", "?", ".", "abc", "inf", "-inf", "1e400", "1,5"):
            yield case(f"{column} is {value}", "not finite", with_value(column, value), "coordinates|Cartn")
        for value in ("1e30", "-1e300", "99999999", "6001"):
            yield case(
                f"{column} is {value}", "absurd size", with_value(column, value), "coordinates|Cartn|angstrom"
            )
    for value in ("nan", "inf", "-5", "1e30", "abc"):
        yield case(f"occupancy is {value}", "wrong value", with_value("occupancy", value), "occup")
    for value in ("Xx", "Q9", "?", "."):
        of_none = mmcif([[*row[:2], value, *row[3:]] for row in rows()])
        yield case(f"elements are {value}", "wrong value", of_none, "element")
    for name, content, kind in (
        ("Latin-1 bytes", whole.replace(b"TEST", b"\xe9\xff").replace(b"2.400", b"2\xb7400"), "not UTF-8"),
        ("UTF-16", whole.decode().encode("utf-16"), "not UTF-8"),
        ("NUL bytes", whole.replace(b"2.400", b"2\0 400"), "not UTF-8"),
        ("an HTML page", b"<!DOCTYPE html><html><body>404</body></html>\n", "another format"),
        ("a lone loop_", b"data_TEST\nloop_\n", "another format"),
        ("a loop_ without values", b"data_TEST\nloop_\n_a.b\n_a.c\nloop_\n", "another format"),
        ("random bytes", bytes(range(256)) * 8, "another format"),
        ("zeros", bytes(2000), "another format"),
        ("an open quote", whole.replace(b"2.400", b"'2.400"), "wrong value"),
        ("an open text field", whole + b"_a.b\n;text\n", "truncated"),
    ):
        yield case(name, kind, content, "mmCIF or PDB|atoms|coordinates")
    yield from of_pdb()
    yield from gzipped(whole)


def of_pdb() -> Iterator[Case]:
    """Damage that is a PDB file's own."""
    whole = pdb()
    line = len(whole.splitlines(keepends=True)[0])
    for at in (line + 20, line + 33, line + 42, line + 50, line + 54):
        yield file_case(f"PDB cut at {at}", "model", "truncated", "model.pdb", whole[:at], "mmCIF or PDB|END")
    for start, field in ((30, "x"), (38, "y"), (46, "z")):
        for value in ("     nan", "   *****", "  1..5  ", "        "):
            at = line + start
            changed = whole[:at] + value.encode() + whole[at + 8 :]
            name, says = f"PDB {field} is {value.strip() or 'blank'}", "coordinates|mmCIF or PDB"
            yield file_case(name, "model", "wrong value", "model.pdb", changed, says)
    yield file_case(
        "PDB of headers", "model", "missing field", "model.pdb", b"HEADER    TEST\nEND\n", "atoms"
    )
    yield file_case(
        "PDB of bytes", "model", "another format", "model.pdb", b"\xff\xfe" * 500, "atoms|mmCIF or PDB"
    )


def gzipped(whole: bytes) -> Iterator[Case]:
    """Models in gzip, damaged outside and inside."""
    packed = gzip.compress(whole, mtime=0)
    file = "model.cif.gz"
    for length in (1, 2, 10, 30, len(packed) // 2, len(packed) - 8, len(packed) - 4, len(packed) - 1):
        yield file_case(f"gzip cut to {length}", "model", "truncated", file, packed[:length], "mmCIF or PDB")
    for byte in (2, 60, 150, len(packed) - 8, len(packed) - 4):
        changed = packed[:byte] + bytes([packed[byte] ^ 8]) + packed[byte + 1 :]
        yield file_case(f"gzip, byte {byte} flipped", "model", "bit flip", file, changed, "mmCIF or PDB")
    yield file_case(
        "gzip of nothing", "model", "empty", file, gzip.compress(b"", mtime=0), "mmCIF or PDB|atoms"
    )
    yield file_case("not gzip", "model", "another format", file, whole, "mmCIF or PDB")
    bomb = gzip.compress(whole + b" " * 500_000_000, 1, mtime=0)
    yield file_case("gzip that grows to 500 MB", "model", "absurd size", file, bomb, "mmCIF or PDB")
    claims = packed[:-4] + (4_000_000_000).to_bytes(4, "little")
    yield file_case("gzip that claims 4 GB", "model", "10 GB claimed", file, claims, "mmCIF or PDB")
