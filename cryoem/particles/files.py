"""Particle files of other programs: opened at once, their images read when asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.checks import positive_number, whole_number
from cryoem.particles import cryosparc, relion, xmipp
from cryoem.particles.columns import Columns
from cryoem.particles.mrc import StackedImages, open_stack
from cryoem.particles.naming import named_images
from cryoem.particles.particle_file import Dialect, ParticleFile
from cryoem.particles.tables import RELION_IMAGE, XMIPP_IMAGE, read_star, read_xmd

if TYPE_CHECKING:
    import pandas as pd

SAME_PIXEL = 1e-3  # relative: two pixel sizes of one file are the same
LARGEST_PIXEL_ANGSTROM = 1e6
DISAGREE = 1e-2  # relative: two sources of the pixel size contradict each other
RELION = Dialect(relion.pixel_sizes, relion.rotations, relion.shifts_px, relion.contrast)
XMIPP = Dialect(xmipp.pixel_sizes, xmipp.rotations, xmipp.shifts_px, xmipp.contrast)
CRYOSPARC = Dialect(cryosparc.pixel_sizes, cryosparc.rotations, cryosparc.shifts_px, cryosparc.contrast)


def open_particles(
    path: str | os.PathLike,
    *,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    optics_group: int | None = None,
) -> ParticleFile:
    """Open a stack of particle images, or a table that names images; the files never change.

    Parameters
    ----------
    path : an MRC stack (``.mrcs``, ``.mrc``; modes 0, 1, 2, 6 and 12, either byte order), a RELION STAR file
        (``.star``; 3.0, 3.1 or 5), a cryoSPARC particle file (``.cs``) or an XMIPP metadata file (``.xmd``).  The
        stacks that a table names are looked for in its folder and the folders above, from the working folder, then
        under their bare names beside it.
    pixel_size_angstrom : side of a pixel; by default what the table states or, where it states nothing, what the
        headers of the stacks say.
    datadir : folder that the names in a table lead from, a project's; looked in first.
    optics_group : take only particles of this number (rlnOpticsGroup; ctf/exp_group_id of cryoSPARC), where groups
        differ in the microscope's constants or in the size of their pixels.

    Returns
    -------
    ParticleFile whose ``read`` and ``blocks`` give images (k, y, x) float32, as they are stored.

    Warns
    -----
    UserWarning : sources contradict each other on the pixel size by more than 1 %; a header lacks the MAP identifier; a
        file is longer than its header says; a ``.mrc`` may be a density map; a stack was found by its bare name only.

    Raises
    ------
    FileNotFoundError : no such file or ``datadir``, or a stack that a table names is not there.
    OSError : a file cannot be read.
    ValueError : the kind of file is not known; a stack is not one, is truncated or empty, or its images are not square;
        a table is not one, names no images, or images that its stacks do not have, or of several sizes; a pixel size is
        not a number; nothing gives the pixel size; or no particle is of ``optics_group``.

    Source: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    if pixel_size_angstrom is not None:
        pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if optics_group is not None:
        optics_group = whole_number(optics_group, name="optics_group", at_least=0)
    if path.suffix.lower() not in READERS:
        *most, last = sorted(READERS)
        raise ValueError(
            f"{path} must be a particle file that ends in {', '.join(most)} or {last}, got {path.suffix!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no particle file at {path}")
    if datadir is not None and not Path(datadir).is_dir():
        raise FileNotFoundError(f"datadir must be a folder, got {datadir}")
    content = READERS[path.suffix.lower()](path, None if datadir is None else Path(datadir), optics_group)
    pixel = _pixel_size(path, pixel_size_angstrom, _stated(path, content), _headers(content.images))
    return ParticleFile(
        path,
        content.images.image_size,
        pixel,
        content.table,
        content.optics,
        content.names,
        content.images,
        content.dialect,
    )


@dataclass(frozen=True, eq=False)
class _Content:
    """What a reader finds: images and their names, tables, and how these are read."""

    images: StackedImages
    names: list[str]
    dialect: Dialect | None = None
    table: pd.DataFrame | None = None
    optics: pd.DataFrame | None = None


def _read_stack(path: Path, datadir: Path | None, optics_group: int | None) -> _Content:
    if datadir is not None or optics_group is not None:
        option = f"datadir={datadir}" if optics_group is None else f"optics_group={optics_group}"
        raise ValueError(f"{path} is a stack of images, which has no use for {option}: leave it out")
    stack = open_stack(path)
    if path.suffix.lower() == ".mrc" and stack.looks_like_a_map:
        warnings.warn(
            f"{path} may be a density map, {stack.n_images} voxels along each axis; read as a stack of images",
            UserWarning,
            stacklevel=3,
        )
    images = StackedImages((stack,), np.zeros(stack.n_images, int), np.arange(stack.n_images))
    names = [f"{number:06d}@{path}" for number in range(1, stack.n_images + 1)]
    return _Content(images, names)


