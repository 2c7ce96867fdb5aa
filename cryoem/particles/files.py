"""Opening the particle files of RELION, cryoSPARC and XMIPP, and finding the stacks that they name."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.particles import cryosparc, relion
from cryoem.particles.columns import Columns
from cryoem.particles.mrc import StackedImages, open_stack
from cryoem.particles.particle_file import PROGRAMS, ParticleFile
from cryoem.particles.star import RELION_IMAGE, XMIPP_IMAGE, read_star, read_xmd
from cryoem.validation import positive_number, whole_number

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".cs", ".mrc", ".mrcs", ".star", ".xmd")
PROGRAM_OF = {".cs": "cryosparc", ".star": "relion", ".xmd": "xmipp"}
# The number, the stack, and the format that XMIPP may append.
IMAGE_NAME = re.compile(r"(?:(\d+)@)?(.+?)(?<!@)(?::mrcs?)?")
LONGEST_NAME = 4096  # characters, the longest path of common systems
SAME_PIXEL = 1e-3  # relative difference of rounded pixel sizes in one file
DISAGREE = 1e-2  # relative difference of pixel sizes that contradict each other
LARGEST_PIXEL_ANGSTROM = 1e6


def open_particles(
    path: str | os.PathLike,
    *,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    optics_group: int | None = None,
) -> ParticleFile:
    """Open a stack of particle images, or a table that names images.

    Parameters
    ----------
    path : path-like
        An MRC stack (``.mrcs``, ``.mrc``; modes 0, 1, 2, 6 and 12, either byte order), a RELION STAR file (``.star``;
        3.0, 3.1 or 5), a cryoSPARC particle file (``.cs``) or an XMIPP metadata file (``.xmd``). The stacks that a
        table names are searched from its folder and the folders above, from the working folder, and finally under their
        bare names in the table's folder.
    pixel_size_angstrom : float, optional
        Side of a pixel; by default that of the table or, without one, that of the stacks' headers.
    datadir : path-like, optional
        Project folder that the names in the table are relative to; searched first.
    optics_group : int, optional
        Take only the particles with this number (rlnOpticsGroup; ctf/exp_group_id of cryoSPARC), if groups differ in
        the microscope's constants or in pixel size.

    Returns
    -------
    ParticleFile
        Its images are read when they are needed, as they are stored.

    Warns
    -----
    UserWarning
        Pixel sizes in table and headers differ by more than 1 %, a header lacks the MAP identifier, a file is longer
        than its header states, a ``.mrc`` may be a density map, or a stack was only found under its bare name.

    Raises
    ------
    FileNotFoundError
        The file, ``datadir`` or a stack that the table names does not exist.
    OSError
        A file cannot be read.
    ValueError
        The kind of file is unknown; a stack is damaged, empty or not of square images; a table is damaged, names no
        images, images that do not exist, or images of several sizes; the pixel size is unknown or not a number; or no
        particle is in ``optics_group``.

    References
    ----------
    MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if pixel_size_angstrom is not None:
        pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if optics_group is not None:
        optics_group = whole_number(optics_group, name="optics_group", at_least=0)
    if suffix not in SUFFIXES:
        *most, last = SUFFIXES
        raise ValueError(
            f"{path} must be a particle file that ends in {', '.join(most)} or {last}, got {path.suffix!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no particle file at {path}")
    if datadir is not None and not Path(datadir).is_dir():
        raise FileNotFoundError(f"datadir must be a folder, got {datadir}")

    program = PROGRAM_OF.get(suffix)
    table = optics_groups = sizes = None
    if program is None:
        for name, value in (("optics_group", optics_group), ("datadir", datadir)):
            if value is not None:
                raise ValueError(
                    f"{path} is a stack without a table, so {name}={value} does not apply; omit it"
                )
        names, images = _read_stack(path)
    else:
        names, table, optics_groups = _read_table(path, program, optics_group)
        images = _named_images(path, names, None if datadir is None else Path(datadir))
        sizes = PROGRAMS[program].pixel_sizes(Columns(path, table, optics_groups))
    by_table = () if sizes is None else tuple(np.unique(sizes).tolist())
    pixel = _pixel_size(path, pixel_size_angstrom, by_table, _header_pixels(images))
    return ParticleFile(path, pixel, table, optics_groups, names, images, program)


def _read_stack(path: Path) -> tuple[list[str], StackedImages]:
    """Open a bare stack; return the names of its images, and where they are stored."""
    stack = open_stack(path)
    n = stack.n_images
    if path.suffix.lower() == ".mrc" and stack.looks_like_a_map:
        warnings.warn(
            f"{path} looks like a density map ({n} voxels along each axis); reading it as a stack of images",
            UserWarning,
            stacklevel=3,
        )
    names = [f"{number:06d}@{path}" for number in range(1, n + 1)]
    return names, StackedImages((stack,), np.zeros(n, int), np.arange(n))


