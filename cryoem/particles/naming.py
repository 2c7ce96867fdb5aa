"""Names of images in new tables that refer to existing stacks."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.particles.locating import IMAGE_NAME, locate_stack
from cryoem.particles.star import can_store, check_image_names

if TYPE_CHECKING:
    from cryoem.particles.files import ParticleFile


def names_for_table(particles: ParticleFile, table: Path, *, new_stacks: tuple[str, ...] = ()) -> list[str]:
    """Return the name of each image, in the form 'number@stack', for a new table at the path ``table``.

    If the particle file is a table, its names are kept, so RELION and XMIPP must be started in the folder to which they
    are relative. If it is a stack, its path relative to the working folder is used, so they must be started there.
    A name is replaced by the absolute path of the stack, which is valid everywhere, unless it leads to the stack from
    the folder of the new table or a folder above it. If tables cannot store the absolute path, the path is relative to
    the deepest folder that contains both the stack and the table. ``:mrcs`` is appended to the name of a stack that
    RELION and XMIPP would otherwise read as a volume.

    Parameters
    ----------
    particles : ParticleFile
        Particle file with n images.
    table : Path
        Path of the new table.
    new_stacks : tuple of str
        File names of stacks that will be written to the folder of the new table. Default: none.

    Returns
    -------
    list of str
        Names of the n images.

    Warns
    -----
    UserWarning
        No name that tables can store leads to a stack from the folder of the new table, so its name in the particle
        file is kept. Tables cannot store a ``#``, a quote or an unprintable character.

    Raises
    ------
    ValueError
        No name that tables can store leads to a stack, and its name in the particle file leads to a different file or
        cannot be stored; or the images are not in MRC stacks.
    """
    if not particles.images.in_mrc:
        raise ValueError(
            f"tables cannot refer to the images in {particles.path}, which is not an MRC stack; "
            "convert it with `cryoem convert` first"
        )
    names = list(particles.image_names)
    for number, stack in enumerate(particles.images.stacks):
        members = np.flatnonzero(particles.images.stack_of == number)
        path = Path(os.path.realpath(stack.path.parent)) / stack.path.name
        kept = None if particles.table is None else IMAGE_NAME.fullmatch(names[members[0]])[2]
        name = _name_of(path, table, kept, new_stacks)
        if name is None:
            check_image_names([kept or path.as_posix()], name=f"image names of {particles.path}")
            _refuse_other_file(path, table, kept, new_stacks)
            warnings.warn(
                f"{table.name} keeps the stack names of {particles.path}, but {kept} cannot be found from "
                "its folder; move the table to the folder to which the stack names are relative",
                UserWarning,
                stacklevel=3,
            )
        elif name != kept:
            form = "" if path.suffix == ".mrcs" else ":mrcs"
            for member in members:
                names[member] = f"{particles.images.number_of[member] + 1:06d}@{name}{form}"
    check_image_names(names, name=f"image names of {particles.path}")
    return names


def _name_of(path: Path, table: Path, kept: str | None, new_stacks: tuple[str, ...]) -> str | None:
    """Return the name of the stack at ``path`` in a table, or None if no name leads to it or can be stored.

    ``kept`` is the name in the particle file, or None if it is a stack.
    """
    here, common = Path.cwd(), Path(os.path.commonpath([path, os.path.realpath(table.parent)]))
    if kept is not None and _leads_to(path, table, kept, new_stacks):
        return kept
    if kept is None and path.is_relative_to(here):
        name = path.relative_to(here).as_posix()
        if can_store(name) and _leads_to(path, table, name, new_stacks):
            return name
    if can_store(path.as_posix()):
        return path.as_posix()
    name = path.relative_to(common).as_posix()
    return name if can_store(name) and _leads_to(path, table, name, new_stacks) else None


def _leads_to(path: Path, table: Path, name: str, new_stacks: tuple[str, ...]) -> bool:
    """Return whether a stack name in ``table`` leads to the stack at ``path`` from every working folder."""
    try:
        place, as_stated = locate_stack(table, name, working_folder=False)
    except FileNotFoundError:
        return False
    return as_stated and name not in new_stacks and place.samefile(path)


def _refuse_other_file(path: Path, table: Path, name: str, new_stacks: tuple[str, ...]) -> None:
    """Raise a ValueError if a stack name in ``table`` leads to a different file than ``path``."""
    try:
        place, _ = locate_stack(table, name)
    except FileNotFoundError:
        place = None
    if name in new_stacks or (place is not None and not place.samefile(path)):
        raise ValueError(
            f"{table.name} cannot refer to {path}: tables cannot store #, quotes or line breaks, and from the folder "
            f"of {table.name}, the name {name} leads to another file; rename the folder of the stack"
        )
