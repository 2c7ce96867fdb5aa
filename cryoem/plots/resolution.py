"""Fourier shell correlations and the resolution read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.checks import finite_array
from cryoem.plots.checks import non_empty_mapping
from cryoem.plots.template import LEGEND_ABOVE, MUTED, figure, named_colours
from cryoem.plots.ticks import round_below
from cryoem.resolution import FSC


def fourier_shell_correlation(
    curves: Mapping[str, tuple],
    *,
    thresholds: Sequence[float] = (0.5, 0.143),
    title: str = "Fourier shell correlation",
) -> go.Figure:
    """Fourier shell correlations with the resolution at which each first falls below each threshold.

    Parameters
    ----------
    curves : name -> (frequency, correlation), both (n,): shells in 1/angstrom, rising, and correlations in
        [-1, 1].  A third element is the one threshold that this curve is read at.
    thresholds : correlations in (0, 1) drawn as dashed lines, a curve's crossing marked with its resolution
        where there is one.
    title : of the vertical axis, such as that of ring correlations of images.

    Raises
    ------
    ValueError : frequency and correlation differ in length, frequencies do not rise, or a correlation exceeds
        1.
    """
    fig = figure(height=480)
    highest = 0.0
    crossings: dict[float, list] = {threshold: [] for threshold in thresholds}
    for name, colour in named_colours(non_empty_mapping(curves, name="curves")).items():
        frequency, correlation = (
            finite_array(values, name=f"curves[{name!r}]", ndim=1).astype(float)
            for values in curves[name][:2]
        )
        if len(frequency) != len(correlation):
            raise ValueError(
                f"curves[{name!r}] must pair as many frequencies as correlations, "
                f"got {len(frequency)} and {len(correlation)}"
            )
        if frequency[0] < 0 or np.any(np.diff(frequency) <= 0):
            raise ValueError(
                f"curves[{name!r}] must have frequencies that rise from 0 or above, got {frequency[:4]}..."
            )
        if np.abs(correlation).max() > 1 + 1e-4:
            raise ValueError(
                f"curves[{name!r}] must have correlations in [-1, 1], got {np.abs(correlation).max():.4g}"
            )
        highest = max(highest, frequency[-1])
        fig.add_trace(
            go.Scatter(
                x=frequency,
                y=correlation,
                customdata=1 / np.maximum(frequency, 1e-9),
                name=name,
                line={"color": colour, "width": 2.5},
                hovertemplate=f"%{{customdata:.1f}} Å<br>correlation %{{y:.3f}}<extra>{name}</extra>",
            )
        )
        for threshold in curves[name][2:] or thresholds:
            if correlation[0] >= threshold > correlation.min():
                at_angstrom = FSC(frequency, correlation).resolution_angstrom(threshold)
                crossings.setdefault(threshold, []).append((1 / at_angstrom, colour))
    for threshold, found in crossings.items():
        _add_threshold(fig, threshold, found, flip_beyond=0.85 * highest)
    ticks = np.round(np.arange(0, highest + 1e-9, round_below(highest / 4)), 10)
    fig.update_xaxes(
        title_text="spatial frequency (1/Å), and resolution (Å) below",
        range=[0, highest],
        tickvals=ticks,
        ticktext=["0"] + [f"{t:g}<br><b>{1 / t:.3g} Å</b>" for t in ticks[1:]],
    )
    lowest = min(-0.05, *(float(np.min(curve[1])) - 0.03 for curve in curves.values()))
    fig.update_yaxes(title_text=title, range=[lowest, 1.04])
    fig.update_layout(showlegend=True, legend=LEGEND_ABOVE)
    return fig


def _add_threshold(fig: go.Figure, threshold: float, crossings: list, *, flip_beyond: float) -> None:
    fig.add_hline(
        y=threshold,
        line={"color": MUTED, "width": 1.3, "dash": "dash"},
        annotation={"text": f"{threshold:g}", "font": {"color": MUTED, "size": 12}},
        annotation_position="top right",
    )
    # labels climb away from the line from right to left, so that neighbours stay apart
    for rank, (at, colour) in enumerate(sorted(crossings, reverse=True)):
        side = 1 if at < flip_beyond else -1
        fig.add_trace(
            go.Scatter(
                x=[at],
                y=[threshold],
                mode="markers",
                marker={"size": 9, "color": "white", "line": {"color": colour, "width": 2.5}},
                showlegend=False,
                hoverinfo="skip",
            )
        )
        fig.add_annotation(
            x=at,
            y=threshold,
            text=f"<b>{1 / at:.1f} Å</b>",
            font={"color": colour, "size": 13},
            bgcolor="rgba(255,255,255,0.8)",
            arrowcolor=colour,
            standoff=5,
            ax=34 * side,
            ay=-20 - 20 * rank,
            xanchor="left" if side == 1 else "right",
        )
