"""Particles for RELION and XMIPP: as a table and a stack of images, or as a table that names existing images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.files.writing import path_with_suffix, write_text
from cryoem.particles import relion, xmipp
from cryoem.particles.columns import contrast_from_optics
from cryoem.particles.files import ParticleFile
from cryoem.particles.locating import IMAGE_NAME, locate_stack
from cryoem.particles.mrc import StackWriter
from cryoem.particles.simulation import SimulatedParticles
from cryoem.particles.stack import ParticleStack
from cryoem.particles.star import check_image_names, star_text, xmd_text
from cryoem.rotations import Poses, as_poses
from cryoem.validation import one_each

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 512  # images in memory
Particles = ParticleStack | SimulatedParticles | ParticleFile


def write_particles(
    path: str | os.PathLike,
    particles: Particles,
    *,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write particles as a table, and their images as a stack of the same name in its folder (``.mrcs``, float32).

    The table contains orientations, shifts, contrast transfer and pixel size if they are known, and all other columns
    and the optics groups of a RELION table. Particles are written bright, as these programs expect them:
    images whose contrast transfer is not ``inverted`` are negated. Both files are written or neither.

    Parameters
    ----------
    path : path-like
        A RELION 3.1 file, ``.star``, or an XMIPP metadata file, ``.xmd``. The table names the stack without a folder:
        RELION and XMIPP find it if they are started in the folder of the table.
    particles : ParticleStack, SimulatedParticles or ParticleFile
        Images are read or simulated in blocks.
    map_blocks : callable
        Like the builtin ``map``; reads or simulates the blocks, for example on the workers of a cluster.
    callback : callable, optional
        Called with the number of images written, after each block.

    Warns
    -----
    UserWarning
        Optics groups state another pixel size, by more than 1 %; it is replaced.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError
        The name has another suffix or a character that tables cannot store, ``particles`` are of another type or would
        overwrite their own files, or a pixel or a value of the table is not finite.
    """
    path = path_with_suffix(path, ".star", ".xmd")
    if not isinstance(particles, Particles):
        raise ValueError(
            "particles must be a ParticleStack, SimulatedParticles or a ParticleFile, "
            f"got {type(particles).__name__}"
        )
    names = _names_of_new_stack(path, particles)
    if path.suffix.lower() == ".star":
        text = _star_text(particles, names, particles.rotations, particles.shifts_px)
    else:
        table = xmipp.particle_table(
            names,
            particles.rotations,
            particles.shifts_px,
            _contrast(particles),
            pixel_size_angstrom=particles.pixel_size_angstrom,
        )
        text = xmd_text(table)
    _write_with_images(path, text, particles, map_blocks, callback)


def write_poses(
    path: str | os.PathLike,
    particles: ParticleFile,
    poses: Poses | Rotation,
    *,
    subset: np.ndarray | None = None,
) -> None:
    """Write new poses of a particle file to a RELION 3.1 STAR file that refers to the original stacks.

    Contrast transfer and pixel size are those of the file. Other columns of a RELION table are kept, except those of
    older poses. A STAR file cannot record that particles are dark, as in some cryoSPARC files: inverted copies of such
    images are written as a stack to the table's folder, and the table refers to that stack.

    Parameters
    ----------
    path : path-like
        The file, ``.star``.
    particles : ParticleFile
        n images.
    poses : Poses or Rotation
        n poses, particle to microscope coordinates.
    subset : array, optional
        (n,) half-set in which each particle was refined, 0 or 1, for rlnRandomSubset; by default as in the table.

    Warns
    -----
    UserWarning
        Particles are dark, and a stack of inverted images is written; names do not resolve to the stacks, see
        ``names_for_table``; or optics groups state another pixel size, by more than 1 %, and it is replaced.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The name does not end in ``.star``, or there is not one pose or subset for each image.
    """
    poses = as_poses(poses, count=len(particles))
    path = path_with_suffix(path, ".star")
    extra = {}
    if subset is not None:
        extra["rlnRandomSubset"] = one_each(subset, count=len(particles), name="subset").astype(int) + 1

    dark = particles.contrast is not None and not particles.contrast["inverted"].all()
    names = _names_of_new_stack(path, particles) if dark else names_for_table(particles, path)
    text = _star_text(
        particles, names, poses.rotations, poses.shifts_px, without=relion.POSE_COLUMNS, extra=extra
    )
    if not dark:
        write_text(path, text)
        return
    warnings.warn(
        f"the particles in {particles.path} are dark, which a STAR file cannot record; "
        f"writing inverted images to {path.with_suffix('.mrcs').name}",
        UserWarning,
        stacklevel=2,
    )
    _write_with_images(path, text, particles)


