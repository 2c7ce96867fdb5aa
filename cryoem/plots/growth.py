"""What steps cost as their input grows: time and memory against size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.plots.checks import non_empty_mapping, rising_curve
from cryoem.plots.template import LEGEND_ABOVE, MUTED, named_colours
from cryoem.plots.ticks import log_ticks

GUIDE_ABOVE = 1.6  # times where a curve ends


def cost_growth(
    curves: Mapping[str, tuple], *, x_title: str, slope: float = 1.0, slope_name: str = "proportional to size"
) -> go.Figure:
    """Time and memory of steps against the size of what they work on, on logarithmic axes, side by side.

    Parameters
    ----------
    curves : step -> ``(size, seconds, memory_gb)``, (k,) each, positive, sizes rising.
    x_title : what the size is, with its unit.
    slope, slope_name : of the dashed line beside the times: time grows as size to this power.

    Raises
    ------
    ValueError : there is no step, or values are not positive or sizes, times and memories not equally many.
    """
    drawn = {
        step: [rising_curve((sizes, costs), name=f"curves[{step!r}]") for costs in (seconds, memory_gb)]
        for step, (sizes, seconds, memory_gb) in non_empty_mapping(curves, name="curves").items()
    }
    fig = make_subplots(cols=2, horizontal_spacing=0.11)
    for step, colour in named_colours(drawn).items():
        for column, (x, y) in enumerate(drawn[step], start=1):
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    name=step,
                    legendgroup=step,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": colour, "width": 2},
                    marker={"color": colour, "size": 8},
                    hovertemplate=f"{step}<br>%{{x:,}}: %{{y:.3g}} {('s', 'GB')[column - 1]}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    guide = _guide([of_step[0] for of_step in drawn.values()], slope)
    line = {"color": MUTED, "width": 1.5, "dash": "dash"}
    fig.add_trace(
        go.Scatter(x=guide[0], y=guide[1], name=slope_name, mode="lines", line=line, hoverinfo="skip"),
        row=1,
        col=1,
    )
    at = np.unique(np.concatenate([x for of_step in drawn.values() for x, _ in of_step]))
    fig.update_xaxes(type="log", title_text=x_title, tickvals=at, ticktext=[f"{x:,.7g}" for x in at])
    seconds, memory = (np.concatenate([of_step[k][1] for of_step in drawn.values()]) for k in (0, 1))
    least = 10.0 ** np.floor(np.log10(memory.min()))
    ends = np.array([least, max(10 * least, 1.5 * memory.max())])  # a decade: what is level must look it
    fig.update_yaxes(type="log", title_text="time (s)", row=1, col=1, **log_ticks(np.r_[seconds, guide[1]]))
    fig.update_yaxes(
        type="log", title_text="peak memory (GB)", range=np.log10(ends), row=1, col=2, **log_ticks(ends)
    )
    fig.update_layout(template="cryoem", height=460, margin={"t": 90}, legend={**LEGEND_ABOVE, "y": 1.04})
    return fig


def _guide(curves: list[tuple[np.ndarray, np.ndarray]], slope: float) -> tuple[np.ndarray, np.ndarray]:
    """A line (x, y) of a slope, above where each curve ends."""
    x = np.array([min(x[0] for x, _ in curves), max(x[-1] for x, _ in curves)])
    level = max(y[-1] / x[-1] ** slope for x, y in curves)
    return x, GUIDE_ABOVE * level * x**slope
