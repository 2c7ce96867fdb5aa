"""What came out of sweeps: curves with the published values beside them, matrices, and tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array
from cryoem.plots.checks import non_empty_mapping
from cryoem.plots.orientations import coverage_sphere
from cryoem.plots.template import (
    GRID,
    INK,
    LEGEND_ABOVE,
    MUTED,
    SEQUENTIAL,
    figure,
    named_colours,
    translucent,
)
from cryoem.plots.ticks import log_ticks

MOST_TICKS = 10


def measured_curves(
    curves: Mapping[str, tuple],
    *,
    x_title: str,
    y_title: str,
    published: Mapping[str, tuple] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    identity: str | None = None,
    level: tuple[float, str] | None = None,
    markers: bool = True,
) -> go.Figure:
    """Measurements against what was varied, with published ones as diamonds.

    Parameters
    ----------
    curves : name -> ``(x, y)``, or ``(x, y, low, high)`` with a band; x are numbers that rise, or words.
    x_title, y_title : with their units.
    published : name -> ``(x, y)`` of others.
    log_x, log_y : logarithmic axes.
    identity : draw the line where both axes agree, under this name.
    level : a value of y to be drawn as a line, and its name.
    markers : a dot at each measurement.

    Raises
    ------
    ValueError : a curve's arrays are not finite or differ in length, or are not positive on a logarithmic axis.
    """
    fig = figure(height=460)
    drawn_x, drawn_y = [], []
    for name, colour in named_colours(non_empty_mapping(curves, name="curves")).items():
        x, y = _curve(curves[name], name=f"curves[{name!r}]", log_x=log_x, log_y=log_y)
        drawn_x.append(x)
        drawn_y.append(y)
        if len(curves[name]) == 4:
            _add_band(fig, x, curves[name][2:], colour, name)
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                name=name,
                legendgroup=name,
                mode="lines+markers" if markers else "lines",
                line={"color": colour, "width": 2.5},
                marker={"size": 8, "line": {"color": "white", "width": 1}},
                hovertemplate=f"{x_title} %{{x}}<br>{y_title} %{{y:.4g}}<extra>{name}</extra>",
            )
        )
    for name, curve in (published or {}).items():
        x, y = _curve(curve, name=f"published[{name!r}]", log_x=log_x, log_y=log_y)
        drawn_y.append(y)
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                name=name,
                mode="lines+markers" if len(y) > 1 else "markers",
                line={"color": MUTED, "width": 1.5, "dash": "dot"},
                marker={"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}},
                hovertemplate=f"{x_title} %{{x}}<br>{y_title} %{{y:.4g}}<extra>{name}</extra>",
            )
        )
    if identity is not None:
        ends = [min(x.min() for x in drawn_x), max(x.max() for x in drawn_x)]
        _add_line(fig, ends, ends, identity)
    if level is not None:
        _add_line(fig, [drawn_x[0][0], drawn_x[0][-1]], [level[0], level[0]], level[1])
        drawn_y.append(np.array([level[0]]))
    fig.update_xaxes(title_text=x_title)
    fig.update_yaxes(title_text=y_title, rangemode="tozero")
    if log_x:
        at = np.unique(np.concatenate(drawn_x))
        ticks = (
            {"tickvals": at, "ticktext": [f"{x:,.7g}" for x in at]}
            if len(at) <= MOST_TICKS
            else log_ticks(at)
        )
        fig.update_xaxes(type="log", **ticks)
    if log_y:
        fig.update_yaxes(type="log", rangemode="normal", **log_ticks(np.concatenate(drawn_y)))
    fig.update_layout(showlegend=True, legend=LEGEND_ABOVE, margin={"t": 80})
    return fig


def value_matrix(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    value_title: str,
) -> go.Figure:
    """A matrix of numbers as colours, with each number written in its cell.

    Parameters
    ----------
    values : (rows, columns).
    rows, columns : names, the first row at the top.
    row_title, column_title, value_title : of the axes and of the colours.

    Raises
    ------
    ValueError : the values are not finite, or names and shape do not match.
    """
    values = finite_array(values, name="values", ndim=2, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must be ({len(rows)}, {len(columns)}) as the names are, got shape {values.shape}"
        )
    fig = figure(height=130 + 62 * len(rows), margin={"l": 110})
    fig.add_trace(
        go.Heatmap(
            z=values,
            x=list(columns),
            y=list(rows),
            colorscale=SEQUENTIAL,
            zmin=min(float(values.min()), 0),
            text=[[f"{value:.3f}" for value in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 13},
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": value_title}},
            hovertemplate=f"{row_title} %{{y}}<br>{column_title} %{{x}}<br>%{{z:.4g}}<extra></extra>",
        )
    )
    fig.update_xaxes(title_text=column_title, type="category", showgrid=False, ticks="", showline=False)
    fig.update_yaxes(
        title_text=row_title, type="category", autorange="reversed", showgrid=False, ticks="", showline=False
    )
    return fig


def number_table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> go.Figure:
    """A table of texts, a row a sequence, the first column to the left and the others to the right.

    Raises
    ------
    ValueError : there is no row, or one has not as many cells as the header.
    """
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"rows must hold {len(header)} cells each, got {[len(row) for row in rows]}")
    align = ["left"] + ["right"] * (len(header) - 1)
    shades = [["white" if index % 2 else "#f6f8fa" for index in range(len(rows))]]
    fig = figure(height=110 + 30 * len(rows), margin={"l": 10, "r": 10, "t": 20, "b": 10})
    fig.add_trace(
        go.Table(
            columnwidth=[2.2] + [1] * (len(header) - 1),
            header={
                "values": [f"<b>{text}</b>" for text in header],
                "align": align,
                "fill": {"color": "white"},
                "line": {"color": GRID},
                "height": 32,
            },
            cells={
                "values": [list(column) for column in zip(*rows, strict=True)],
                "align": align,
                "fill": {"color": shades},
                "line": {"color": GRID},
                "height": 28,
            },
        )
    )
    return fig


def coverage_spheres(coverages: Mapping[str, Rotation], *, max_points: int = 1200) -> go.Figure:
    """Viewing directions of several samplings, a sphere each, side by side; see ``coverage_sphere``.

    Raises
    ------
    ValueError : there is none, or one is not a non-empty sequence of rotations.
    """
    names = list(non_empty_mapping(coverages, name="coverages"))
    fig = make_subplots(
        cols=len(names),
        specs=[[{"type": "scene"}] * len(names)],
        subplot_titles=names,
        horizontal_spacing=0.005,
    )
    for column, name in enumerate(names, start=1):
        sphere = coverage_sphere(coverages[name], max_points=max_points)
        for trace in sphere.data:
            trace.showlegend = False
            if trace.name == "viewing directions":
                trace.marker.size = 2
                trace.marker.showscale = column == len(names)
            fig.add_trace(trace, row=1, col=column)
    scene = sphere.layout.scene.to_plotly_json()
    scene["camera"] = {"eye": {"x": 0.98, "y": 0.98, "z": 0.62}}
    fig.update_scenes(**{key: value for key, value in scene.items() if key != "domain"})
    fig.update_layout(template="cryoem", height=270, margin={"l": 0, "r": 0, "t": 50, "b": 0})
    return fig


def _curve(curve: tuple, *, name: str, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(curve[0])
    y = finite_array(curve[1], name=f"{name} y", ndim=1, dtype=float)
    if x.dtype.kind in "iuf":
        x = finite_array(x, name=f"{name} x", ndim=1, dtype=float)
    if len(x) != len(y):
        raise ValueError(f"{name} must pair as many x as y, got {len(x)} and {len(y)}")
    for values, is_log in ((x, log_x), (y, log_y)):
        if is_log and values.min() <= 0:
            raise ValueError(f"{name} must be positive on a logarithmic axis, got {values.min():.4g}")
    return x, y


def _add_band(fig: go.Figure, x: np.ndarray, band: Sequence, colour: str, name: str) -> None:
    low, high = (finite_array(values, name=f"curves[{name!r}] band", ndim=1, dtype=float) for values in band)
    fig.add_trace(
        go.Scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=translucent(colour, 0.15),
            line={"width": 0},
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
        )
    )


def _add_line(fig: go.Figure, x: Sequence[float], y: Sequence[float], name: str) -> None:
    fig.add_trace(
        go.Scatter(
            x=x,
            y=y,
            name=name,
            mode="lines",
            line={"color": MUTED, "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        )
    )
