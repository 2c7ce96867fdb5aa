"""Losses over training and recovery, and the errors that remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.checks import finite_array
from cryoem.plots.checks import non_empty_mapping, thinned
from cryoem.plots.template import (
    BLUE,
    LEGEND_ABOVE,
    MUTED,
    SLATE,
    VERMILION,
    figure,
    named_colours,
    translucent,
)
from cryoem.plots.ticks import log_ticks

# panels of the learning curves: title, and the keys of the history drawn in it with their names
_LEARNING_PANELS = (
    ("loss", {"loss": "training", "val_loss": "validation"}),
    ("distance error (rad)", {"distance_error_rad": "training", "val_distance_error_rad": "validation"}),
    ("learning rate", {"learning_rate": "learning rate"}),
)
_TRAINING_COLOURS = {"training": BLUE, "validation": VERMILION, "learning rate": SLATE}


def learning_curves(history: Mapping[str, Sequence[float]], *, x: str = "step") -> go.Figure:
    """Training and validation loss, distance error and learning rate, with the best epoch marked.

    Parameters
    ----------
    history : lists of one length (NaN where a value was not measured): ``loss`` and, where there are any,
        ``val_loss``, ``distance_error_rad``, ``val_distance_error_rad``, ``learning_rate`` and ``x``; other
        keys are not drawn.
    x : key of the horizontal axis and its title; 1, 2, 3, ... if the history does not hold it.

    Raises
    ------
    ValueError : ``loss`` is missing or the lists differ in length.
    """
    history = non_empty_mapping(history, name="history")
    if "loss" not in history:
        raise ValueError(f"history must hold 'loss', got {', '.join(history)}")
    series = {key: np.asarray(values, dtype=float) for key, values in history.items()}
    n = len(series["loss"])
    for key, values in series.items():
        if values.shape != (n,):
            raise ValueError(
                f"history[{key!r}] must have one value an entry of 'loss', {n}, got shape {values.shape}"
            )
    at = series.get(x, np.arange(1, n + 1))
    panels = [panel for panel in _LEARNING_PANELS if any(key in series for key in panel[1])]
    fig = make_subplots(
        rows=len(panels), shared_xaxes=True, vertical_spacing=0.06, row_heights=[3, 2, 1.2][: len(panels)]
    )
    named = set()
    for row, (title, keys) in enumerate(panels, start=1):
        for key, name in keys.items():
            if key not in series:
                continue
            fig.add_trace(
                go.Scatter(
                    x=at,
                    y=series[key],
                    name=name,
                    legendgroup=name,
                    showlegend=name not in named and name != "learning rate",
                    connectgaps=True,
                    line={"color": _TRAINING_COLOURS[name], "width": 2},
                    hovertemplate=f"{x} %{{x}}<br>{title} %{{y:.4g}}<extra>{name}</extra>",
                ),
                row=row,
                col=1,
            )
            named.add(name)
        drawn = np.concatenate([series[key] for key in keys if key in series])
        fig.update_yaxes(title_text=title, type="log", **log_ticks(drawn), row=row, col=1)
    watched = "val_loss" if np.isfinite(series.get("val_loss", np.nan)).any() else "loss"
    best = int(np.nanargmin(series[watched]))
    colour = _TRAINING_COLOURS["validation" if watched == "val_loss" else "training"]
    fig.add_vline(x=float(at[best]), line={"color": MUTED, "width": 1, "dash": "dot"})
    fig.add_trace(
        go.Scatter(
            x=[at[best]],
            y=[series[watched][best]],
            mode="markers",
            name=f"best: {series[watched][best]:.4g} at {x} {at[best]:g}",
            marker={"symbol": "star", "size": 15, "color": colour, "line": {"color": "white", "width": 1}},
        ),
        row=1,
        col=1,
    )
    fig.update_xaxes(title_text=x, row=len(panels), col=1)
    fig.update_layout(
        template="cryoem",
        height=260 + 150 * len(panels),
        legend=LEGEND_ABOVE,
    )
    return fig


def recovery_loss(losses: Mapping[str, np.ndarray] | np.ndarray, *, log_x: bool = True) -> go.Figure:
    """Loss of the orientation recovery against the iteration, with the final value in the legend.

    Parameters
    ----------
    losses : (n,) losses in rad^2, one an iteration, or name -> such an array.
    log_x : iterations on a logarithmic axis; the loss always is.

    Raises
    ------
    ValueError : a loss is not a finite one-dimensional array.
    """
    if not isinstance(losses, Mapping):
        losses = {"recovery": losses}
    fig = figure()
    for name, colour in named_colours(non_empty_mapping(losses, name="losses")).items():
        values = finite_array(losses[name], name=f"losses[{name!r}]", ndim=1)
        drawn = _drawn_iterations(len(values), log_x=log_x)
        fig.add_trace(
            go.Scatter(
                x=drawn + 1,
                y=values[drawn],
                name=f"{name}, {values[-1]:.3g} at the end",
                mode="lines" if len(values) > 30 else "lines+markers",
                line={"color": colour, "width": 2.5},
                hovertemplate="iteration %{x}<br>loss %{y:.4g} rad²<extra></extra>",
            )
        )
    fig.update_xaxes(title_text="iteration", exponentformat="none")
    if log_x:
        fig.update_xaxes(type="log", dtick=1)
    every = np.concatenate([np.asarray(values, dtype=float) for values in losses.values()])
    fig.update_yaxes(title_text="loss (rad²)", type="log", **log_ticks(every))
    fig.update_layout(showlegend=True, legend=LEGEND_ABOVE)
    return fig


def _drawn_iterations(count: int, *, log_x: bool, most: int = 2000) -> np.ndarray:
    """Indices of the iterations worth drawing: at most about ``most``, spread as the axis is."""
    if count <= most or not log_x:
        return thinned(count, most)
    return np.unique(np.geomspace(1, count, most).round().astype(int)) - 1


def error_histogram(errors: Mapping[str, np.ndarray], *, bins: int = 60) -> go.Figure:
    """Orientation errors in degrees, with the mean (solid line) and the median (dashed) of each.

    Parameters
    ----------
    errors : name -> (n,) errors in radians.
    bins : from zero to the 99.5th percentile of all errors; the last one takes what lies beyond.

    Raises
    ------
    ValueError : an array is not one-dimensional and finite, or an error lies outside [0, pi].
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
    fig = figure()
    for name, colour in named_colours(degrees).items():
        values = degrees[name]
        count, _ = np.histogram(np.minimum(values, largest), bins=edges)
        percent = 100 * count / len(values)
        fig.add_trace(
            go.Scatter(
                x=edges,
                y=np.append(percent, percent[-1]),
                line={"shape": "hv", "color": colour, "width": 2},
                fill="tozeroy",
                fillcolor=translucent(colour, 0.18),
                name=f"{name}: mean {values.mean():.2f}°, median {np.median(values):.2f}°",
                legendgroup=name,
                hovertemplate=f"%{{x:.2f}}°<br>%{{y:.1f}} %<extra>{name}</extra>",
            )
        )
        for middle, dash in ((values.mean(), "solid"), (np.median(values), "dash")):
            fig.add_trace(
                go.Scatter(
                    x=[middle, middle],
                    y=[0, 1.05 * percent.max()],
                    mode="lines",
                    line={"color": colour, "width": 2, "dash": dash},
                    legendgroup=name,
                    showlegend=False,
                    hoverinfo="skip",
                )
            )
    fig.update_xaxes(title_text="orientation error (°); solid line: mean, dashed: median", range=[0, largest])
    fig.update_yaxes(title_text="share of the images (%)", rangemode="tozero")
    fig.update_layout(showlegend=True, legend=LEGEND_ABOVE)
    return fig
