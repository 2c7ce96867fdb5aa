"""The alignment of a file's images as tables for RELION and XMIPP, the images named as those programs find them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from cryoem.particles import (
    ParticleFile,
    check_image_names,
    relion_tables,
    write_star,
    write_xmd,
    xmipp_table,
)
from cryoem.particles.naming import locate_stack, stack_name
from cryoem.udl.registration import Registration

STAR_FILE, XMD_FILE = "aligned.star", "aligned.xmd"


def names_for_tables(particles: ParticleFile, folder: Path, *, beside: tuple[str, ...] = ()) -> list[str]:
    """``number@stack`` of each image, for tables in ``folder``, which will hold stacks named ``beside`` as well.

    A table's own names stay as they are.  A bare stack is named from the current working folder, which RELION and
    XMIPP are then to be started in; with its whole path where it is not below this, or where another stack of that
    name is nearer to the tables.  ``:mrcs`` follows a name that these programs would take for a volume's.

    Warns
    -----
    UserWarning : a table's own names do not lead from ``folder`` to its stacks.

    Raises
    ------
    ValueError : a name is one that no table can hold, see ``particles.check_image_names``.
    """
    if particles.table is None:
        names = _names_of_stack(particles, folder, beside)
    else:
        names = particles.image_names
        _, first = np.unique(particles.images.stack_of, return_index=True)
        for stack, image in zip(particles.images.stacks, first, strict=True):
            name = stack_name(names[image])
            if not _leads_to(stack.path, folder, name, beside):
                warnings.warn(
                    f"{STAR_FILE} names stacks as {particles.path} does, and {name} is not found from its folder: "
                    "use it where that name leads to the stack",
                    UserWarning,
                    stacklevel=3,
                )
                break
    check_image_names(names, name=f"image names of {particles.path}")
    return names


def write_tables(
    particles: ParticleFile, names: list[str], found: Registration, correntropy: np.ndarray, folder: Path
) -> None:
    """Write ``aligned.star`` and ``aligned.xmd``, the alignment of the original images, into a folder."""
    has_relion_table = particles.table is not None and particles.path.suffix.lower() == ".star"
    table, optics = relion_tables(
        names,
        found.angles_rad,
        found.shifts_px,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        image_size=particles.image_size,
        scores={"cryoemCorrelation": found.correlation, "cryoemCorrentropy": correntropy},
        table=particles.table if has_relion_table else None,
        optics=particles.optics if has_relion_table else None,
    )
    write_star(folder / STAR_FILE, table, optics=optics)
    write_xmd(
        folder / XMD_FILE, xmipp_table(names, found.angles_rad, found.shifts_px, max_cc=found.correlation)
    )


def _names_of_stack(particles: ParticleFile, folder: Path, beside: tuple[str, ...]) -> list[str]:
    path = Path(os.path.realpath(particles.path.parent)) / particles.path.name
    name = path.as_posix()
    if path.is_relative_to(Path.cwd()):
        relative = path.relative_to(Path.cwd()).as_posix()
        if _leads_to(path, folder, relative, beside):
            name = relative
    form = "" if path.suffix == ".mrcs" else ":mrcs"
    return [f"{number:06d}@{name}{form}" for number in particles.images.number_of + 1]


def _leads_to(path: Path, folder: Path, name: str, beside: tuple[str, ...]) -> bool:
    """Whether a stack's name in a table of ``folder`` is taken for that of the stack at ``path``."""
    if name in beside:
        return False
    try:
        return locate_stack(folder / STAR_FILE, name)[0].samefile(path)
    except FileNotFoundError:
        return False
