"""Particle files of RELION, cryoSPARC and XMIPP: their images, read on demand, and the metadata of each image."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles import cryosparc, relion, xmipp
from cryoem.particles.columns import DEFOCUS, Columns, common_transfer
from cryoem.particles.locating import find_images
from cryoem.particles.mrc import StackedImages, whole_stack
from cryoem.particles.stack import ParticleStack
from cryoem.particles.star import RELION_IMAGE, XMIPP_IMAGE, read_star, read_xmd
from cryoem.rotations import Poses
from cryoem.validation import positive_number, whole_number

if TYPE_CHECKING:
    import pandas as pd

PROGRAMS = {"relion": relion, "xmipp": xmipp, "cryosparc": cryosparc}  # each interprets its columns
PROGRAM_OF = {".cs": "cryosparc", ".mrc": None, ".mrcs": None, ".star": "relion", ".xmd": "xmipp"}
RANDOM_SUBSET = "rlnRandomSubset"
SAME_PIXEL = 1e-3  # relative difference of rounded pixel sizes in one file
DISAGREE = 1e-2  # relative difference of pixel sizes that contradict each other
LARGEST_PIXEL_ANGSTROM = 1e6


@dataclass(frozen=True, eq=False)
class ParticleFile:
    """Particle images in a file, opened by ``open_particles``.

    A file can be passed wherever images are expected. Indexing with a slice, (k,) indices or an (n,) boolean mask
    returns a smaller ``ParticleFile``, still on the disk; ``numpy.asarray`` reads its images, (n, y, x) float32.

    Attributes
    ----------
    path : Path
        The file that was opened.
    pixel_size_angstrom : float
        Side of a pixel.
    table : pandas.DataFrame or None
        Table of the file, unmodified, one row per image; None for a bare stack.
    optics_groups : pandas.DataFrame or None
        RELION's optics groups.
    image_names : list of str
        'number@stack' of each image, numbers from 1, as in the file.
    images : StackedImages
        Where the images are stored.
    program : str or None
        The program whose columns the table has: relion, xmipp or cryosparc; None for a bare stack.

    Notes
    -----
    The properties that describe the particles are computed at first use. They raise a ValueError that names the file,
    column and row if a value is not a finite number.
    """

    path: Path
    pixel_size_angstrom: float
    table: pd.DataFrame | None
    optics_groups: pd.DataFrame | None
    image_names: list[str] = field(repr=False)
    images: StackedImages = field(repr=False)
    program: str | None = None

    def __len__(self) -> int:
        return len(self.image_names)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.images.image_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x)"""
        return (len(self), self.image_size, self.image_size)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file that was opened and its stacks, without repetition."""
        return tuple(dict.fromkeys([self.path, *(stack.path for stack in self.images.stacks)]))

    @cached_property
    def rotations(self) -> Rotation | None:
        """n orientations, particle to microscope coordinates; None if unknown."""
        return None if self.program is None else PROGRAMS[self.program].rotations(self._columns)

    @cached_property
    def shifts_px(self) -> np.ndarray | None:
        """(n, 2) displacement (x, y) from pixel n // 2, positive towards larger coordinates; None if unknown."""
        if self.program is None:
            return None
        return PROGRAMS[self.program].shifts_px(self._columns, self.pixel_size_angstrom)

    @property
    def poses(self) -> Poses | None:
        """Orientations and shifts (zero if unknown); None without orientations."""
        return None if self.rotations is None else Poses(self.rotations, self.shifts_px)

    @cached_property
    def contrast(self) -> pd.DataFrame | None:
        """Contrast transfer of each particle, whose constants may differ, one row each; None if unknown.

        Columns are named as the attributes of ``ContrastTransfer``; the defocus is that of ``defocus_angstrom``.
        """
        return None if self.program is None else PROGRAMS[self.program].contrast(self._columns)

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """(n, 3) underfocus U and V, and the azimuth of U in radians, anticlockwise from x; None if unknown."""
        return None if self.contrast is None else self.contrast[[*DEFOCUS]].to_numpy(copy=True)

    @cached_property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the contrast transfer, None if unknown; a ValueError if particles differ in one."""
        return None if self.contrast is None else common_transfer(self.contrast, self.path)

    @property
    def optics(self) -> Optics:
        """Pixel size, contrast transfer and defocus of the images; raises as ``ctf``."""
        return Optics(self.pixel_size_angstrom, self.ctf, self.defocus_angstrom)

    @property
    def random_subset(self) -> np.ndarray | None:
        """(n,) half of each particle, 0 or 1, by rlnRandomSubset, which must be 1 or 2; None without that column."""
        if self.table is None or RANDOM_SUBSET not in self.table:
            return None
        subset = self._columns.numbers(RANDOM_SUBSET)
        if set(subset.tolist()) != {1, 2}:
            values = ", ".join(f"{value:g}" for value in np.unique(subset)[:5])
            raise ValueError(f"{self.path}: {RANDOM_SUBSET} must have the values 1 and 2, got {values}")
        return subset.astype(int) - 1

    def __getitem__(self, indices: slice | Sequence[int] | np.ndarray) -> ParticleFile:
        """Return some of the particles in the given order, without reading their images."""
        try:
            selected = np.arange(len(self))[indices]
        except IndexError as error:
            raise ValueError(f"indices must select some of {len(self)} images: {error}") from None
        if selected.ndim != 1 or not len(selected):
            raise ValueError(
                f"indices must be a slice or a sequence that selects at least one of {len(self)} images, "
                f"got {indices!r:.80}"
            )
        return replace(
            self,
            table=None if self.table is None else self.table.iloc[selected].reset_index(drop=True),
            image_names=[self.image_names[index] for index in selected],
            images=self.images[selected],
        )

    def __array__(self, dtype=None, copy: bool | None = None) -> np.ndarray:
        """Read the images: (n, y, x) float32; a ValueError if a pixel is not finite."""
        if copy is False:
            raise ValueError("images in a file cannot be read without a copy, got copy=False")
        images = self.images.read()
        return images if dtype is None else images.astype(dtype, copy=False)

    def to_stack(self, *, symmetry: str = "C1") -> ParticleStack:
        """Read the particles with their optics and poses into memory; files do not state the symmetry.

        Raises
        ------
        ValueError
            A pixel or a value of the table is not finite, or particles differ in a constant of the microscope.
        OSError
            A stack can no longer be read.
        """
        return ParticleStack(np.asarray(self), self.optics, self.poses, symmetry)

    @property
    def _columns(self) -> Columns:
        return Columns(self.path, self.table, self.optics_groups)


def open_particles(
    path: str | os.PathLike,
    *,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    optics_group: int | None = None,
) -> ParticleFile:
    """Open a stack of particle images, or a table that names images; images are read when they are needed.

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
    if suffix not in PROGRAM_OF:
        *most, last = PROGRAM_OF
        raise ValueError(
            f"{path} must be a particle file that ends in {', '.join(most)} or {last}, got {path.suffix!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no particle file at {path}")
    if datadir is not None and not Path(datadir).is_dir():
        raise FileNotFoundError(f"datadir must be a folder, got {datadir}")

    program = PROGRAM_OF[suffix]
    table = optics_groups = sizes = None
    if program is None:
        for name, value in (("optics_group", optics_group), ("datadir", datadir)):
            if value is not None:
                raise ValueError(
                    f"{path} is a stack without a table, so {name}={value} does not apply; omit it"
                )
        names, images = whole_stack(path)
    else:
        names, table, optics_groups = _read_table(path, program, optics_group)
        images = find_images(path, names, None if datadir is None else Path(datadir))
        sizes = PROGRAMS[program].pixel_sizes(Columns(path, table, optics_groups))
    by_table = () if sizes is None else tuple(np.unique(sizes).tolist())
    pixel = _pixel_size(path, pixel_size_angstrom, by_table, images.pixels_angstrom())
    return ParticleFile(path, pixel, table, optics_groups, names, images, program)


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
        if column not in table:
            raise ValueError(f"{path} has no optics groups; omit optics_group={optics_group}")
        groups = Columns(path, table).numbers(column)
        if not (groups == optics_group).any():
            known = ", ".join(f"{group:g}" for group in np.unique(groups))
            raise ValueError(f"optics_group must be one of those in {path}, {known}, got {optics_group}")
        table = table[groups == optics_group].reset_index(drop=True)
    if program == "cryosparc":
        return cryosparc.image_names(path, table), table, None
    names = table[RELION_IMAGE if program == "relion" else XMIPP_IMAGE].astype(str).tolist()
    return names, table, optics_groups


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
