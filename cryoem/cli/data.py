"""Commands that get or make what the pipeline begins with: maps, and particle images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli.endings import NOTHING_WRITTEN, Answer, ends_in_order
from cryoem.cli.options import (
    MAP_SUFFIXES,
    Datadir,
    Force,
    OpticsGroup,
    Out,
    Particles,
    PixelSize,
    Scheduler,
    Seed,
    Workers,
    new_file,
)
from cryoem.cli.progress import progress

if TYPE_CHECKING:
    from cryoem.particles import ParticleFile, ParticleSeries

TABLE_SUFFIXES = (".star", ".xmd")


@ends_in_order(afterwards=NOTHING_WRITTEN)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registry name, PDB id or EMDB id.")],
) -> Answer:
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


@ends_in_order(afterwards=NOTHING_WRITTEN, on_device=True)
def project(
    source: Annotated[str, typer.Argument(metavar="MAP", help="Map, or what `cryoem density` makes one of.")],
    out: Out,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="How many images.")] = 1000,
    image_size: Annotated[
        int | None, typer.Option(min=2, help="Pixels; so that the particle fits in by default.")
    ] = None,
    coverage: Annotated[
        str, typer.Option(help="Of orientations: so3, euler, half, quarter or preferred.")
    ] = "so3",
    noise_variance: Annotated[float, typer.Option(help="Of white noise; clean images have 1.")] = 0.0,
    shift_limit_px: Annotated[float, typer.Option(help="How far off the middle particles are.")] = 0.0,
    ctf: Annotated[bool, typer.Option("--ctf", help="See them through a contrast transfer.")] = False,
    seed: Seed = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> Answer:
    """Simulate particle images of a map.

    Writes a table with their orientations, shifts and contrast transfer, and the stack of that name (.mrcs) beside it.

    \b
    Example:
      cryoem project map.mrc -n 1000 --noise-variance 1 --out particles.star
    """
    from cryoem import imaging, registry, volumes
    from cryoem.distributed import client_of
    from cryoem.particles import write_particles

    stack = _new_particles(out, force=force, inputs=(Path(source),))
    density_map = registry.load(source)
    with client_of(workers, scheduler=scheduler) as client, progress("projecting", n) as done:
        simulated = imaging.simulate_lazily(
            density_map,
            n,
            image_size=image_size or volumes.enclosing_image_size(density_map),
            coverage=coverage,
            noise_variance=noise_variance,
            shift_limit_px=shift_limit_px,
            ctf=imaging.ContrastTransfer(inverted=True) if ctf else None,
            rng=seed,
            client=client,
        )
        write_particles(out, simulated, callback=done)
    return _written(out, stack, simulated)


@ends_in_order(afterwards=NOTHING_WRITTEN)
def convert(
    source: Particles,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Table to be made, .star or .xmd; its stack lies beside it.")
    ],
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    optics_group: OpticsGroup = None,
    force: Force = False,
) -> Answer:
    """Write particles as another program reads them.

    Images, orientations, shifts, contrast transfer and pixel size are carried where the file knows them; the stack is
    copied, as 32-bit floating-point numbers, to lie beside the table.

    \b
    Example:
      cryoem convert particles.cs particles.star
    """
    from cryoem.particles import open_particles, write_particles

    stack = _new_particles(out, force=force, inputs=(source,), option="OUT")
    opened = open_particles(
        source, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
    )
    with progress("writing", len(opened)) as done:
        write_particles(out, opened, callback=done)
    return _written(out, stack, opened)


def _new_particles(out: Path, *, force: bool, inputs: tuple[Path, ...], option: str = "--out") -> Path:
    """The stack that will lie beside the table ``out``, both where a command may write them."""
    new_file(out, *TABLE_SUFFIXES, force=force, inputs=inputs, option=option)
    return new_file(out.with_suffix(".mrcs"), ".mrcs", force=force, inputs=inputs, option=option)


def _written(table: Path, stack: Path, particles: ParticleFile | ParticleSeries) -> Answer:
    values = {
        "table": table,
        "stack": stack,
        "images": len(particles),
        "image_size_px": particles.image_size,
        "pixel_size_angstrom": particles.pixel_size_angstrom,
    }
    size, pixel = particles.image_size, particles.pixel_size_angstrom
    return Answer(f"{len(particles):,} images of {size} px of {pixel:.4g} Å: {table} and {stack}", values)
