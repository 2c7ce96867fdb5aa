"""Commands that get or make what the pipeline begins with: maps, and particle images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli.endings import NOTHING_WRITTEN, Answer, ends_in_order
from cryoem.cli.options import MAP_SUFFIXES, Force, Out, new_file


@ends_in_order(afterwards=NOTHING_WRITTEN)
def fetch(name: Annotated[str, typer.Argument(help="Registry name, PDB id or EMDB id.")]) -> Answer:
    """Download a map or an atomic model, and print its path.

    A file that is here already is used as it is, once its checksum has been compared.

    \b
    Example:
      cryoem fetch 5j0n
    """
    from cryoem import registry

    path = registry.fetch(name)
    entry = registry.find_entry(name)
    values = {"name": name, "path": path, "licence": entry.licence, "description": entry.description}
    return Answer(str(path), values)


@ends_in_order(afterwards=NOTHING_WRITTEN)
def density(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_NAME",
            help="Atomic model (mmCIF, PDB), map, registry name, PDB id, EMDB id, or phantom.",
        ),
    ],
    out: Out,
    voxel_size: Annotated[
        float | None, typer.Option(help="Angstrom; 4 by default, or what a map has.")
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Angstrom; two voxels by default, or what a map has.")
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the phantom: C1, C2, ..., D2, ....")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Edge of the cubic box in voxels, about the same centre.")
    ] = None,
    force: Force = False,
) -> Answer:
    """Make a density map of an atomic model, or of a phantom.

    \b
    Example:
      cryoem density phantom --symmetry D2 --size 64 --out map.mrc
    """
    from cryoem import registry, volumes

    new_file(out, *MAP_SUFFIXES, force=force, inputs=(Path(source),))
    if symmetry is not None:
        if source != "phantom":
            raise typer.BadParameter(f"is for the phantom, got {source}", param_hint="--symmetry")
        source = f"phantom-{symmetry}"
    made = registry.load(source, voxel_size_angstrom=voxel_size, resolution_angstrom=resolution, size=size)
    volumes.write_map(out, made)
    shape = " x ".join(map(str, made.data.shape[::-1]))
    values = {
        "map": out,
        "shape_zyx": made.data.shape,
        "voxel_size_angstrom": made.voxel_size_angstrom,
        "origin_xyz_angstrom": made.origin,
    }
    return Answer(f"{shape} voxels of {made.voxel_size_angstrom:.4g} Å: {out}", values)
