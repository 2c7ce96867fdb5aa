"""Particles in files: images that are read on demand, and the metadata of each image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.files.reading import is_gzip
from cryoem.images import shrink
from cryoem.particles import cryosparc, projections, relion, training_folder, xmipp
from cryoem.particles.columns import (
    DEFOCUS,
    Columns,
    DoubtfulValue,
    common_transfer,
    own_values,
    states_no_ctf,
    unused_optics,
)
from cryoem.particles.mrc import StackedImages
from cryoem.particles.pixel_sizes import shrinkage
from cryoem.particles.stack import ParticleStack, StackOnDemand
from cryoem.rotations import Poses

if TYPE_CHECKING:
    import pandas as pd

PROGRAMS = {  # interpret the columns
    "relion": relion,
    "xmipp": xmipp,
    "cryosparc": cryosparc,
    "projections": projections,
    "training folder": training_folder,
}
OPENING = {  # of files that contain both the images and what is known of them
    "projections": projections.open_projections,
    "training folder": training_folder.open_training_folder,
}
GROUPS = {"relion": relion.GROUP, "cryosparc": cryosparc.GROUP}  # columns with the numbers of optics groups
HALF_SETS = {"relion": (relion.SUBSET, {1, 2}), "cryosparc": ("alignments3D/split", {0, 1})}


@dataclass(frozen=True, eq=False)
class ParticleFile:
    """Particle images in a file, as returned by ``open_particles``.

    A ``ParticleFile`` can be passed wherever images are expected. Indexing with a slice, (k,) indices or an (n,)
    boolean mask returns a smaller ``ParticleFile`` without reading images. ``numpy.asarray`` reads the images as (n, y,
    x) float32.

    Attributes
    ----------
    path : Path
        Path of the file.
    pixel_size_angstrom : float
        Side length of a pixel in angstrom.
    table : pandas.DataFrame or None
        Table read from the file, with all of its columns and one row per image. None for a stack without a table.
    optics_groups : pandas.DataFrame or None
        Optics groups from a RELION file. None if the file has none.
    image_names : list of str
        Name of each image in the form 'number@stack', where the first image of a stack has number 1.
    images : StackedImages
        Stack that contains each image, and the position of the image in that stack.
    program : str or None
        Program whose column names the table uses (relion, xmipp or cryosparc) or, if there is no such program, the kind
        of file (projections or training folder). None for a stack without a table.
    scales : (n,) array or None
        Factor by which each image is shrunk when it is read, if the optics groups have different pixel sizes. None if
        the images are not rescaled.
    passthrough : Path or None
        Passthrough file of the cryoSPARC job from which fields were added to the table. None if there is none.

    Notes
    -----
    Properties such as ``rotations`` and ``ctf`` are computed on first use. If a value in the table is not a finite
    number, they raise a ValueError that states the file, the column and the row.
    """

    path: Path
    pixel_size_angstrom: float
    table: pd.DataFrame | None
    optics_groups: pd.DataFrame | None
    image_names: list[str] = field(repr=False)
    images: StackedImages = field(repr=False)
    program: str | None = None
    scales: np.ndarray | None = field(default=None, repr=False)
    passthrough: Path | None = None

    def __len__(self) -> int:
        return len(self.image_names)

    @property
    def image_size(self) -> int:
        """Side length of the square images in pixels."""
        return self.images.image_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images, (n, y, x)."""
        return (len(self), self.image_size, self.image_size)

    @property
    def as_stored(self) -> bool:
        """Whether tables of other programs can refer to the images: unchanged ones in uncompressed MRC stacks."""
        return (
            self.scales is None
            and self.images.in_mrc
            and not any(is_gzip(stack.path) for stack in self.images.stacks)
        )

    @property
    def relion_tables(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Table and optics groups of a RELION file, for new tables of the same images. None for other files.

        The groups do not state the pixel size if the images are rescaled when they are read.
        """
        if self.program != "relion":
            return None, None
        groups = self.optics_groups
        if groups is not None and self.scales is not None:
            groups = groups.drop(columns=[*relion.PIXELS], errors="ignore")
        return self.table, groups

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of the file, of its passthrough file and of the stacks of its images, without duplicates."""
        more = [] if self.passthrough is None else [self.passthrough]
        return tuple(dict.fromkeys([self.path, *more, *(stack.path for stack in self.images.stacks)]))

    @cached_property
    def rotations(self) -> Rotation | None:
        """Orientations of the n particles, from particle to microscope coordinates. None if unknown."""
        return None if self.program is None else PROGRAMS[self.program].rotations(self._columns)

    @cached_property
    def shifts_px(self) -> np.ndarray | None:
        """Displacements (x, y) of the particles from pixel ``image_size // 2`` in pixels, (n, 2). None if unknown.

        Positive values point towards larger x and y. If the table states larger images, and pixels that are smaller by
        the same factor, the images were shrunk after it was written, and so are the shifts. Warns if a shift places a
        particle outside its image.
        """
        if self.program is None:
            return None
        shifts = PROGRAMS[self.program].shifts_px(self._columns, self.pixel_size_angstrom)
        if shifts is None:
            return None
        if self.scales is not None:
            shifts = shifts * self.scales[:, None]
        program = PROGRAMS[self.program]
        if self.program not in OPENING:
            stated = program.pixel_sizes(self._columns)
            sizes = self.image_size, self.pixel_size_angstrom
            shifts = shifts / shrinkage(self._columns, program.IMAGE_SIZE, stated, *sizes)
        largest = np.abs(shifts).max(axis=1)
        outside = np.count_nonzero(largest > self.image_size / 2)
        if outside:
            warnings.warn(
                f"{self.path}: the shifts of {outside} of {len(self)} images, up to {largest.max():.4g} px, place the "
                f"particle outside its image of {self.image_size} px; check the unit of the shifts and the pixel size",
                DoubtfulValue,
                stacklevel=3,
            )
        return shifts

    @property
    def poses(self) -> Poses | None:
        """Poses of the particles, with zero shifts if the shifts are unknown. None if the orientations are unknown."""
        return None if self.rotations is None else Poses(self.rotations, self.shifts_px)

    @cached_property
    def contrast(self) -> pd.DataFrame | None:
        """CTF parameters of the particles as a table with one row per particle. None if unknown.

        All parameters may differ between particles. The columns are named after the attributes of ``ContrastTransfer``,
        except that ``defocus_u_angstrom``, ``defocus_v_angstrom`` and ``azimuth_rad`` replace the defocus range, and
        ``scale`` is that of the signal. Warns about optics in the file that no step corrects for.
        """
        if self.program is None:
            return None
        unused = unused_optics(self._columns)
        if unused:
            warnings.warn(
                f"{self.path} states optics that are not used: {'; '.join(unused)}", UserWarning, stacklevel=3
            )
        return PROGRAMS[self.program].contrast(self._columns)

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """Underfocus U and V (angstrom), and azimuth of U (radians, anticlockwise from x), (n, 3). None if unknown."""
        return None if self.contrast is None else self.contrast[[*DEFOCUS]].to_numpy(copy=True)

    @cached_property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the CTF. None if unknown.

        Raises a ValueError if the voltage, the spherical aberration or the amplitude contrast differs between
        particles. If the phase shift or the B factor differs, its mean is returned; ``optics`` has each image's own.
        """
        if self.contrast is None:
            return None
        return common_transfer(self.contrast, self.path, groups=GROUPS.get(self.program, "") in self.table)

    @property
    def optics(self) -> Optics:
        """Pixel size and CTF of the images, with the defocus, phase shift, B factor and scale of each.

        Raises the same errors as ``ctf``. Warns if the file has no CTF, unless its format cannot contain one or the
        file states that the images were simulated without one.
        """
        if self.contrast is not None:
            return Optics(
                self.pixel_size_angstrom, self.ctf, self.defocus_angstrom, **own_values(self.contrast)
            )
        if self.program not in OPENING and not states_no_ctf(self.table):
            where = ""
            if self.passthrough is not None:
                where = f"; the passthrough file {self.passthrough} has none, either"
            elif self.program == "cryosparc":
                where = "; pass the passthrough file of the job (--passthrough)"
            if self.program == "xmipp" and "ctfModel" in self.table:
                where = "; its column ctfModel names files that are not read, so add ctfDefocusU and the constants"
            warnings.warn(
                f"{self.path} has no CTF parameters, so the images are used without a CTF{where}",
                UserWarning,
                stacklevel=2,
            )
        return Optics(self.pixel_size_angstrom)

    @property
    def random_subset(self) -> np.ndarray | None:
        """Half-set (0 or 1) of each particle, (n,), from rlnRandomSubset or alignments3D/split. None if unknown.

        The half-sets are unknown if the column does not exist or, with a warning, if it does not contain both half-sets
        and nothing else; RELION writes 0 or only 1 before a refinement.
        """
        import pandas as pd

        column, known = HALF_SETS.get(self.program, ("", set()))
        if self.table is None or column not in self.table:
            return None
        subset = pd.to_numeric(self.table[column], errors="coerce").to_numpy(float)
        if set(np.unique(subset)) == known:
            return subset.astype(int) - min(known)
        values = ", ".join(f"{value:g}" for value in np.unique(subset)[:5])
        warnings.warn(
            f"{self.path}: {column} does not divide the particles into two half-sets, because it contains {values} "
            f"instead of {' and '.join(map(str, known))}; it is not used",
            UserWarning,
            stacklevel=2,
        )
        return None

    def __getitem__(self, indices: slice | Sequence[int] | np.ndarray) -> ParticleFile:
        """Return the selected particles, in the given order, without reading their images."""
        try:
            selected = np.arange(len(self))[indices]
        except IndexError as error:
            raise ValueError(f"indices are not valid for {len(self)} images: {error}") from None
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
            scales=None if self.scales is None else self.scales[selected],
        )

    def __array__(self, dtype=None, copy: bool | None = None) -> np.ndarray:
        """Read the images as (n, y, x) float32. Raise a ValueError if a pixel is not finite."""
        if copy is False:
            raise ValueError(
                "copy=False is not supported for images in a file, because reading them makes a copy"
            )
        images = self.images.read()
        if self.scales is not None:
            images = shrink(images, self.scales)
        return images if dtype is None else images.astype(dtype, copy=False)

    def to_stack(self, *, symmetry: str = "C1") -> ParticleStack:
        """Read the images into memory, together with their optics and poses.

        Parameters
        ----------
        symmetry : str
            Point group of the particle, which is not stored in particle files. Default: C1.

        Returns
        -------
        ParticleStack
            The particles in memory.

        Raises
        ------
        ValueError
            A pixel or a value in the table is not finite, or a CTF constant differs between particles.
        OSError
            A stack cannot be read.
        """
        return ParticleStack(np.asarray(self), self.optics, self.poses, symmetry)

    def on_demand(self, *, symmetry: str = "C1") -> StackOnDemand:
        """Return the particles with their optics and poses, like ``to_stack``, but read images when they are used."""
        return StackOnDemand(self, np.arange(len(self)), self.optics, self.poses, symmetry)

    def stated_pixel_sizes(self) -> dict[str, np.ndarray]:
        """Return the pixel sizes in angstrom by source, the most important first: columns, then the stack headers.

        The values of a column are (n,), and those of the headers are one for each stack. Unlike
        ``pixel_size_angstrom``, they are not checked.
        """
        tables = self.program in PROGRAMS and self.program not in OPENING
        sizes = PROGRAMS[self.program].pixel_sizes(self._columns) if tables else {}
        return {**sizes, "stack headers": np.asarray(self.images.pixels_angstrom(), float)}

    @property
    def _columns(self) -> Columns:
        return Columns(self.path, self.table, self.optics_groups)
