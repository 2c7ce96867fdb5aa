"""Distances between orientations, in radians: their distribution and what a prediction makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from cryoem.checks import finite_array
from cryoem.plots.checks import non_empty_mapping, thinned
from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    MUTED,
    ORANGE,
    SEQUENTIAL,
    figure,
    named_colours,
    translucent,
)

_RADIAN_TICKS = {
    "tickvals": [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4, np.pi],
    "ticktext": ["0", "π/4", "π/2", "3π/4", "π"],
}


def distance_histograms(distances: Mapping[str, np.ndarray], *, bins: int = 90) -> go.Figure:
    """Densities of pairwise distances over one another, with that of rotations uniform on SO(3).

    Parameters
    ----------
    distances : name -> (n, n) matrix, of which the pairs above the diagonal count, or (p,) pairs; radians.
    bins : of the histogram.

    The line of SO(3)-uniform rotations is the Haar density of the rotation angle, ``(1 - cos d) / pi``.

    Raises
    ------
    ValueError : an array is neither square nor one-dimensional, is not finite, or holds values that cannot be
        radians.
    """
    distances = non_empty_mapping(distances, name="distances")
    pairs = {name: pair_distances(values, name=f"distances[{name!r}]") for name, values in distances.items()}
    lowest = min(0.0, *(p.min() for p in pairs.values()))
    highest = max(np.pi, *(p.max() for p in pairs.values()))
    edges = np.linspace(lowest, highest, bins + 1)
    fig = figure()
    for (name, values), colour in zip(pairs.items(), named_colours(pairs).values(), strict=True):
        density, _ = np.histogram(values, bins=edges, density=True)
        fig.add_trace(
            go.Scatter(
                x=edges,
                y=np.append(density, density[-1]),
                name=name,
                line={"shape": "hv", "color": colour, "width": 2},
                fill="tozeroy",
                fillcolor=translucent(colour, 0.16),
                hovertemplate="d %{x:.2f} rad<br>density %{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
    angle = np.linspace(0, np.pi, 181)
    fig.add_trace(
        go.Scatter(
            x=angle,
            y=(1 - np.cos(angle)) / np.pi,
            name="uniform on SO(3)",
            line={"color": INK, "width": 2, "dash": "dash"},
            hoverinfo="skip",
        )
    )
    fig.update_xaxes(title_text="distance d (rad)", range=[lowest, highest], **_RADIAN_TICKS)
    fig.update_yaxes(title_text="probability density (1/rad)", rangemode="tozero")
    fig.update_layout(legend={"x": 0.02, "y": 0.98, "xanchor": "left", "yanchor": "top"})
    return fig


def predicted_against_true(
    true: np.ndarray, predicted: np.ndarray, *, bins: int = 90, max_points: int = 2_000_000
) -> go.Figure:
    """How often each predicted distance goes with each true one, with running median and 10-90 % band.

    Parameters
    ----------
    true, predicted : distances of the same shape, (n, n), of which the pairs above the diagonal count, or
        (p,); radians.
    bins : of the histogram along each axis.
    max_points : beyond this many pairs, evenly spaced ones are drawn; the mean absolute error in the title is
        of all.

    Raises
    ------
    ValueError : the shapes differ, are neither square nor one-dimensional, or hold values that cannot be
        radians.
    """
    x, y = _matching_pairs(true, predicted, name="predicted")
    error = np.abs(y - x).mean()
    drawn = thinned(len(x), max_points)
    x, y = x[drawn], y[drawn]
    top = max(np.pi, float(y.max()))
    count, x_edges, y_edges = np.histogram2d(
        x, y, bins=bins, range=[[0, np.pi], [min(0.0, float(y.min())), top]]
    )
    with np.errstate(divide="ignore"):
        log_count = np.where(count > 0, np.log10(count), np.nan).astype(np.float32)
    decades = np.arange(int(np.ceil(np.nanmax(log_count))) + 1)
    fig = figure(
        height=600,
        width=680,
        title={"text": f"mean absolute error {error:.3f} rad ({np.rad2deg(error):.1f}°)"},
    )
    fig.add_trace(
        go.Heatmap(
            x=(x_edges[:-1] + x_edges[1:]) / 2,
            y=(y_edges[:-1] + y_edges[1:]) / 2,
            z=log_count.T,
            customdata=count.T.astype(np.int32),
            colorscale=SEQUENTIAL,
            zmin=0,
            colorbar={
                "title": {"text": "pairs"},
                "tickvals": decades,
                "ticktext": [f"{10 ** int(d):,}" for d in decades],
            },
            hovertemplate="true %{x:.2f} rad<br>predicted %{y:.2f} rad<br>%{customdata} pairs<extra></extra>",
            showlegend=False,
        )
    )
    _add_identity(fig)
    centres, low, median, high = _running_percentiles(x, y)
    fig.add_trace(
        go.Scatter(
            x=np.concatenate([centres, [np.nan], centres]),
            y=np.concatenate([low, [np.nan], high]),
            line={"color": ORANGE, "width": 1.8, "dash": "dot"},
            name="10 % and 90 %",
            hoverinfo="skip",
        )
    )
    fig.add_trace(go.Scatter(x=centres, y=median, name="median", line={"color": ORANGE, "width": 3}))
    fig.update_xaxes(title_text="true distance (rad)", range=[0, np.pi], constrain="domain", **_RADIAN_TICKS)
    fig.update_yaxes(
        title_text="predicted distance (rad)",
        range=[float(y_edges[0]), top],
        constrain="domain",
        **_RADIAN_TICKS,
    )
    fig.update_layout(
        yaxis_scaleanchor="x",
        legend={"x": 0.02, "y": 0.98, "xanchor": "left", "yanchor": "top"},
        hovermode="closest",
    )
    return fig


def bias_against_distance(
    true: np.ndarray, predicted: Mapping[str, np.ndarray], *, bins: int = 40
) -> go.Figure:
    """Mean of predicted minus true distance, against the true one: a perfect predictor is the zero line.

    Parameters
    ----------
    true : (n, n) distances, of which the pairs above the diagonal count, or (p,); radians.
    predicted : name -> distances of the same shape.
    bins : of the true distance.

    Raises
    ------
    ValueError : a shape differs from that of ``true``, or values cannot be radians.
    """
    predicted = non_empty_mapping(predicted, name="predicted")
    fig = figure()
    fig.add_hline(y=0, line={"color": INK, "width": 1.5, "dash": "dash"})
    for (name, values), colour in zip(predicted.items(), named_colours(predicted).values(), strict=True):
        x, y = _matching_pairs(true, values, name=f"predicted[{name!r}]")
        edges = np.linspace(0, np.pi, bins + 1)
        which = np.clip(np.digitize(x, edges) - 1, 0, bins - 1)
        count = np.bincount(which, minlength=bins)
        seen = count > 0
        bias = np.bincount(which, weights=y - x, minlength=bins)[seen] / count[seen]
        fig.add_trace(
            go.Scatter(
                x=((edges[:-1] + edges[1:]) / 2)[seen],
                y=bias,
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 5},
                hovertemplate="true %{x:.2f} rad<br>bias %{y:+.3f} rad<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(title_text="true distance (rad)", range=[0, np.pi], **_RADIAN_TICKS)
    fig.update_yaxes(title_text="mean of predicted − true distance (rad)")
    fig.update_layout(showlegend=True, legend=LEGEND_ABOVE)
    return fig


def pair_distances(distances: np.ndarray, *, name: str) -> np.ndarray:
    """The pairs i < j of an (n, n) matrix, or a (p,) array as it is; radians.

    Raises
    ------
    ValueError : naming ``name``: the array is neither, is not finite, or holds values that cannot be radians.
    """
    distances = np.asarray(distances)
    if distances.ndim == 2 and distances.shape[0] == distances.shape[1] > 1:
        distances = distances[np.triu_indices(len(distances), k=1)]
    elif distances.ndim != 1:
        raise ValueError(f"{name} must be (n, n) with n > 1 or one-dimensional, got {distances.shape}")
    distances = finite_array(distances, name=name, ndim=1)
    if np.abs(distances).max() > 4 * np.pi:
        raise ValueError(f"{name} must be in radians, got a value of {np.abs(distances).max():.4g}")
    return distances


def _matching_pairs(true: np.ndarray, predicted: np.ndarray, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(true) != np.shape(predicted):
        raise ValueError(f"{name} must have the shape of true, {np.shape(true)}, got {np.shape(predicted)}")
    return pair_distances(true, name="true"), pair_distances(predicted, name=name)


def _running_percentiles(x: np.ndarray, y: np.ndarray, *, bins: int = 50, fewest: int = 10):
    """Centres of the bins of x with enough points, and the 10, 50 and 90 % points of y in each."""
    edges = np.linspace(0, np.pi, bins + 1)
    order = np.argsort(x, kind="stable")
    bounds = np.searchsorted(x[order], edges)
    groups = [(i, y[order[a:b]]) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
    rows = [
        ((edges[i] + edges[i + 1]) / 2, *np.percentile(g, [10, 50, 90]))
        for i, g in groups
        if len(g) >= fewest
    ]
    return np.array(rows).reshape(-1, 4).T


def _add_identity(fig: go.Figure) -> None:
    fig.add_trace(
        go.Scatter(
            x=[0, np.pi],
            y=[0, np.pi],
            name="identity",
            mode="lines",
            line={"color": MUTED, "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        )
    )
