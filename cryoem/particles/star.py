"""Read and write tables of particle images: RELION's STAR files and XMIPP's metadata files."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.files.writing import path_with_suffix, write_text

if TYPE_CHECKING:
    import pandas as pd

RELION_IMAGE, XMIPP_IMAGE = "rlnImageName", "image"
TEXT_COLUMNS = (  # text even if the values look like numbers: micrograph 0012 is not micrograph 12
    RELION_IMAGE,
    "rlnImageOriginalName",
    "rlnMicrographName",
    "rlnMicrographMovieName",
    "rlnGroupName",
    "rlnOpticsGroupName",
    "rlnTomoName",
    XMIPP_IMAGE,
    "micrograph",
)
DIGITS = "%.10g"  # number format in tables; more digits than float32 has
MOST_COLUMNS = 10_000
LONGEST_LINE = 1_000_000  # bytes; otherwise, a file without line breaks would be read all at once
CONTROL = re.compile(rb"[\0-\x08\x0a-\x1f]")  # control characters other than tabs
VALUE = re.compile(
    r"""[ \t]+|"[^"]*"(?![^ \t])|'[^']*'(?![^ \t])|[^ \t"'#]+|(?P<comment>\#.*)|(?P<stray>.)"""
)


def read_star(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read the particles and optics groups in a RELION STAR file (3.0, 3.1 or 5). Without groups, these are None."""
    blocks = _read_blocks(path)
    particles = _block_with(RELION_IMAGE, blocks, path, preferred="particles")
    return particles, blocks.get("optics")


def read_xmd(path: str | os.PathLike) -> pd.DataFrame:
    """Read the table with an ``image`` column from an XMIPP metadata file.

    Disabled images (``enabled`` is -1) are skipped. Column names are returned without the leading underscore.

    Raises
    ------
    OSError
        The file does not exist or cannot be read.
    ValueError
        The file is not a metadata file, does not have exactly one table with an ``image`` column, or has no enabled
        images.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no metadata file at {path}")
    table = _block_with(XMIPP_IMAGE, _read_blocks(path), path)
    if "enabled" not in table:
        return table
    disabled = table["enabled"] == -1
    if disabled.all():
        raise ValueError(f"{path} has no enabled images: all {len(table)} rows are disabled (enabled -1)")
    return table[~disabled].reset_index(drop=True)


def write_star(path: str | os.PathLike, table: pd.DataFrame, *, optics: pd.DataFrame | None) -> None:
    """Write a RELION 3.1 STAR file with the tables ``data_optics`` and ``data_particles``, or a single 3.0 table.

    RELION resolves the stack names in rlnImageName relative to the folder from which it is started. It recognises a
    stack only if the name ends in ``.mrcs`` or ``:mrcs``.

    Parameters
    ----------
    path : path-like
        Path of the file, ending in ``.star``.
    table : pandas.DataFrame
        Table with one row per image, including the column rlnImageName.
    optics : pandas.DataFrame or None
        Table with one row per optics group, including the column rlnOpticsGroup. None writes a file of RELION 3.0, in
        which the constants of the microscope are columns of ``table``.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The suffix is not ``.star``, a table is empty or lacks the required column, or an image name contains a ``#``, a
        quote or an unprintable character, which tables cannot store.
    """
    write_text(path_with_suffix(path, ".star"), star_text(table, optics))


def star_text(table: pd.DataFrame, optics: pd.DataFrame | None) -> str:
    """Return the text that ``write_star`` writes."""
    import starfile

    _require_column(table, RELION_IMAGE, name="table")
    if optics is None:
        blocks, version = {"": table}, ""
    else:
        _require_column(optics, "rlnOpticsGroup", name="optics")
        blocks, version = {"optics": optics, "particles": table}, "# version 30001\n\n"
    text = ""
    for name, block in blocks.items():
        block_text = starfile.to_string({name: block}, float_format=DIGITS, na_rep="nan")
        # Remove the time stamp in the first line, so that equal tables produce equal files.
        _, _, block_text = block_text.partition("\n")
        text += f"\n{version}{block_text.lstrip()}"
    return text


def write_xmd(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write an XMIPP metadata file with one table, ``data_noname``.

    Parameters
    ----------
    path : path-like
        Path of the file, ending in ``.xmd``.
    table : pandas.DataFrame
        Table with one row per image, including an ``image`` column. Column names have no leading underscore.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The suffix is not ``.xmd``, the table is empty or has no ``image`` column, or an image name contains a ``#``, a
        quote or an unprintable character, which tables cannot store.
    """
    write_text(path_with_suffix(path, ".xmd"), xmd_text(table))


def xmd_text(table: pd.DataFrame) -> str:
    """Return the text that ``write_xmd`` writes."""
    _require_column(table, XMIPP_IMAGE, name="table")
    labels = "".join(f" _{column}\n" for column in table.columns)
    rows = table.map(
        # Text that is empty or contains blanks must be quoted.
        lambda value: f"'{value}'" if isinstance(value, str) and (not value or " " in value) else value
    ).to_csv(sep="\t", header=False, index=False, float_format=DIGITS, na_rep="nan", quoting=csv.QUOTE_NONE)
    return f"# XMIPP_STAR_1 * \n# \ndata_noname\nloop_\n{labels}{rows}"


def can_store(name: str) -> bool:
    """Return whether tables can store an image name: RELION and XMIPP cannot escape characters."""
    return name.isprintable() and not any(mark in name for mark in "#'\"")


def check_image_names(names: Iterable[str], *, name: str) -> None:
    """Reject image names that tables cannot store."""
    for image in map(str, names):
        if not can_store(image):
            raise ValueError(
                f"{name} must not contain #, quotes or line breaks, which tables cannot store, got {image!r}"
            )


def _require_column(table: pd.DataFrame, column: str, *, name: str) -> None:
    if column not in table:
        raise ValueError(f"{name} must have a column {column}, got {', '.join(map(str, table)) or 'none'}")
    if table.empty:
        raise ValueError(f"{name} must have at least one row, got none")
    if column in (RELION_IMAGE, XMIPP_IMAGE):
        check_image_names(table[column], name="image names")


def _read_blocks(path: Path) -> dict[str, pd.DataFrame]:
    """Read all tables that are not empty, by name without ``data_``."""
    try:
        return {name: _as_table(path, name, labels, rows) for name, labels, rows in _blocks(path)}
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None


def _block_with(
    column: str, blocks: dict[str, pd.DataFrame], path: Path, *, preferred: str = ""
) -> pd.DataFrame:
    """Return the only table with a column of image names or, if there are several, the ``preferred`` one."""
    having = [name for name, block in blocks.items() if column in block]
    if not having:
        names = ", ".join(f"data_{name}" for name in blocks) or "none"
        raise ValueError(f"{path} has no table with the column _{column}; its tables are: {names}")
    if len(having) > 1 and preferred not in having:
        names = ", ".join(f"data_{name}" for name in having)
        raise ValueError(f"{path} must have only one table with the column _{column}, got {names}")
    table = blocks[preferred if preferred in having else having[0]]
    if table.empty:
        raise ValueError(f"{path} contains no images: its table is empty")
    unnamed = table[column].isna() | table[column].eq("")
    if unnamed.any():
        row = int(np.argmax(unnamed)) + 1
        raise ValueError(f"{path} has no image name in row {row}")
    return table


def _as_table(path: Path, name: str, labels: list[str], rows: list[str]) -> pd.DataFrame:
    """Return the rows of a block as a table. Columns of numbers are numeric, except those in ``TEXT_COLUMNS``."""
    import pandas as pd

    columns = [label[1:] for label in labels]
    if not rows:
        return pd.DataFrame(columns=columns)
    text = "\n".join(rows).replace("'", '"')
    try:
        return pd.read_csv(
            io.StringIO(text),
            sep=r"\s+",
            header=None,
            names=columns,
            index_col=False,
            comment="#",
            dtype={column: str for column in columns if column in TEXT_COLUMNS},
            keep_default_na=False,
            na_values=["nan", "NaN", "<NA>"],
            low_memory=False,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {name} cannot be read: {' '.join(str(error).split())}") from None


def _blocks(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the name, the labels and the rows of each block that has labels.

    Blank lines and comments may be anywhere. Labels without ``loop_`` have one value each, which form one row. Rows of
    the wrong length, values with quotes or ``#`` inside, and repeated names of columns or tables are rejected.
    """
    names: set[str] = set()
    name, part, labels, rows = "", "before", {}, []  # the keys of the dictionary are the labels

    def block() -> Iterator[tuple[str, list[str], list[str]]]:
        if labels:
            yield (
                name.removeprefix("data_"),
                list(labels),
                rows or [" ".join(labels.values())] * (part == "values"),
            )

    for line in _lines(path):
        in_loop = part in ("header", "rows")
        if not line or line.startswith("#"):
            continue
        # In a table with several columns, a line with several values is a row, whatever it begins with.
        if line.startswith("data_") and not (
            in_loop and min(len(labels), len(line.split("#")[0].split())) > 1
        ):
            yield from block()
            name, part, labels, rows = line.split()[0], "empty", {}, []
            if name in names:
                raise ValueError(f"{path} has more than one table with the name {name}")
            names.add(name)
        elif part == "empty" and line.startswith("loop_"):
            part = "header"
        elif part in ("empty", "values", "header") and line.startswith("_"):
            label = line.split()[0]
            if part != "header":
                part = "values"
                if _count_values(path, line, f"{label} of {name}") != 2:
                    raise ValueError(f"{path}: {label} in {name} must have exactly one value, got {line!r}")
            if label in labels:
                raise ValueError(f"{path}: {name} has more than one column {label:.80}")
            labels[label] = next((v[0] for v in VALUE.finditer(line.removeprefix(label)) if v[0].strip()), "")
            if len(labels) > MOST_COLUMNS:
                raise ValueError(f"{path}: {name} has more than {MOST_COLUMNS} columns")
        elif in_loop:
            if not labels:
                raise ValueError(f"{path}: the labels of {name} must begin with _, got {line[:80]!r}")
            part = "rows"
            rows.append(line)
            n_values = _count_values(path, line, f"row {len(rows)} of {name}")
            if n_values != len(labels):
                raise ValueError(
                    f"{path}: each row of {name} must have a value for each of the {len(labels)} columns, "
                    f"got {n_values} in row {len(rows)}"
                )
            if line.startswith("data_"):
                raise ValueError(
                    f"{path}: rows must not begin with data_, but row {len(rows)} of {name} does"
                )
    yield from block()


def _count_values(path: Path, line: str, where: str) -> int:
    """Count the values in a line up to a comment. Blanks and ``#`` inside quotes belong to the value."""
    if line.isascii() and not any(mark in line for mark in "#'\""):
        return len(line.split())
    n_values, after_blank = 0, True
    for match in VALUE.finditer(line):
        if match[0][0] in " \t":
            after_blank = True
            continue
        if match["stray"] or not after_blank:
            raise ValueError(f"{path}: values must not contain quotes or #, got {line[:80]!r} in {where}")
        if match["comment"]:
            break
        n_values, after_blank = n_values + 1, False
    return n_values


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without leading and trailing blanks."""
    with open(path, "rb") as stream:
        number = 0
        while content := stream.readline(LONGEST_LINE):
            number += 1
            if len(content) == LONGEST_LINE or CONTROL.search(content.rstrip(b"\r\n")):
                raise ValueError(
                    f"{path} is not a text file: line {number} is too long or contains control characters"
                )
            try:
                yield content.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                byte = content[error.start]
                raise ValueError(
                    f"{path} is not UTF-8 text: line {number} contains the byte {byte:#04x}"
                ) from None
