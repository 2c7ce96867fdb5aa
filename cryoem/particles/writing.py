"""Write particles for RELION, XMIPP and cryoSPARC, with a new stack of images or with references to existing stacks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, optics_of
from cryoem.files.writing import atomic_write, path_with_suffix
from cryoem.images import BLOCK_BYTES, image_blocks
from cryoem.particles import cryosparc, relion, xmipp
from cryoem.particles.columns import (
    DEFOCUS,
    WITHOUT_CTF,
    WITHOUT_CTF_FIELD,
    Columns,
    contrast_from_optics,
    states_no_ctf,
)
from cryoem.particles.files import GROUPS, ParticleFile
from cryoem.particles.mrc import StackWriter
from cryoem.particles.naming import names_for_table
from cryoem.particles.simulation import SimulatedParticles
from cryoem.particles.stack import ParticleStack
from cryoem.particles.star import check_image_names, star_text, xmd_text
from cryoem.rotations import Poses, as_poses
from cryoem.validation import one_each

if TYPE_CHECKING:
    import pandas as pd

Particles = ParticleStack | SimulatedParticles | ParticleFile
COPY_FILE = "particles.star"


def write_particles(
    path: str | os.PathLike,
    particles: Particles,
    *,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write particles as a table and a stack of images.

    The stack (``.mrcs``, float32) is written to the folder of the table under the same name. The table contains the
    orientations, shifts, CTF parameters and pixel size, as far as they are known. If the particles come from a RELION
    file and the output is a STAR file, all other columns and the optics groups are copied, except for the pixel-size
    columns of RELION 3.0 (rlnDetectorPixelSize and rlnMagnification). The pixel size in the optics groups is replaced
    with that of the particles.

    RELION and XMIPP expect bright particles, so images with dark particles (``ctf.inverted`` is False) are negated.
    Either both files are written, or neither is.

    A cryoSPARC file has the fields uid, blob and, as far as they are known, alignments3D and ctf, with the optics group
    and the half-set of each particle. If the particles come from a cryoSPARC file, the uids are kept, so that
    cryoSPARC can join the other fields.

    Parameters
    ----------
    path : path-like
        Path of the table: a RELION 3.1 STAR file (``.star``), an XMIPP metadata file (``.xmd``) or a cryoSPARC file
        (``.cs``). The table refers to the stack by file name alone, so start RELION or XMIPP in the folder of the
        table.
    particles : ParticleStack, SimulatedParticles or ParticleFile
        Particles to write. The images are read or simulated in blocks.
    map_blocks : callable
        Function with the signature of the builtin ``map`` that reads or simulates the blocks, for example on the
        workers of a cluster. Default: ``map``.
    callback : callable, optional
        Function called after each block with the number of images written so far.

    Warns
    -----
    UserWarning
        The pixel size in the optics groups differs from that of the particles by more than 1 % and is replaced; or the
        half-sets of a RELION file are not valid and are not written to a cryoSPARC file.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError
        The path has an unsupported suffix or contains a character that tables cannot store, ``particles`` has an
        unsupported type, an input file would be overwritten, or a pixel or a value in the table is not finite.
    """
    path = path_with_suffix(path, ".star", ".xmd", ".cs")
    if not isinstance(particles, Particles):
        raise ValueError(
            "particles must be a ParticleStack, SimulatedParticles or ParticleFile, "
            f"got {type(particles).__name__}"
        )
    names = _names_of_new_stack(path, particles)
    if path.suffix.lower() == ".star":
        text = _star_text(particles, names, particles.rotations, particles.shifts_px)
    elif path.suffix.lower() == ".cs":
        subset = particles.random_subset if isinstance(particles, ParticleFile) else None
        known = (particles.rotations, particles.shifts_px, subset)
        text = _cs_content(particles, names, *known, new_stack=True)
    else:
        table = xmipp.particle_table(
            names,
            particles.rotations,
            particles.shifts_px,
            _contrast(particles),
            pixel_size_angstrom=particles.pixel_size_angstrom,
        )
        text = xmd_text(table.assign(**_without_ctf(particles)))
    _write_with_images(path, text, particles, map_blocks, callback)


