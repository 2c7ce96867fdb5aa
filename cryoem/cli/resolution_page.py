"""The page of ``cryoem fsc --report``: the FSC family, Guinier plot, local resolution and FSC in cones of half-maps."""

from __future__ import annotations

import numpy as np

from cryoem import plots
from cryoem.reconstruction.masks import FSCFamily
from cryoem.reconstruction.sharpening import Guinier, guinier
from cryoem.reconstruction.variation import conical_fsc, local_resolution
from cryoem.runs.report import render_figures
from cryoem.volumes.density import DensityMap, low_pass


def resolution_page(
    first: DensityMap,
    second: DensityMap,
    family: FSCFamily,
    sharpened: DensityMap | None,
    fit: Guinier | None,
    *,
    threshold: float,
) -> tuple[str, dict]:
    """Return the page as HTML, and the numbers it adds to the FSC family.

    ``sharpened`` and ``fit`` are the sharpened mean of the half-maps and the Guinier plot of the mean. They are None if
    too few shells agree.
    """
    voxel, inside = first.voxel_size_angstrom, family.tight_mask > 0.5
    local = local_resolution(first.data, second.data, voxel_size_angstrom=voxel)
    quartiles = np.percentile(local[inside], [10, 50, 90])
    cones = conical_fsc(first.data, second.data, voxel_size_angstrom=voxel, mask=family.tight_mask)
    along, resolution = cones.resolution_angstrom(threshold), family.corrected.resolution_or_none(threshold)
    shown, kind = DensityMap((first.data + second.data) / 2, voxel), "mean of the half-maps"
    figures = {
        "Fourier shell correlation of the half-maps without a mask, under a loose and a tight mask, and under the "
        "tight mask corrected by phase randomisation (Chen et al., 2013), which gives the resolution.": (
            plots.fourier_shell_correlation(family.curves(), thresholds=(threshold,))
        )
    }
    if fit is not None:
        cutoff = np.sqrt(fit.frequency_squared[fit.fitted].max())
        figures[
            "Guinier plot (Rosenthal and Henderson, 2003): amplitudes weighted by the corrected FSC. The slope of the "
            "line is the B factor."
        ] = plots.guinier_plot(
            {"mean of the half-maps": fit, "sharpened": guinier(sharpened, to_angstrom=1 / cutoff)}
        )
        shown, kind = sharpened, "sharpened map"
    shown = low_pass(shown, max(2.2 * voxel, resolution or 0))
    figures[
        f"The {kind}, coloured by the local resolution (Cardone et al., 2013), with FSC threshold 0.5."
    ] = plots.density_isosurface(
        shown.data * family.tight_mask, voxel_size_angstrom=voxel, local_resolution_angstrom=local
    )
    figures[
        f"Resolution in cones of {cones.half_angle_deg:g}° around each direction (3D FSC; Tan et al., 2017)."
    ] = plots.resolution_sphere(cones.directions, along)
    stated = "No resolution" if resolution is None else f"Corrected resolution {resolution:.2f} Å"
    about = (
        f"{stated} at FSC {threshold:g}. "
        f"{'No B factor' if fit is None else f'B factor {fit.b_factor_angstrom2:.0f} Å²'}. "
        f"Local resolution {quartiles[0]:.1f} to {quartiles[2]:.1f} Å "
        f"(10th to 90th percentile, median {quartiles[1]:.1f} Å). In cones, {along.min():.1f} to {along.max():.1f} Å."
    )
    found = {
        "local_resolution_percentiles_angstrom": quartiles,
        "conical_resolution_range_angstrom": [along.min(), along.max()],
    }
    return render_figures(title="Resolution of two half-maps", about=about, figures=figures), found
