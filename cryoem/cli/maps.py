"""Commands that reconstruct maps and compare them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    from cryoem.reconstruction.resolution import FSC
    from cryoem.volumes.density import DensityMap

SAME_VOXEL = 1e-3  # relative
HALF_MAPS = 0.143


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def reconstruct(
    particles: shared.Particles,
    out: shared.Out,
    symmetry: shared.Symmetry = "C1",
    method: Annotated[
        str, typer.Option(help="Reconstruction method: fourier, or cgls, which reads all images into memory.")
    ] = "fourier",
    half_maps: Annotated[
        bool, typer.Option("--half-maps", help="Also write two half-maps and estimate the resolution.")
    ] = False,
    pixel_size: shared.PixelSize = None,
    datadir: shared.Datadir = None,
    optics_group: shared.OpticsGroup = None,
    passthrough: shared.Passthrough = None,
    microscope: shared.Microscope = None,
    leave_out_outliers: shared.LeaveOutOutliers = False,
    workers: shared.Workers = 1,
    scheduler: shared.Scheduler = None,
    force: shared.Force = False,
) -> Answer:
    """Reconstruct a map from particle images with known orientations.

    Shifts and the CTF are corrected if the file contains them. Half-maps are reconstructed from RELION's random subsets
    (rlnRandomSubset) if the table contains them, and otherwise from alternate images. In the latter case, the halves
    were not refined independently, so the resolution is overestimated.

    \b
    Example:
      cryoem reconstruct orientations.star --half-maps --out map.mrc
    """
    from cryoem.files.writing import atomic_write_many
    from cryoem.particles.files import open_particles
    from cryoem.reconstruction import maps
    from cryoem.reconstruction.resolution import masked_half_map_fsc, particle_mask
    from cryoem.volumes.maps import write_map

    in_memory = method != "fourier"
    if in_memory and half_maps:
        raise typer.BadParameter(f"requires --method fourier, got {method}", param_hint="--half-maps")
    if in_memory and (workers > 1 or scheduler):
        raise typer.BadParameter(
            f"require --method fourier, got {method}", param_hint="--workers and --scheduler"
        )
    paths = [out, *(_half_path(out, number) for number in (1, 2) if half_maps)]
    for path in paths:
        shared.new_file(path, *shared.MAP_SUFFIXES, force=force, inputs=(particles,))
    opened = open_particles(
        particles,
        pixel_size_angstrom=pixel_size,
        datadir=datadir,
        optics_group=optics_group,
        passthrough=passthrough,
        microscope=microscope,
    )
    for path in paths:
        shared.refuse_input(path, opened.paths)
    if opened.poses is None:
        raise ValueError(f"{particles} has no orientations; a map cannot be reconstructed without them")
    opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    subset = opened.random_subset if half_maps else None
    known = {"optics": opened.optics, "symmetry": symmetry}
    if in_memory:
        outputs = [maps.reconstruct(opened, opened.poses, method=method, **known)]
    else:
        sharing = {"workers": workers, "scheduler": scheduler, "ahead": 1}  # the sums use much memory
        with shared.shared_work("reconstructing", len(opened), **sharing) as (map_blocks, done):
            found = maps.reconstruct_halves(
                opened, opened.poses, subset=subset, map_blocks=map_blocks, callback=done, **known
            )
        outputs = [found.map, *(found.half_maps if half_maps else ())]
    if half_maps:
        first, second = (half.data for half in outputs[1:])
        mask, voxel = particle_mask(first, second), opened.pixel_size_angstrom
        resolution = _resolution(masked_half_map_fsc(first, second, mask, voxel_size_angstrom=voxel, rng=0))
    with atomic_write_many(*paths) as partials:
        for path, density_map in zip(partials, outputs, strict=True):
            write_map(path, density_map)
    values = {
        "map": out,
        "images": len(opened),
        "box_px": opened.image_size,
        "voxel_size_angstrom": opened.pixel_size_angstrom,
        "symmetry": symmetry,
    }
    text = f"{len(opened):,} images: {out}"
    if half_maps:
        values |= {
            "half_maps": paths[1:],
            "half_map_resolution_angstrom": resolution,
            "halves_refined_apart": subset is not None,
        }
        text += f"\nhalf-maps {paths[1]} and {paths[2]} "
        text += (
            f"have no resolution: their masked FSC starts below {HALF_MAPS:g}"
            if resolution is None
            else f"agree to {resolution:.2f} Å (masked, FSC {HALF_MAPS:g})"
        )
        if subset is None:
            text += "; this is an overestimate, because the halves (alternate images) were not refined independently"
    return Answer(text, values)


@command(afterwards=NOTHING_WRITTEN)
def fsc(
    a: Annotated[Path, typer.Argument(metavar="A", help="First map, in a cubic box.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Second map, with the same box and voxel size.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Mask with values from 0 to 1, applied to both maps.")
    ] = None,
    soft_mask: Annotated[
        bool, typer.Option("--soft-mask", help="Compute a soft mask from the two maps.")
    ] = False,
    threshold: Annotated[
        float,
        typer.Option(help="FSC threshold: 0.143 for two half-maps, 0.5 for comparison with a known map."),
    ] = HALF_MAPS,
    out: Annotated[Path | None, typer.Option("--out", help="Output file for the curve (.csv).")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Output file for a figure (.html).")] = None,
    as_map: shared.AsMap = False,
    seed: shared.Seed = 0,
    force: shared.Force = False,
) -> Answer:
    """Compare two maps by Fourier shell correlation.

    The resolution is where the curve first falls below the threshold. With a mask, phase randomisation
    corrects the curve for the correlation caused by the mask itself.

    \b
    Example:
      cryoem fsc half-1.mrc half-2.mrc --soft-mask --figure fsc.html
    """
    import pandas as pd

    from cryoem import plots
    from cryoem.files.writing import write_text
    from cryoem.reconstruction.resolution import fourier_shell_correlation, masked_half_map_fsc, particle_mask
    from cryoem.volumes.maps import read_map

    if mask is not None and soft_mask:
        raise typer.BadParameter("use either --mask or --soft-mask, not both")
    inputs = [path for path in (a, b, mask) if path is not None]
    if out is not None:
        shared.new_file(out, ".csv", force=force, inputs=inputs)
    if figure is not None:
        shared.new_file(figure, ".html", force=force, inputs=inputs, option="--figure")
    first, second = read_map(a, as_map=as_map), read_map(b, as_map=as_map)
    _check_same_grid(a, first, b, second)
    voxel, weight = first.voxel_size_angstrom, None
    if mask is not None:
        weight_map = read_map(mask, as_map=as_map)
        _check_same_grid(a, first, mask, weight_map)
        weight = weight_map.data
        if weight.min() < 0 or weight.max() > 1:
            raise ValueError(
                f"{mask}: mask values must be from 0 to 1, got {weight.min():.4g} to {weight.max():.4g}"
            )
    elif soft_mask:
        weight = particle_mask(first.data, second.data)
    if weight is None:
        curve = fourier_shell_correlation(first.data, second.data, voxel_size_angstrom=voxel)
    else:
        curve = masked_half_map_fsc(first.data, second.data, weight, voxel_size_angstrom=voxel, rng=seed)
    resolution = _resolution(curve, threshold)
    text = f"no resolution: the curve starts below FSC {threshold:g}"
    falls_below = bool(curve.correlation.min() < threshold)
    if resolution is not None:
        limit = "" if falls_below else " (Nyquist: the curve never falls below the threshold)"
        text = f"resolution {resolution:.2f} Å at FSC {threshold:g}{limit}"
    if out is not None:
        # one row for each shell
        columns = {"frequency_per_angstrom": curve.frequency, "correlation": curve.correlation}
        if curve.phase_randomised is not None:
            columns["phase_randomised"] = curve.phase_randomised
        write_text(out, pd.DataFrame(columns).to_csv(index=False, float_format="%.9g"))
        text += f"\nCurve: {out}"
    if figure is not None:
        shells = {"FSC": (curve.frequency, curve.correlation)}
        page = plots.fourier_shell_correlation(shells, thresholds=(threshold,))
        # include plotly.js, so that the page works offline
        write_text(figure, page.to_html(include_plotlyjs=True, config={"displaylogo": False}))
        text += f"\nFigure: {figure}"
    values = {
        "resolution_angstrom": resolution,
        "threshold": threshold,
        "falls_below_threshold": falls_below,
        "nyquist_angstrom": 2 * voxel,
        "frequency_per_angstrom": curve.frequency,
        "correlation": curve.correlation,
        "phase_randomised": curve.phase_randomised,
    }
    return Answer(text, values)


def _half_path(path: Path, number: int) -> Path:
    """Return ``map-half-1.mrc.gz`` for ``map.mrc.gz``."""
    stem, suffix, compression = re.fullmatch(r"(.*?)(\.\w+)(\.gz)?", path.name, re.IGNORECASE).groups("")
    return path.with_name(f"{stem}-half-{number}{suffix}{compression}")


def _resolution(curve: FSC, threshold: float = HALF_MAPS) -> float | None:
    """Return the resolution (angstrom) at a threshold, or None if the curve starts below it."""
    return curve.resolution_angstrom(threshold) if curve.correlation[0] >= threshold else None


def _check_same_grid(a: Path, first: DensityMap, b: Path, second: DensityMap) -> None:
    if len(set(first.data.shape)) != 1:
        raise ValueError(f"{a} is not a map in a cubic box: its box has {first.data.shape} voxels (z, y, x)")
    if first.data.shape != second.data.shape:
        raise ValueError(
            f"{a} and {b} must have the same box, got {first.data.shape} and {second.data.shape} voxels (z, y, x)"
        )
    one, other = first.voxel_size_angstrom, second.voxel_size_angstrom
    if abs(one - other) > SAME_VOXEL * one:
        raise ValueError(f"{a} and {b} must have the same voxel size, got {one:.6g} and {other:.6g} angstrom")
