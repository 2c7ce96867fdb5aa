"""Methods side by side under several conditions: a panel a condition, a curve a method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.plots.checks import non_empty_mapping, rising_curve
from cryoem.plots.template import LEGEND_ABOVE, named_colours
from cryoem.plots.ticks import log_ticks


def methods_by_condition(
    panels: Mapping[str, Mapping[str, tuple]],
    *,
    x_title: str,
    y_title: str,
    projected: Mapping[str, Mapping[str, tuple]] | None = None,
) -> go.Figure:
    """What several methods reach under several conditions, on logarithmic axes that all panels share.

    Parameters
    ----------
    panels : condition -> method -> ``(x, y)`` as measured, positive, x rising; a method may be missing from a panel.
    x_title, y_title : with their units.
    projected : the same, of what was not measured: drawn as open dots on dotted lines that go on from the measured.

    Raises
    ------
    ValueError : there is no panel, or values are not positive or x and y not equally many.
    """
    panels = non_empty_mapping(panels, name="panels")
    drawn = {
        (title, method, kind): rising_curve(curve, name=f"{kind}[{title!r}][{method!r}]")
        for kind, group in (("panels", panels), ("projected", projected or {}))
        for title, curves in group.items()
        for method, curve in curves.items()
    }
    methods = dict.fromkeys(method for _, method, _ in drawn)
    fig = make_subplots(
        cols=len(panels),
        subplot_titles=[str(title) for title in panels],
        shared_yaxes="all",
        horizontal_spacing=0.02,
    )
    named = set()
    for column, title in enumerate(panels, start=1):
        for method, colour in named_colours(methods).items():
            measured = drawn.get((title, method, "panels"))
            open_points = drawn.get((title, method, "projected"))
            if open_points is not None:
                if measured is not None:
                    joined = tuple(np.r_[a[-1:], b] for a, b in zip(measured, open_points, strict=True))
                else:
                    joined = open_points
                trace = _trace(joined, f"{method}, projected", method, colour, measured is not None)
                trace.showlegend = measured is None and method not in named
                named |= {method} if trace.showlegend else set()
                fig.add_trace(trace, row=1, col=column)
            if measured is not None:
                trace = _trace(measured, method, method, colour, None)
                trace.showlegend = method not in named
                named.add(method)
                fig.add_trace(trace, row=1, col=column)
    x, y = (np.concatenate([curve[axis] for curve in drawn.values()]) for axis in (0, 1))
    at = np.unique(x)
    fig.update_xaxes(
        type="log",
        title_text=x_title,
        tickvals=at,
        ticktext=[f"{value:g}" for value in at],
        range=np.log10([at[0] / 1.15, at[-1] * 1.15]),
    )
    fig.update_yaxes(type="log", **log_ticks(y))
    fig.update_yaxes(title_text=y_title, row=1, col=1)
    fig.update_layout(template="cryoem", height=460, margin={"t": 90}, legend={**LEGEND_ABOVE, "y": 1.09})
    return fig


def _trace(curve: tuple, name: str, group: str, colour: str, is_joined: bool | None) -> go.Scatter:
    """A measured curve; or, with ``is_joined``, a projected one, whose first point may be a measured one's."""
    line = {"color": colour, "width": 2}
    marker = {"color": colour, "size": 8}
    if is_joined is not None:
        line["dash"] = "dot"
        symbols = ["circle-open"] * len(curve[0])
        marker = {**marker, "symbol": symbols, "size": [0 if is_joined else 9] + [9] * (len(symbols) - 1)}
    return go.Scatter(
        x=curve[0],
        y=curve[1],
        mode="lines+markers",
        line=line,
        marker=marker,
        name=name,
        legendgroup=group,
        showlegend=False,
        hovertemplate=f"{name}<br>%{{x:g}}: %{{y:.3g}}<extra></extra>",
    )
