"""Plots of density maps and images: slices, isosurfaces and galleries of projections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.ndimage import affine_transform, map_coordinates
from skimage.filters import threshold_otsu
from skimage.measure import marching_cubes

from cryoem.plots.template import INK, MUTED, RESOLUTION_COLOURS, figure, panels, round_below
from cryoem.validation import finite_array, positive_number, whole_number

# A triangle takes about 16 bytes in an HTML page, so the surfaces of one figure stay below 2 MB.
TRIANGLES_PER_FIGURE = 100_000
TRIANGLES_PER_SURFACE = 60_000
GALLERY_WIDTH = 720  # expected width on the page, px; a wider gallery has margins at its sides
# Grey values of a gallery; the space between its images has the colour of the page. Pages with dark colours replace
# hexadecimal colours, which here are those of the images.
WHITE, NO_IMAGE = 254, 255
GREYS = (
    (0.0, "rgb(0,0,0)"),
    (WHITE / NO_IMAGE, "rgb(255,255,255)"),
    ((WHITE + 0.5) / NO_IMAGE, "rgba(0,0,0,0)"),
    (1.0, "rgba(0,0,0,0)"),
)
AUTOMATIC_LEVELS = (0.6, 1.0, 1.5)
POSITION = "x %{x:.1f} Å<br>y %{y:.1f} Å<br>z %{z:.1f} Å"

SURFACE_COLOURS = ("#6ea6d8", "#f0b13c")
_LIGHT = {"ambient": 0.32, "diffuse": 0.9, "specular": 0.25, "roughness": 0.5, "fresnel": 0.1}
_EYE = np.array([1.3, 1.3, 0.8])


def density_slices(volume: np.ndarray, *, voxel_size_angstrom: float) -> go.Figure:
    """Plot three orthogonal slices through the centre of a density map, with high density in white.

    The axes show coordinates in angstrom in the particle frame, with the origin at voxel ``n // 2``.

    Parameters
    ----------
    volume : (z, y, x) array
        Density map.
    voxel_size_angstrom : float
        Voxel size in angstrom.

    Raises
    ------
    ValueError
        If the map is not three-dimensional or not finite, or the voxel size is not positive.
    """
    volume = finite_array(volume, name="volume", ndim=3)
    voxel_size_angstrom = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    z, y, x = ((np.arange(n) - n // 2) * voxel_size_angstrom for n in volume.shape)
    at_z, at_y, at_x = (n // 2 for n in volume.shape)
    slices = (
        ("x", x, "y", y, volume[at_z]),
        ("x", x, "z", z, volume[:, at_y]),
        ("y", y, "z", z, volume[:, :, at_x]),
    )
    lowest, highest = np.percentile(np.concatenate([s[-1].ravel() for s in slices]), [0.1, 99.9])
    grey = {"colorscale": "gray", "cmin": lowest, "cmax": highest, "colorbar": {"title": {"text": "density"}}}
    fig = panels(
        layout={"height": 360, "coloraxis": grey},
        cols=3,
        subplot_titles=["z = 0", "y = 0", "x = 0"],
        horizontal_spacing=0.16,
    )
    for column, (across, across_angstrom, up, up_angstrom, values) in enumerate(slices, start=1):
        place = {"row": 1, "col": column}
        fig.add_heatmap(
            z=values.astype(np.float32),
            x=across_angstrom,
            y=up_angstrom,
            coloraxis="coloraxis",
            hovertemplate=f"{across} %{{x:.1f}} Å<br>{up} %{{y:.1f}} Å<br>%{{z:.4g}}<extra></extra>",
            **place,
        )
        square = {"scaleanchor": "x" if column == 1 else f"x{column}", "constraintoward": "top"}
        fig.update_xaxes(title_text=f"{across} (Å)", constrain="domain", showgrid=False, **place)
        fig.update_yaxes(title_text=f"{up} (Å)", constrain="domain", showgrid=False, **square, **place)
    return fig.update_yaxes(title_standoff=4)


def projection_gallery(
    images: np.ndarray,
    *,
    pixel_size_angstrom: float | None = None,
    columns: int = 6,
    titles: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
) -> go.Figure:
    """Plot images in a grid, each with its own grey scale, and add a scale bar if the pixel size is given.

    Parameters
    ----------
    images : (n, y, x) array
        Images, arranged from left to right and top to bottom. In each image, x points right and y points up.
    pixel_size_angstrom : float, optional
        Pixel size in angstrom, for the scale bar. Default: no scale bar.
    columns : int
        Maximum number of images per row.
    titles : sequence of str, optional
        Short titles above the images, one per image; ``<br>`` begins a second line. Default: no titles.
    frames : sequence of str or None, optional
        Colour of the frame around each image, or None for no frame. Default: no frames.

    Raises
    ------
    ValueError
        If ``images`` is not three-dimensional or not finite, there is not one title or frame per image, or the pixel
        size or ``columns`` is not positive.
    """
    images = finite_array(images, name="images", ndim=3)
    n, height, width = images.shape
    columns = min(whole_number(columns, name="columns", at_least=1), n)
    if titles is not None and len(titles) != n:
        raise ValueError(f"titles must have one entry per image ({n}), got {len(titles)}")
    if frames is not None and len(frames) != n:
        raise ValueError(f"frames must have one entry per image ({n}), got {len(frames)}")
    rows = -(-n // columns)
    gap = max(2, width // 24)
    lines = 0 if titles is None else 1 + max(title.count("<br>") for title in titles)
    headroom = max(gap, -(-lines * height // 5))
    pitch_y, pitch_x = height + headroom, width + gap
    mosaic = np.full((rows * pitch_y, columns * pitch_x - gap), NO_IMAGE, np.uint8)
    annotations, shapes = [], []
    title_style = {"yanchor": "bottom", "showarrow": False, "font": {"size": 12, "color": MUTED}}
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        bottom, left = (rows - 1 - row) * pitch_y, column * pitch_x
        lowest, highest = np.percentile(image, [0.5, 99.5])
        grey = WHITE * np.clip((image - lowest) / (highest - lowest or 1.0), 0, 1)
        mosaic[bottom : bottom + height, left : left + width] = grey.round()
        if titles is not None:
            place = {"x": left + width / 2 - 0.5, "y": bottom + height}
            annotations.append({"text": titles[index], "borderpad": 1, **place, **title_style})
        if frames is not None and frames[index] is not None:
            corners = {
                "x0": left - 0.5,
                "y0": bottom - 0.5,
                "x1": left + width - 0.5,
                "y1": bottom + height - 0.5,
            }
            shapes.append({"type": "rect", "line": {"color": frames[index], "width": 3}, **corners})
    fig = figure(
        annotations=annotations,
        shapes=shapes,
        height=int(np.clip(GALLERY_WIDTH * mosaic.shape[0] / mosaic.shape[1], 180, 1400)) + 54,
        margin={"l": 10, "r": 10, "t": 34, "b": 20},
    )
    fig.add_heatmap(z=mosaic, colorscale=GREYS, zmin=0, zmax=NO_IMAGE, showscale=False, hoverinfo="skip")
    axis = {"visible": False, "constrain": "domain"}
    fig.update_xaxes(axis, range=[-0.5, mosaic.shape[1] - 0.5])
    fig.update_yaxes(axis, range=[-0.5 - 0.16 * height, mosaic.shape[0] - 0.5], scaleanchor="x")
    if pixel_size_angstrom is not None:
        pixel = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
        bar_angstrom = round_below(0.5 * width * pixel)
        bar_px, y = bar_angstrom / pixel, -0.5 - 0.1 * height
        fig.add_shape(type="line", x0=-0.5, x1=bar_px - 0.5, y0=y, y1=y, line={"color": INK, "width": 4})
        label = {"text": f"{bar_angstrom:g} Å", "showarrow": False, "xanchor": "left", "xshift": 6}
        fig.add_annotation(x=bar_px, y=y, **label)
    return fig


def density_isosurface(
    volume: np.ndarray,
    *,
    voxel_size_angstrom: float,
    level: float | Sequence[float] | None = None,
    second: np.ndarray | None = None,
    names: tuple[str, str] | None = None,
    local_resolution_angstrom: np.ndarray | None = None,
) -> go.Figure:
    """Plot an isosurface of one density map, or of two maps side by side.

    A slider selects the level if there are several. Coordinates are in angstrom in the particle frame, with the origin
    at voxel ``n // 2`` of each axis.

    Parameters
    ----------
    volume : (z, y, x) array
        Density map.
    voxel_size_angstrom : float
        Voxel size of the maps in angstrom.
    level : float or sequence of float, optional
        Density value or values at which to draw surfaces, in the units of the map. Default: 0.6, 1 and 1.5 times the
        ``automatic_level`` of each map.
    second : (z, y, x) array, optional
        Second map. Both maps are shown side by side, from the same viewpoint.
    names : tuple of str, optional
        Names of the maps, which are shown in the hover text and, if there are two maps, as titles.
    local_resolution_angstrom : (z, y, x) array, optional
        Resolution around each voxel, by which the surfaces are coloured. Default: one colour for each map.

    Returns
    -------
    Figure
        One mesh per map and level. Meshes are coarsened if necessary to keep the total below 100,000 triangles. The
        axes end near the surfaces that are shown first, and cut off surfaces of lower levels, such as those of noise.

    Raises
    ------
    ValueError
        If a map is not three-dimensional or not finite, a level is outside the range of a map, the voxel size is not
        positive, there is not one name per map, or ``level`` is not given and a map has no positive voxels.
    """
    maps = [finite_array(volume, name="volume", ndim=3)]
    if second is not None:
        maps.append(finite_array(second, name="second", ndim=3))
    voxel_size_angstrom = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    names = names or (("first", "second") if second is not None else ("density",))
    if len(names) != len(maps):
        raise ValueError(f"names must have one entry per map ({len(maps)}), got {len(names)}")
    levels, labels, shown = _levels(maps, level)
    if local_resolution_angstrom is not None:
        local_resolution_angstrom = finite_array(
            local_resolution_angstrom, name="local_resolution_angstrom", ndim=3
        )
        for each in maps:
            if each.shape != local_resolution_angstrom.shape:
                raise ValueError(
                    f"local_resolution_angstrom must have the shape of the map, {each.shape}, "
                    f"got {local_resolution_angstrom.shape}"
                )
    budget = min(TRIANGLES_PER_SURFACE, TRIANGLES_PER_FIGURE // (len(maps) * len(labels)))
    fig = panels(
        layout={"height": 560, "margin": {"l": 10, "r": 10, "t": 36, "b": 10}, "showlegend": False},
        cols=len(maps),
        specs=[[{"type": "scene"}] * len(maps)],
        subplot_titles=list(names) if second is not None else None,
        horizontal_spacing=0.02,
    )
    corners, coloured = [], []
    for column, (density, name, own_levels) in enumerate(zip(maps, names, levels, strict=True), start=1):
        for index, value in enumerate(own_levels):
            vertices, triangles = surface_mesh(
                density, value, voxel_size_angstrom=voxel_size_angstrom, max_triangles=budget
            )
            if index == shown:  # at a lower level, noise may fill the box
                corners += [vertices.min(0), vertices.max(0)]
            paint, hover = {"color": SURFACE_COLOURS[column - 1]}, ""
            if local_resolution_angstrom is not None:
                at = vertices[:, ::-1].T / voxel_size_angstrom + np.array(density.shape)[:, None] // 2
                shown_values = map_coordinates(local_resolution_angstrom, at, order=1, mode="nearest")
                coloured.append(shown_values)
                paint = {"intensity": shown_values.astype(np.float32), "coloraxis": "coloraxis"}
                hover = "<br>resolution %{intensity:.1f} Å"
            paint |= {"hovertemplate": f"{POSITION}{hover}<extra>%{{fullData.name}}</extra>"}
            surface = mesh(
                vertices, triangles, name=f"{name} at {value:.4g}", visible=index == shown, **paint
            )
            fig.add_trace(surface, row=1, col=column)
    if coloured:
        low, high = np.percentile(np.concatenate(coloured), [2, 98])
        bar = {"title": {"text": "local resolution (Å)"}, "len": 0.7}
        fig.update_layout(
            coloraxis={
                "colorscale": RESOLUTION_COLOURS,
                "cmin": low,
                "cmax": max(high, low + 0.1),
                "colorbar": bar,
            }
        )
    lowest, highest = np.min(corners, axis=0).astype(float), np.max(corners, axis=0).astype(float)
    reach = 0.53 * (highest - lowest).max()
    for axis, middle in zip("xyz", (lowest + highest) / 2, strict=True):
        span = {"range": [middle - reach, middle + reach], "nticks": 5}
        fig.update_scenes({f"{axis}axis": {**span, "title": {"text": f"{axis} (Å)"}}})
    # two scenes share the width, so move the camera back to leave room for the axis titles
    eye = dict(zip("xyz", _EYE * (1.15 if second is not None else 1.0), strict=True))
    fig.update_scenes(aspectmode="cube", camera={"eye": eye, "center": {"x": 0, "y": 0, "z": -0.1}})
    if len(labels) > 1:
        suffix = " × the automatic level" if level is None else ""
        fig.update_layout(sliders=[_level_slider(labels, shown, maps=len(maps), suffix=suffix)])
    return fig


def _levels(
    maps: list[np.ndarray], level: float | Sequence[float] | None
) -> tuple[list[list[float]], list[str], int]:
    """Return the levels of each map, their labels on the slider, and the index of the one to show first."""
    if level is None:
        levels = [[factor * automatic_level(each) for factor in AUTOMATIC_LEVELS] for each in maps]
        return levels, [f"{factor:g}" for factor in AUTOMATIC_LEVELS], AUTOMATIC_LEVELS.index(1.0)
    given = [float(value) for value in np.atleast_1d(level)]
    return [given] * len(maps), [f"{value:.4g}" for value in given], len(given) // 2


def _level_slider(labels: list[str], shown: int, *, maps: int, suffix: str) -> dict:
    """Return a slider, of which each step shows one level of each map."""
    shows = [[i == at for i in range(len(labels))] * maps for at in range(len(labels))]
    steps = [
        {"label": label, "method": "restyle", "args": [{"visible": visible}]}
        for label, visible in zip(labels, shows, strict=True)
    ]
    place = {"x": 0.5, "xanchor": "center", "len": 0.5, "y": 0.02, "pad": {"t": 10, "b": 5}}
    label = {"prefix": "surface at ", "suffix": suffix}
    return {"active": shown, "steps": steps, "currentvalue": label, **place}


def automatic_level(volume: np.ndarray) -> float:
    """Return Otsu's threshold for the positive voxels of a (z, y, x) map, or half the map's maximum if that is lower.

    Raises
    ------
    ValueError
        If no voxel is positive.
    """
    positive = volume[volume > 0]
    if positive.size == 0:
        raise ValueError(
            "an automatic level requires a map with positive voxels, "
            f"got a maximum of {volume.max()}; choose the level yourself"
        )
    highest = positive.max()
    return float(highest * min(threshold_otsu(positive / highest), 0.5))


def surface_mesh(
    volume: np.ndarray,
    level: float,
    *,
    voxel_size_angstrom: float,
    max_triangles: int = TRIANGLES_PER_SURFACE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a closed triangle mesh of an isosurface, computed by marching cubes.

    Parameters
    ----------
    volume : (z, y, x) array
        Density map.
    level : float
        Density value on the surface, between the minimum and the maximum of the map.
    voxel_size_angstrom : float
        Voxel size in angstrom.
    max_triangles : int
        Maximum number of triangles. The map is resampled to coarser grids until the mesh does not exceed this number.

    Returns
    -------
    vertices : (v, 3) float32 array
        Vertex coordinates (x, y, z) in angstrom, with the origin at voxel ``n // 2``.
    triangles : (t, 3) integer array
        Vertex indices, anticlockwise when viewed from outside.

    Raises
    ------
    ValueError
        If the map is not three-dimensional or not finite, or the level is not between its minimum and its maximum.
    """
    volume = finite_array(volume, name="volume", ndim=3).astype(np.float32, copy=False)
    lowest, highest = float(volume.min()), float(volume.max())
    if not lowest < level < highest:
        raise ValueError(
            f"level must be between the minimum {lowest:.4g} and the maximum {highest:.4g} of the map, "
            f"got {level:.4g}"
        )
    step, grid = 1.0, volume
    while True:
        # pad with the lowest value to close the surface at the edges of the box
        corners, triangles, _, _ = marching_cubes(np.pad(grid, 1, constant_values=lowest), level)
        if len(triangles) <= max_triangles:
            break
        step *= max(1.1, np.sqrt(len(triangles) / max_triangles))
        shape = tuple(int(np.ceil((n - 1) / step)) + 1 for n in volume.shape)
        grid = affine_transform(volume, np.full(3, step), output_shape=shape, order=1, mode="nearest")
    centre = np.array(volume.shape) // 2
    # (v, zyx) voxels -> (v, xyz) angstrom
    vertices = ((corners - 1) * step - centre)[:, ::-1] * voxel_size_angstrom
    return vertices.astype(np.float32), triangles.astype(np.uint16 if len(vertices) < 2**16 else np.uint32)


def mesh(vertices: np.ndarray, triangles: np.ndarray, **look) -> go.Mesh3d:
    """Return a mesh from ``surface_mesh`` as a smooth, lit surface; ``look`` adds or replaces its properties."""
    usual = {
        "color": SURFACE_COLOURS[0],
        "flatshading": False,
        "lighting": _LIGHT,
        "lightposition": {"x": 4000, "y": 1000, "z": 6000},
        "hovertemplate": f"{POSITION}<extra>%{{fullData.name}}</extra>",
    }
    corners, faces = zip("xyz", vertices.T, strict=True), zip("ijk", triangles.T, strict=True)
    return go.Mesh3d(**dict(corners), **dict(faces), **(usual | look))
