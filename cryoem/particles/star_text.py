"""What must hold of the text of a STAR or metadata file before ``starfile`` reads it, which forgives too much.

Left to itself it fills a short row up with blanks, cuts a row at a ``#`` inside a name, confuses columns of one name,
and takes the last of two tables of one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MOST_COLUMNS = 10_000
LONGEST_LINE = 1_000_000  # bytes; without line breaks a file of any length would be read at once
CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f]")  # none but tabs
VALUE = re.compile(
    r"""[ \t]+|"[^"]*"(?![^ \t])|'[^']*'(?![^ \t])|[^ \t"'#]+|(?P<comment>\#.*)|(?P<stray>.)"""
)


def check_star_text(path: Path) -> None:
    """Refuse a file whose tables ``starfile`` would not read as they stand.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError : it is not UTF-8 text; a table has nothing in it, the name of another one, two columns of one name, or
        more than 10,000; a row has not a value for each column, or a quote or a ``#`` inside a value.
    """
    tables: set[str] = set()
    lines = _lines(path)
    line = next(lines, None)
    while line is not None:
        if not line.startswith("data_"):
            line = next(lines, None)
            continue
        table = line.split()[0]
        if table in tables:
            raise ValueError(f"{path} must have tables of different names, got two {table}")
        tables.add(table)
        line = _after_table(path, table, lines)


def _after_table(path: Path, table: str, lines: Iterator[str]) -> str | None:
    """Check one table; the line that begins the next, or None."""
    for line in lines:
        if line.startswith("data_"):
            break
        if line.startswith("loop_"):
            return _after_rows(path, table, *_columns(path, table, lines), lines)
        if line.startswith("_"):
            return _after_values(path, table, line, lines)
    raise ValueError(f"{path} must have something in each of its tables, got nothing in {table}")


def _after_values(path: Path, table: str, line: str | None, lines: Iterator[str]) -> str | None:
    """Check a table that is no loop, a column and its value a line."""
    found: set[str] = set()
    while line is not None and not line.startswith("data_"):
        if line.startswith("_"):
            label = line.split()[0]
            if _values(path, table, label, line) != 2:
                raise ValueError(f"{path} must have one value of {label} in {table}, got {line!r}")
            _new_column(path, table, label, found)
        line = next(lines, None)
    return line


def _columns(path: Path, table: str, lines: Iterator[str]) -> tuple[int, str | None]:
    """How many columns a loop has, and the line after their names."""
    found: set[str] = set()
    for line in lines:
        if not line.startswith("_"):
            return len(found), line
        _new_column(path, table, line.split()[0], found)
    return len(found), None


def _new_column(path: Path, table: str, label: str, found: set[str]) -> None:
    if label in found:
        raise ValueError(f"{path} must have columns of different names in {table}, got two {label:.80}")
    if len(found) == MOST_COLUMNS:
        raise ValueError(f"{path} must have at most {MOST_COLUMNS} columns in {table}, got more")
    found.add(label)


def _after_rows(path: Path, table: str, n_columns: int, line: str | None, lines: Iterator[str]) -> str | None:
    """Check the rows of a loop."""
    row = 0
    while line is not None:
        if line.startswith("data_") and (n_columns == 1 or len(line.split("#")[0].split()) == 1):
            break
        if line and not line.startswith("#"):
            row += 1
            n_values = _values(path, table, f"row {row}", line)
            if n_values != n_columns:
                raise ValueError(
                    f"{path} must have a value for each of the {n_columns} columns of {table} in each row, "
                    f"got {n_values} in row {row}"
                )
            if line.startswith("data_"):
                raise ValueError(
                    f"{path} must not have a row that begins with data_, got row {row} of {table}"
                )
        line = next(lines, None)
    return line


def _values(path: Path, table: str, where: str, line: str) -> int:
    """How many values a line has."""
    if line.isascii() and not any(mark in line for mark in "#'\""):
        return len(line.split())
    n_values, ended = 0, True  # whether the value before is closed by a blank
    for part in VALUE.finditer(line):
        if part[0][0] in " \t":
            ended = True
            continue
        if part["stray"] or not ended:
            raise ValueError(
                f"{path} must have no quote and no # inside a value, got {line[:80]!r} in {where} of {table}"
            )
        if part["comment"]:
            break
        n_values, ended = n_values + 1, False
    return n_values


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file without blanks at their ends."""
    try:
        with open(path, "rb") as stream:
            number = 0
            while content := stream.readline(LONGEST_LINE):
                number += 1
                if len(content) == LONGEST_LINE or CONTROL.search(content.rstrip(b"\r\n")):
                    raise ValueError(
                        f"{path} must be a text file with lines of values, got something else in line {number}"
                    )
                try:
                    yield content.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    byte = content[error.start]
                    raise ValueError(
                        f"{path} must be UTF-8 text, got the byte {byte:#04x} in line {number}"
                    ) from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
