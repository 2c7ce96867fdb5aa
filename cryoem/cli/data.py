"""Commands that provide the inputs of the pipeline: maps and particle images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

TABLE_SUFFIXES = (".star", ".xmd")


@command(afterwards=NOTHING_WRITTEN)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registry name, PDB id or EMDB id.")],
) -> Answer:
    """Download a map or an atomic model, and print its path.

    An existing file is used if its checksum is correct.

    \b
    Example:
      cryoem fetch 5j0n
    """
    from cryoem.volumes import registry

    path = registry.fetch(name)
    entry = registry.find_entry(name)
    values = {"name": name, "path": path, "licence": entry.licence, "description": entry.description}
    return Answer(str(path), values)


@command(afterwards=NOTHING_WRITTEN)
def density(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_NAME",
            help="Atomic model (mmCIF, PDB), map, registry name, PDB id, EMDB id, or phantom.",
        ),
    ],
    out: shared.Out,
    voxel_size: Annotated[
        float | None, typer.Option(help="Voxel size in angstrom; by default that of the input map, or 4.")
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="Resolution in angstrom; by default that of the input map, or two voxels."),
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the phantom: C1, C2, ..., D2, ....")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the cubic box in voxels; the centre is kept.")
    ] = None,
    force: shared.Force = False,
) -> Answer:
    """Make a density map from an atomic model or a phantom.

    An input map is resampled, filtered or cropped.

    \b
    Example:
      cryoem density phantom --symmetry D2 --size 64 --out map.mrc
    """
    from cryoem.volumes import registry
    from cryoem.volumes.maps import write_map

    shared.new_file(out, *shared.MAP_SUFFIXES, force=force, inputs=(Path(source),))
    if symmetry is not None:
        if source != "phantom":
            raise typer.BadParameter(f"applies only to the phantom, got {source}", param_hint="--symmetry")
        source = f"phantom-{symmetry}"
    density_map = registry.load(
        source, voxel_size_angstrom=voxel_size, resolution_angstrom=resolution, size=size
    )
    write_map(out, density_map)
    shape = " x ".join(map(str, density_map.data.shape[::-1]))
    values = {
        "map": out,
        "shape_zyx": density_map.data.shape,
        "voxel_size_angstrom": density_map.voxel_size_angstrom,
        "origin_xyz_angstrom": density_map.origin,
    }
    return Answer(f"{shape} voxels of {density_map.voxel_size_angstrom:.4g} Å: {out}", values)


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def project(
    source: Annotated[
        str, typer.Argument(metavar="MAP", help="Map, or any other input of `cryoem density`.")
    ],
    out: shared.Out,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="Number of images.")] = 1000,
    image_size: Annotated[
        int | None,
        typer.Option(min=2, help="Side of the images in pixels; by default large enough for the particle."),
    ] = None,
    coverage: Annotated[
        str, typer.Option(help="Distribution of orientations: so3, euler, half, quarter or preferred.")
    ] = "so3",
    noise_variance: Annotated[
        float, typer.Option(help="Variance of the white noise, relative to noise-free images of variance 1.")
    ] = 0.0,
    shift_limit_px: Annotated[float, typer.Option(help="Largest off-centre shift along x and y.")] = 0.0,
    ctf: Annotated[bool, typer.Option("--ctf", help="Apply a contrast transfer function.")] = False,
    seed: shared.Seed = 0,
    workers: shared.Workers = 1,
    scheduler: shared.Scheduler = None,
    force: shared.Force = False,
) -> Answer:
    """Simulate particle images of a map.

    Writes a table with orientations, shifts and CTF parameters, and a stack (.mrcs) of the same name next to it.

    \b
    Example:
      cryoem project map.mrc -n 1000 --noise-variance 1 --out particles.star
    """
    from cryoem.contrast import ContrastTransfer
    from cryoem.particles.simulation import ImagingConditions, simulate_lazily
    from cryoem.particles.writing import write_particles
    from cryoem.volumes import registry
    from cryoem.volumes.density import enclosing_image_size

    stack = _new_particles(out, force=force, inputs=(Path(source),))
    density_map = registry.load(source)
    conditions = ImagingConditions(
        image_size=image_size or enclosing_image_size(density_map),
        noise_variance=noise_variance,
        shift_limit_px=shift_limit_px,
        coverage=coverage,
        ctf=ContrastTransfer(inverted=True) if ctf else None,
    )
    simulated = simulate_lazily(density_map, n, conditions, rng=seed)
    with shared.shared_work("projecting", n, workers=workers, scheduler=scheduler) as (map_blocks, done):
        write_particles(out, simulated, map_blocks=map_blocks, callback=done)
    return _written(out, stack, simulated)


@command(afterwards=NOTHING_WRITTEN)
def convert(
    source: shared.Particles,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Table to write: .star or .xmd.")],
    pixel_size: shared.PixelSize = None,
    datadir: shared.Datadir = None,
    optics_group: shared.OpticsGroup = None,
    force: shared.Force = False,
) -> Answer:
    """Convert particle files for another program.

    Orientations, shifts, CTF parameters and pixel size are kept if the input has them. The images are copied as 32-bit
    floating-point numbers to a stack (.mrcs) next to the table.

    \b
    Example:
      cryoem convert particles.cs particles.star
    """
    from cryoem.particles.files import open_particles
    from cryoem.particles.writing import write_particles

    stack = _new_particles(out, force=force, inputs=(source,), option="OUT")
    opened = open_particles(
        source, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
    )
    with shared.progress("writing", len(opened)) as done:
        write_particles(out, opened, callback=done)
    return _written(out, stack, opened)


def _new_particles(out: Path, *, force: bool, inputs: tuple[Path, ...], option: str = "--out") -> Path:
    """Check that a table and the stack next to it may be written; return the path of the stack."""
    shared.new_file(out, *TABLE_SUFFIXES, force=force, inputs=inputs, option=option)
    return shared.new_file(out.with_suffix(".mrcs"), ".mrcs", force=force, inputs=inputs, option=option)


def _written(table: Path, stack: Path, particles) -> Answer:
    n, size, pixel = len(particles), particles.image_size, particles.pixel_size_angstrom
    values = {
        "table": table,
        "stack": stack,
        "images": n,
        "image_size_px": size,
        "pixel_size_angstrom": pixel,
    }
    return Answer(f"{n:,} images of {size} px of {pixel:.4g} Å: {table} and {stack}", values)