def write_poses(
    path: str | os.PathLike,
    particles: ParticleFile,
    poses: Poses | Rotation,
    *,
    subset: np.ndarray | None = None,
    optics: Optics | None = None,
) -> None:
    """Write new poses for the particles in a file as a RELION or cryoSPARC file that refers to the original stacks.

    The CTF parameters, except those in ``optics``, and the pixel size are taken from the particle file. If input and
    output are RELION files, the other columns are kept, except for the old poses. A STAR file cannot record that
    particles are dark, as they are in some cryoSPARC files. If any particles are dark, the images are written to a new
    stack next to the table, with the dark particles inverted. So are images that are rescaled when they are read, or
    are not in uncompressed MRC stacks.

    A cryoSPARC file has the fields uid, blob, alignments3D and, if the CTF is known, ctf. If the input is a cryoSPARC
    file, the uids are kept, so that cryoSPARC can join the other fields.

    Parameters
    ----------
    path : path-like
        Path of the table: a RELION 3.1 STAR file (``.star``) or a cryoSPARC file (``.cs``).
    particles : ParticleFile
        Particle file with n images.
    poses : Poses or Rotation
        New poses of the n particles, from particle to microscope coordinates. The shifts are zero if only rotations are
        given.
    subset : array, optional
        (n,) half-set in which each particle was refined, 0 or 1, written to rlnRandomSubset as 1 or 2, or to
        alignments3D/split as 0 or 1. Default: the half-sets in the particle file, if it has any.
    optics : Optics, optional
        Optics of the n images, whose defocus and scale replace those in the particle file. The astigmatism of the file
        is kept. Default: keep the optics of the file.

    Warns
    -----
    UserWarning
        A new stack of images is written; a stack name in the new table does
        not lead to the original stack (see ``names_for_table``); or the pixel size in the optics groups differs from
        that of the particles by more than 1 % and is replaced.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError
        The suffix is not ``.star`` or ``.cs``, ``path`` is the particle file itself, the number of poses, half-sets or
        entries of ``optics`` differs from the number of images, ``optics`` is given for a file without CTF parameters,
        an image name contains a character that tables cannot store, or a value in the particle file is not finite.
    """
    poses = as_poses(poses, count=len(particles))
    path = Path(path)
    new_stack = stack_of_poses(path, particles)
    if subset is not None:
        subset = one_each(subset, count=len(particles), name="subset").astype(int)
    names = _names_of_new_stack(path, particles) if new_stack else names_for_table(particles, path)
    fitted = {} if optics is None else _fitted(particles, optics)
    if path.suffix.lower() == ".star":
        extra = {} if subset is None else {relion.SUBSET: subset + 1}
        extra |= {relion.CONTRAST[name]: values for name, values in fitted.items()}
        without = relion.POSE_COLUMNS
        text = _star_text(particles, names, poses.rotations, poses.shifts_px, without=without, extra=extra)
        content = text.encode()
    else:
        known = (poses.rotations, poses.shifts_px, particles.random_subset if subset is None else subset)
        content = _cs_content(particles, names, *known, fitted=fitted, new_stack=new_stack is not None)
    if new_stack is None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        return
    if _has_dark(path, particles):
        why, images = "are dark, which a STAR file cannot record", "inverted images"
    elif particles.scales is not None:
        why, images = "have several pixel sizes", "rescaled images"
    else:
        why, images = "are not in uncompressed MRC stacks, to which tables refer", "the images"
    warnings.warn(
        f"the particles in {particles.path} {why}; writing {images} to {new_stack.name}",
        UserWarning,
        stacklevel=2,
    )
    _write_with_images(path, content, particles)


def names_or_copies(particles: ParticleFile, table: Path, *, new_stacks: tuple[str, ...] = ()) -> list[str]:
    """Return the name of each image for a new table, after writing copies if tables cannot refer to the images.

    Parameters are those of ``names_for_table``. Images that are rescaled when they are read, or are not in uncompressed
    MRC stacks, are written to ``particles.mrcs`` in the folder of the new table, with the table ``particles.star``.
    """
    if particles.as_stored:
        return names_for_table(particles, table, new_stacks=new_stacks)
    path = table.with_name(COPY_FILE)
    write_particles(path, particles)
    return _names_of_new_stack(path, particles)


def stack_of_poses(path: str | os.PathLike, particles: ParticleFile) -> Path | None:
    """Return the stack that ``write_poses`` writes next to a table, or None if it writes no images.

    Nothing is written. Call this function before the work whose poses the table will contain, because it raises the
    errors of ``write_poses`` about the path and the image names.
    """
    path = path_with_suffix(path, ".star", ".cs")
    _refuse_inputs(particles, path)
    if _has_dark(path, particles) or not particles.as_stored:
        _names_of_new_stack(path, particles)
        return path.with_suffix(".mrcs")
    with warnings.catch_warnings(action="ignore"):  # given by write_poses
        names_for_table(particles, path)
    return None


def _has_dark(path: Path, particles: ParticleFile) -> bool:
    """Return whether particles are dark, if the table at ``path`` is a STAR file, which cannot record this."""
    if path.suffix.lower() != ".star" or particles.program != "cryosparc":
        return False
    return particles.contrast is not None and not particles.contrast["inverted"].all()


def _names_of_new_stack(path: Path, particles: Particles) -> list[str]:
    """Return the names of the images in the stack next to the table, after checking that both can be written."""
    stack = path.with_suffix(".mrcs")
    _refuse_inputs(particles, path, stack)
    check_image_names([stack.name], name="path")
    return [f"{number:06d}@{stack.name}" for number in range(1, len(particles) + 1)]


def _refuse_inputs(particles: Particles, *targets: Path) -> None:
    """Raise a ValueError if an output is one of the files that the particles are read from."""
    for source in particles.paths if isinstance(particles, ParticleFile) else ():
        for target in targets:
            if target.exists() and source.exists() and target.samefile(source):
                raise ValueError(f"{target} is an input file; choose a different output path")