def _read_star(path: Path, datadir: Path | None, optics_group: int | None) -> _Content:
    table, optics = read_star(path)
    table = _of_group(path, table, relion.GROUP, optics_group)
    names = [str(name) for name in table[RELION_IMAGE]]
    return _Content(named_images(path, names, datadir=datadir), names, RELION, table, optics)


def _read_xmd(path: Path, datadir: Path | None, optics_group: int | None) -> _Content:
    table = _of_group(path, read_xmd(path), None, optics_group)
    names = [str(name) for name in table[XMIPP_IMAGE]]
    return _Content(named_images(path, names, datadir=datadir), names, XMIPP, table)


def _read_cs(path: Path, datadir: Path | None, optics_group: int | None) -> _Content:
    table = _of_group(path, cryosparc.read_cs(path), cryosparc.GROUP, optics_group)
    names = cryosparc.image_names(path, table)
    return _Content(named_images(path, names, datadir=datadir), names, CRYOSPARC, table)


READERS: dict[str, Callable[[Path, Path | None, int | None], _Content]] = {
    ".cs": _read_cs,
    ".mrc": _read_stack,
    ".mrcs": _read_stack,
    ".star": _read_star,
    ".xmd": _read_xmd,
}


def _of_group(path: Path, table: pd.DataFrame, column: str | None, number: int | None) -> pd.DataFrame:
    """The rows of an optics group, all of them where no number is given."""
    if number is None:
        return table
    if column is None or column not in table:
        raise ValueError(f"{path} must have optics groups to take optics_group={number}, got none")
    groups = Columns(path, table).numbers(column)
    if not (groups == number).any():
        known = ", ".join(f"{group:g}" for group in np.unique(groups))
        raise ValueError(f"optics_group must be one of those in {path}, {known}, got {number}")
    return table[groups == number].reset_index(drop=True)


def _stated(path: Path, content: _Content) -> tuple[float, ...]:
    """Pixel sizes (angstrom) that a table states for its particles, each once; empty where it states none."""
    if content.dialect is None:
        return ()
    sizes = content.dialect.pixel_sizes(Columns(path, content.table, content.optics))
    return () if sizes is None else tuple(np.unique(sizes).tolist())


def _headers(images: StackedImages) -> tuple[float, ...]:
    """Sides of the pixels by the stacks' headers, each once; a warning where headers are not what they should be."""
    without = [stack.path for stack in images.stacks if not stack.has_map_id]
    longer = [stack for stack in images.stacks if stack.surplus_bytes]
    for paths, what in (
        (without, "lacks the MAP identifier in its header; read as a stack of images all the same"),
        ([stack.path for stack in longer], "is longer than its header says; the rest is not read"),
    ):
        if paths:
            others = f" (like {len(paths) - 1} others)" if len(paths) > 1 else ""
            warnings.warn(f"{paths[0]}{others} {what}", UserWarning, stacklevel=3)
    return tuple(np.unique([stack.pixel_angstrom for stack in images.stacks]).tolist())


def _pixel_size(
    path: Path, argument: float | None, stated: tuple[float, ...], headers: tuple[float, ...]
) -> float:
    """The pixel size (angstrom) by the argument, else by the table, else by the headers."""
    by_table, by_headers = _one_size(stated), _one_size(headers)
    if argument is not None:
        known = by_table or by_headers
        if known and _disagree(argument, known):
            warnings.warn(
                f"{path} gives a pixel size of {known:.6g} angstrom; took pixel_size_angstrom={argument:.6g}",
                UserWarning,
                stacklevel=3,
            )
        return argument
    if stated or not by_headers:
        if not by_table:
            sizes = ", ".join(f"{size:.6g}" for size in stated or headers)
            raise ValueError(
                f"{path} gives no single pixel size, got {sizes} angstrom: "
                "pass pixel_size_angstrom (--pixel-size)"
            )
        if by_headers and _disagree(by_table, by_headers):
            warnings.warn(
                f"{path} gives a pixel size of {by_table:.6g} angstrom, the headers of its images {by_headers:.6g}; "
                f"took {by_table:.6g}",
                UserWarning,
                stacklevel=3,
            )
        return by_table
    return by_headers


def _one_size(sizes: tuple[float, ...]) -> float | None:
    """The size that all of them are, None where they differ, or are not possible, or there are none."""
    if not sizes or not all(0 < size <= LARGEST_PIXEL_ANGSTROM for size in sizes):
        return None
    return sizes[0] if max(sizes) - min(sizes) <= SAME_PIXEL * max(sizes) else None


def _disagree(a: float, b: float) -> bool:
    return abs(a - b) > DISAGREE * max(a, b)
