"""Open RELION, cryoSPARC and XMIPP particle files, MRC stacks, and files with projections."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.memory import check_memory
from cryoem.particles import cryosparc
from cryoem.particles.columns import Columns, with_microscope
from cryoem.particles.files import GROUPS, OPENING, PROGRAMS, ParticleFile
from cryoem.particles.locating import IMAGE_NAME, find_images, locate_stack
from cryoem.particles.mrc import is_stack_name, whole_stack
from cryoem.particles.pixel_sizes import check_stated_image_size, resolve_pixel_size
from cryoem.particles.simulation import BYTES_PER_PIXEL
from cryoem.particles.star import RELION_IMAGE, XMIPP_IMAGE, read_star, read_xmd
from cryoem.rotations import Poses
from cryoem.validation import positive_number, whole_number

if TYPE_CHECKING:
    import pandas as pd

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
        file may be a density map; a stack was found only by its file name; or, as a ``DoubtfulValue``, the pixel size
        is implausible, or the table states another image size than the stacks.

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
    MemoryError
        A single image does not fit into memory.

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
        raise ValueError(
            f"{path} is not a .cs file, so the passthrough file {passthrough} (--passthrough) does not apply; omit it"
        )
    if program is None or program in OPENING:
        for value, words in (
            (optics_group, f"the optics group {optics_group} (--optics-group)"),
            (datadir, f"the folder of the stacks, {datadir} (--datadir),"),
            (microscope, "the microscope (--microscope)"),
        ):
            if value is not None:
                what = "a stack without a table" if program is None else "not a table that refers to stacks"
                raise ValueError(f"{path} is {what}, so {words} does not apply; omit it")
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
    groups = table is not None and GROUPS.get(program, "") in table
    pixel, scales = resolve_pixel_size(
        path, pixel_size_angstrom, sizes, images.pixels_angstrom(), groups=groups
    )
    if sizes and pixel_size_angstrom is None:
        columns = Columns(path, table, optics_groups)
        check_stated_image_size(columns, PROGRAMS[program].IMAGE_SIZE, images.image_size, pixel)
    check_memory(
        f"one image of {path}, {images.image_size:,} px wide,", BYTES_PER_PIXEL * images.image_size**2
    )
    passthrough = None if passthrough is None else Path(passthrough)
    return ParticleFile(path, pixel, table, optics_groups, names, images, program, scales, passthrough)


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


def referenced_stacks(path: str | os.PathLike) -> list[Path]:
    """Return the stacks to which a particle table refers, as far as they exist."""
    path = Path(path)
    program = PROGRAM_OF.get(path.suffix.lower())
    stacks = []
    if program is not None and program not in OPENING:
        names = (IMAGE_NAME.fullmatch(name) for name in _read_table(path, program)[0])
        for name in dict.fromkeys(each[2] for each in names if each):
            with suppress(FileNotFoundError):
                stacks.append(locate_stack(path, name)[0])
    return stacks


def _read_table(
    path: Path, program: str, optics_group: int | None = None, passthrough: str | os.PathLike | None = None
) -> tuple[list[str], pd.DataFrame, pd.DataFrame | None]:
    """Return the image names in a table, the table itself, and the optics groups of a RELION file."""
    optics_groups, column = None, GROUPS.get(program, "")
    if program == "relion":
        table, optics_groups = read_star(path)
    elif program == "cryosparc":
        table = cryosparc.read_cs(path)
        if passthrough is not None:
            table = cryosparc.with_passthrough(path, table, Path(passthrough))
    else:
        table = read_xmd(path)
    if optics_group is not None:
        if column not in table:
            raise ValueError(
                f"{path} has no optics groups; omit the optics group {optics_group} (--optics-group)"
            )
        groups = Columns(path, table).numbers(column)
        if not (groups == optics_group).any():
            known = ", ".join(f"{group:g}" for group in np.unique(groups))
            raise ValueError(f"{path} has no optics group {optics_group}; it has {known}")
        table = table[groups == optics_group].reset_index(drop=True)
    if program == "cryosparc":
        return cryosparc.image_names(path, table, passthrough), table, None
    names = table[RELION_IMAGE if program == "relion" else XMIPP_IMAGE].astype(str).tolist()
    return names, table, optics_groups