def _write_with_images(
    path: Path,
    content: str | bytes,
    particles: Particles,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write the content of a table and, next to it, the stack of images with bright particles."""
    count = len(particles)
    # A STAR table cannot record the sign, so particles in a RELION file are always bright.
    from_relion = isinstance(particles, ParticleFile) and particles.program == "relion"
    contrast = None if from_relion else _contrast(particles)
    bright = np.ones(count, bool) if contrast is None else contrast["inverted"].to_numpy()
    sign = np.where(bright, 1, -1).astype(np.float32)[:, None, None]
    stack, pixel = path.with_suffix(".mrcs"), particles.pixel_size_angstrom
    with StackWriter(stack, count, particles.image_size, pixel, texts={path: content}) as writer:
        parts = list(image_blocks(particles, block_bytes=BLOCK_BYTES))
        for part, images in zip(parts, map_blocks(partial(_read, particles), parts), strict=True):
            writer.write(images * sign[part])
            if callback is not None:
                callback(part.stop)


def _read(particles: Particles, part: slice) -> np.ndarray:
    return np.asarray(particles[part])


def _without_ctf(particles: Particles) -> dict[str, int]:
    """Return the column that states that the images were simulated without a CTF, if so."""
    if isinstance(particles, ParticleFile):
        stated = states_no_ctf(particles.table)
    else:
        stated = isinstance(particles, SimulatedParticles) and particles.ctf is None
    return {WITHOUT_CTF: 1} if stated else {}


def _contrast(particles: Particles) -> pd.DataFrame | None:
    if isinstance(particles, ParticleFile):
        return particles.contrast
    return contrast_from_optics(particles.optics)


def _fitted(particles: ParticleFile, optics: Optics) -> dict[str, np.ndarray]:
    """Return the CTF parameters of a file that differ in ``optics``: the mean of U and V, and the scale."""
    optics, contrast = optics_of(optics, None, count=len(particles)), particles.contrast
    if contrast is None or optics.ctf is None:
        raise ValueError(
            f"optics must not be given, because {particles.path} or optics has no CTF parameters"
        )
    stated = contrast[[*DEFOCUS[:2]]].to_numpy(float)
    moved = stated + (optics.isotropic().defocus_angstrom - stated.mean(axis=1))[:, None]
    scale = np.ones(len(particles)) if optics.scale is None else optics.scale
    return {**dict(zip(DEFOCUS[:2], moved.T, strict=True)), "scale": scale}


def _cs_content(
    particles: Particles,
    names: list[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    subset: np.ndarray | None,
    *,
    fitted: Mapping[str, np.ndarray] | None = None,
    new_stack: bool,
) -> bytes:
    """Return the content of a cryoSPARC file. Particles in a new stack are bright."""
    contrast, more = _contrast(particles), {}
    if fitted:
        contrast = contrast.assign(**fitted)
    if contrast is not None and new_stack:
        contrast = contrast.assign(inverted=True)
    if isinstance(particles, ParticleFile) and particles.table is not None:
        columns = Columns(particles.path, particles.table)
        if cryosparc.UID in columns:
            more[cryosparc.UID] = particles.table[cryosparc.UID].to_numpy(np.uint64)
        if (group := GROUPS.get(particles.program)) in particles.table:
            more[cryosparc.GROUP] = columns.numbers(group).astype(np.uint32)
    if subset is not None:
        more[cryosparc.SPLIT] = subset.astype(np.uint32)
    if _without_ctf(particles):
        more[WITHOUT_CTF_FIELD] = np.ones(len(particles), np.uint32)
    return cryosparc.particle_records(
        names,
        rotations,
        shifts_px,
        contrast,
        image_size=particles.image_size,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        more=more,
    )


def _groups_and_half_sets(particles: ParticleFile) -> dict[str, np.ndarray]:
    """Return the optics groups and half-sets of particles as RELION columns, as far as they are known."""
    subset, column = particles.random_subset, GROUPS.get(particles.program)
    known = {} if subset is None else {relion.SUBSET: subset + 1}
    if column in (particles.table if particles.table is not None else ()):
        known[relion.GROUP] = Columns(particles.path, particles.table).numbers(column).astype(int)
    return known


def _star_text(
    particles: Particles,
    names: list[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    *,
    without: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
) -> str:
    """Return the text of a STAR file. The columns of a RELION table are kept, except those in ``without``."""
    table, groups = particles.relion_tables if isinstance(particles, ParticleFile) else (None, None)
    pixel = particles.pixel_size_angstrom
    if table is not None and not without:
        rotations = None  # keep the angles in the table to the last digit
    known = relion.particle_columns(
        rotations, shifts_px, _contrast(particles) if table is None else None, pixel_size_angstrom=pixel
    )
    if table is None and isinstance(particles, ParticleFile):
        known |= _groups_and_half_sets(particles)
    particle_table, optics_groups = relion.with_optics_groups(
        names,
        known | (extra or {}) | _without_ctf(particles),
        pixel_size_angstrom=pixel,
        image_size=particles.image_size,
        table=table,
        optics_groups=groups,
        without=without,
    )
    return star_text(particle_table, optics_groups)
