"""Shared parts of the figures on a sphere: the sphere with its graticule and axes, and points as plotly arguments."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import INK, figure

ABOVE = 1.025  # radius of points, lines and images, above the unit sphere so that it does not hide them

_LIGHT = {"ambient": 0.72, "diffuse": 0.4, "specular": 0.06, "roughness": 0.8, "fresnel": 0.05}


def sphere_figure(*, solid: bool = True) -> go.Figure:
    """Return a figure of the unit sphere with a graticule and the axes of the particle frame.

    If ``solid`` is false, the sphere is transparent, and only its graticule and the axes from its centre are drawn.
    """
    fig = figure(height=600, margin={"l": 20, "r": 20, "t": 50, "b": 10}, showlegend=False)
    if solid:
        longitude, latitude = np.meshgrid(
            np.linspace(0, 2 * np.pi, 73), np.linspace(-np.pi / 2, np.pi / 2, 37)
        )
        # a mesh turns several times faster than a plotly surface
        fig.add_mesh3d(
            **xyz(_on_sphere(longitude, latitude).reshape(3, -1)),
            **grid_triangles(longitude.shape),
            color="#e6ebf1",
            lighting=_LIGHT,
            lightposition={"x": 4000, "y": 1000, "z": 6000},
            hoverinfo="skip",
            name="unit sphere",
        )
    unlisted = {"hoverinfo": "skip", "showlegend": False}
    # draw meridians and parallels every 30 degrees as one broken line
    along = np.append(np.linspace(0, 2 * np.pi, 73), np.nan)
    lines = [_on_sphere(along, np.full_like(along, at)) for at in np.deg2rad(np.arange(-60, 61, 30))]
    lines += [_on_sphere(np.full_like(along, at), along) for at in np.deg2rad(np.arange(0, 180, 30))]
    graticule = xyz(1.003 * np.concatenate(lines, axis=1))
    line = {"color": "#cdd5de", "width": 1}
    fig.add_scatter3d(**graticule, mode="lines", line=line, name="graticule", **unlisted)
    # draw each axis outwards, from the surface or from the centre, with its name at the end
    axes = (
        np.stack([float(solid) * np.eye(3), 1.22 * np.eye(3), np.full((3, 3), np.nan)], axis=1)
        .reshape(-1, 3)
        .T
    )
    fig.add_scatter3d(
        **xyz(axes),
        mode="lines+text",
        text=[label for axis in "xyz" for label in ("", f"<b>{axis}</b>", "")],
        textposition="top center",
        textfont={"size": 14, "color": INK},
        line={"color": INK, "width": 4},
        name="particle axes",
        **unlisted,
    )
    hidden = {"visible": False, "range": [-1.3, 1.3]}
    camera = {"eye": {"x": 0.87, "y": 0.87, "z": 0.55}}
    return fig.update_scenes(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube", camera=camera, uirevision="kept"
    )


def xyz(coordinates: np.ndarray) -> dict:
    """Return (3, ...) coordinates as keyword arguments for a plotly trace."""
    return dict(zip("xyz", np.asarray(coordinates, np.float32), strict=True))


def grid_triangles(shape: tuple[int, int]) -> dict:
    """Return two triangles for each cell of a (rows, columns) grid of points, as arguments for a plotly mesh."""
    corner = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    a, b, c, d = (q.ravel() for q in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    return dict(zip("ijk", np.concatenate([[a, b, c], [a, c, d]], axis=1), strict=True))


def _on_sphere(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    ring = np.cos(latitude)
    return np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)])
