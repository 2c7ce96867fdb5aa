"""A canvas for schematics, whose coordinates are pixels from the bottom left, and the shapes drawn on it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import BLUE, INK, MUTED, figure, translucent

WIDTH_PX = 900

_BLOCK_COLOURS = ("#b9d6ec", "#6aaed6", "#dbe9f5")  # front, side and top of a layer


def blank(height: int) -> go.Figure:
    """Return an empty figure whose coordinates are pixels, from the bottom left."""
    size = {"width": WIDTH_PX, "height": height, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}}
    fig = figure(showlegend=False, hovermode=False, dragmode=False, **size)
    hidden = {"visible": False, "fixedrange": True}
    fig.update_xaxes(hidden, range=[0, WIDTH_PX])
    return fig.update_yaxes(hidden, range=[0, height])


def text(fig, at, words: str, *, colour: str = INK, size: int = 13, background: bool = False) -> None:
    """Write text centred at a point."""
    style = {"bgcolor": "white"} if background else {}
    fig.add_annotation(
        x=at[0], y=at[1], text=words, showarrow=False, font={"color": colour, "size": size}, **style
    )


def line(fig, start, end, *, colour: str, dash: str) -> None:
    """Draw a straight line."""
    style = {"color": colour, "width": 1.5, "dash": dash}
    fig.add_shape(type="line", x0=start[0], y0=start[1], x1=end[0], y1=end[1], line=style)


def arrow(fig, start, end, *, colour: str = MUTED, both: bool = False) -> None:
    """Draw an arrow."""
    fig.add_annotation(
        x=end[0],
        y=end[1],
        ax=start[0],
        ay=start[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        showarrow=True,
        arrowhead=2,
        arrowside="end+start" if both else "end",
        startarrowhead=2,
        arrowwidth=1.8,
        arrowcolor=colour,
    )


def box(fig, centre, width: float, height: float, words: str, *, colour: str = MUTED) -> None:
    """Draw a box with rounded corners and text in it."""
    x0, x1 = centre[0] - width / 2, centre[0] + width / 2
    y0, y1, r = centre[1] - height / 2, centre[1] + height / 2, 9
    path = (
        f"M{x0 + r},{y0} L{x1 - r},{y0} Q{x1},{y0} {x1},{y0 + r} L{x1},{y1 - r} Q{x1},{y1} {x1 - r},{y1} "
        f"L{x0 + r},{y1} Q{x0},{y1} {x0},{y1 - r} L{x0},{y0 + r} Q{x0},{y0} {x0 + r},{y0} Z"
    )
    style = {"fillcolor": translucent(colour, 0.1), "line": {"color": colour, "width": 1.6}}
    fig.add_shape(type="path", path=path, **style)
    text(fig, centre, words)


def picture(fig, image: np.ndarray, centre, side: float) -> None:
    """Draw an image with its own grey scale and a thin border."""
    lowest, highest = np.percentile(image, [0.5, 99.5])
    pitch, half = side / len(image), side / 2
    fig.add_heatmap(
        z=image.astype(np.float32),
        x0=centre[0] - half + pitch / 2,
        dx=pitch,
        y0=centre[1] - half + pitch / 2,
        dy=pitch,
        colorscale="gray",
        zmin=lowest,
        zmax=highest,
        showscale=False,
        hoverinfo="skip",
    )
    corners = {"x0": centre[0] - half, "x1": centre[0] + half, "y0": centre[1] - half, "y1": centre[1] + half}
    fig.add_shape(type="rect", line={"color": MUTED, "width": 1}, **corners)


def around(centre, radius: float, angles: np.ndarray) -> np.ndarray:
    """Return the (n, 2) points of a circle at n angles in radians."""
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def dot(fig, at, *, colour: str) -> None:
    """Mark a point."""
    marker = {"size": 9, "color": colour, "line": {"color": "white", "width": 1.5}}
    fig.add_scatter(x=[at[0]], y=[at[1]], mode="markers", marker=marker)


def ellipse(centre, across: float, up: float) -> dict:
    """Return the options of an ellipse."""
    corners = {"x0": centre[0] - across, "x1": centre[0] + across, "y0": centre[1] - up, "y1": centre[1] + up}
    return {"type": "circle", **corners}


def globe(fig, centre, radius: float) -> None:
    """Draw the outline of a sphere with its equator and a meridian."""
    outline_style = {"color": "#9aa5b1", "width": 1.4}
    outline = ellipse(centre, radius, radius)
    fig.add_shape(outline, line=outline_style, fillcolor="rgba(230,235,241,0.55)", layer="below")
    for across, up in ((radius, 0.3 * radius), (0.3 * radius, radius)):
        fig.add_shape(ellipse(centre, across, up), line={"color": "#cdd5de", "width": 1}, layer="below")


def block(fig, corner, width: float, height: float, depth: float) -> None:
    """Draw a box in oblique projection, from the lower left corner of its front."""
    x, y = corner
    shift = np.array([depth, 0.6 * depth])
    front = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    side = np.array([front[1], front[1] + shift, front[2] + shift, front[2]])
    top = np.array([front[3], front[2], front[2] + shift, front[3] + shift])
    for face, colour in zip((front, side, top), _BLOCK_COLOURS, strict=True):
        path = "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in face) + " Z"
        fig.add_shape(type="path", path=path, fillcolor=colour, line={"color": BLUE, "width": 1})
