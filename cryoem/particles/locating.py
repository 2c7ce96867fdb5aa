"""Names of images in tables, number@stack with numbers from 1, and the search for the stacks that they name."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoem.particles.mrc import StackedImages, open_stack

# The number, the stack, and the format that XMIPP may append.
IMAGE_NAME = re.compile(r"(?:(\d+)@)?(.+?)(?<!@)(?::mrcs?)?")
LONGEST_NAME = 4096  # characters, the longest path of common systems


def locate_stack(table: Path, stack: str, *, datadir: Path | None = None) -> tuple[Path, bool]:
    """Return the path of a stack, and whether it was found at the stated path rather than by file name alone.

    RELION, XMIPP and cryoSPARC name files relative to the project folder. A stack is therefore searched from
    ``datadir``, from the folder of the table upwards, and from the working folder; finally under its bare name in
    the folder of the table. No other function searches stacks.
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
        f"{table} names the stack {stack:.200}, which does not exist; "
        f"searched {searched}{folder}, the folders above it and the working folder"
    )


def _is_file(path: Path) -> bool:
    """Return whether a file exists; a name that is too long for the system does not."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_images(table: Path, names: Sequence[str], datadir: Path | None) -> StackedImages:
    """Find the images that a table names; warn about a stack that is only found under its bare name."""
    parts = [IMAGE_NAME.fullmatch(name) if len(name) <= LONGEST_NAME else None for name in names]
    if None in parts:
        wrong = names[parts.index(None)]
        raise ValueError(
            f"{table} must name images as number@stack, got {wrong!r:.80} of {len(wrong)} characters"
        )
    places: dict[str, int] = {}
    stack_of = np.array([places.setdefault(part[2], len(places)) for part in parts])
    found = [locate_stack(table, stack, datadir=datadir) for stack in places]
    moved = [stack for stack, (_, as_named) in zip(places, found, strict=True) if not as_named]
    if moved:
        others = f" (and {len(moved) - 1} others)" if len(moved) > 1 else ""
        warnings.warn(
            f"{table} names the stack {moved[0]}{others}, which does not exist; "
            "using the file of that name in the table's folder",
            UserWarning,
            stacklevel=3,
        )
    stacks = tuple(open_stack(place) for place, _ in found)
    sizes = [stack.image_size for stack in stacks]
    if min(sizes) != max(sizes):
        raise ValueError(f"{table} must have images of one size, got {min(sizes)} to {max(sizes)} px")
    counts = np.array([stack.n_images for stack in stacks])[stack_of]
    ambiguous = np.array([part[1] is None for part in parts]) & (counts > 1)
    if ambiguous.any():
        first = int(np.argmax(ambiguous))
        raise ValueError(
            f"{table} names {names[first]} without an image number; the stack has {counts[first]} images"
        )
    numbers = np.array([int(part[1] or 1) for part in parts])
    beyond = (numbers < 1) | (numbers > counts)
    if beyond.any():
        first = int(np.argmax(beyond))
        raise ValueError(
            f"{table} names image {numbers[first]} of {stacks[stack_of[first]].path}, "
            f"which has images 1 to {counts[first]}"
        )
    return StackedImages(stacks, stack_of, numbers - 1)
