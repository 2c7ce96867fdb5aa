"""Particles with all that is known of them, as a table and a stack that other programs read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.checks import whole_number
from cryoem.particles import relion, xmipp
from cryoem.particles.columns import Contrast, shared_contrast
from cryoem.particles.particle_file import ParticleFile
from cryoem.particles.stack import ParticleSeries, ParticleStack
from cryoem.particles.tables import RELION_IMAGE, XMIPP_IMAGE
from cryoem.particles.writing import StackWriter, check_image_names, named, star_text, xmd_text

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 512
Particles = ParticleStack | ParticleSeries | ParticleFile


def write_particles(
    path: str | os.PathLike,
    particles: Particles,
    *,
    block: int = BLOCK,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write particles as a table, and their images as the stack of that name beside it (``.mrcs``, float32).

    Orientations, shifts, contrast transfer and pixel size are carried where they are known; of a RELION table all its
    other columns and its optics groups, too.  Particles are written bright, as these programs have them: of those seen
    through a contrast transfer that is not ``inverted``, the negative.  Both files appear or none does; a table
    never stands beside another's stack.  Nothing is written but these two, whatever names ``particles`` came with.

    Parameters
    ----------
    path : a RELION 3.1 file, ``.star``, or an XMIPP metadata file, ``.xmd``.  The table names the stack without a
        folder: RELION and XMIPP find it when they are started in the folder of the table.
    particles : in memory, in a file, or made when asked for; images are read or made ``block`` at a time.
    block : images in memory at a time.
    callback : called with the number of images written, after each block.

    Warns
    -----
    UserWarning : optics groups state another pixel size, by more than 1 %; it is replaced.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : a file cannot be read or written.
    ValueError : the name ends in neither, or has a character that tables cannot hold; ``particles`` are neither, or
        their own files would be replaced; a pixel or a value of the table is not finite; ``block`` is below 1.
    """
    path = named(path, ".star", ".xmd")
    block = whole_number(block, name="block", at_least=1)
    if not isinstance(particles, Particles):
        raise ValueError(
            f"particles must be a ParticleStack, a ParticleSeries or a ParticleFile, got {type(particles).__name__}"
        )
    if path.suffix.lower() == ".star":
        write_with_images(
            path, particles, lambda names: star_text(*_relion_tables(particles, names)), block, callback
        )
    else:
        write_with_images(
            path, particles, lambda names: xmd_text(_xmipp_table(particles, names)), block, callback
        )


def write_with_images(
    path: Path,
    particles: Particles,
    text_of: Callable[[list[str]], str],
    block: int = BLOCK,
    callback: Callable[[int], None] | None = None,
) -> None:
    """Write bright images as the stack beside ``path``, and at ``path`` the text of a table that names them so.

    Arguments and errors as of ``write_particles``; ``text_of`` makes the table's text of the images' names.
    """
    stack = path.with_suffix(".mrcs")
    _refuse_input(particles, (path, stack))
    names = [f"{number:06d}@{stack.name}" for number in range(1, len(particles) + 1)]
    check_image_names(names[:1], name="path")
    texts = {path: text_of(names)}
    with StackWriter(
        stack, len(particles), _image_size(particles), particles.pixel_size_angstrom, texts=texts
    ) as writer:
        done = 0
        for images in _blocks(particles, block):
            writer.write(images)
            done += len(images)
            if callback is not None:
                callback(done)


def _refuse_input(particles: Particles, targets: tuple[Path, ...]) -> None:
    """Refuse to replace a file that the particles are read from."""
    if not isinstance(particles, ParticleFile):
        return
    for target in targets:
        for source in (particles.path, *(stack.path for stack in particles.images.stacks)):
            if target.exists() and source.exists() and target.samefile(source):
                raise ValueError(f"path must not be that of the particles' own files, got {target}")


def _image_size(particles: Particles) -> int:
    return particles.images.shape[1] if isinstance(particles, ParticleStack) else particles.image_size


def _blocks(particles: Particles, block: int) -> Iterator[np.ndarray]:
    """Images with bright particles."""
    sign, start = _sign(particles), 0
    for images in _stored(particles, block):
        chosen = slice(start, start + len(images))
        yield images * sign[chosen, None, None]
        start = chosen.stop


def _stored(particles: Particles, block: int) -> Iterator[np.ndarray]:
    """Images as they are, a block at a time."""
    if isinstance(particles, ParticleSeries):
        return particles.blocks(block)
    if isinstance(particles, ParticleFile):
        return (images for _, images in particles.blocks(block))
    return (particles.images[start : start + block] for start in range(0, len(particles), block))


def _sign(particles: Particles) -> np.ndarray:
    """(n,) float32: -1 where a particle is dark, else 1."""
    contrast = None if _has_relion_table(particles) else _contrast(particles)
    bright = True if contrast is None else contrast.inverted
    return np.broadcast_to(np.where(bright, 1, -1).astype(np.float32), len(particles))


def _has_relion_table(particles: Particles) -> bool:
    table = particles.table if isinstance(particles, ParticleFile) else None
    return table is not None and RELION_IMAGE in table


def _contrast(particles: Particles) -> Contrast | None:
    if isinstance(particles, ParticleFile):
        return particles.contrast
    return shared_contrast(particles.ctf, particles.defocus_angstrom)


def _relion_tables(particles: Particles, names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of particles and of optics groups, as RELION 3.1 has them."""
    import pandas as pd

    pixel = particles.pixel_size_angstrom
    if _has_relion_table(particles):
        # what the table says stays as it is, but for origins and sizes of pixels, of which there are older forms
        replaced = (*relion.ORIGIN_PX, *relion.DETECTOR, "rlnImagePixelSize")
        table = particles.table.drop(columns=[name for name in replaced if name in particles.table])
        optics = particles.optics
        known = relion.particle_columns(None, particles.shifts_px, None, pixel_size_angstrom=pixel)
    else:
        table, optics = pd.DataFrame(index=range(len(names))), None
        known = relion.particle_columns(
            particles.rotations, particles.shifts_px, _contrast(particles), pixel_size_angstrom=pixel
        )
    table = table.assign(**{RELION_IMAGE: names}, **known)
    table, optics = relion.optics_groups(table, optics)
    optics = optics[optics[relion.GROUP].isin(table[relion.GROUP])]
    return (
        relion.in_order(table, relion.PARTICLE_ORDER),
        relion.sized(optics, pixel, _image_size(particles)),
    )


def _xmipp_table(particles: Particles, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    known = xmipp.particle_columns(
        particles.rotations,
        particles.shifts_px,
        _contrast(particles),
        count=len(names),
        pixel_size_angstrom=particles.pixel_size_angstrom,
    )
    return pd.DataFrame({XMIPP_IMAGE: names, **known})
