"""The page of ``cryoem fsc --report``: the FSC family, Guinier plot, local resolution and FSC in cones of half-maps."""

from __future__ import annotations

import html

import numpy as np

from cryoem import plots
from cryoem.reconstruction.masks import FSCFamily
from cryoem.reconstruction.sharpening import Guinier, guinier
from cryoem.reconstruction.variation import conical_fsc, local_resolution
from cryoem.volumes.density import DensityMap, low_pass

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Resolution of two half-maps</title>
<style>
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1f2933;
background: #fff }}
figure {{ margin: 1rem 0 2.5rem }} figcaption {{ color: #4d5a66 }}
</style></head><body>
<h1>Resolution of two half-maps</h1>
<p>{summary}</p>
{figures}
</body></html>
"""


def resolution_page(
    first: DensityMap,
    second: DensityMap,
    family: FSCFamily,
    sharpened: DensityMap,
    fit: Guinier,
    *,
    threshold: float,
) -> tuple[str, dict]:
    """Return the page as HTML, and the numbers it adds to the FSC family.

    ``sharpened`` and ``fit`` are the sharpened mean of the half-maps and the Guinier plot of the mean.
    """
    voxel, inside = first.voxel_size_angstrom, family.tight_mask > 0.5
    local = local_resolution(first.data, second.data, voxel_size_angstrom=voxel)
    quartiles = np.percentile(local[inside], [10, 50, 90])
    cones = conical_fsc(first.data, second.data, voxel_size_angstrom=voxel, mask=family.tight_mask)
    cutoff = np.sqrt(fit.frequency_squared[fit.fitted].max())
    along = cones.resolution_angstrom(threshold)
    shown = low_pass(sharpened, max(2.2 * voxel, family.corrected.resolution_angstrom(threshold)))
    surface = plots.density_isosurface(
        shown.data * family.tight_mask, voxel_size_angstrom=voxel, local_resolution_angstrom=local
    )
    figures = [
        (
            plots.fourier_shell_correlation(family.curves(), thresholds=(threshold,)),
            "Fourier shell correlation of the half-maps without a mask, under a loose and a tight mask, and under the "
            "tight mask corrected by phase randomisation (Chen et al., 2013), which gives the resolution.",
        ),
        (
            plots.guinier_plot(
                {"mean of the half-maps": fit, "sharpened": guinier(sharpened, to_angstrom=1 / cutoff)}
            ),
            "Guinier plot (Rosenthal and Henderson, 2003): amplitudes weighted by the corrected FSC. The slope of the "
            "line is the B factor.",
        ),
        (
            surface,
            "The sharpened map, coloured by the local resolution (Cardone et al., 2013), with FSC threshold 0.5.",
        ),
        (
            plots.resolution_sphere(cones.directions, along),
            f"Resolution in cones of {cones.half_angle_deg:g}° around each direction (3D FSC; Tan et al., 2017).",
        ),
    ]
    parts = []
    for figure, caption in figures:
        # plotly.js is included once, so that the page works offline
        drawn = figure.to_html(full_html=False, include_plotlyjs=not parts, config={"displaylogo": False})
        parts.append(f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>")
    summary = (
        f"Corrected resolution {family.corrected.resolution_angstrom(threshold):.2f} Å at FSC {threshold:g}. "
        f"B factor {fit.b_factor_angstrom2:.0f} Å². Local resolution {quartiles[0]:.1f} to {quartiles[2]:.1f} Å "
        f"(10th to 90th percentile, median {quartiles[1]:.1f} Å). In cones, {along.min():.1f} to {along.max():.1f} Å."
    )
    found = {
        "local_resolution_percentiles_angstrom": quartiles,
        "conical_resolution_range_angstrom": [along.min(), along.max()],
    }
    return PAGE.format(summary=html.escape(summary), figures="\n".join(parts)), found
