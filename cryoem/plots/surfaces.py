"""Isosurfaces of densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.ndimage import affine_transform
from skimage.filters import threshold_otsu
from skimage.measure import marching_cubes

from cryoem.plots.template import panels
from cryoem.validation import finite_array, positive_number

# A triangle takes about 16 bytes in a page: all surfaces of one figure together stay below 2 MB.
TRIANGLES_PER_FIGURE = 100_000
TRIANGLES_PER_SURFACE = 60_000
AUTOMATIC_LEVELS = (0.6, 1.0, 1.5)

_SURFACE_COLOURS = ("#6ea6d8", "#f0b13c")
_LIGHT = {"ambient": 0.32, "diffuse": 0.9, "specular": 0.25, "roughness": 0.5, "fresnel": 0.1}
_EYE = np.array([1.3, 1.3, 0.8])


def density_isosurface(
    volume: np.ndarray,
    *,
    voxel_size_angstrom: float,
    level: float | Sequence[float] | None = None,
    second: np.ndarray | None = None,
    names: tuple[str, str] | None = None,
) -> go.Figure:
    """Lit isosurface of a density with a slider over levels; with ``second``, two maps in adjacent scenes.

    Parameters
    ----------
    volume : (z, y, x) array
        Density. Coordinates are particle-frame angstrom, 0 at voxel ``n // 2`` of each axis.
    voxel_size_angstrom : float
        Edge of a voxel of both maps.
    level : float or sequence of float, optional
        Density on the surface, in the unit of the map. The default is three multiples of an automatic threshold
        (Otsu's on the positive voxels), computed for each map.
    second : (z, y, x) array, optional
        Map for a second scene, which starts with the same camera.
    names : tuple of str, optional
        Titles of the two scenes.

    Returns
    -------
    Figure
        One mesh per map and level, coarsened where needed to keep the total below 100,000 triangles.

    Raises
    ------
    ValueError
        If a map does not have three axes, is not finite or has no positive voxel for the automatic level, a level
        is outside the map's range, or the voxel size is not positive.
    """
    maps = [finite_array(volume, name="volume", ndim=3)]
    if second is not None:
        maps.append(finite_array(second, name="second", ndim=3))
    voxel_size_angstrom = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    names = names or (("first", "second") if second is not None else ("density",))
    if len(names) != len(maps):
        raise ValueError(f"names must have one entry per map, {len(maps)}, got {len(names)}")
    if level is None:
        levels = [[factor * automatic_level(m) for factor in AUTOMATIC_LEVELS] for m in maps]
        labels, shown = [f"{factor:g}" for factor in AUTOMATIC_LEVELS], AUTOMATIC_LEVELS.index(1.0)
    else:
        given = [float(value) for value in np.atleast_1d(level)]
        levels, labels, shown = [given] * len(maps), [f"{value:.4g}" for value in given], len(given) // 2

    budget = min(TRIANGLES_PER_SURFACE, TRIANGLES_PER_FIGURE // (len(maps) * len(labels)))
    fig = panels(
        layout={"height": 560, "margin": {"l": 10, "r": 10, "t": 36, "b": 10}, "showlegend": False},
        cols=len(maps),
        specs=[[{"type": "scene"}] * len(maps)],
        subplot_titles=list(names) if second is not None else None,
        horizontal_spacing=0.02,
    )
    lowest, highest = np.full(3, np.inf), np.full(3, -np.inf)
    for column, (density, name, own_levels, colour) in enumerate(
        zip(maps, names, levels, _SURFACE_COLOURS, strict=False), start=1
    ):
        for index, value in enumerate(own_levels):
            vertices, triangles = surface_mesh(
                density, value, voxel_size_angstrom=voxel_size_angstrom, max_triangles=budget
            )
            lowest, highest = np.minimum(lowest, vertices.min(0)), np.maximum(highest, vertices.max(0))
            mesh = _mesh(vertices, triangles, colour=colour, name=f"{name} at {value:.4g}")
            fig.add_trace(mesh.update(visible=index == shown), row=1, col=column)
    reach = 0.51 * (highest - lowest).max()
    for axis, middle in zip("xyz", (lowest + highest) / 2, strict=True):
        span = {"range": [middle - reach, middle + reach], "nticks": 5}
        fig.update_scenes({f"{axis}axis": {**span, "title": {"text": f"{axis} (Å)"}}})
    # two scenes share the width: a camera further away leaves room for the axis titles
    eye = dict(zip("xyz", _EYE * (1.15 if second is not None else 1.0), strict=True))
    fig.update_scenes(aspectmode="cube", camera={"eye": eye, "center": {"x": 0, "y": 0, "z": -0.1}})
    if len(labels) > 1:
        suffix = " × the automatic level" if level is None else ""
        fig.update_layout(sliders=[_level_slider(labels, shown, len(maps), suffix)])
    return fig


def automatic_level(volume: np.ndarray) -> float:
    """Return Otsu's threshold on the positive voxels of a (z, y, x) map, at most half of the map's maximum.

    Raises
    ------
    ValueError
        If no voxel is positive.
    """
    positive = volume[volume > 0]
    if positive.size == 0:
        raise ValueError(
            f"volume must have a positive voxel for an automatic level, got a maximum of {volume.max()}"
        )
    return float(min(threshold_otsu(positive), positive.max() / 2))


def surface_mesh(
    volume: np.ndarray,
    level: float,
    *,
    voxel_size_angstrom: float,
    max_triangles: int = TRIANGLES_PER_SURFACE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a closed triangle mesh of an isosurface (marching cubes).

    Parameters
    ----------
    volume : (z, y, x) array
        Density.
    level : float
        Density on the surface, between the map's minimum and maximum.
    voxel_size_angstrom : float
        Edge of a voxel.
    max_triangles : int
        Maximum number of triangles. The map is resampled on coarser grids until the mesh fits.

    Returns
    -------
    vertices : (v, 3) float32 array
        x, y, z in angstrom; the origin is voxel ``n // 2``.
    triangles : (t, 3) integer array
        Vertex indices, anticlockwise seen from outside.

    Raises
    ------
    ValueError
        If the map does not have three axes or the level is not inside its range.
    """
    volume = finite_array(volume, name="volume", ndim=3).astype(np.float32, copy=False)
    lowest, highest = float(volume.min()), float(volume.max())
    if not lowest < level < highest:
        raise ValueError(
            f"level must be between the minimum {lowest:.4g} and the maximum {highest:.4g} of the map, "
            f"got {level:.4g}"
        )
    step = 1.0
    while True:
        grid = volume if step == 1 else _coarser(volume, step)
        # a layer of the lowest value around the map closes the surface at the box
        corners, triangles, _, _ = marching_cubes(np.pad(grid, 1, constant_values=lowest), level)
        if len(triangles) <= max_triangles:
            break
        step *= max(1.1, np.sqrt(len(triangles) / max_triangles))
    centre = np.array(volume.shape) // 2
    # (v, zyx) voxels -> (v, xyz) angstrom
    vertices = ((corners - 1) * step - centre)[:, ::-1] * voxel_size_angstrom
    return vertices.astype(np.float32), triangles.astype(np.uint16 if len(vertices) < 2**16 else np.uint32)


def _coarser(volume: np.ndarray, step: float) -> np.ndarray:
    shape = tuple(int(np.ceil((n - 1) / step)) + 1 for n in volume.shape)
    return affine_transform(volume, np.full(3, step), output_shape=shape, order=1, mode="nearest")


def _mesh(vertices: np.ndarray, triangles: np.ndarray, *, colour: str, name: str) -> go.Mesh3d:
    x, y, z = vertices.T
    i, j, k = triangles.T
    return go.Mesh3d(
        **{"x": x, "y": y, "z": z, "i": i, "j": j, "k": k},
        color=colour,
        flatshading=False,
        lighting=_LIGHT,
        lightposition={"x": 4000, "y": 1000, "z": 6000},
        name=name,
        hovertemplate="x %{x:.1f} Å<br>y %{y:.1f} Å<br>z %{z:.1f} Å<extra>%{fullData.name}</extra>",
    )


def _level_slider(labels: list[str], shown: int, n_maps: int, suffix: str) -> dict:
    """Return a plotly slider that shows one level of each map."""
    shows = [[i == at for i in range(len(labels))] * n_maps for at in range(len(labels))]
    steps = [
        {"label": label, "method": "restyle", "args": [{"visible": visible}]}
        for label, visible in zip(labels, shows, strict=True)
    ]
    place = {"x": 0.5, "xanchor": "center", "len": 0.5, "y": 0.02, "pad": {"t": 10, "b": 5}}
    label = {"prefix": "surface at ", "suffix": suffix}
    return {"active": shown, "steps": steps, "currentvalue": label, **place}
