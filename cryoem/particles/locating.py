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


def locate_stack(
    table: Path, stack: str, *, datadir: Path | None = None, working_folder: bool = True
) -> tuple[Path, bool]:
    """Return the path of a stack, and whether it was found by its full stated path rather than by the end of it.

    RELION, XMIPP and cryoSPARC state paths relative to the project folder. Therefore, the stack is searched for in
    ``datadir``, in the folder of the table and the folders above it, and in the working folder. If the table is a
    symbolic link, the folders of its target are searched too. ``datadir`` may also be a folder inside the project,
    such as that of the stacks: it is searched for the stated path without its first folders. Finally, the folder of the
    table is searched in the same way. All searches for stacks use this function.
    """
    folders = tuple(
        dict.fromkeys(Path(path).parent for path in (os.path.abspath(table), os.path.realpath(table)))
    )
    above = dict.fromkeys(each for folder in folders for each in (folder, *folder.parents))
    parts = Path(stack).parts
    ends = [Path(*parts[first:]) for first in range(1, len(parts))]
    stated = [(folder, stack, True) for folder in (*above, *([Path.cwd()] if working_folder else []))]
    searches = stated + [(folder, end, False) for folder in folders for end in ends]
    if datadir is not None:
        searches = [(datadir, stack, True), *((datadir, end, False) for end in ends), *searches]
    for folder, name, as_stated in searches:
        if _is_file(folder / name):  # an absolute name ignores the folder
            return folder / name, as_stated
    searched = ", ".join(map(str, [*([] if datadir is None else [datadir]), *folders]))
    raise FileNotFoundError(
        f"{table} refers to the stack {stack:.200}, which was not found in {searched}, the folders above "
        f"{'it' if len(folders) == 1 else 'them'} or the working folder"
    )


def _is_file(path: Path) -> bool:
    """Return whether a file exists. A name that is too long for the system counts as missing."""
    try:
        return path.is_file()
    except PermissionError:
        raise PermissionError(f"cannot read the folder {path.parent}: permission denied") from None
    except OSError:
        return False


def _refuse_shared_ends(table: Path, by_end: Sequence[tuple[str, Path]]) -> None:
    """Raise a ValueError if two stacks, found by the ends of their paths, are the same file."""
    names: dict[Path, str] = {}
    for name, place in by_end:
        if (other := names.setdefault(place, name)) != name:
            raise ValueError(
                f"{table} refers to the stacks {other} and {name}, but only {place} was found for both; "
                "pass the folder to which their names are relative as datadir (--datadir)"
            )


def find_images(table: Path, names: Sequence[str], datadir: Path | None) -> StackedImages:
    """Find the images that a table refers to. Warn about stacks that are found by the ends of their paths."""
    parts = [IMAGE_NAME.fullmatch(name) if len(name) <= LONGEST_NAME else None for name in names]
    if None in parts:
        wrong = names[parts.index(None)]
        raise ValueError(
            f"{table}: image names must have the form number@stack, got {wrong!r:.80} ({len(wrong)} characters)"
        )
    places: dict[str, int] = {}
    stack_of = np.array([places.setdefault(part[2], len(places)) for part in parts])
    found = [locate_stack(table, stack, datadir=datadir) for stack in places]
    by_end = [(name, place) for name, (place, as_stated) in zip(places, found, strict=True) if not as_stated]
    _refuse_shared_ends(table, by_end)
    moved = [name for name, place in by_end if datadir is None or not place.is_relative_to(datadir)]
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
