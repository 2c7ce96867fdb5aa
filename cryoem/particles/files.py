"""RELION, cryoSPARC and XMIPP particle files: images that are read on demand, and the metadata of each image."""

from __future__ import annotations

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
from cryoem.images import shrink
from cryoem.particles import cryosparc, projections, relion, training_folder, xmipp
from cryoem.particles.columns import (
    DEFOCUS,
    Columns,
    common_transfer,
    own_values,
    states_no_ctf,
    unused_optics,
    with_microscope,
)
from cryoem.particles.locating import find_images
from cryoem.particles.mrc import StackedImages, is_stack_name, whole_stack
from cryoem.particles.pixel_sizes import resolve_pixel_size
from cryoem.particles.stack import ParticleStack
from cryoem.particles.star import RELION_IMAGE, XMIPP_IMAGE, read_star, read_xmd
from cryoem.rotations import Poses
from cryoem.validation import positive_number, whole_number

if TYPE_CHECKING:
    import pandas as pd

PROGRAMS = {  # interpret the columns
    "relion": relion,
    "xmipp": xmipp,
    "cryosparc": cryosparc,
    "projections": projections,
    "training folder": training_folder,
}
PROGRAM_OF = {
    ".cs": "cryosparc",
    ".h5": "projections",
    ".hdf5": "projections",
    ".mat": "projections",
    ".mrc": None,
    ".mrcs": None,
    ".star": "relion",
    ".xmd": "xmipp",
}
OPENING = {  # of files that contain both the images and what is known of them
    "projections": projections.open_projections,
    "training folder": training_folder.open_training_folder,
}
HALF_SETS = {"relion": ("rlnRandomSubset", {1, 2}), "cryosparc": ("alignments3D/split", {0, 1})}


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
    def paths(self) -> tuple[Path, ...]:
        """Paths of the file and of the stacks that contain its images, without duplicates."""
        return tuple(dict.fromkeys([self.path, *(stack.path for stack in self.images.stacks)]))

    @cached_property
    def rotations(self) -> Rotation | None:
        """Orientations of the n particles, from particle to microscope coordinates. None if unknown."""
        return None if self.program is None else PROGRAMS[self.program].rotations(self._columns)

    @cached_property
    def shifts_px(self) -> np.ndarray | None:
        """Displacements (x, y) of the particles from pixel ``image_size // 2`` in pixels, (n, 2). None if unknown.

        Positive values point towards larger x and y.
        """
        if self.program is None:
            return None
        shifts = PROGRAMS[self.program].shifts_px(self._columns, self.pixel_size_angstrom)
        return shifts if shifts is None or self.scales is None else shifts * self.scales[:, None]

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
        return None if self.contrast is None else common_transfer(self.contrast, self.path)

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
            where = (
                "; pass the passthrough file of the job (--passthrough)"
                if self.program == "cryosparc"
                else ""
            )
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


