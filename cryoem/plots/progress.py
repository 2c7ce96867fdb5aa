"""How a refinement went, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.plots.checks import non_empty_mapping
from cryoem.plots.template import named_colours

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
