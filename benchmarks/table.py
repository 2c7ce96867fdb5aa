"""Print what was asked beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, rows: list[tuple[str, str, str]]) -> None:
    """A titled table of (quantity, asked, measured), as Markdown."""
    print_columns(title, ("quantity", "asked", "measured"), rows)


def print_columns(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A titled table with columns of one's own, as Markdown."""
    print(f"\n### {title}\n")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, tuple("-" * width for width in widths), *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
