"""Particle files of other programs: opened at once, their images read when asked for."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.checks import positive_number, whole_number
from cryoem.particles.mrc import StackedImages, open_stack
from cryoem.particles.tables import (
    RELION_IMAGE,
    XMIPP_IMAGE,
    named_images,
    read_star,
    read_xmd,
    stated_pixel_sizes,
)

if TYPE_CHECKING:
    import pandas as pd

SAME_PIXEL = 1e-3  # relative: two pixel sizes of one file are the same
DISAGREE = 1e-2  # relative: two sources of the pixel size contradict each other


@dataclass(frozen=True, eq=False)
class ParticleFile:
    """Particle images in a file, read on demand; made by ``open_particles``.

    Attributes
    ----------
    path : the file that was opened.
    image_size : side of the square images in pixels.
    pixel_size_angstrom : side of a pixel.
    table : what the file says of each particle, one row an image and as read; None for a bare stack.
    optics : RELION's optics groups, None where there are none.
    image_names : 'number@stack' of each image, numbers from 1, as the file has it.
    images : where the pixels come from: ``images.read((k,) indices) -> (k, y, x)``.
    """

    path: Path
    image_size: int
    pixel_size_angstrom: float
    table: pd.DataFrame | None
    optics: pd.DataFrame | None
    image_names: list[str] = field(repr=False)
    images: StackedImages = field(repr=False)

    def __len__(self) -> int:
        return len(self.image_names)

    def read(self, indices: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Some of the images, in the order asked for: (k, y, x) float32.

        Parameters
        ----------
        indices : a slice, or (k,) numbers from 0; negative ones count from the end.

        Raises
        ------
        ValueError : an index is not that of an image, or a pixel is not finite.
        OSError : a stack cannot be read any more.
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        else:
            indices = np.asarray(indices)
            if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or indices.size == 0):
                raise ValueError(
                    "indices must be a slice or a one-dimensional array of integers, "
                    f"got {indices.dtype} of shape {indices.shape}"
                )
            indices = indices.astype(int)
            outside = indices[(indices < -len(self)) | (indices >= len(self))]
            if outside.size:
                raise ValueError(f"indices must be those of {len(self)} images, got {outside[0]}")
        return self.images.read(indices % len(self))

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """All images in order, ``size`` at a time: pairs of the first one's index and (k, y, x) float32.

        Raises
        ------
        ValueError : ``size`` is below 1, or as for ``read``.
        OSError : as for ``read``.
        """
        size = whole_number(size, name="size", at_least=1)
        return ((start, self.read(slice(start, start + size))) for start in range(0, len(self), size))


def open_particles(path: str | os.PathLike, *, pixel_size_angstrom: float | None = None) -> ParticleFile:
    """Open a stack of particle images, or a table that names images; the files never change.

    Parameters
    ----------
    path : an MRC stack (``.mrcs``, ``.mrc``; modes 0, 1, 2, 6 and 12, either byte order), a RELION STAR file
        (``.star``; 3.0, 3.1 or 5) or an XMIPP metadata file (``.xmd``).  The stacks that a table names are looked for
        in its folder and the folders above, from the working folder, then under their bare names beside it.
    pixel_size_angstrom : side of a pixel; by default what the STAR file states or, where it states nothing, what the
        headers of the stacks say.

    Returns
    -------
    ParticleFile whose ``read`` and ``blocks`` give images (k, y, x) float32, as they are stored.

    Warns
    -----
    UserWarning : sources contradict each other on the pixel size by more than 1 %; a header lacks the MAP identifier; a
        file is longer than its header says; a ``.mrc`` may be a density map; a stack was found by its bare name only.

    Raises
    ------
    FileNotFoundError : no such file, or a stack that a table names is not there.
    OSError : a file cannot be read.
    ValueError : the kind of file is not known; a stack is not one, is truncated or empty, or its images are not square;
        a table names no images, or images that its stacks do not have, or of several sizes; nothing gives the pixel
        size.

    Source: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    if pixel_size_angstrom is not None:
        pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if path.suffix.lower() not in READERS:
        *most, last = sorted(READERS)
        raise ValueError(
            f"{path} must be a particle file that ends in {', '.join(most)} or {last}, got {path.suffix!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no particle file at {path}")
    content = READERS[path.suffix.lower()](path)
    pixel = _pixel_size(path, pixel_size_angstrom, content.stated_angstrom, content.header_angstrom)
    return ParticleFile(
        path, content.images.image_size, pixel, content.table, content.optics, content.names, content.images
    )


@dataclass(frozen=True, eq=False)
class _Content:
    """What a reader finds: images and their names, tables, and the pixel sizes by table and by image headers."""

    images: StackedImages
    names: list[str]
    table: pd.DataFrame | None = None
    optics: pd.DataFrame | None = None
    stated_angstrom: tuple[float, ...] = ()
    header_angstrom: tuple[float, ...] = ()


def _read_stack(path: Path) -> _Content:
    stack = open_stack(path)
    if path.suffix.lower() == ".mrc" and stack.looks_like_a_map:
        warnings.warn(
            f"{path} may be a density map, {stack.n_images} voxels along each axis; read as a stack of images",
            UserWarning,
            stacklevel=3,
        )
    images = StackedImages((stack,), np.zeros(stack.n_images, int), np.arange(stack.n_images))
    names = [f"{number:06d}@{path}" for number in range(1, stack.n_images + 1)]
    return _Content(images, names, header_angstrom=_headers(images))


def _read_star(path: Path) -> _Content:
    table, optics = read_star(path)
    stated = stated_pixel_sizes(path, table, optics)
    names = [str(name) for name in table[RELION_IMAGE]]
    images = named_images(path, names)
    return _Content(images, names, table, optics, stated, _headers(images))


def _read_xmd(path: Path) -> _Content:
    table = read_xmd(path)
    names = [str(name) for name in table[XMIPP_IMAGE]]
    images = named_images(path, names)
    return _Content(images, names, table, header_angstrom=_headers(images))


READERS: dict[str, Callable[[Path], _Content]] = {
    ".mrc": _read_stack,
    ".mrcs": _read_stack,
    ".star": _read_star,
    ".xmd": _read_xmd,
}


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
            warnings.warn(f"{paths[0]}{others} {what}", UserWarning, stacklevel=4)
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
    """The size that all of them are, None where they differ, or are not positive, or there are none."""
    if not sizes or not all(math.isfinite(size) and size > 0 for size in sizes):
        return None
    return sizes[0] if max(sizes) - min(sizes) <= SAME_PIXEL * max(sizes) else None


def _disagree(a: float, b: float) -> bool:
    return abs(a - b) > DISAGREE * max(a, b)
