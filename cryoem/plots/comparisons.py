"""Plots that compare methods and conditions: costs, dot plots, matrices and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    GRID,
    LEGEND_ABOVE,
    SEQUENTIAL,
    dashed,
    dotted,
    figure,
    log_axis,
    log_axis_at,
    named_colours,
    non_empty_mapping,
    one_legend_entry_per_group,
    panels,
    points_of,
)
from cryoem.validation import finite_array

GUIDE_ABOVE = 1.6  # how far the guide line passes above the highest curve, as a factor


def methods_by_condition(
    conditions: Mapping[str, Mapping[str, tuple]], *, x_title: str, y_title: str
) -> go.Figure:
    """Plot the curves of several methods, with one panel per condition, on shared logarithmic axes.

    Parameters
    ----------
    conditions : mapping of str to mapping of str to tuple
        Measured curves by condition and method, each ``(x, y)`` with positive values and increasing x. A method may be
        missing from some conditions.
    x_title, y_title : str
        Axis titles, with units.

    Raises
    ------
    ValueError
        If there are no conditions, or x and y differ in length, x does not increase, or a value is not positive.
    """
    conditions = non_empty_mapping(conditions, name="conditions")
    drawn = {
        (title, method): _log_points(points, name=f"conditions[{title!r}][{method!r}]")
        for title, curves in conditions.items()
        for method, points in curves.items()
    }
    colours = named_colours(dict.fromkeys(method for _, method in drawn))
    columns = {title: column for column, title in enumerate(conditions, start=1)}
    fig = panels(
        layout={"height": 460, "margin": {"t": 90}, "legend": {**LEGEND_ABOVE, "y": 1.09}},
        cols=len(conditions),
        subplot_titles=[str(title) for title in conditions],
        shared_yaxes="all",
        horizontal_spacing=0.02,
    )
    for (title, method), points in drawn.items():
        style = {"colour": colours[method], "width": 2, "name": method, "legendgroup": method}
        style["hover"] = "%{fullData.name}<br>%{x:g}: %{y:.3g}<extra></extra>"
        fig.add_trace(dotted(*points, **style), row=1, col=columns[title])
    x, y = (np.concatenate([points[axis] for points in drawn.values()]) for axis in (0, 1))
    at = np.unique(x)
    ends = np.log10([at[0] / 1.15, at[-1] * 1.15])
    upright = -90 if len(conditions) > 3 else None  # labels of narrow panels would overlap
    fig.update_xaxes(log_axis_at(at), title_text=x_title, range=ends, tickangle=upright)
    fig.update_yaxes(log_axis(y))
    fig.update_yaxes(title_text=y_title, row=1, col=1)
    return one_legend_entry_per_group(fig)


def cost_growth(
    curves: Mapping[str, tuple], *, x_title: str, slope: float = 1.0, slope_name: str = "proportional to size"
) -> go.Figure:
    """Plot the time and the memory use of several steps against input size, in two panels with logarithmic axes.

    Parameters
    ----------
    curves : mapping of str to tuple
        Measurements by step, each ``(size, seconds, memory_gb)``: (k,) arrays of positive values, with increasing
        sizes.
    x_title : str
        Title of the size axes, with the unit.
    slope, slope_name : float and str
        Exponent of the dashed guide line in the time panel, and its legend entry.

    Raises
    ------
    ValueError
        If there are no steps, or the arrays differ in length, sizes do not increase, or a value is not positive.
    """
    times, memories = {}, {}
    for step, (sizes, seconds, memory_gb) in non_empty_mapping(curves, name="curves").items():
        times[step] = _log_points((sizes, seconds), name=f"curves[{step!r}]")
        memories[step] = _log_points((sizes, memory_gb), name=f"curves[{step!r}]")
    fig = panels(
        layout={"height": 460, "margin": {"t": 90}, "legend": {**LEGEND_ABOVE, "y": 1.04}},
        cols=2,
        horizontal_spacing=0.11,
    )
    for step, colour in named_colours(times).items():
        style = {"name": step, "colour": colour, "width": 2, "legendgroup": step}
        for column, points, unit in ((1, times[step], "s"), (2, memories[step], "GB")):
            hover = f"{step}<br>%{{x:,}}: %{{y:.3g}} {unit}<extra></extra>"
            fig.add_trace(dotted(*points, hover=hover, **style), row=1, col=column)
    at = np.unique(np.concatenate([x for x, _ in times.values()]))
    seconds = np.concatenate([y for _, y in times.values()])
    memory = np.concatenate([y for _, y in memories.values()])
    # draw the guide line above the end of every curve
    ends = at[[0, -1]]
    guide = GUIDE_ABOVE * max(y[-1] / x[-1] ** slope for x, y in times.values()) * ends**slope
    fig.add_trace(dashed(ends, guide, name=slope_name), row=1, col=1)
    # span at least one decade of memory, so that constant memory use looks constant
    least = 10.0 ** np.floor(np.log10(memory.min()))
    span = np.array([least, max(10 * least, 1.5 * memory.max())])
    fig.update_xaxes(log_axis_at(at), title_text=x_title)
    fig.update_yaxes(log_axis(np.r_[seconds, guide]), title_text="time (s)", row=1, col=1)
    fig.update_yaxes(log_axis(span), title_text="peak memory (GB)", range=np.log10(span), row=1, col=2)
    return one_legend_entry_per_group(fig)


def _log_points(points: tuple, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    return points_of(points, name=name, increasing=True, log_x=True, log_y=True)


def method_comparison(errors_deg: Mapping[str, Sequence[float]], *, names: Sequence[str]) -> go.Figure:
    """Plot the mean errors of several methods as dots on a logarithmic axis, with one row per data set.

    Parameters
    ----------
    errors_deg : mapping of str to sequence of float
        Positive errors in degrees for each method, one per data set.
    names : sequence of str
        Names of the data sets, from top to bottom.

    Raises
    ------
    ValueError
        If there are no methods, a method does not have one error per data set, or an error is not positive.
    """
    errors = {
        method: points_of((names, values), name=f"errors_deg[{method!r}]", log_y=True)[1]
        for method, values in non_empty_mapping(errors_deg, name="errors_deg").items()
    }
    table = np.stack(list(errors.values()))
    fig = figure(height=160 + 30 * len(names), legend=LEGEND_ABOVE, margin={"t": 60})
    # draw a grey bar from the lowest to the highest error of each data set
    for name, low, high in zip(names, table.min(axis=0), table.max(axis=0), strict=True):
        bar = {"x0": low, "x1": high, "y0": name, "y1": name, "line": {"color": GRID, "width": 6}}
        fig.add_shape(type="line", layer="below", **bar)
    for method, colour in named_colours(errors).items():
        dots = {"size": 11, "color": colour, "line": {"color": "white", "width": 1}}
        hover = f"{method}, %{{y}}: %{{x:.3f}}°<extra></extra>"
        fig.add_scatter(
            x=errors[method], y=list(names), mode="markers", marker=dots, name=method, hovertemplate=hover
        )
    fig.update_xaxes(log_axis(table.ravel()), title_text="mean error (degrees)")
    fig.update_yaxes(type="category", autorange="reversed", title_text="data set", showgrid=False)
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
    """Plot a matrix as a heat map, with the value printed in each cell.

    Parameters
    ----------
    values : (rows, columns) array
        Finite values.
    rows, columns : sequence of str
        Names of the rows, from top to bottom, and of the columns, from left to right.
    row_title, column_title, value_title : str
        Titles of the axes and the colour bar, with units.

    Raises
    ------
    ValueError
        If the values are not finite, or their shape does not match the names.
    """
    values = finite_array(values, name="values", ndim=2, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must have shape ({len(rows)}, {len(columns)}) to match the row and column names, "
            f"got {values.shape}"
        )
    fig = figure(height=130 + 62 * len(rows), margin={"l": 110})
    fig.add_heatmap(
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
    plain = {"type": "category", "showgrid": False, "ticks": "", "showline": False}
    fig.update_xaxes(title_text=column_title, **plain)
    fig.update_yaxes(title_text=row_title, autorange="reversed", **plain)
    return fig


def number_table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> go.Figure:
    """Draw a table of text cells, with the first column left-aligned and the others right-aligned.

    Parameters
    ----------
    rows : sequence of sequence of str
        Cells of each row.
    header : sequence of str
        Column titles.

    Raises
    ------
    ValueError
        If there are no rows, or a row does not have one cell per column title.
    """
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"rows must have {len(header)} cells each, got {[len(row) for row in rows]}")
    more = len(header) - 1
    ruled = {"align": ["left"] + ["right"] * more, "line": {"color": GRID}}
    shades = [["white" if index % 2 else "#f6f8fa" for index in range(len(rows))]]
    titles = {"values": [f"<b>{text}</b>" for text in header], "fill": {"color": "white"}, "height": 32}
    cells = {"values": list(zip(*rows, strict=True)), "fill": {"color": shades}, "height": 28}
    fig = figure(height=110 + 30 * len(rows), margin={"l": 10, "r": 10, "t": 20, "b": 10})
    return fig.add_table(columnwidth=[2.2] + [1] * more, header=titles | ruled, cells=cells | ruled)