def _read_table(
    path: Path, program: str, optics_group: int | None
) -> tuple[list[str], pd.DataFrame, pd.DataFrame | None]:
    """Return the names of a table's images, the table, and RELION's optics groups."""
    optics_groups = column = None
    if program == "relion":
        table, optics_groups = read_star(path)
        column = relion.GROUP
    elif program == "cryosparc":
        table, column = cryosparc.read_cs(path), cryosparc.GROUP
    else:
        table = read_xmd(path)
    if optics_group is not None:
        table = _of_group(path, table, column, optics_group)
    if program == "cryosparc":
        return cryosparc.image_names(path, table), table, None
    names = table[RELION_IMAGE if program == "relion" else XMIPP_IMAGE].astype(str).tolist()
    return names, table, optics_groups


def _of_group(path: Path, table: pd.DataFrame, column: str | None, number: int) -> pd.DataFrame:
    """Return the rows of an optics group."""
    if column not in table:
        raise ValueError(f"{path} has no optics groups; omit optics_group={number}")
    groups = Columns(path, table).numbers(column)
    if not (groups == number).any():
        known = ", ".join(f"{group:g}" for group in np.unique(groups))
        raise ValueError(f"optics_group must be one of those in {path}, {known}, got {number}")
    return table[groups == number].reset_index(drop=True)


def _named_images(path: Path, names: Sequence[str], datadir: Path | None) -> StackedImages:
    """Find the images that the table at ``path`` names as number@stack, with numbers from 1."""
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
            f"{path} names the stack {moved[0]}{others}, which does not exist; "
            "using the file of that name in the table's folder",
            UserWarning,
            stacklevel=3,
        )
    stacks = tuple(open_stack(place) for place, _ in found)
    sizes = [stack.image_size for stack in stacks]
    if min(sizes) != max(sizes):
        raise ValueError(f"{path} must have images of one size, got {min(sizes)} to {max(sizes)} px")
    counts = np.array([stack.n_images for stack in stacks])[stack_of]
    ambiguous = np.array([part[1] is None for part in parts]) & (counts > 1)
    if ambiguous.any():
        first = int(np.argmax(ambiguous))
        raise ValueError(
            f"{path} names {names[first]} without an image number; the stack has {counts[first]} images"
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


def locate_stack(table: Path, stack: str, *, datadir: Path | None = None) -> tuple[Path, bool]:
    """Return the path of a stack, and whether it was found at the stated path rather than by file name alone.

    RELION, XMIPP and cryoSPARC name files relative to the project folder. A stack is therefore searched from
    ``datadir``, from the folder of the table upwards, and from the working folder; finally under its bare name in
    the folder of the table.
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


def _header_pixels(images: StackedImages) -> tuple[float, ...]:
    """Return the distinct sides of pixels in the stacks' headers; warn about unusual headers."""
    without = [stack.path for stack in images.stacks if not stack.header.has_map_id]
    longer = [stack.path for stack in images.stacks if stack.surplus_bytes]
    for paths, what in (
        (without, "lacks the MAP identifier in its header; reading it as a stack of images"),
        (longer, "is longer than its header states; the rest is not read"),
    ):
        if paths:
            others = f" (like {len(paths) - 1} others)" if len(paths) > 1 else ""
            warnings.warn(f"{paths[0]}{others} {what}", UserWarning, stacklevel=3)
    return tuple(np.unique([stack.pixel_angstrom for stack in images.stacks]).tolist())


def _pixel_size(
    path: Path, argument: float | None, table: tuple[float, ...], headers: tuple[float, ...]
) -> float:
    """Return the pixel size (angstrom) of the argument, or of the table, or of the headers."""
    by_table, by_headers = _one_size(table), _one_size(headers)
    stated = by_table or by_headers
    if argument is not None:
        if stated and not math.isclose(argument, stated, rel_tol=DISAGREE):
            warnings.warn(
                f"{path} states a pixel size of {stated:.6g} angstrom; using pixel_size_angstrom={argument:.6g}",
                UserWarning,
                stacklevel=3,
            )
        return argument
    if not stated or (table and not by_table):
        sizes = ", ".join(f"{size:.6g}" for size in table or headers)
        raise ValueError(
            f"{path} has no single valid pixel size, got {sizes} angstrom; "
            "pass pixel_size_angstrom (--pixel-size)"
        )
    if by_headers and not math.isclose(stated, by_headers, rel_tol=DISAGREE):
        warnings.warn(
            f"{path} states a pixel size of {stated:.6g} angstrom, the headers of its images {by_headers:.6g}; "
            f"using {stated:.6g}",
            UserWarning,
            stacklevel=3,
        )
    return stated


def _one_size(sizes: tuple[float, ...]) -> float | None:
    """Return the size if all are the same and possible, else None."""
    if not sizes or not all(0 < size <= LARGEST_PIXEL_ANGSTROM for size in sizes):
        return None
    return sizes[0] if math.isclose(min(sizes), max(sizes), rel_tol=SAME_PIXEL) else None
