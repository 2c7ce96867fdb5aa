"""Particle images in a file, read when they are asked for, and what the file says of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import whole_number
from cryoem.contrast import ContrastTransfer
from cryoem.particles.columns import Columns, Contrast, one_transfer
from cryoem.particles.mrc import StackedImages
from cryoem.particles.stack import ParticleStack

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Dialect:
    """How a program's columns are read: functions of ``Columns``, None each where the file does not say.

    ``pixel_sizes`` (n,) angstrom; ``rotations``; ``shifts_px`` (n, 2), of a pixel size, too; ``contrast``.
    """

    pixel_sizes: Callable[[Columns], np.ndarray | None]
    rotations: Callable[[Columns], Rotation | None]
    shifts_px: Callable[[Columns, float], np.ndarray | None]
    contrast: Callable[[Columns], Contrast | None]


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
    dialect : how the table is read; None for a bare stack.

    What the table says, in the conventions of this project; each is None where it does not say it, is made when it is
    first asked for, and raises a ValueError that names the file, column and row where a value is not a finite number:

    rotations : n orientations, particle to microscope coordinates.
    shifts_px : (n, 2) displacement (x, y) of each particle from pixel n // 2, towards larger coordinates.
    defocus_angstrom : (n, 3) underfocus U and V, and the azimuth of U in radians, anticlockwise from x.
    ctf : the constants of the microscope; a ValueError where particles differ in one.
    """

    path: Path
    image_size: int
    pixel_size_angstrom: float
    table: pd.DataFrame | None
    optics: pd.DataFrame | None
    image_names: list[str] = field(repr=False)
    images: StackedImages = field(repr=False)
    dialect: Dialect | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.image_names)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file that was opened and the stacks that it names, each once."""
        return tuple(dict.fromkeys([self.path, *(stack.path for stack in self.images.stacks)]))

    @cached_property
    def rotations(self) -> Rotation | None:
        """n orientations, see the class."""
        return None if self.dialect is None else self.dialect.rotations(self._columns)

    @cached_property
    def shifts_px(self) -> np.ndarray | None:
        """(n, 2) displacements in pixels, see the class."""
        if self.dialect is None:
            return None
        return self.dialect.shifts_px(self._columns, self.pixel_size_angstrom)

    @cached_property
    def contrast(self) -> Contrast | None:
        """The contrast transfer of each particle, (n,) constants and (n, 3) defoci; ``ctf`` where they agree."""
        return None if self.dialect is None else self.dialect.contrast(self._columns)

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """(n, 3) defoci, see the class."""
        return None if self.contrast is None else self.contrast.defocus_angstrom

    @cached_property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the contrast transfer, see the class."""
        return None if self.contrast is None else one_transfer(self.contrast, self.path)

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
        return self.images.read(self._chosen(indices))

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """All images in order, ``size`` at a time: pairs of the first one's index and (k, y, x) float32.

        Raises
        ------
        ValueError : ``size`` is below 1, or as for ``read``.
        OSError : as for ``read``.
        """
        size = whole_number(size, name="size", at_least=1)
        return ((start, self.read(slice(start, start + size))) for start in range(0, len(self), size))

    def subset(self, indices: slice | Sequence[int] | np.ndarray) -> ParticleFile:
        """Some of the particles, in the order asked for, still in their files.

        Raises
        ------
        ValueError : an index is not that of an image, or there is none.
        """
        chosen = self._chosen(indices)
        if not len(chosen):
            raise ValueError(f"indices must choose at least one of {len(self)} images, got none")
        return replace(
            self,
            table=None if self.table is None else self.table.iloc[chosen].reset_index(drop=True),
            image_names=[self.image_names[index] for index in chosen],
            images=self.images.subset(chosen),
        )

    def to_stack(self, indices: slice | Sequence[int] | np.ndarray = slice(None)) -> ParticleStack:
        """Some of the particles, by default all, with all that is known of them, in memory.

        Raises
        ------
        ValueError : as for ``subset``, ``read``, ``ctf`` and the other attributes.
        OSError : as for ``read``.
        """
        chosen = self.subset(indices)
        return ParticleStack(
            chosen.read(slice(None)),
            chosen.pixel_size_angstrom,
            rotations=chosen.rotations,
            shifts_px=chosen.shifts_px,
            defocus_angstrom=chosen.defocus_angstrom,
            ctf=chosen.ctf,
        )

    @property
    def _columns(self) -> Columns:
        return Columns(self.path, self.table, self.optics)

    def _chosen(self, indices: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """(k,) indices from 0."""
        if isinstance(indices, slice):
            return np.arange(*indices.indices(len(self)))
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
        return indices % len(self)
