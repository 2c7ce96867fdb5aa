"""Parse image names in tables (number@stack, counted from 1), and find the stacks they refer to."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoem.particles.mrc import StackedImages, open_stack

# The image number, the stack, and the format that XMIPP may append.
IMAGE_NAME = re.compile(r"(?:(\d+)@)?(.+?)(?<!@)(?::mrcs?)?")
LONGEST_NAME = 4096  # characters; the longest path on common systems


def locate_stack(table: Path, stack: str, *, datadir: Path | None = None) -> tuple[Path, bool]:
    """Return the path of a stack, and whether it was found at its stated path rather than by file name alone.

    RELION, XMIPP and cryoSPARC state paths relative to the project folder. Therefore, the stack is searched for in
    ``datadir``, in the folder of the table and the folders above it, and in the working folder. Finally, its file name
    alone is searched for in the folder of the table. All searches for stacks use this function.
    """
    folder = Path(os.path.abspath(table)).parent
    for parent in (*([datadir] if datadir else []), folder, *folder.parents, Path.cwd()):
        if _is_file(parent / stack):  # an absolute name ignores the parent
            return parent / stack, True
    bare = folder / Path(stack).name
    if _is_file(bare):
        return bare, False
    searched = "" if datadir is None else f"{datadir}, "
    raise FileNotFoundError(
        f"{table} refers to the stack {stack:.200}, which was not found in "
        f"{searched}{folder}, the folders above it or the working folder"
    )


def _is_file(path: Path) -> bool:
    """Return whether a file exists. A name that is too long for the system counts as missing."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_images(table: Path, names: Sequence[str], datadir: Path | None) -> StackedImages:
    """Find the images that a table refers to. Warn about stacks that are found by file name alone."""
    parts = [IMAGE_NAME.fullmatch(name) if len(name) <= LONGEST_NAME else None for name in names]
    if None in parts:
        wrong = names[parts.index(None)]
        raise ValueError(
            f"{table}: image names must have the form number@stack, got {wrong!r:.80} ({len(wrong)} characters)"
        )
    places: dict[str, int] = {}
    stack_of = np.array([places.setdefault(part[2], len(places)) for part in parts])
    found = [locate_stack(table, stack, datadir=datadir) for stack in places]
    moved = [stack for stack, (_, as_named) in zip(places, found, strict=True) if not as_named]
    if moved:
        others = f" (and {len(moved) - 1} others)" if len(moved) > 1 else ""
        warnings.warn(
            f"{table} refers to the stack {moved[0]}{others}, which was not found; "
            "using the file with the same name in the folder of the table",
            UserWarning,
            stacklevel=3,
        )
    stacks = tuple(open_stack(place) for place, _ in found)
    sizes = [stack.image_size for stack in stacks]
    if min(sizes) != max(sizes):
        raise ValueError(f"{table}: all images must have the same size, got {min(sizes)} to {max(sizes)} px")
    counts = np.array([stack.n_images for stack in stacks])[stack_of]
    ambiguous = np.array([part[1] is None for part in parts]) & (counts > 1)
    if ambiguous.any():
        first = int(np.argmax(ambiguous))
        raise ValueError(
            f"{table} refers to {names[first]} without an image number, but the stack has {counts[first]} images"
        )
    numbers = np.array([int(part[1] or 1) for part in parts])
    beyond = (numbers < 1) | (numbers > counts)
    if beyond.any():
        first = int(np.argmax(beyond))
        raise ValueError(
            f"{table} refers to image {numbers[first]} of {stacks[stack_of[first]].path}, "
            f"but the images in this stack are numbered 1 to {counts[first]}"
        )
    return StackedImages(stacks, stack_of, numbers - 1)
