"""Names of a file's images for tables elsewhere, so that other programs, and this one, find them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from cryoem.particles.naming import locate_stack, stack_name
from cryoem.particles.particle_file import ParticleFile
from cryoem.particles.writing import check_image_names


def names_for_table(particles: ParticleFile, table: Path, *, beside: tuple[str, ...] = ()) -> list[str]:
    """``number@stack`` of each image, for a table to be written at ``table``, beside stacks named ``beside``.

    A table's own names stay as they are.  A bare stack is named from the current working folder, which RELION and
    XMIPP are then to be started in; with its whole path where it is not below this, or where another stack of that
    name is nearer to the table.  ``:mrcs`` follows a name that these programs would take for a volume's.

    Warns
    -----
    UserWarning : a table's own names do not lead from the folder of ``table`` to its stacks.

    Raises
    ------
    ValueError : a name is one that no table can hold, see ``particles.check_image_names``.
    """
    if particles.table is None:
        names = _names_of_stack(particles, table, beside)
    else:
        names = particles.image_names
        _, first = np.unique(particles.images.stack_of, return_index=True)
        for stack, image in zip(particles.images.stacks, first, strict=True):
            name = stack_name(names[image])
            if not _leads_to(stack.path, table, name, beside):
                warnings.warn(
                    f"{table.name} names stacks as {particles.path} does, and {name} is not found from its folder: "
                    "use it where that name leads to the stack",
                    UserWarning,
                    stacklevel=3,
                )
                break
    check_image_names(names, name=f"image names of {particles.path}")
    return names


def _names_of_stack(particles: ParticleFile, table: Path, beside: tuple[str, ...]) -> list[str]:
    path = Path(os.path.realpath(particles.path.parent)) / particles.path.name
    name = path.as_posix()
    if path.is_relative_to(Path.cwd()):
        relative = path.relative_to(Path.cwd()).as_posix()
        if _leads_to(path, table, relative, beside):
            name = relative
    form = "" if path.suffix == ".mrcs" else ":mrcs"
    return [f"{number:06d}@{name}{form}" for number in particles.images.number_of + 1]


def _leads_to(path: Path, table: Path, name: str, beside: tuple[str, ...]) -> bool:
    """Whether a stack's name in ``table`` is taken for that of the stack at ``path``."""
    if name in beside:
        return False
    try:
        return locate_stack(table, name)[0].samefile(path)
    except FileNotFoundError:
        return False
