"""Commands that reconstruct maps and compare them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    from cryoem.particles.files import ParticleFile
    from cryoem.reconstruction.resolution import FSC
    from cryoem.reconstruction.sharpening import Guinier
    from cryoem.volumes.density import DensityMap

SAME_VOXEL = 1e-3  # relative
HALF_MAPS = 0.143
UNCORRECTED = {"unmasked": "no mask", "loose": "loose mask", "tight": "tight mask"}
PROGRAM_BYTES = 300_000_000  # memory of the program and of one block of images


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
    from cryoem import plots
    from cryoem.cli.handoff import how_to_view
    from cryoem.files.writing import atomic_write_many
    from cryoem.particles.files import open_particles
    from cryoem.reconstruction import maps
    from cryoem.reconstruction.accumulation import accumulate_blocks
    from cryoem.reconstruction.masks import masked_half_map_fsc, particle_mask
    from cryoem.volumes.density import DensityMap
    from cryoem.volumes.maps import chimerax_script_path, write_chimerax_script, write_map

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
    shared.new_file(chimerax_script_path(out), ".cxc", force=force)
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
    shared.check_memory(
        _needed_bytes(opened, symmetry, in_memory=in_memory, half_maps=half_maps, workers=workers)
    )
    opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    subset = opened.random_subset if half_maps else None
    known = {"optics": opened.optics, "symmetry": symmetry}
    if in_memory:
        outputs = [maps.reconstruct(opened, opened.poses, method=method, **known)]
    else:
        sharing = {"workers": workers, "scheduler": scheduler, "ahead": 1}  # the sums use much memory
        with (
            shared.shared_work("reconstructing", len(opened), **sharing) as (map_blocks, done),
            tempfile.TemporaryFile() as scratch,
        ):
            known |= {"map_blocks": map_blocks, "callback": done}
            if half_maps:
                found = maps.reconstruct_halves(opened, opened.poses, subset=subset, scratch=scratch, **known)
                outputs = [found.map, *found.half_maps]
            else:
                volume = accumulate_blocks(opened, opened.poses, **known).invert(overwrite=True)
                outputs = [DensityMap(volume, opened.pixel_size_angstrom)]
    with atomic_write_many(*paths) as partials:
        for path, density_map in zip(partials, outputs, strict=True):
            write_map(path, density_map)
        level = plots.automatic_level(outputs[0].data)
        if half_maps:
            del found, outputs[0]  # the comparison takes the memory of several maps
            first, second = (half.data for half in outputs)
            mask, voxel = particle_mask(first, second), opened.pixel_size_angstrom
            curve = masked_half_map_fsc(first, second, mask, voxel_size_angstrom=voxel, rng=0)
            resolution = _resolution(curve)
    script = write_chimerax_script(out, outputs[0], level=level)
    values = {
        "map": out,
        "chimerax_script": script,
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
    return Answer(f"{text}\n{how_to_view(out, script)}", values)


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
    out: Annotated[Path | None, typer.Option("--out", help="Output file for the curves (.csv).")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Output file for a figure (.html).")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Output file (.html) for a page on two half-maps: FSC, Guinier plot, local resolution, FSC in cones.",
        ),
    ] = None,
    sharpened: Annotated[
        Path | None,
        typer.Option(
            "--sharpened", help="Output file for the mean of the half-maps, sharpened by its B factor."
        ),
    ] = None,
    as_map: shared.AsMap = False,
    seed: shared.Seed = 0,
    force: shared.Force = False,
) -> Answer:
    """Compare two maps by Fourier shell correlation.

    The resolution is where the curve first falls below the threshold. With a mask, curves without a mask, under the
    mask, under a looser mask, and with phases randomised are listed too; phase randomisation corrects the curve for the
    correlation caused by the mask itself.

    \b
    Example:
      cryoem fsc half-1.mrc half-2.mrc --soft-mask --figure fsc.html
      cryoem fsc half-1.mrc half-2.mrc --report resolution.html --sharpened sharpened.mrc
    """
    import pandas as pd

    from cryoem import plots
    from cryoem.files.writing import atomic_write, write_text
    from cryoem.reconstruction.masks import fsc_family
    from cryoem.reconstruction.resolution import fourier_shell_correlation
    from cryoem.volumes.maps import read_map, write_map

    if mask is not None and soft_mask:
        raise typer.BadParameter("use either --mask or --soft-mask, not both")
    inputs = [path for path in (a, b, mask) if path is not None]
    for path, option, suffixes in (
        (out, "--out", (".csv",)),
        (figure, "--figure", (".html",)),
        (report, "--report", (".html",)),
        (sharpened, "--sharpened", shared.MAP_SUFFIXES),
    ):
        if path is not None:
            shared.new_file(path, *suffixes, force=force, inputs=inputs, option=option)
    first, second = read_map(a, as_map=as_map), read_map(b, as_map=as_map)
    _check_same_grid(a, first, b, second)
    voxel, weight, family = first.voxel_size_angstrom, None, None
    if mask is not None:
        weight_map = read_map(mask, as_map=as_map)
        _check_same_grid(a, first, mask, weight_map)
        weight = weight_map.data
        if weight.min() < 0 or weight.max() > 1:
            raise ValueError(
                f"{mask}: mask values must be from 0 to 1, got {weight.min():.4g} to {weight.max():.4g}"
            )
    if mask is None and not soft_mask and report is None and sharpened is None:
        curve = fourier_shell_correlation(first.data, second.data, voxel_size_angstrom=voxel)
        shells = {"FSC": (curve.frequency, curve.correlation)}
        columns = {"correlation": curve.correlation}
    else:
        family = fsc_family(first.data, second.data, voxel_size_angstrom=voxel, mask=weight, rng=seed)
        curve, shells = family.corrected, family.curves()
        columns = {"correlation": curve.correlation, "phase_randomised": curve.phase_randomised}
        columns |= {f"{name}": getattr(family, name).correlation for name in UNCORRECTED}
    resolution = _resolution(curve, threshold)
    text = f"no resolution: the curve starts below FSC {threshold:g}"
    falls_below = bool(curve.correlation.min() < threshold)
    if resolution is not None:
        limit = "" if falls_below else " (Nyquist: the curve never falls below the threshold)"
        text = f"resolution {resolution:.2f} Å at FSC {threshold:g}{limit}"
    values = {
        "resolution_angstrom": resolution,
        "threshold": threshold,
        "falls_below_threshold": falls_below,
        "nyquist_angstrom": 2 * voxel,
        "frequency_per_angstrom": curve.frequency,
        "correlation": curve.correlation,
        "phase_randomised": curve.phase_randomised,
    }
    if family is not None:
        others = {name: _resolution(getattr(family, name), threshold) for name in UNCORRECTED}
        named = [f"{UNCORRECTED[name]} {'none' if r is None else f'{r:.2f} Å'}" for name, r in others.items()]
        text += f", corrected for the mask; uncorrected: {', '.join(named)}"
        for name, found in others.items():
            values |= {
                f"{name}_resolution_angstrom": found,
                f"{name}_correlation": getattr(family, name).correlation,
            }
    if report is not None or sharpened is not None:
        sharp, fit = _sharpened(first, second, curve)
        values |= {"b_factor_angstrom2": fit.b_factor_angstrom2}
        text += f"\nB factor {fit.b_factor_angstrom2:.0f} Å²"
    if out is not None:
        # one row for each shell
        table = pd.DataFrame({"frequency_per_angstrom": curve.frequency, **columns})
        write_text(out, table.to_csv(index=False, float_format="%.9g"))
        text += f"\nCurve: {out}"
    if figure is not None:
        page = plots.fourier_shell_correlation(shells, thresholds=(threshold,))
        # include plotly.js, so that the page works offline
        write_text(figure, page.to_html(include_plotlyjs=True, config={"displaylogo": False}))
        text += f"\nFigure: {figure}"
    if sharpened is not None:
        with atomic_write(sharpened) as partial:
            write_map(partial, sharp)
        text += f"\nSharpened map: {sharpened}"
    if report is not None:
        from cryoem.cli.resolution_page import resolution_page

        page, found = resolution_page(first, second, family, sharp, fit, threshold=threshold)
        write_text(report, page)
        values |= found
        text += f"\nReport: {report}"
    return Answer(text, values)


def _needed_bytes(
    opened: ParticleFile, symmetry: str, *, in_memory: bool, half_maps: bool, workers: int
) -> float:
    """Return about how much memory ``reconstruct`` takes."""
    from cryoem.reconstruction.accumulation import memory_bytes
    from cryoem.rotations import point_group

    size = opened.image_size
    if in_memory:
        # images, residuals and projections, copied for each equivalent orientation, and the projector's transform
        return PROGRAM_BYTES + 3 * 4 * len(opened) * len(point_group(symmetry)) * size**2 + 60 * size**3
    return PROGRAM_BYTES + memory_bytes(size, half_maps=half_maps, workers=workers)


def _half_path(path: Path, number: int) -> Path:
    """Return ``map-half-1.mrc.gz`` for ``map.mrc.gz``."""
    stem, suffix, compression = re.fullmatch(r"(.*?)(\.\w+)(\.gz)?", path.name, re.IGNORECASE).groups("")
    return path.with_name(f"{stem}-half-{number}{suffix}{compression}")


def _resolution(curve: FSC, threshold: float = HALF_MAPS) -> float | None:
    """Return the resolution (angstrom) at a threshold, or None if the curve starts below it."""
    return curve.resolution_angstrom(threshold) if curve.correlation[0] >= threshold else None


def _sharpened(first: DensityMap, second: DensityMap, curve: FSC) -> tuple[DensityMap, Guinier]:
    """Sharpen the mean of two half-maps by its own B factor, and return it with the Guinier plot of the mean."""
    from cryoem.reconstruction.sharpening import guinier, sharpen
    from cryoem.volumes.density import DensityMap

    mean = DensityMap((first.data + second.data) / 2, first.voxel_size_angstrom, first.origin)
    fit = guinier(mean, fsc=curve)
    return sharpen(mean, b_factor_angstrom2=fit.b_factor_angstrom2, fsc=curve), fit


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
