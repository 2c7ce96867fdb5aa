"""Commands that make maps of particle images, and compare maps."""

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
    Symmetry,
    Workers,
    new_file,
    refuse_input,
)
from cryoem.cli.progress import progress

if TYPE_CHECKING:
    from cryoem.resolution import FSC
    from cryoem.volumes import DensityMap

SAME_VOXEL = 1e-3  # relative
HALF_MAPS = 0.143


@ends_in_order(afterwards=NOTHING_WRITTEN, on_device=True)
def reconstruct(
    particles: Particles,
    out: Out,
    symmetry: Symmetry = "C1",
    method: Annotated[
        str, typer.Option(help="fourier, or cgls, which reads all images at once.")
    ] = "fourier",
    half_maps: Annotated[
        bool, typer.Option("--half-maps", help="Write the maps of two halves beside, and compare them.")
    ] = False,
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    optics_group: OpticsGroup = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> Answer:
    """Make a map of particle images with their orientations.

    Shifts and contrast transfer are taken off where the file knows them.  Halves are the random subsets that RELION
    refined apart, where the table tells them; else every other image, whose resolution is too good to quote.

    \b
    Example:
      cryoem reconstruct orientations.star --half-maps --out map.mrc
    """
    from cryoem.blockwise import reconstruct_particles
    from cryoem.distributed import client_of
    from cryoem.particles import open_particles
    from cryoem.volumes import write_map
    from cryoem.whole_files import whole_files

    if half_maps and method != "fourier":
        raise typer.BadParameter(f"needs --method fourier, got {method}", param_hint="--half-maps")
    new_file(out, *MAP_SUFFIXES, force=force, inputs=(particles,))
    halves = [_beside(out, f"-half-{number}") for number in (1, 2)] if half_maps else []
    for half in halves:
        new_file(half, *MAP_SUFFIXES, force=force, inputs=(particles,), option="--half-maps")
    opened = open_particles(
        particles, pixel_size_angstrom=pixel_size, datadir=datadir, optics_group=optics_group
    )
    for path in (out, *halves):
        refuse_input(path, opened.paths)
    with client_of(workers, scheduler=scheduler) as client, progress("reconstructing", len(opened)) as done:
        made = reconstruct_particles(opened, symmetry=symmetry, method=method, client=client, callback=done)
    resolution = _resolution(*made.half_maps) if half_maps else None
    maps = [made.map, *(made.half_maps if half_maps else ())]
    with whole_files(out, *halves) as asides:
        for aside, density_map in zip(asides, maps, strict=True):
            write_map(aside, density_map)
    values = {
        "map": out,
        "images": len(opened),
        "box_px": opened.image_size,
        "voxel_size_angstrom": opened.pixel_size_angstrom,
        "symmetry": symmetry,
    }
    lines = [f"{len(opened):,} images: {out}"]
    if half_maps:
        values |= {
            "half_maps": halves,
            "half_map_resolution_angstrom": resolution,
            "halves_refined_apart": made.refined_apart,
        }
        lines.append(
            f"half-maps {halves[0]} and {halves[1]} "
            + (
                f"never agree to FSC {HALF_MAPS:g} (masked)"
                if resolution is None
                else f"agree to {resolution:.2f} Å (masked, FSC {HALF_MAPS:g})"
            )
            + (
                ""
                if made.refined_apart
                else "; they are every other image, not refined apart: too good to quote"
            )
        )
    return Answer("\n".join(lines), values)


@ends_in_order(afterwards=NOTHING_WRITTEN)
def fsc(
    a: Annotated[Path, typer.Argument(metavar="A", help="Map, cubic.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Map of the same box and voxel size.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Map from 0 to 1, multiplied into both.")
    ] = None,
    soft_mask: Annotated[bool, typer.Option("--soft-mask", help="Make such a mask of the maps.")] = False,
    threshold: Annotated[
        float, typer.Option(help="0.143 between half-maps, 0.5 against a map that is known.")
    ] = HALF_MAPS,
    out: Annotated[Path | None, typer.Option("--out", help="Table of the curve to be made, .csv.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Figure to be made, .html.")] = None,
    seed: Seed = 0,
    force: Force = False,
) -> Answer:
    """Fourier shell correlation of two maps, and their resolution.

    Under a mask, what the mask itself correlates is found by phase randomisation and taken off.

    \b
    Example:
      cryoem fsc half-1.mrc half-2.mrc --soft-mask --figure fsc.html
    """
    from cryoem.pipeline.files import write_text
    from cryoem.resolution import fourier_shell_correlation, masked_half_map_fsc, particle_mask
    from cryoem.volumes import read_map

    if mask is not None and soft_mask:
        raise typer.BadParameter("give --mask or --soft-mask, not both")
    inputs = tuple(path for path in (a, b, mask) if path is not None)
    if out is not None:
        new_file(out, ".csv", force=force, inputs=inputs)
    if figure is not None:
        new_file(figure, ".html", force=force, inputs=inputs, option="--figure")
    first, second = read_map(a), read_map(b)
    _check_same_grid(a, first, b, second)
    if mask is not None:
        weight = read_map(mask)
        _check_same_grid(a, first, mask, weight)
        if weight.data.min() < 0 or weight.data.max() > 1:
            raise ValueError(
                f"{mask} must be a mask from 0 to 1, got {weight.data.min():.4g} to {weight.data.max():.4g}"
            )
    voxel = first.voxel_size_angstrom
    if mask is None and not soft_mask:
        curve = fourier_shell_correlation(first.data, second.data, voxel_size_angstrom=voxel)
    else:
        weight = particle_mask(first.data, second.data) if soft_mask else weight.data
        curve = masked_half_map_fsc(first.data, second.data, weight, voxel_size_angstrom=voxel, rng=seed)
    resolution = _reached(curve, threshold)
    if out is not None:
        write_text(out, _table(curve))
    if figure is not None:
        write_text(figure, _page(curve, threshold))
    never = curve.correlation.min() >= threshold
    values = {
        "resolution_angstrom": resolution,
        "threshold": threshold,
        "falls_below_threshold": not never,
        "nyquist_angstrom": 2 * voxel,
        "frequency_per_angstrom": curve.frequency,
        "correlation": curve.correlation,
        "phase_randomised": curve.phase_randomised,
    }
    limit = " (the last shell: it never falls below)" if never else ""
    written = "".join(f"\n{name}: {path}" for name, path in (("Curve", out), ("Figure", figure)) if path)
    found = f"no resolution: the curve never reaches FSC {threshold:g}"
    if resolution is not None:
        found = f"resolution {resolution:.2f} Å at FSC {threshold:g}{limit}"
    return Answer(f"{found}{written}", values)


def _beside(path: Path, ending: str) -> Path:
    """``map-half-1.mrc.gz`` for ``map.mrc.gz``."""
    suffix = next(
        suffix for suffix in sorted(MAP_SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix)
    )
    return path.with_name(f"{path.name[: -len(suffix)]}{ending}{path.name[-len(suffix) :]}")


def _resolution(first: DensityMap, second: DensityMap) -> float | None:
    """To which two half-maps agree, under the mask of the particle that they show; None where they never do."""
    from cryoem.resolution import masked_half_map_fsc, particle_mask

    mask = particle_mask(first.data, second.data)
    curve = masked_half_map_fsc(
        first.data, second.data, mask, voxel_size_angstrom=first.voxel_size_angstrom, rng=0
    )
    return _reached(curve, HALF_MAPS)


def _reached(curve: FSC, threshold: float) -> float | None:
    """The resolution at a threshold; None for a curve that is below it from the start."""
    return curve.resolution_angstrom(threshold) if curve.correlation[0] >= threshold else None


def _check_same_grid(a: Path, first: DensityMap, b: Path, second: DensityMap) -> None:
    if len(set(first.data.shape)) != 1:
        raise ValueError(f"{a} must have a cubic box, got {first.data.shape} voxels (z, y, x)")
    if first.data.shape != second.data.shape:
        raise ValueError(
            f"{b} must have the box of {a}, {first.data.shape} voxels (z, y, x), got {second.data.shape}"
        )
    one, other = first.voxel_size_angstrom, second.voxel_size_angstrom
    if abs(one - other) > SAME_VOXEL * one:
        raise ValueError(f"{b} must have the voxel size of {a}, {one:.6g} angstrom, got {other:.6g}")


def _table(curve: FSC) -> str:
    """The curve, a row a shell."""
    names, columns = ["frequency_per_angstrom", "correlation"], [curve.frequency, curve.correlation]
    if curve.phase_randomised is not None:
        names, columns = [*names, "phase_randomised"], [*columns, curve.phase_randomised]
    rows = [",".join(f"{value:.9g}" for value in row) for row in zip(*columns, strict=True)]
    return "\n".join([",".join(names), *rows, ""])


def _page(curve: FSC, threshold: float) -> str:
    """The figure as a page that needs no network."""
    from cryoem import plots

    drawn = plots.fourier_shell_correlation(
        {"FSC": (curve.frequency, curve.correlation)}, thresholds=(threshold,)
    )
    return drawn.to_html(include_plotlyjs=True, config={"displaylogo": False})
