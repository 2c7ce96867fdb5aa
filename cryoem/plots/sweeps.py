"""Measurements against a varied quantity: curves with published values, conditions, time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    MUTED,
    curve,
    dashed,
    figure,
    log_ticks,
    named_colours,
    non_empty_mapping,
    one_legend_entry_per_group,
    panels,
    translucent,
)
from cryoem.validation import finite_array

MOST_TICKS = 10
GUIDE_ABOVE = 1.6  # factor between the end of a curve and the guide line


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
    """Measurements against a varied quantity, with published values as diamonds.

    Parameters
    ----------
    curves : mapping of str to tuple
        ``(x, y)``, or ``(x, y, low, high)`` with a band. x are increasing numbers, or words.
    x_title, y_title : str
        Axis titles with units.
    published : mapping of str to tuple, optional
        ``(x, y)`` of other authors.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    identity : str, optional
        Name of the line y = x, which is drawn if given.
    level : tuple of float and str, optional
        A value of y that is drawn as a line, and its name.
    markers : bool
        Whether each measurement has a dot.

    Raises
    ------
    ValueError
        If the arrays of a curve are not finite, differ in length, or are not positive on a logarithmic axis.
    """
    fig = figure(height=460, showlegend=True, legend=LEGEND_ABOVE, margin={"t": 80})
    drawn_x, drawn_y = [], []
    hover = f"{x_title} %{{x}}<br>{y_title} %{{y:.4g}}<extra>%{{fullData.name}}</extra>"
    for name, colour in named_colours(non_empty_mapping(curves, name="curves")).items():
        x, y = _points(curves[name], name=f"curves[{name!r}]", log_x=log_x, log_y=log_y)
        drawn_x.append(x)
        drawn_y.append(y)
        if len(curves[name]) == 4:
            fig.add_trace(_band(x, curves[name][2:], colour, name))
        dots = {"size": 8, "line": {"color": "white", "width": 1}}
        mode = "lines+markers" if markers else "lines"
        fig.add_trace(
            curve(x, y, name=name, colour=colour, hover=hover, mode=mode, marker=dots, legendgroup=name)
        )
    for name, points in (published or {}).items():
        x, y = _points(points, name=f"published[{name!r}]", log_x=log_x, log_y=log_y)
        drawn_y.append(y)
        diamonds = {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}}
        dotted = {"colour": MUTED, "width": 1.5, "line": {"dash": "dot"}}
        mode = "lines+markers" if len(y) > 1 else "markers"
        fig.add_trace(curve(x, y, name=name, hover=hover, mode=mode, marker=diamonds, **dotted))
    if identity is not None:
        ends = [min(x.min() for x in drawn_x), max(x.max() for x in drawn_x)]
        fig.add_trace(dashed(ends, ends, name=identity))
    if level is not None:
        fig.add_trace(dashed([drawn_x[0][0], drawn_x[0][-1]], [level[0], level[0]], name=level[1]))
        drawn_y.append(np.array([level[0]]))
    fig.update_xaxes(title_text=x_title)
    fig.update_yaxes(title_text=y_title, rangemode="tozero")
    if log_x:
        at = np.unique(np.concatenate(drawn_x))
        fig.update_xaxes(type="log", **(_ticks_at(at) if len(at) <= MOST_TICKS else log_ticks(at)))
    if log_y:
        fig.update_yaxes(type="log", rangemode="normal", **log_ticks(np.concatenate(drawn_y)))
    return fig


def methods_by_condition(
    conditions: Mapping[str, Mapping[str, tuple]],
    *,
    x_title: str,
    y_title: str,
    projected: Mapping[str, Mapping[str, tuple]] | None = None,
) -> go.Figure:
    """Curves of several methods under several conditions: one panel per condition, on shared logarithmic axes.

    Parameters
    ----------
    conditions : mapping of str to mapping of str to tuple
        Condition to method to measured ``(x, y)``, positive, x increasing. A panel may lack a method.
    x_title, y_title : str
        Axis titles with units.
    projected : mapping of str to mapping of str to tuple, optional
        Extrapolated values in the same form, drawn as open dots on dotted lines that continue the measurements.

    Raises
    ------
    ValueError
        If there is no condition, values are not positive, or x and y differ in length.
    """
    conditions = non_empty_mapping(conditions, name="conditions")
    drawn = {
        (title, method, kind): _rising_curve(points, name=f"{kind}[{title!r}][{method!r}]")
        for kind, group in (("conditions", conditions), ("projected", projected or {}))
        for title, curves in group.items()
        for method, points in curves.items()
    }
    colours = named_colours(dict.fromkeys(method for _, method, _ in drawn))
    fig = panels(
        layout={"height": 460, "margin": {"t": 90}, "legend": {**LEGEND_ABOVE, "y": 1.09}},
        cols=len(conditions),
        subplot_titles=[str(title) for title in conditions],
        shared_yaxes="all",
        horizontal_spacing=0.02,
    )
    for column, title in enumerate(conditions, start=1):
        for method, colour in colours.items():
            options = {"colour": colour, "width": 2, "mode": "lines+markers", "legendgroup": method}
            options["hover"] = "%{fullData.name}<br>%{x:g}: %{y:.3g}<extra></extra>"
            measured = drawn.get((title, method, "conditions"))
            projection = drawn.get((title, method, "projected"))
            if measured is not None:
                dots = {"color": colour, "size": 8}
                fig.add_trace(curve(*measured, name=method, marker=dots, **options), row=1, col=column)
            if projection is not None:
                sizes = [9] * len(projection[0])
                if measured is not None:  # start at the last measurement, whose dot exists already
                    projection = [np.r_[a[-1:], b] for a, b in zip(measured, projection, strict=True)]
                    sizes = [0, *sizes]
                rings = {"color": colour, "symbol": ["circle-open"] * len(sizes), "size": sizes}
                options |= {"marker": rings, "line": {"dash": "dot"}, "name": f"{method}, projected"}
                fig.add_trace(curve(*projection, **options), row=1, col=column)
    x, y = (np.concatenate([points[axis] for points in drawn.values()]) for axis in (0, 1))
    at = np.unique(x)
    ends = np.log10([at[0] / 1.15, at[-1] * 1.15])
    fig.update_xaxes(type="log", title_text=x_title, range=ends, **_ticks_at(at))
    fig.update_yaxes(type="log", **log_ticks(y))
    fig.update_yaxes(title_text=y_title, row=1, col=1)
    return one_legend_entry_per_group(fig)


def cost_growth(
    curves: Mapping[str, tuple], *, x_title: str, slope: float = 1.0, slope_name: str = "proportional to size"
) -> go.Figure:
    """Time and memory of several steps against the size of their input, on logarithmic axes in two panels.

    Parameters
    ----------
    curves : mapping of str to tuple
        ``(size, seconds, memory_gb)``, (k,) each, positive, sizes increasing.
    x_title : str
        Title of the size axes with unit.
    slope, slope_name : float and str
        Exponent and name of the dashed guide line over the times.

    Raises
    ------
    ValueError
        If there is no step, values are not positive, or the arrays differ in length.
    """
    drawn = {
        step: [_rising_curve((sizes, costs), name=f"curves[{step!r}]") for costs in (seconds, memory_gb)]
        for step, (sizes, seconds, memory_gb) in non_empty_mapping(curves, name="curves").items()
    }
    fig = panels(
        layout={"height": 460, "margin": {"t": 90}, "legend": {**LEGEND_ABOVE, "y": 1.04}},
        cols=2,
        horizontal_spacing=0.11,
    )
    for step, colour in named_colours(drawn).items():
        for column, (x, y) in enumerate(drawn[step], start=1):
            hover = f"{step}<br>%{{x:,}}: %{{y:.3g}} {('s', 'GB')[column - 1]}<extra></extra>"
            dots = {"mode": "lines+markers", "marker": {"color": colour, "size": 8}, "legendgroup": step}
            fig.add_trace(
                curve(x, y, name=step, colour=colour, width=2, hover=hover, **dots), row=1, col=column
            )
    guide = _guide([of_step[0] for of_step in drawn.values()], slope)
    fig.add_trace(dashed(*guide, name=slope_name), row=1, col=1)
    at = np.unique(np.concatenate([x for of_step in drawn.values() for x, _ in of_step]))
    seconds, memory = (np.concatenate([of_step[k][1] for of_step in drawn.values()]) for k in (0, 1))
    # the memory axis spans at least a decade, so that constant memory looks constant
    least = 10.0 ** np.floor(np.log10(memory.min()))
    ends = np.array([least, max(10 * least, 1.5 * memory.max())])
    fig.update_xaxes(type="log", title_text=x_title, **_ticks_at(at))
    fig.update_yaxes(type="log", title_text="time (s)", row=1, col=1, **log_ticks(np.r_[seconds, guide[1]]))
    fig.update_yaxes(
        type="log", title_text="peak memory (GB)", range=np.log10(ends), row=1, col=2, **log_ticks(ends)
    )
    return one_legend_entry_per_group(fig)


def _points(points: tuple, *, name: str, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of a curve as checked arrays."""
    x = np.asarray(points[0])
    y = finite_array(points[1], name=f"{name} y", ndim=1, dtype=float)
    if x.dtype.kind in "iuf":
        x = finite_array(x, name=f"{name} x", ndim=1, dtype=float)
    if len(x) != len(y):
        raise ValueError(f"{name} must have as many x as y values, got {len(x)} and {len(y)}")
    for values, is_log in ((x, log_x), (y, log_y)):
        if is_log and values.min() <= 0:
            raise ValueError(f"{name} must be positive on a logarithmic axis, got {values.min():.4g}")
    return x, y


