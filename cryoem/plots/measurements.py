"""Plots of measured curves, in one panel or several, with published values as open symbols."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    MUTED,
    curve,
    dashed,
    dotted,
    log_axis,
    log_axis_at,
    named_colours,
    non_empty_mapping,
    panels,
    points_of,
    translucent,
)
from cryoem.validation import finite_array

MOST_TICKS = 10
MOST_DOTS = 30
MARGIN = {"t": 80}

_SYMBOLS = ("diamond-open", "square-open", "circle-open")


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
) -> go.Figure:
    """Plot measurements against the quantity that was varied, with published values as open symbols.

    Parameters
    ----------
    curves : mapping of str to tuple
        Curves by name, each ``(x, y)``, or ``(x, y, low, high)`` to shade the band from ``low`` to ``high``. The x
        values are increasing numbers, or category names. Each measurement is marked with a dot, unless the curve has
        more than 30.
    x_title, y_title : str
        Axis titles, with units.
    published : mapping of str to tuple, optional
        Published curves by name, each ``(x, y)``.
    log_x, log_y : bool
        Whether the x-axis and the y-axis are logarithmic.
    identity : str, optional
        Legend entry for the line y = x. Default: no line.
    level : tuple of float and str, optional
        Height of a horizontal line, and its legend entry. Default: no line.

    Raises
    ------
    ValueError
        If there are no curves, or the arrays of a curve are not finite, differ in length, or are not positive on a
        logarithmic axis.
    """
    fig = measured_panels(
        {"": curves},
        x_title=x_title,
        y_title=y_title,
        published={"": published or {}},
        log_x=log_x,
        log_y=log_y,
        identity=identity,
        level=level,
    )
    return fig.update_layout(height=460)


def measured_panels(
    conditions: Mapping[str, Mapping[str, tuple]],
    *,
    x_title: str | Mapping[str, str],
    y_title: str | Mapping[str, str],
    published: Mapping[str, Mapping[str, tuple]] | None = None,
    paired: Mapping[str, str] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    identity: str | None = None,
    level: tuple[float, str] | None = None,
) -> go.Figure:
    """Plot measurements as in ``measured_curves``, with one panel per condition or quantity.

    A curve has the same colour in all panels.

    Parameters
    ----------
    conditions : mapping of str to mapping of str to tuple
        Curves by panel title and name, as in ``measured_curves``. A curve may be missing from some panels.
    x_title, y_title : str or mapping of str to str
        Axis titles, with units. A string is the title of all panels, which then share the y-axis; a mapping contains
        the title of each panel.
    published : mapping of str to mapping of str to tuple, optional
        Published curves ``(x, y)``, by panel title and name.
    paired : mapping of str to str, optional
        For each curve to draw as a dashed line, the name of the curve whose colour it shares.
    log_x, log_y : bool
        Whether the x-axes and the y-axes are logarithmic.
    identity : str, optional
        Legend entry for the line y = x. Default: no line.
    level : tuple of float and str, optional
        Height of a horizontal line in each panel, and its legend entry. Default: no line.

    Raises
    ------
    ValueError
        If there are no panels or a panel has no curves, or the arrays of a curve are not finite, differ in length, or
        are not positive on a logarithmic axis.
    """
    conditions = non_empty_mapping(conditions, name="conditions")
    published, paired = published or {}, paired or {}
    names = dict.fromkeys(name for curves in conditions.values() for name in curves)
    colours = named_colours([name for name in names if name not in paired])
    colours |= {name: colours[other] for name, other in paired.items() if name in names}
    symbols = dict.fromkeys(name for values in published.values() for name in values)
    symbols = dict(zip(symbols, cycle(_SYMBOLS), strict=False))
    shared = isinstance(y_title, str)
    fig = panels(
        layout={"height": 430, "showlegend": True, "legend": LEGEND_ABOVE, "margin": MARGIN},
        cols=len(conditions),
        subplot_titles=[str(title) for title in conditions] if len(conditions) > 1 else None,
        shared_yaxes=shared,
        horizontal_spacing=0.04 if shared else 0.1,
    )
    if len(conditions) > 1:
        fig.update_layout(legend={"y": 1.1}, margin={"t": 110})
    heights = []
    for column, (title, curves) in enumerate(conditions.items(), start=1):
        place = {"row": 1, "col": column}
        titles = [own if isinstance(own, str) else own[title] for own in (x_title, y_title)]
        fig.update_xaxes(title_text=titles[0], **place)
        if column == 1 or not shared:
            fig.update_yaxes(title_text=titles[1], **place)
        hover = f"{titles[0]} %{{x}}<br>{titles[1]} %{{y:.4g}}<extra>%{{fullData.name}}</extra>"
        at, drawn = [], []
        for name, points in non_empty_mapping(curves, name="curves").items():
            style = {"colour": colours[name], "hover": hover, "paired": name in paired}
            traces, x, y = _measured(name, points, log_x=log_x, log_y=log_y, **style)
            fig.add_traces(traces, rows=1, cols=column)
            at.append(x)
            drawn.append(y)
        for name, points in published.get(title, {}).items():
            x, y = points_of(points, name=f"published[{name!r}]", log_x=log_x, log_y=log_y)
            fig.add_trace(_published(name, x, y, symbol=symbols[name], hover=hover), **place)
            at.append(x)
            drawn.append(y)
        at = np.unique(np.concatenate(at))
        if identity is not None:
            fig.add_trace(dashed(at[[0, -1]], at[[0, -1]], name=identity), **place)
        if level is not None:
            fig.add_trace(dashed(at[[0, -1]], [level[0], level[0]], name=level[1]), **place)
            drawn.append([level[0]])
        if log_x:
            fig.update_xaxes(log_axis_at(at) if len(at) <= MOST_TICKS else log_axis(at), **place)
        heights.append(np.concatenate(drawn))
    fig.update_yaxes(rangemode="tozero")
    for column, values in enumerate(heights if log_y else [], start=1):
        values = np.concatenate(heights) if shared else values
        fig.update_yaxes(log_axis(values), rangemode="normal", row=1, col=column)
    return _one_legend_entry_per_name(fig)


def distances_from_few(conditions: Mapping[str, tuple], *, y_title: str) -> go.Figure:
    """Plot estimated against true distances, from a few images to all others.

    Parameters
    ----------
    conditions : mapping of str to tuple
        Distances by panel title, each ``(true, estimated)``: two (k, n) arrays, from k images to n images. The true
        distances are in radians.
    y_title : str
        Title of the vertical axis, with the unit.

    Raises
    ------
    ValueError
        If there are no panels, or the arrays of a panel differ in shape, are not two-dimensional or not finite.
    """
    conditions = non_empty_mapping(conditions, name="conditions")
    fig = panels(
        layout={"height": 400, "showlegend": False},
        cols=len(conditions),
        subplot_titles=[str(title) for title in conditions],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    for column, (title, (true, estimated)) in enumerate(conditions.items(), start=1):
        true = finite_array(true, name=f"conditions[{title!r}] true", ndim=2)
        if np.shape(estimated) != true.shape:
            raise ValueError(
                f"conditions[{title!r}] must contain two arrays of the same shape, got {true.shape} and "
                f"{np.shape(estimated)}"
            )
        for index, colour in named_colours(range(len(true))).items():
            dots = {"size": 4, "color": colour, "opacity": 0.6}
            hover = f"image {index}<br>%{{x:.2f}} rad: %{{y:.2f}}<extra></extra>"
            points = go.Scatter(
                x=true[index], y=estimated[index], mode="markers", marker=dots, hovertemplate=hover
            )
            fig.add_trace(points, row=1, col=column)
    fig.update_xaxes(title_text="true distance (rad)", range=[0, np.pi])
    fig.update_yaxes(rangemode="tozero")
    return fig.update_yaxes(title_text=y_title, col=1)


def _measured(
    name: str, points: tuple, *, colour: str, hover: str, paired: bool, **logarithmic: bool
) -> tuple[list[go.Scatter], np.ndarray, np.ndarray]:
    """Return the optional band and the curve, followed by the x and y values."""
    x, y = points_of(points, name=f"curves[{name!r}]", **logarithmic)
    traces = []
    if band := points[2:]:
        low, high = (finite_array(end, name=f"curves[{name!r}] band", ndim=1) for end in band)
        around = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
        filled = {"fill": "toself", "fillcolor": translucent(colour, 0.15), "showlegend": False}
        traces.append(curve(*around, name=name, colour=colour, width=0, legendgroup=name, **filled))
    style = {"name": name, "colour": colour, "hover": hover, "legendgroup": name}
    if paired:
        traces.append(curve(x, y, width=1.8, line={"dash": "dash"}, **style))
    elif len(x) <= MOST_DOTS:
        traces.append(dotted(x, y, marker={"line": {"color": "white", "width": 1}}, **style))
    else:
        traces.append(curve(x, y, **style))
    return traces, x, y


def _published(name: str, x: np.ndarray, y: np.ndarray, *, symbol: str, hover: str) -> go.Scatter:
    marks = {"symbol": symbol, "size": 11, "color": INK, "line": {"width": 2}}
    style = {"name": name, "colour": MUTED, "width": 1.5, "line": {"dash": "dot"}, "hover": hover}
    mode = "lines+markers" if len(y) > 1 else "markers"
    return curve(x, y, mode=mode, marker=marks, legendgroup=name, **style)


def _one_legend_entry_per_name(fig: go.Figure) -> go.Figure:
    """Show each name once in the legend, and never for a filled band."""
    shown = set()
    for line in fig.data:
        line.legendgroup = line.name
        is_band = line.fill == "toself"
        line.showlegend = not is_band and line.name not in shown
        if not is_band:
            shown.add(line.name)
    return fig
