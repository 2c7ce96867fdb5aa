"""The package's docstrings as reStructuredText.

Their sections are underlined as NumPy's, but the text after ``name :`` is a description, not a type.
"""

from __future__ import annotations

import re
from itertools import cycle

from sphinx.application import Sphinx

SECTIONS = ("Parameters", "Returns", "Raises", "Warns", "Attributes")
SOURCE = "Source:"
_ENTRY = re.compile(r"(?P<names>[*\w][\w.*, ]*?) : (?P<text>.*)")


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", convert_in_place)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def convert_in_place(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = converted(lines)


def converted(lines: list[str]) -> list[str]:
    """Sections become fields, ``name : text`` a definition each, the source of a method a field of its own.

    Parameters
    ----------
    lines : a docstring without indentation.
    """
    result = []
    index = 0
    while index < len(lines):
        line, following = lines[index], lines[index + 1] if index + 1 < len(lines) else ""
        if line in SECTIONS and re.fullmatch(r"-{3,}", following):
            block, index = _block(lines, index + 2)
            result += ["", f":{line}:", *(f"    {text}" for text in _entries(block))]
        elif line.startswith(SOURCE):
            block, index = _block(lines, index)
            result += [
                "",
                f":Source: {' '.join(part.strip() for part in block).removeprefix(SOURCE).strip()}",
            ]
        else:
            result.append(line)
            index += 1
    return [*map(_without_substitutions, result), ""]


def _without_substitutions(line: str) -> str:
    """``|x|`` in a sentence is an absolute value here."""
    parts = line.split("``")
    return "``".join(
        part if literal else part.replace("|", r"\|") for part, literal in zip(parts, cycle((False, True)))
    )


def _block(lines: list[str], start: int) -> tuple[list[str], int]:
    """The lines from ``start`` to the next empty one, and where that is."""
    end = start
    while end < len(lines) and lines[end].strip():
        end += 1
    return lines[start:end], end


def _entries(block: list[str]) -> list[str]:
    """Definitions where the lines of a section name something, else the text as it is."""
    entries = [_ENTRY.fullmatch(line) for line in block]
    if not entries or entries[0] is None:
        return block
    result = []
    for line, entry in zip(block, entries, strict=True):
        if entry is None or line.startswith(" "):
            result.append(f"    {line.strip()}")
        else:
            names = ", ".join(f"``{name.strip()}``" for name in entry["names"].split(","))
            result += [names, f"    {entry['text']}"]
    return result
