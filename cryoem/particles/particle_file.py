"""Particle images in a file, read on demand, with the metadata of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles import cryosparc, relion, xmipp
from cryoem.particles.columns import Columns, Contrast, common_transfer
from cryoem.particles.mrc import StackedImages
from cryoem.particles.stack import ParticleStack
from cryoem.rotations import Poses

if TYPE_CHECKING:
    import pandas as pd

RANDOM_SUBSET = "rlnRandomSubset"
PROGRAMS = {"relion": relion, "xmipp": xmipp, "cryosparc": cryosparc}  # each interprets its columns


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
    def contrast(self) -> Contrast | None:
        """Contrast transfer of each particle, whose constants may differ; None if unknown."""
        return None if self.program is None else PROGRAMS[self.program].contrast(self._columns)

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """(n, 3) underfocus U and V, and the azimuth of U in radians, anticlockwise from x; None if unknown."""
        return None if self.contrast is None else self.contrast.defocus_angstrom

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
