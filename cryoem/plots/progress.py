"""How a run went: the rounds of a refinement, the time of each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.plots.checks import non_empty_mapping
from cryoem.plots.template import GREEN, INK, figure, named_colours

_UNITS = {"deg": "°", "rad": "rad", "angstrom": "Å", "px": "px", "seconds": "s"}


def refinement_history(history: Mapping[str, Sequence[float]]) -> go.Figure:
    """What each round of the refinement did: one small panel a quantity.

    Parameters
    ----------
    history : name -> one number a round, NaN where there is none; the end of a name tells the unit (``_deg``,
        ``_rad``, ``_angstrom``, ``_px``, ``_seconds``), as in ``search_radius_deg``, ``score``,
        ``pose_error_deg``, ``resolution_angstrom``.

    Raises
    ------
    ValueError : the lists are empty or differ in length.
    """
    history = non_empty_mapping(history, name="history")
    series = {name: np.asarray(values, dtype=float) for name, values in history.items()}
    n = max(values.size for values in series.values())
    for name, values in series.items():
        if values.shape != (n,) or n == 0:
            raise ValueError(f"history[{name!r}] must have one number a round, {n}, got shape {values.shape}")
    columns = min(2, len(series))
    rows = -(-len(series) // columns)
    fig = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.14, vertical_spacing=0.3 / rows)
    for index, (name, colour) in enumerate(named_colours(series).items()):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        title = _title_with_unit(name)
        fig.add_trace(
            go.Scatter(
                x=np.arange(1, n + 1),
                y=series[name],
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 8},
                name=title,
                hovertemplate=f"round %{{x}}<br>{title} %{{y:.4g}}<extra></extra>",
            ),
            **place,
        )
        fig.update_xaxes(title_text="round", tickformat="d", dtick=max(1, n // 8), **place)
        fig.update_yaxes(title_text=title, **place)
        last = series[name][-1]
        if np.isfinite(last):
            fig.add_annotation(
                x=n,
                y=last,
                text=f"<b>{last:.3g}</b>",
                font={"color": colour},
                showarrow=False,
                yshift=16,
                **place,
            )
    fig.update_layout(template="cryoem", height=90 + 250 * rows, showlegend=False)
    return fig


def _title_with_unit(name: str) -> str:
    words = name.split("_")
    unit = _UNITS.get(words[-1])
    return " ".join(words) if unit is None else f"{' '.join(words[:-1])} ({unit})"


def pipeline_timings(seconds: Mapping[str, float]) -> go.Figure:
    """How long each phase took, as bars from top to bottom in the order given.

    Parameters
    ----------
    seconds : phase -> seconds, not negative.

    Raises
    ------
    ValueError : a time is negative or not finite.
    """
    seconds = non_empty_mapping(seconds, name="seconds")
    for name, value in seconds.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"seconds[{name!r}] must be a time of 0 or more, got {value}")
    total = sum(seconds.values())
    fig = figure(
        height=120 + 44 * len(seconds),
        title={"text": f"total {readable_duration(total)}"},
    )
    fig.add_trace(
        go.Bar(
            x=list(seconds.values()),
            y=list(seconds),
            orientation="h",
            marker={"color": GREEN, "cornerradius": 4},
            width=0.62,
            text=[readable_duration(value) for value in seconds.values()],
            textposition="outside",
            cliponaxis=False,
            textfont={"color": INK},
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    fig.update_xaxes(title_text="time (s)", range=[0, 1.15 * max(*seconds.values(), 1e-9)])
    fig.update_yaxes(autorange="reversed", showgrid=False, ticks="", tickfont={"size": 13})
    return fig


def readable_duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 07 s`` or ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