def names_for_table(particles: ParticleFile, table: Path, *, new_stacks: tuple[str, ...] = ()) -> list[str]:
    """Return ``number@stack`` of each image, for a table that will be written at ``table``.

    Names from a table are kept. A bare stack is named relative to the current working folder, from which RELION and
    XMIPP must then be started; or by its absolute path if it is not below that folder, or if another stack of that
    name is nearer to the table. ``:mrcs`` is appended to a name that these programs would read as a volume.

    ``new_stacks`` are names of stacks that will be written to the table's folder.

    Warns
    -----
    UserWarning
        The stack names in the particles' own table do not resolve from the folder of ``table``.

    Raises
    ------
    ValueError
        A name contains a ``#``, a quote or an unprintable character, which tables cannot store.
    """

    def leads_to(path: Path, name: str) -> bool:
        """Return whether a stack name in ``table`` resolves to the stack at ``path``."""
        try:
            return name not in new_stacks and locate_stack(table, name)[0].samefile(path)
        except FileNotFoundError:
            return False

    if particles.table is None:
        path = Path(os.path.realpath(particles.path.parent)) / particles.path.name
        name = path.as_posix()
        if path.is_relative_to(Path.cwd()):
            relative = path.relative_to(Path.cwd()).as_posix()
            name = relative if leads_to(path, relative) else name
        form = "" if path.suffix == ".mrcs" else ":mrcs"
        names = [f"{number:06d}@{name}{form}" for number in particles.images.number_of + 1]
    else:
        names = particles.image_names
        _, first = np.unique(particles.images.stack_of, return_index=True)
        for stack, image in zip(particles.images.stacks, first, strict=True):
            name = IMAGE_NAME.fullmatch(names[image])[2]
            if not leads_to(stack.path, name):
                warnings.warn(
                    f"{table.name} keeps the stack names of {particles.path}, but {name} cannot be found "
                    "from its folder; move the table to a folder from which that name is valid",
                    UserWarning,
                    stacklevel=3,
                )
                break
    check_image_names(names, name=f"image names of {particles.path}")
    return names


def _names_of_new_stack(path: Path, particles: Particles) -> list[str]:
    """Return the names of the images in the stack next to the table at ``path``, if both files may be written."""
    stack = path.with_suffix(".mrcs")
    for source in particles.paths if isinstance(particles, ParticleFile) else ():
        for target in (path, stack):
            if target.exists() and source.exists() and target.samefile(source):
                raise ValueError(f"path must not be one of the input files, got {target}")
    check_image_names([stack.name], name="path")
    return [f"{number:06d}@{stack.name}" for number in range(1, len(particles) + 1)]


def _write_with_images(
    path: Path,
    text: str,
    particles: Particles,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write the text of a table and, next to it, the stack of the bright images."""
    count = len(particles)
    # A STAR table cannot record the sign: images of a RELION file are always bright.
    contrast = None if _relion_table(particles) is not None else _contrast(particles)
    bright = np.ones(count, bool) if contrast is None else contrast["inverted"].to_numpy()
    sign = np.where(bright, 1, -1).astype(np.float32)[:, None, None]
    stack, pixel = path.with_suffix(".mrcs"), particles.pixel_size_angstrom
    with StackWriter(stack, count, particles.image_size, pixel, texts={path: text}) as writer:
        parts = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        for part, images in zip(parts, map_blocks(partial(_read, particles), parts), strict=True):
            writer.write(images * sign[part])
            if callback is not None:
                callback(part.stop)


def _read(particles: Particles, part: slice) -> np.ndarray:
    return np.asarray(particles[part])


def _relion_table(particles: Particles) -> pd.DataFrame | None:
    """Return the table of particles from a RELION file, None for others."""
    from_relion = isinstance(particles, ParticleFile) and particles.program == "relion"
    return particles.table if from_relion else None


def _contrast(particles: Particles) -> pd.DataFrame | None:
    if isinstance(particles, ParticleFile):
        return particles.contrast
    return contrast_from_optics(particles.optics)


def _star_text(
    particles: Particles,
    names: list[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    *,
    without: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
) -> str:
    """Return the text of a STAR file; a RELION table keeps its own columns but those in ``without``."""
    table, pixel = _relion_table(particles), particles.pixel_size_angstrom
    if table is not None and not without:
        rotations = None  # its angles are kept to the last digit
    known = relion.particle_columns(
        rotations, shifts_px, _contrast(particles) if table is None else None, pixel_size_angstrom=pixel
    )
    particle_table, optics_groups = relion.with_optics_groups(
        names,
        known | (extra or {}),
        pixel_size_angstrom=pixel,
        image_size=particles.image_size,
        table=table,
        optics_groups=None if table is None else particles.optics_groups,
        without=without,
    )
    return star_text(particle_table, optics_groups)