def open_particles(
    path: str | os.PathLike,
    *,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    optics_group: int | None = None,
    as_stack: bool = False,
    passthrough: str | os.PathLike | None = None,
    microscope: Sequence[float] | None = None,
) -> ParticleFile:
    """Open a stack of particle images, or a table that refers to images in stacks.

    Only the table and the headers of the stacks are read. Images are read when they are needed.

    Parameters
    ----------
    path : path-like
        Path of an MRC stack (``.mrcs``, ``.mrc``; modes 0, 1, 2, 6 and 12, in either byte order; optionally gzipped,
        in which case it is unpacked into the temporary folder until the process ends), a RELION STAR file
        (``.star``; versions 3.0, 3.1 and 5), a cryoSPARC particle file (``.cs``), an XMIPP metadata file (``.xmd``), a
        file with projections and Euler angles (``.h5`` or ``.mat``), or a training folder that contains ``one_png/``.
        The stack names in a table are resolved relative to the folder of the table and the folders above it, then
        relative to the working folder. If a stack is still not found, the folder of the table is searched for a file
        with the same name.
    pixel_size_angstrom : float, optional
        Side length of a pixel in angstrom. Default: the pixel size in the table or, if the table has none, the pixel
        size in the headers of the stacks. Images of optics groups whose pixel sizes differ by up to 25 % are rescaled
        to the largest pixel size when they are read.
    datadir : path-like, optional
        Folder to which the stack names in the table are relative, usually the project folder. It is searched first.
    optics_group : int, optional
        Number of the optics group to open (rlnOpticsGroup in RELION, ctf/exp_group_id in cryoSPARC). Pass it if the
        optics groups differ in pixel size or CTF constants. Default: all particles.
    passthrough : path-like, optional
        Passthrough file (``.cs``) of the cryoSPARC job, which contains the fields that ``path`` does not. Records are
        matched by uid.
    microscope : three float, optional
        Voltage in kV, spherical aberration in mm and amplitude contrast, if they are missing or wrong in the table.
    as_stack : bool
        Whether a ``.mrc`` file that looks like a density map is known to be a stack. Default: False, which warns.

    Returns
    -------
    ParticleFile
        The particles in the file.

    Warns
    -----
    UserWarning
        The pixel sizes in the argument, the table and the stack headers differ by more than 1 %; images are rescaled;
        ``microscope`` differs from the table by more than 1 %; a header lacks the MAP
        identifier, or does not state whether its bytes are signed; a file is longer than its header states; a ``.mrc``
        file may be a density map; or a stack was found only by its file name.

    Raises
    ------
    FileNotFoundError
        The file, ``datadir`` or a stack that the table refers to does not exist.
    OSError
        A file cannot be read.
    ValueError
        The kind of file is unknown; an argument is given for a kind of file to which it does not apply; a stack is
        damaged, empty or has images that are not square; the table is damaged, contains no images, or refers to missing
        images or to images of different sizes; the pixel size is unknown, ambiguous or not positive; a microscope
        constant is impossible; ``passthrough`` lacks particles; or ``optics_group`` does not exist.

    References
    ----------
    MRC2014 format: Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    program = "training folder" if path.is_dir() else PROGRAM_OF.get(path.suffix.lower(), "unknown")
    if program == "unknown" and is_stack_name(path):
        program = None
    if pixel_size_angstrom is not None:
        pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if optics_group is not None:
        optics_group = whole_number(optics_group, name="optics_group", at_least=0)
    if program == "unknown":
        *most, last = PROGRAM_OF
        raise ValueError(f"{path} is not a particle file: its name must end in {', '.join(most)} or {last}")
    if not (path.is_file() or path.is_dir()):
        raise FileNotFoundError(f"no particle file at {path}")
    if datadir is not None and not Path(datadir).is_dir():
        raise FileNotFoundError(f"datadir must be a folder, got {datadir}")

    table = optics_groups = None
    sizes: dict[str, np.ndarray] = {}
    if passthrough is not None and program != "cryosparc":
        raise ValueError(f"{path} is not a .cs file, so passthrough={passthrough} does not apply; omit it")
    if program is None or program in OPENING:
        given = {"optics_group": optics_group, "datadir": datadir, "microscope": microscope}
        for name, value in given.items():
            if value is not None:
                what = "a stack without a table" if program is None else "not a table that refers to stacks"
                raise ValueError(f"{path} is {what}, so {name}={value} does not apply; omit it")
        if program is None:
            names, images = whole_stack(path, as_stack=as_stack)
        else:
            names, table, images = OPENING[program](path)
    else:
        names, table, optics_groups = _read_table(path, program, optics_group, passthrough)
        if microscope is not None:
            columns = Columns(path, table, optics_groups)
            table, optics_groups = with_microscope(columns, PROGRAMS[program].CONTRAST, microscope)
        images = find_images(path, names, None if datadir is None else Path(datadir))
        sizes = PROGRAMS[program].pixel_sizes(Columns(path, table, optics_groups))
    pixel, scales = resolve_pixel_size(path, pixel_size_angstrom, sizes, images.pixels_angstrom())
    return ParticleFile(path, pixel, table, optics_groups, names, images, program, scales)


def read_poses(path: str | os.PathLike, *, pixel_size_angstrom: float) -> Poses:
    """Read the poses from a particle table. The images that it refers to need not exist.

    Parameters
    ----------
    path : path-like
        Path of a table in one of the formats of ``open_particles``: ``.star``, ``.cs``, ``.xmd``, ``.h5`` or ``.mat``.
    pixel_size_angstrom : float
        Pixel size in angstrom of the images with which the poses will be used. If the table states a different pixel
        size, the shifts are converted so that they stay the same in angstrom.

    Returns
    -------
    Poses
        Poses of the n particles. The shifts are zero if the table contains none.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not a table, is damaged, or has no orientations.
    """
    path = Path(path)
    pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    program = PROGRAM_OF.get(path.suffix.lower())
    if program is None:
        tables = [suffix for suffix, reader in PROGRAM_OF.items() if reader is not None]
        raise ValueError(f"{path} is not a table with poses: its name must end in {', '.join(tables)}")
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}")
    if program in OPENING:
        columns = Columns(path, OPENING[program](path)[1])
    else:
        columns = Columns(path, *_read_table(path, program)[1:])
    rotations = PROGRAMS[program].rotations(columns)
    if rotations is None:
        raise ValueError(f"{path} has no orientations")
    shifts_px = PROGRAMS[program].shifts_px(columns, pixel_size_angstrom)
    if shifts_px is not None:
        for name, sizes in list(PROGRAMS[program].pixel_sizes(columns).items())[:1]:
            shifts_px = shifts_px * columns.checked_pixels(sizes, name)[:, None] / pixel_size_angstrom
    return Poses(rotations, shifts_px)


def _read_table(
    path: Path, program: str, optics_group: int | None = None, passthrough: str | os.PathLike | None = None
) -> tuple[list[str], pd.DataFrame, pd.DataFrame | None]:
    """Return the image names in a table, the table itself, and the optics groups of a RELION file."""
    optics_groups = column = None
    if program == "relion":
        table, optics_groups = read_star(path)
        column = relion.GROUP
    elif program == "cryosparc":
        table, column = cryosparc.read_cs(path), cryosparc.GROUP
        if passthrough is not None:
            table = cryosparc.with_passthrough(path, table, Path(passthrough))
    else:
        table = read_xmd(path)
    if optics_group is not None:
        if column not in table:
            raise ValueError(f"{path} has no optics groups; omit optics_group={optics_group}")
        groups = Columns(path, table).numbers(column)
        if not (groups == optics_group).any():
            known = ", ".join(f"{group:g}" for group in np.unique(groups))
            raise ValueError(f"{path} has no optics group {optics_group}; it has {known}")
        table = table[groups == optics_group].reset_index(drop=True)
    if program == "cryosparc":
        return cryosparc.image_names(path, table), table, None
    names = table[RELION_IMAGE if program == "relion" else XMIPP_IMAGE].astype(str).tolist()
    return names, table, optics_groups
