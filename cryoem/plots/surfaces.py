"""A row of density surfaces, seen from the same direction and at the same scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.densities import automatic_level, mesh, surface_mesh
from cryoem.plots.template import named_colours, non_empty_mapping, panels
from cryoem.volumes.density import DensityMap

TRIANGLES_PER_ROW = 60_000

_LIGHT = {"ambient": 0.38, "diffuse": 0.85, "specular": 0.2, "roughness": 0.5, "fresnel": 0.1}
_EYE = {"x": 1.15, "y": 1.15, "z": 0.7}


def surface_row(maps: Mapping[str, DensityMap]) -> go.Figure:
    """Plot isosurfaces of several maps side by side, from the same direction and at the same scale.

    Parameters
    ----------
    maps : mapping of str to DensityMap
        Maps by title. Each surface is drawn at the ``automatic_level`` of its map.

    Returns
    -------
    Figure
        One scene with one mesh per map, in angstrom in the particle frame.

    Raises
    ------
    ValueError
        If there are no maps, or a map has no positive voxels.
    """
    maps = non_empty_mapping(maps, name="maps")
    fig = panels(
        layout={"height": 330, "margin": {"l": 0, "r": 0, "t": 40, "b": 0}, "showlegend": False},
        cols=len(maps),
        specs=[[{"type": "scene"}] * len(maps)],
        subplot_titles=[str(title) for title in maps],
        horizontal_spacing=0.005,
    )
    reach = 0.0
    for column, (title, colour) in enumerate(named_colours(maps).items(), start=1):
        density = maps[title].data
        vertices, triangles = surface_mesh(
            density,
            automatic_level(density),
            voxel_size_angstrom=maps[title].voxel_size_angstrom,
            max_triangles=TRIANGLES_PER_ROW // len(maps),
        )
        reach = max(reach, float(np.abs(vertices).max()))
        surface = mesh(vertices, triangles, color=colour, lighting=_LIGHT, name=str(title))
        fig.add_trace(surface, row=1, col=column)
    hidden = {"visible": False, "range": [-reach, reach]}
    return fig.update_scenes(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube", camera={"eye": _EYE}
    )
