"""Print what was asked beside what was measured."""

from __future__ import annotations


def print_table(title: str, rows: list[tuple[str, str, str]]) -> None:
    """A titled table of (quantity, asked, measured), as Markdown."""
    print(f"\n### {title}\n")
    head = ("quantity", "asked", "measured")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]
    for row in [head, tuple("-" * width for width in widths), *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
