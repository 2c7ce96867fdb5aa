"""Commands for the inputs of the pipeline: maps and particle images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

TABLE_SUFFIXES = (".star", ".xmd", ".cs")
LARGEST_CUT = 0.01  # share of the squared density of a map that images may cut off without a warning
FULL_RANGES = {"rot": (0.0, 360.0), "tilt": (0.0, 180.0), "psi": (0.0, 360.0)}  # degrees


@command(afterwards=NOTHING_WRITTEN)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Registry name, PDB id or EMDB id.")],
) -> Answer:
    """Download a map, an atomic model or example particles, and print the path.

    An existing file is reused if its checksum is correct.

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
            help="Atomic model (mmCIF or PDB), map file, registry name, PDB id, EMDB id, or phantom.",
        ),
    ],
    out: options.Out,
    voxel_size: Annotated[
        float | None,
        typer.Option(
            help="Voxel size in angstrom; by default that of the input map, 4 for a model, 256 / size for a phantom."
        ),
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="Resolution in angstrom; by default that of the input map, otherwise two voxels."),
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Point group of the phantom: Cn, Dn, T, O or I.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Width of the cubic box in voxels; a map is cropped or padded about its centre."
        ),
    ] = None,
    as_map: options.AsMap = False,
    force: options.Force = False,
) -> Answer:
    """Make a density map from an atomic model or a phantom.

    If the input is a map, it is resampled, filtered, cropped or padded.

    \b
    Example:
      cryoem density phantom --symmetry D2 --size 64 --out map.mrc
    """
    from cryoem.cli.handoff import how_to_view, new_map, write_map_and_script
    from cryoem.volumes import loading

    given = loading.find_file(source)
    new_map(out, force=force, inputs=[given] if given else [])
    if symmetry is not None:
        if source != "phantom":
            raise typer.BadParameter(f"applies only to the phantom, got {source}", param_hint="--symmetry")
        source = f"phantom-{symmetry}"
    density_map = loading.load(
        source,
        voxel_size_angstrom=voxel_size,
        resolution_angstrom=resolution,
        size=size,
        as_map=as_map,
    )
    script = write_map_and_script(out, density_map)
    shape = " x ".join(map(str, density_map.data.shape[::-1]))
    values = {
        "map": out,
        "chimerax_script": script,
        "shape_zyx": density_map.data.shape,
        "voxel_size_angstrom": density_map.voxel_size_angstrom,
        "origin_xyz_angstrom": density_map.origin,
    }
    text = f"{shape} voxels of {density_map.voxel_size_angstrom:.4g} Å: {out}\n{how_to_view(out, script)}"
    return Answer(text, values)


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def project(
    source: Annotated[
        str, typer.Argument(metavar="MAP", help="Map file, or any other input of `cryoem density`.")
    ],
    out: options.Out,
    n: Annotated[
        int | None, typer.Option("-n", "--images", min=1, help="Number of images (default: 1000).")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=2, help="Width of the images in pixels; by default large enough for the particle."),
    ] = None,
    coverage: Annotated[
        str | None,
        typer.Option(help="Distribution of orientations: so3 (default), euler, half, quarter or preferred."),
    ] = None,
    rot_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Range of the Euler angle rot in degrees; angles are uniform in the ranges (default: 0 360).",
        ),
    ] = None,
    tilt_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Range of the Euler angle tilt in degrees (default: 0 180)."),
    ] = None,
    psi_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Range of the Euler angle psi in degrees (default: 0 360)."),
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(
            help="Table (.star, .cs, .xmd, .h5, .mat) with the orientations and shifts of the images."
        ),
    ] = None,
    noise_variance: Annotated[
        float, typer.Option(help="Variance of white noise, relative to noise-free images of variance 1.")
    ] = 0.0,
    shift_limit_px: Annotated[
        float, typer.Option(help="Largest shift of the particle along x and y, in pixels.")
    ] = 0.0,
    ctf: Annotated[bool, typer.Option("--ctf", help="Apply a contrast transfer function (CTF).")] = False,
    astigmatism: Annotated[
        float,
        typer.Option(
            help="Largest difference between the defoci U and V in angstrom, such as 500; requires --ctf."
        ),
    ] = 0.0,
    structural_noise: Annotated[
        float,
        typer.Option(
            help="Variance of structural noise (ice and other molecules), relative to the variance of the projections, "
            "such as 0.7. It has the power spectrum of the particle, and the CTF is applied to it."
        ),
    ] = 0.0,
    amplitude_spread: Annotated[
        float,
        typer.Option(help="Largest relative deviation of the amplitude of an image from 1, such as 0.2."),
    ] = 0.0,
    junk: Annotated[
        float,
        typer.Option(
            help="Fraction of images without the particle; half of them contain only noise, and half contain two "
            "particles at the edge."
        ),
    ] = 0.0,
    as_map: options.AsMap = False,
    seed: options.Seed = 0,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    force: options.Force = False,
) -> Answer:
    """Simulate particle images from a map.

    Writes a table with the orientations, shifts and CTF parameters, and an image stack (.mrcs) with the same name. By
    default, the images are ideal; options add the imperfections of measured images.

    \b
    Example:
      cryoem project map.mrc -n 1000 --noise-variance 1 --out particles.star
      cryoem project map.mrc --tilt-range 0 90 --shift-limit-px 5 --out particles.star
      cryoem project map.mrc --poses run_data.star --out particles.star
      cryoem project map.mrc --ctf --coverage preferred --structural-noise 0.7 --junk 0.1 --out particles.star
    """
    from cryoem.contrast import ContrastTransfer
    from cryoem.particles.conditions import ImagingConditions, Realism
    from cryoem.particles.opening import read_poses, referenced_stacks
    from cryoem.particles.simulation import simulate_lazily
    from cryoem.particles.writing import write_particles
    from cryoem.volumes import loading
    from cryoem.volumes.density import enclosing_image_size, share_beyond

    ranges = {"rot": rot_range, "tilt": tilt_range, "psi": psi_range}
    ranges = {name: limits for name, limits in ranges.items() if limits is not None}
    if ranges and coverage is not None:
        raise typer.BadParameter(
            f"cannot be combined with --{next(iter(ranges))}-range", param_hint="--coverage"
        )
    if poses is not None and (ranges or coverage or n or shift_limit_px):
        raise typer.BadParameter(
            "states all orientations and shifts; omit -n, --coverage, ranges and --shift-limit-px",
            param_hint="--poses",
        )
    if astigmatism and not ctf:
        raise typer.BadParameter(f"requires --ctf, got {astigmatism:g}", param_hint="--astigmatism")
    realism = Realism(structural_noise, astigmatism, amplitude_spread, junk)
    stack = _new_particles(out, force=force, inputs=[Path(source), *([poses] if poses else [])])
    if poses is not None and stack.exists() and any(map(stack.samefile, referenced_stacks(poses))):
        raise ValueError(f"{stack} contains the images of --poses {poses}; choose a different name for --out")
    density_map = loading.load(source, as_map=as_map)
    whole = enclosing_image_size(density_map)
    if image_size and image_size < whole and (cut := share_beyond(density_map, image_size / 2)) > LARGEST_CUT:
        warnings.warn(
            f"--image-size {image_size} cuts off part of the particle: {100 * cut:.0f} % of its squared density is "
            f"more than {image_size / 2:g} px from the centre; images {whole} px wide hold the whole map",
            stacklevel=2,
        )
    given = n or 1000
    if poses is not None:
        given = read_poses(poses, pixel_size_angstrom=density_map.voxel_size_angstrom)
    conditions = ImagingConditions(
        image_size=image_size or whole,
        noise_variance=noise_variance,
        shift_limit_px=shift_limit_px,
        coverage=tuple((FULL_RANGES | ranges).values()) if ranges else coverage or "so3",
        ctf=ContrastTransfer(inverted=True) if ctf else None,
    )
    # without realism, fewer random numbers are drawn
    simulated = simulate_lazily(
        density_map, given, conditions, realism=realism if any(astuple(realism)) else None, rng=seed
    )
    sharing = {"workers": workers, "scheduler": scheduler}
    with shared.shared_work("projecting", len(simulated), **sharing) as (map_blocks, done):
        write_particles(out, simulated, map_blocks=map_blocks, callback=done)
    answer = _written(out, stack, simulated)
    if not junk:
        return answer
    rows = simulated.junk.nonzero()[0]
    text = f"{answer.text}\n{len(rows):,} of the images are junk; --json lists their zero-based rows"
    return Answer(text, answer.values | {"junk_rows": rows})