def _band(x: np.ndarray, band: Sequence, colour: str, name: str) -> go.Scatter:
    """Return the filled band between the lower and upper limits of a curve."""
    low, high = (finite_array(values, name=f"curves[{name!r}] band", ndim=1, dtype=float) for values in band)
    around = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
    filled = {"fill": "toself", "fillcolor": translucent(colour, 0.15), "showlegend": False}
    return curve(*around, name=name, colour=colour, width=0, legendgroup=name, **filled)


def _ticks_at(values: np.ndarray) -> dict:
    """Return ticks at each of a few values."""
    return {"tickvals": values, "ticktext": [f"{value:,.7g}" for value in values]}


def _guide(curves: list[tuple[np.ndarray, np.ndarray]], slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a line (x, y) with a slope that passes above the end of each curve."""
    x = np.array([min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)])
    level = max(y[-1] / x[-1] ** slope for x, y in curves)
    return x, GUIDE_ABOVE * level * x**slope


def _rising_curve(curve: tuple, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y for logarithmic axes, else raise a ValueError with ``name``.

    Both must be positive and of one length, and x must increase.
    """
    x, y = (finite_array(values, name=name, ndim=1, dtype=float) for values in curve)
    if len(x) != len(y) or min(x.min(), y.min()) <= 0 or np.any(np.diff(x) <= 0):
        raise ValueError(
            f"{name} must have increasing positive x and as many positive y, got {len(x)} and {len(y)} "
            f"values, the lowest {x.min():.4g} and {y.min():.4g}"
        )
    return x, y
