"""Orientations that were found for the images of a file, as a RELION table that names these images."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, one_each, shifts_of
from cryoem.particles import relion
from cryoem.particles.alignments import OLD_POSE
from cryoem.particles.image_names import names_for_table
from cryoem.particles.job_writing import write_with_images
from cryoem.particles.particle_file import ParticleFile
from cryoem.particles.tables import RELION_IMAGE
from cryoem.particles.writing import named, star_text, write_text

if TYPE_CHECKING:
    import pandas as pd


def write_poses(
    path: str | os.PathLike,
    particles: ParticleFile,
    rotations: Rotation,
    shifts_px: np.ndarray,
    *,
    subset: np.ndarray | None = None,
) -> None:
    """Write a STAR file, as of RELION 3.1, that names the images of a particle file where they lie.

    Orientations and shifts are the given ones; contrast transfer and pixel size are the file's.  Of a RELION table all
    other columns stay, but for those of older poses, which these make void.

    A table cannot say that particles are dark, as those of some cryoSPARC files are: of these the negatives are written
    as a stack beside the table, which names it.

    Parameters
    ----------
    path : the file, ``.star``.
    particles : n images in a file.
    rotations : n orientations, particle to microscope coordinates.
    shifts_px : (n, 2) displacement (x, y) of each particle, towards larger coordinates.
    subset : (n,) which half-set each was refined in, 0 or 1, for rlnRandomSubset; as the table has it by default.

    Warns
    -----
    UserWarning : particles are dark, and a stack of their negatives is written; see ``names_for_table``; optics groups
        state another pixel size, by more than 1 %, and it is replaced.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    ValueError : the name does not end in ``.star``, or rotations, shifts or subsets are not one for each
        image.
    """
    many_rotations(rotations, count=len(particles))
    shifts_px = shifts_of(shifts_px, count=len(particles))
    path = named(path, ".star")
    if subset is not None:
        subset = one_each(subset, count=len(particles), name="subset").astype(int) + 1

    def text_of(names: list[str]) -> str:
        return star_text(*_tables(particles, names, rotations, shifts_px, subset))

    if particles.contrast is None or particles.contrast.inverted.all():
        write_text(path, text_of(names_for_table(particles, path)))
        return
    warnings.warn(
        f"{particles.path} holds dark particles, which a STAR file cannot say: "
        f"their negatives stand beside {path.name}",
        UserWarning,
        stacklevel=2,
    )
    write_with_images(path, particles, text_of)


def _tables(particles, names, rotations, shifts_px, subset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of particles and of optics groups, as RELION 3.1 has them."""
    import pandas as pd

    pixel = particles.pixel_size_angstrom
    if particles.table is not None and RELION_IMAGE in particles.table:
        replaced = (*OLD_POSE, *relion.DETECTOR, "rlnImagePixelSize")
        table = particles.table.drop(columns=[name for name in replaced if name in particles.table])
        optics, contrast = particles.optics, None
    else:
        table, optics, contrast = pd.DataFrame(index=range(len(names))), None, particles.contrast
    known = relion.particle_columns(rotations, shifts_px, contrast, pixel_size_angstrom=pixel)
    if subset is not None:
        known["rlnRandomSubset"] = subset
    table, optics = relion.optics_groups(table.assign(**{RELION_IMAGE: names}, **known), optics)
    return relion.in_order(table, relion.PARTICLE_ORDER), relion.sized(optics, pixel, particles.image_size)
