"""Comparisons of methods and conditions: error histograms, dot plots, matrices and tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    GRID,
    LEGEND_ABOVE,
    SEQUENTIAL,
    curve,
    figure,
    histogram,
    log_ticks,
    named_colours,
    non_empty_mapping,
)
from cryoem.validation import finite_array


def error_histogram(errors: Mapping[str, np.ndarray], *, bins: int = 60) -> go.Figure:
    """Histogram of orientation errors in degrees, with the mean (solid line) and the median (dashed) of each.

    Parameters
    ----------
    errors : mapping of str to (n,) array
        Errors in radians, by name.
    bins : int
        Number of bins from zero to the 99.5th percentile of all errors. The last bin includes all larger errors.

    Raises
    ------
    ValueError
        If an array is not one-dimensional and finite, or an error is outside [0, pi].
    """
    errors = non_empty_mapping(errors, name="errors")
    degrees = {}
    for name, values in errors.items():
        values = finite_array(values, name=f"errors[{name!r}]", ndim=1)
        if values.min() < 0 or values.max() > np.pi + 1e-6:
            raise ValueError(
                f"errors[{name!r}] must be radians in [0, pi], got {values.min():.4g} to {values.max():.4g}"
            )
        degrees[name] = np.rad2deg(values)
    largest = float(np.percentile(np.concatenate(list(degrees.values())), 99.5)) or 1.0
    edges = np.linspace(0, largest, bins + 1)
    fig = figure(showlegend=True, legend=LEGEND_ABOVE)
    for name, colour in named_colours(degrees).items():
        values = degrees[name]
        mean, median = values.mean(), np.median(values)
        count, _ = np.histogram(np.minimum(values, largest), bins=edges)
        percent = 100 * count / len(values)
        label = f"{name}: mean {mean:.2f}°, median {median:.2f}°"
        hover = f"%{{x:.2f}}°<br>%{{y:.1f}} %<extra>{name}</extra>"
        fig.add_trace(histogram(edges, percent, name=label, colour=colour, hover=hover, legendgroup=name))
        for middle, dash in ((mean, "solid"), (median, "dash")):
            ends = [0, 1.05 * percent.max()]
            options = {"line": {"dash": dash}, "legendgroup": name, "showlegend": False}
            fig.add_trace(curve([middle, middle], ends, name=name, colour=colour, width=2, **options))
    fig.update_xaxes(title_text="orientation error (°); solid line: mean, dashed: median", range=[0, largest])
    fig.update_yaxes(title_text="share of the images (%)", rangemode="tozero")
    return fig


def method_comparison(errors_deg: Mapping[str, Sequence[float]], *, names: Sequence[str]) -> go.Figure:
    """Mean errors of several methods on several data sets: one row per set, one dot per method, log axis.

    Parameters
    ----------
    errors_deg : mapping of str to sequence of float
        Positive errors in degrees, one per data set, by method.
    names : sequence of str
        Data sets, drawn from top to bottom.

    Raises
    ------
    ValueError
        If a method does not have one error per data set, or an error is not positive.
    """
    errors = {}
    for method, values in non_empty_mapping(errors_deg, name="errors_deg").items():
        values = finite_array(values, name=f"errors_deg[{method!r}]", ndim=1, dtype=float)
        if len(values) != len(names) or values.min() <= 0:
            raise ValueError(
                f"errors_deg[{method!r}] must be {len(names)} positive errors, one per name, "
                f"got {len(values)}, the lowest {values.min():.4g}"
            )
        errors[method] = values
    table = np.stack(list(errors.values()))
    fig = figure(height=120 + 30 * len(names), legend=LEGEND_ABOVE, margin={"t": 60})
    # a grey bar from the lowest to the highest error of each set
    for name, low, high in zip(names, table.min(axis=0), table.max(axis=0), strict=True):
        bar = {"x0": low, "x1": high, "y0": name, "y1": name, "line": {"color": GRID, "width": 6}}
        fig.add_shape(type="line", layer="below", **bar)
    for method, colour in named_colours(errors).items():
        fig.add_trace(
            go.Scatter(
                x=errors[method],
                y=list(names),
                mode="markers",
                marker={"size": 11, "color": colour, "line": {"color": "white", "width": 1}},
                name=method,
                hovertemplate=f"{method}, %{{y}}: %{{x:.3f}}°<extra></extra>",
            )
        )
    fig.update_xaxes(type="log", title_text="mean error (degrees)", **log_ticks(table.ravel()))
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
    """Matrix of numbers as colours, with each number printed in its cell.

    Parameters
    ----------
    values : (rows, columns) array
        Finite numbers.
    rows, columns : sequence of str
        Names; the first row is at the top.
    row_title, column_title, value_title : str
        Titles of the axes and of the colour bar, with units.

    Raises
    ------
    ValueError
        If the values are not finite, or names and shape do not match.
    """
    values = finite_array(values, name="values", ndim=2, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must have one entry per row and column name, ({len(rows)}, {len(columns)}), "
            f"got shape {values.shape}"
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
    plain = {"type": "category", "showgrid": False, "ticks": "", "showline": False}
    fig.update_xaxes(title_text=column_title, **plain)
    fig.update_yaxes(title_text=row_title, autorange="reversed", **plain)
    return fig


def number_table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> go.Figure:
    """Table of texts: the first column aligned left, the others right.

    Parameters
    ----------
    rows : sequence of sequences of str
        Cells, one sequence per row.
    header : sequence of str
        Column titles.

    Raises
    ------
    ValueError
        If there is no row, or a row does not have one cell per column.
    """
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"rows must contain {len(header)} cells each, got {[len(row) for row in rows]}")
    align = ["left"] + ["right"] * (len(header) - 1)
    shades = [["white" if index % 2 else "#f6f8fa" for index in range(len(rows))]]
    titles = {"values": [f"<b>{text}</b>" for text in header], "fill": {"color": "white"}, "height": 32}
    cells = {"values": list(zip(*rows, strict=True)), "fill": {"color": shades}, "height": 28}
    ruled = {"align": align, "line": {"color": GRID}}
    fig = figure(height=110 + 30 * len(rows), margin={"l": 10, "r": 10, "t": 20, "b": 10})
    fig.add_trace(
        go.Table(
            columnwidth=[2.2] + [1] * (len(header) - 1), header={**titles, **ruled}, cells={**cells, **ruled}
        )
    )
    return fig