@command(afterwards=NOTHING_WRITTEN)
def convert(
    source: options.Particles,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output table (.star, .xmd or .cs).")],
    *,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    as_stack: options.AsStack = False,
    force: options.Force = False,
) -> Answer:
    """Convert particle files to RELION, XMIPP or cryoSPARC format.

    Orientations, shifts, CTF parameters and the pixel size are kept if the input has them. The images are copied as
    32-bit floating-point numbers to a stack (.mrcs) with the same name as the table. Images with dark particles, as in
    some cryoSPARC files, are inverted. Optics groups and half-sets are kept, except in XMIPP files.

    \b
    Example:
      cryoem convert particles.cs particles.star
      cryoem convert run_data.star particles.cs
    """
    from cryoem.particles.writing import write_particles

    stack = _new_particles(out, force=force, inputs=(source,), option="OUT")
    opened = opening.open(source, as_stack=as_stack)
    for path in (out, stack):
        shared.refuse_input(path, opened.paths)
    if leave_out_outliers:
        opened, _ = shared.check_images(opened, leave_out_outliers=True)
    with shared.progress("writing", len(opened)) as done:
        write_particles(out, opened, callback=done)
    return _written(out, stack, opened)


def _new_particles(out: Path, *, force: bool, inputs: Sequence[Path], option: str = "--out") -> Path:
    """Check that a table and its stack can be written, and return the path of the stack."""
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
