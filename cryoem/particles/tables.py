"""Tables that name particle images: RELION's STAR files and XMIPP's metadata files."""

from __future__ import annotations

import linecache
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.particles.mrc import StackedImages, open_stack

if TYPE_CHECKING:
    import pandas as pd

RELION_IMAGE, XMIPP_IMAGE = "rlnImageName", "image"
TEXT_COLUMNS = (  # stay text where they look like numbers: micrograph 0012 is not micrograph 12
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
IMAGE_NAME = re.compile(r"(?:(\d+)@)?(.+?)(?::mrcs?)?")  # number@stack, and the format that Xmipp may add


def read_star(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The particles of a RELION STAR file (3.0, 3.1 or 5) and its optics groups, None where it has none.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError : it is not a STAR file, or it has no or several tables with rlnImageName.
    """
    blocks = _read_blocks(path)
    particles = _block_with(RELION_IMAGE, blocks, path, preferred="particles")
    return particles, _as_table(blocks["optics"]) if "optics" in blocks else None


def read_xmd(path: str | os.PathLike) -> pd.DataFrame:
    """The table of an XMIPP metadata file that has a column ``image``; labels without their leading underscore.

    Raises
    ------
    FileNotFoundError : no such file.
    OSError : the file cannot be read.
    ValueError : it is not a metadata file, or it has no or several tables with ``image``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no metadata file at {path}")
    return _block_with(XMIPP_IMAGE, _read_blocks(path), path)


def stated_pixel_sizes(path: Path, particles: pd.DataFrame, optics: pd.DataFrame | None) -> tuple[float, ...]:
    """Pixel sizes (angstrom) that a STAR file states for its particles, each once; empty where it states none.

    rlnImagePixelSize of the optics groups in use or, as in RELION 3.0, rlnDetectorPixelSize (micrometre) over
    rlnMagnification.

    Raises
    ------
    ValueError : a particle is of an optics group that is not described, or a size is not a number.
    """
    if optics is not None and "rlnImagePixelSize" in optics:
        if "rlnOpticsGroup" in optics and "rlnOpticsGroup" in particles:
            missing = set(particles["rlnOpticsGroup"]) - set(optics["rlnOpticsGroup"])
            if missing:
                raise ValueError(
                    f"{path} has particles of optics group {min(missing)}, which it does not describe"
                )
            optics = optics[optics["rlnOpticsGroup"].isin(particles["rlnOpticsGroup"])]
        sizes = _numbers(path, optics, "rlnImagePixelSize")
    elif {"rlnDetectorPixelSize", "rlnMagnification"} <= set(particles):
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = 1e4 * _numbers(path, particles, "rlnDetectorPixelSize")
            sizes = sizes / _numbers(path, particles, "rlnMagnification")
    else:
        return ()
    return tuple(float(size) for size in np.unique(sizes))


def named_images(path: Path, names: Sequence[str]) -> StackedImages:
    """The images that a table at ``path`` names as number@stack, the numbers from 1.

    RELION and XMIPP name files from the project's folder, which they are started in: a stack is looked for from the
    table's folder upwards, then from the current working folder; last, under its bare name beside the table.

    Warns
    -----
    UserWarning : a stack was found beside the table only.

    Raises
    ------
    FileNotFoundError : a stack is not there.
    OSError, ValueError : a stack cannot be read, see ``open_stack``; it has no image of a number; two stacks differ in
        image size.
    """
    parts = [IMAGE_NAME.fullmatch(name) for name in names]
    if None in parts:
        raise ValueError(f"{path} must name images as number@stack, got {names[parts.index(None)]!r}")
    places: dict[str, int] = {}
    stack_of = np.array([places.setdefault(part[2], len(places)) for part in parts])
    found = [locate_stack(path, stack) for stack in places]
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


def locate_stack(table: Path, stack: str) -> tuple[Path, bool]:
    """Where a stack lies, and whether that is where the table says, rather than its bare name beside the table.

    Raises
    ------
    FileNotFoundError : it is in none of the places that ``named_images`` looks in.
    """
    folder = Path(os.path.abspath(table)).parent
    for parent in (folder, *folder.parents, Path.cwd()):
        if (parent / stack).is_file():  # an absolute name stays itself
            return parent / stack, True
    beside = folder / Path(stack).name
    if beside.is_file():
        return beside, False
    raise FileNotFoundError(
        f"{table} names the stack {stack}, which is neither in {folder} nor in a folder above "
        "nor from the working folder"
    )


def _numbers(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floating-point numbers."""
    try:
        return table[column].to_numpy(float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must have numbers in the column _{column}: {error}") from None


def _read_blocks(path: Path) -> dict:
    """Tables by name; what is no loop stays a dictionary."""
    import starfile

    linecache.checkcache(str(path))  # starfile reads through it, and forgets to empty it after an error
    try:
        return starfile.read(path, always_dict=True, parse_as_string=list(TEXT_COLUMNS))
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a STAR file: {reason}") from None


def _block_with(column: str, blocks: dict, path: Path, *, preferred: str = "") -> pd.DataFrame:
    """The one table with a column of image names, each of them text; the ``preferred`` one where there are several."""
    having = [name for name, block in blocks.items() if column in block]
    if not having:
        names = ", ".join(f"data_{name}" for name in blocks) or "no table"
        raise ValueError(f"{path} must have a table with the column _{column}, got {names}")
    if len(having) > 1 and preferred not in having:
        names = ", ".join(f"data_{name}" for name in having)
        raise ValueError(f"{path} must have one table with the column _{column}, got {names}")
    table = _as_table(blocks[preferred if preferred in having else having[0]])
    if table.empty:
        raise ValueError(f"{path} names no images: its table is empty")
    unnamed = table[column].isna() | table[column].eq("")
    if unnamed.any():
        row = int(np.argmax(unnamed)) + 1
        raise ValueError(f"{path} must name an image in each row, got none in row {row}")
    return table


def _as_table(block) -> pd.DataFrame:
    """A block as a table; what is not a loop is one row."""
    import pandas as pd

    return pd.DataFrame([block]) if isinstance(block, dict) else block
