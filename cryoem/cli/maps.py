"""Commands that compare maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli.endings import NOTHING_WRITTEN, Answer, ends_in_order
from cryoem.cli.options import Force, Seed, new_file

if TYPE_CHECKING:
    from cryoem.resolution import FSC
    from cryoem.volumes import DensityMap

SAME_VOXEL = 1e-3  # relative


@ends_in_order(afterwards=NOTHING_WRITTEN)
def fsc(
    a: Annotated[Path, typer.Argument(help="Map, cubic.")],
    b: Annotated[Path, typer.Argument(help="Map of the same box and voxel size.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Map from 0 to 1, multiplied into both.")
    ] = None,
    soft_mask: Annotated[bool, typer.Option("--soft-mask", help="Make such a mask of the maps.")] = False,
    threshold: Annotated[
        float, typer.Option(help="0.143 between half-maps, 0.5 against a map that is known.")
    ] = 0.143,
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
    voxel = first.voxel_size_angstrom
    if mask is None and not soft_mask:
        curve = fourier_shell_correlation(first.data, second.data, voxel_size_angstrom=voxel)
    else:
        weight = particle_mask(first.data, second.data) if soft_mask else read_map(mask).data
        curve = masked_half_map_fsc(first.data, second.data, weight, voxel_size_angstrom=voxel, rng=seed)
    resolution = curve.resolution_angstrom(threshold)
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
    return Answer(f"resolution {resolution:.2f} Å at FSC {threshold:g}{limit}{written}", values)


def _check_same_grid(a: Path, first: DensityMap, b: Path, second: DensityMap) -> None:
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
