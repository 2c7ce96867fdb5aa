"""Grey-scale images: central slices of a density, galleries of projections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import INK, MUTED, figure, panels, round_below
from cryoem.validation import finite_array, positive_number


def density_slices(volume: np.ndarray, *, voxel_size_angstrom: float) -> go.Figure:
    """Three orthogonal slices of a density through voxel ``n // 2``, in grey: bright is dense.

    Parameters
    ----------
    volume : (z, y, x) array
        Density.
    voxel_size_angstrom : float
        Edge of a voxel. Axes are particle-frame angstrom, 0 at voxel ``n // 2``, with the second axis up.

    Raises
    ------
    ValueError
        If the map does not have three axes or is not finite, or the voxel size is not positive.
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
        horizontal_spacing=0.12,
    )
    for column, (across, across_angstrom, up, up_angstrom, values) in enumerate(slices, start=1):
        place = {"row": 1, "col": column}
        fig.add_trace(
            go.Heatmap(
                z=values.astype(np.float32),
                x=across_angstrom,
                y=up_angstrom,
                coloraxis="coloraxis",
                hovertemplate=f"{across} %{{x:.1f}} Å<br>{up} %{{y:.1f}} Å<br>%{{z:.4g}}<extra></extra>",
            ),
            **place,
        )
        square = {"scaleanchor": "x" if column == 1 else f"x{column}", "constraintoward": "top"}
        fig.update_xaxes(title_text=f"{across} (Å)", constrain="domain", showgrid=False, **place)
        fig.update_yaxes(title_text=f"{up} (Å)", constrain="domain", showgrid=False, **square, **place)
    fig.update_yaxes(title_standoff=4)
    return fig


def projection_gallery(
    images: np.ndarray,
    *,
    pixel_size_angstrom: float | None = None,
    columns: int = 6,
    titles: Sequence[str] | None = None,
) -> go.Figure:
    """Images in a grid of grey panels, each with its own contrast, with one scale bar if their scale is known.

    Parameters
    ----------
    images : (n, y, x) array
        Drawn from left to right and top to bottom, x to the right and y up.
    pixel_size_angstrom : float, optional
        Edge of a pixel, for the scale bar. None for no bar, as with photographs.
    columns : int
        Panels in a row.
    titles : sequence of str, optional
        One short title per image, drawn above it.

    Raises
    ------
    ValueError
        If ``images`` does not have three axes or is not finite, titles and images differ in number, or a size or
        ``columns`` is not positive.
    """
    images = finite_array(images, name="images", ndim=3)
    if pixel_size_angstrom is not None:
        positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles must have one entry per image, {len(images)}, got {len(titles)}")
    n, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    gap = max(2, width // 24)
    headroom = gap if titles is None else max(gap, height // 7)
    pitch_y, pitch_x = height + headroom, width + gap
    mosaic = np.full((rows * pitch_y, columns * pitch_x - gap), 255, np.uint8)
    annotations = []
    title_style = {"yanchor": "bottom", "showarrow": False, "font": {"size": 12, "color": MUTED}}
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        bottom, left = (rows - 1 - row) * pitch_y, column * pitch_x
        mosaic[bottom : bottom + height, left : left + width] = _grey(image)
        if titles is not None:
            place = {"x": left + width / 2 - 0.5, "y": bottom + height}
            annotations.append({"text": titles[index], "borderpad": 1, **place, **title_style})
    fig = figure(
        annotations=annotations,
        height=int(np.clip(950 * mosaic.shape[0] / mosaic.shape[1], 180, 1400)) + 54,
        margin={"l": 10, "r": 10, "t": 34, "b": 20},
    )
    fig.add_trace(
        go.Heatmap(z=mosaic, colorscale="gray", zmin=0, zmax=255, showscale=False, hoverinfo="skip")
    )
    axis = {"visible": False, "constrain": "domain"}
    fig.update_xaxes(axis, range=[-0.5, mosaic.shape[1] - 0.5])
    fig.update_yaxes(axis, range=[-0.5 - 0.16 * height, mosaic.shape[0] - 0.5], scaleanchor="x")
    if pixel_size_angstrom is not None:
        _add_scale_bar(fig, width=width, height=height, pixel_size_angstrom=pixel_size_angstrom)
    return fig


def _grey(image: np.ndarray) -> np.ndarray:
    """Return an image as 8-bit grey levels, a quarter of the size of floats."""
    lowest, highest = np.percentile(image, [0.5, 99.5])
    contrast = highest - lowest or 1.0
    return (255 * np.clip((image - lowest) / contrast, 0, 1)).round().astype(np.uint8)


def _add_scale_bar(fig: go.Figure, *, width: int, height: int, pixel_size_angstrom: float) -> None:
    bar_angstrom = round_below(0.5 * width * pixel_size_angstrom)
    bar_px, below = bar_angstrom / pixel_size_angstrom, -0.5 - 0.1 * height
    fig.add_shape(type="line", x0=-0.5, x1=bar_px - 0.5, y0=below, y1=below, line={"color": INK, "width": 4})
    label = {"text": f"{bar_angstrom:g} Å", "showarrow": False, "xanchor": "left", "xshift": 6}
    fig.add_annotation(x=bar_px, y=below, **label)
