"""Tables of ``docs/benchmarks.md``, the page that the benchmarks write: figures read them, nobody types them again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cryoem.folders import notebooks_folder


@dataclass(frozen=True)
class PageTable:
    """One table of the page: its ``title``, its ``header``, and ``rows`` of as many texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def cell(self, row: str, column: str) -> str:
        """The text of a row, named by its first cell, in a column.

        Raises
        ------
        KeyError : there is no such row or column.
        """
        for cells in self.rows:
            if cells[0] == row:
                return dict(zip(self.header, cells, strict=True))[column]
        raise KeyError(f"the table {self.title!r} has no row {row!r}")

    def number(self, row: str, column: str = "measured") -> float:
        """The first number in a cell; errors as ``cell``."""
        return float(re.search(r"-?\d+(\.\d+)?(e[+-]?\d+)?", self.cell(row, column)).group())


def benchmarks_page() -> Path:
    """Where the page is in a checkout."""
    return notebooks_folder().parent / "docs" / "benchmarks.md"


def read_tables(page: Path) -> dict[str, PageTable]:
    """All tables of a page, by the heading above each.

    Raises
    ------
    FileNotFoundError : there is no such page.
    """
    if not page.is_file():
        raise FileNotFoundError(
            f"there is no page {page}; it is part of a checkout, and `make bench` writes it"
        )
    tables = {}
    for section in re.split(r"^### ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
        if len(cells) > 2:
            tables[title] = PageTable(title, cells[0], tuple(cells[2:]))
    return tables


def table_like(tables: dict[str, PageTable], pattern: str) -> PageTable:
    """The first table whose title matches a pattern.

    Raises
    ------
    KeyError : none does.
    """
    for title, table in tables.items():
        if re.search(pattern, title):
            return table
    raise KeyError(f"no table of the page has a title like {pattern!r}, only {', '.join(tables)}")
