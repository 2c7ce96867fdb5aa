"""The command that compares two maps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    import numpy as np

    from cryoem.reconstruction.resolution import FSC
    from cryoem.reconstruction.sharpening import Guinier
    from cryoem.volumes.density import DensityMap

SAME_VOXEL = 1e-3  # relative
UNCORRECTED = {"unmasked": "no mask", "loose": "loose mask", "tight": "tight mask"}


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
    ] = 0.143,
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
    as_map: options.AsMap = False,
    seed: options.Seed = 0,
    force: options.Force = False,
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
    from cryoem.cli.handoff import how_to_view, new_map, write_map_and_script
    from cryoem.files.writing import write_text
    from cryoem.reconstruction.masks import fsc_family
    from cryoem.reconstruction.resolution import fourier_shell_correlation
    from cryoem.runs.report import render_figures
    from cryoem.volumes.maps import read_map

    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold:g}")
    if mask is not None and soft_mask:
        raise typer.BadParameter("use either --mask or --soft-mask, not both")
    inputs = [path for path in (a, b, mask) if path is not None]
    for path, option, suffixes in (
        (out, "--out", (".csv",)),
        (figure, "--figure", (".html",)),
        (report, "--report", (".html",)),
    ):
        if path is not None:
            shared.new_file(path, *suffixes, force=force, inputs=inputs, option=option)
    if sharpened is not None:
        new_map(sharpened, force=force, inputs=inputs, option="--sharpened")
    first, second = read_map(a, as_map=as_map), read_map(b, as_map=as_map)
    _check_same_grid(a, first, b, second)
    if (first.data == second.data).all():
        warnings.warn(
            f"{a} and {b} contain identical maps, so their FSC is 1 at all frequencies and does not measure the "
            "resolution; compare two different maps",
            UserWarning,
            stacklevel=2,
        )
    voxel, weight, family = first.voxel_size_angstrom, None, None
    if mask is not None:
        weight_map = read_map(mask, as_map=as_map)
        _check_same_grid(a, first, mask, weight_map)
        weight = weight_map.data
        if weight.min() < 0 or weight.max() > 1:
            raise ValueError(
                f"{mask}: mask values must be from 0 to 1, got {weight.min():.4g} to {weight.max():.4g}"
            )
    for path, density_map in ((a, first), (b, second)):
        _refuse_zeros(path, density_map.data, mask, weight)
    if mask is None and not soft_mask and report is None and sharpened is None:
        curve = fourier_shell_correlation(first.data, second.data, voxel_size_angstrom=voxel)
        shells = {"FSC": (curve.frequency, curve.correlation)}
        columns = {"correlation": curve.correlation}
    else:
        family = fsc_family(first.data, second.data, voxel_size_angstrom=voxel, mask=weight, rng=seed)
        curve, shells = family.corrected, family.curves()
        columns = {"correlation": curve.correlation, "phase_randomised": curve.phase_randomised}
        columns |= {f"{name}": getattr(family, name).correlation for name in UNCORRECTED}
    resolution = curve.resolution_or_none(threshold)
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
        others = {name: getattr(family, name).resolution_or_none(threshold) for name in UNCORRECTED}
        named = [f"{UNCORRECTED[name]} {'none' if r is None else f'{r:.2f} Å'}" for name, r in others.items()]
        text += f", corrected for the mask; uncorrected: {', '.join(named)}"
        for name, found in others.items():
            values |= {
                f"{name}_resolution_angstrom": found,
                f"{name}_correlation": getattr(family, name).correlation,
            }
    sharp = fit = None
    if report is not None or sharpened is not None:
        try:
            sharp, fit = _sharpened(first, second, curve)
        except ValueError as error:  # too few shells agree
            if sharpened is not None:
                raise ValueError(f"the map cannot be sharpened: {error}; omit --sharpened") from None
            text += f"\nno sharpening: {error}"
        else:
            text += f"\nB factor {fit.b_factor_angstrom2:.0f} Å²"
        values |= {"b_factor_angstrom2": None if fit is None else fit.b_factor_angstrom2}
    if out is not None:
        # one row for each shell
        table = pd.DataFrame({"frequency_per_angstrom": curve.frequency, **columns})
        write_text(out, table.to_csv(index=False, float_format="%.9g"))
        text += f"\nCurve: {out}"
    if figure is not None:
        drawn = plots.fourier_shell_correlation(shells, thresholds=(threshold,))
        title, about = "Fourier shell correlation", f"{a.name} and {b.name}"
        write_text(figure, render_figures(title=title, about=about, figures={text.splitlines()[0]: drawn}))
        text += f"\nFigure: {figure}"
    if sharpened is not None:
        script = write_map_and_script(sharpened, sharp)
        text += f"\nSharpened map: {sharpened}\n{how_to_view(sharpened, script)}"
    if report is not None:
        from cryoem.cli.resolution_page import resolution_page

        page, found = resolution_page(first, second, family, sharp, fit, threshold=threshold)
        write_text(report, page)
        values |= found
        text += f"\nReport: {report}"
    return Answer(text, values)


def _sharpened(first: DensityMap, second: DensityMap, curve: FSC) -> tuple[DensityMap, Guinier]:
    """Sharpen the mean of two half-maps by its own B factor, and return it with the Guinier plot of the mean."""
    from cryoem.reconstruction.sharpening import guinier, sharpen
    from cryoem.volumes.density import DensityMap

    mean = DensityMap((first.data + second.data) / 2, first.voxel_size_angstrom, first.origin)
    fit = guinier(mean, fsc=curve)
    return sharpen(mean, b_factor_angstrom2=fit.b_factor_angstrom2, fsc=curve), fit


def _refuse_zeros(path: Path, data: np.ndarray, mask: Path | None, weight: np.ndarray | None) -> None:
    """Raise a ValueError if there is nothing to compare in a map, under the mask if there is one."""
    if weight is not None and not weight.any():
        raise ValueError(f"the mask {mask} is empty: all of its voxels are 0")
    if not data.any():
        raise ValueError(f"{path} is empty: all of its voxels are 0")
    if weight is not None and not data[weight > 0].any():
        raise ValueError(f"{path} is empty under the mask {mask}: all of its voxels there are 0")


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
