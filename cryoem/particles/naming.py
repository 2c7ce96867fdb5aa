"""Images that tables name as number@stack: which stacks these are, and where they lie."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoem.particles.mrc import StackedImages, open_stack

IMAGE_NAME = re.compile(
    r"(?:(\d+)@)?(.+?)(?<!@)(?::mrcs?)?"
)  # number@stack, and the format that Xmipp may add
LONGEST_NAME = 4096  # characters, as many as a path may have


def named_images(path: Path, names: Sequence[str], *, datadir: Path | None = None) -> StackedImages:
    """The images that a table at ``path`` names as number@stack, the numbers from 1.

    RELION, XMIPP and cryoSPARC name files from the project's folder: a stack is looked for from ``datadir``, then from
    the table's folder upwards, then from the current working folder; last, under its bare name beside the table.

    Warns
    -----
    UserWarning : a stack was found beside the table only.

    Raises
    ------
    FileNotFoundError : a stack is not there.
    OSError, ValueError : a stack cannot be read, see ``open_stack``; it has no image of a number; two stacks differ in
        image size.
    """
    parts = [IMAGE_NAME.fullmatch(name) if len(name) <= LONGEST_NAME else None for name in names]
    if None in parts:
        wrong = names[parts.index(None)]
        raise ValueError(
            f"{path} must name images as number@stack, got {wrong!r:.80} of {len(wrong)} characters"
        )
    places: dict[str, int] = {}
    stack_of = np.array([places.setdefault(part[2], len(places)) for part in parts])
    found = [locate_stack(path, stack, datadir=datadir) for stack in places]
    moved = [stack for stack, (_, as_named) in zip(places, found, strict=True) if not as_named]
    if moved:
        others = f" (and {len(moved) - 1} others)" if len(moved) > 1 else ""
        warnings.warn(
            f"{path} names the stack {moved[0]}{others}, which is not there; took the file of that name beside it",
            UserWarning,
            stacklevel=4,
        )
    stacks = tuple(open_stack(place) for place, _ in found)
    sizes = [stack.image_size for stack in stacks]
    if min(sizes) != max(sizes):
        raise ValueError(f"{path} must name images of one size, got from {min(sizes)} to {max(sizes)} px")
    counts = np.array([stack.n_images for stack in stacks])[stack_of]
    unnumbered = np.array([part[1] is None for part in parts])
    if (unnumbered & (counts > 1)).any():
        first = int(np.argmax(unnumbered & (counts > 1)))
        raise ValueError(
            f"{path} must say which of the {counts[first]} images of {names[first]} it means, got no number"
        )
    numbers = np.array([int(part[1] or 1) for part in parts])
    beyond = (numbers < 1) | (numbers > counts)
    if beyond.any():
        first = int(np.argmax(beyond))
        raise ValueError(
            f"{path} names image {numbers[first]} of {stacks[stack_of[first]].path}, "
            f"which has images 1 to {counts[first]}"
        )
    return StackedImages(stacks, stack_of, numbers - 1)


def stack_name(image: str) -> str:
    """The stack of an image's name, number@stack."""
    return IMAGE_NAME.fullmatch(image)[2]


def locate_stack(table: Path, stack: str, *, datadir: Path | None = None) -> tuple[Path, bool]:
    """Where a stack lies, and whether that is where the table says, rather than its bare name beside the table.

    Raises
    ------
    FileNotFoundError : it is in none of the places that ``named_images`` looks in.
    """
    folder = Path(os.path.abspath(table)).parent
    places = (folder, *folder.parents, Path.cwd())
    for parent in places if datadir is None else (datadir, *places):
        if _is_file(parent / stack):  # an absolute name stays itself
            return parent / stack, True
    beside = folder / Path(stack).name
    if _is_file(beside):
        return beside, False
    searched = "" if datadir is None else f"in {datadir} nor "
    raise FileNotFoundError(
        f"{table} names the stack {stack:.200}, which is neither {searched}in {folder} nor in a folder above "
        "nor from the working folder"
    )


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have, being too long, is that of none."""
    try:
        return path.is_file()
    except OSError:
        return False
