"""Plots of training, recovery and refinement: losses and errors against steps, epochs, iterations and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    BLUE,
    INK,
    LEGEND_ABOVE,
    MUTED,
    SLATE,
    VERMILION,
    curve,
    dotted,
    figure,
    histogram,
    log_axis,
    named_colours,
    non_empty_mapping,
    one_legend_entry_per_group,
    panels,
    points_of,
    thinned,
)
from cryoem.units import label_with_unit
from cryoem.validation import finite_array

MOST_ITERATIONS = 2000

# panels of the learning curves: title, and legend name of each key of the history
_LEARNING_PANELS = (
    ("loss", {"loss": "training", "val_loss": "validation"}),
    ("distance error (rad)", {"distance_error_rad": "training", "val_distance_error_rad": "validation"}),
    ("learning rate", {"learning_rate": "learning rate"}),
)
_TRAINING_COLOURS = {"training": BLUE, "validation": VERMILION, "learning rate": SLATE}


def learning_curves(history: Mapping[str, Sequence[float]], *, x: str = "step") -> go.Figure:
    """Plot the training and validation losses, the distance error and the learning rate, and mark the best epoch.

    Parameters
    ----------
    history : mapping of str to sequence of float
        Lists of equal length, with NaN where a value was not measured. ``loss`` is required. ``val_loss``,
        ``distance_error_rad``, ``val_distance_error_rad``, ``learning_rate`` and the key given by ``x`` are optional.
        Other keys are ignored.
    x : str
        Key of the values on the horizontal axis, which is also the axis title. If the history does not have this key,
        the axis shows 1, 2, 3, ....

    Raises
    ------
    ValueError
        If ``loss`` is missing or the lists differ in length.
    """
    series = _histories(history, required=("loss",))
    at = series.get(x, np.arange(1, len(series["loss"]) + 1))
    shown = [panel for panel in _LEARNING_PANELS if any(key in series for key in panel[1])]
    fig = panels(
        layout={"height": 260 + 150 * len(shown), "legend": LEGEND_ABOVE},
        rows=len(shown),
        shared_xaxes=True,
        vertical_spacing=0.06,
        row_heights=[3, 2, 1.2][: len(shown)],
    )
    for row, (title, names) in enumerate(shown, start=1):
        present = {key: name for key, name in names.items() if key in series}
        for key, name in present.items():
            style = {"name": name, "colour": _TRAINING_COLOURS[name], "width": 2, "legendgroup": name}
            hover = f"{x} %{{x}}<br>{title} %{{y:.4g}}<extra>{name}</extra>"
            fig.add_trace(curve(at, series[key], connectgaps=True, hover=hover, **style), row=row, col=1)
        drawn = np.concatenate([series[key] for key in present])
        fig.update_yaxes(log_axis(drawn), title_text=title, row=row, col=1)
    watched = "val_loss" if np.isfinite(series.get("val_loss", np.nan)).any() else "loss"
    best = int(np.nanargmin(series[watched]))
    colour = _TRAINING_COLOURS["validation" if watched == "val_loss" else "training"]
    fig.add_vline(x=float(at[best]), line={"color": MUTED, "width": 1, "dash": "dot"})
    fig.add_scatter(
        x=[at[best]],
        y=[series[watched][best]],
        mode="markers",
        name=f"best: {series[watched][best]:.4g} at {x} {at[best]:g}",
        marker={"symbol": "star", "size": 15, "color": colour, "line": {"color": "white", "width": 1}},
        row=1,
        col=1,
    )
    fig.update_xaxes(title_text=x, row=len(shown), col=1)
    one_legend_entry_per_group(fig)
    return fig.update_traces(showlegend=False, selector={"name": "learning rate"})


def loss_beside_error(
    history: Mapping[str, Sequence[float]], *, untrained: Mapping[str, float] | None = None
) -> go.Figure:
    """Plot the label-free loss and the true error of an aligner against the training epoch, in two panels.

    Parameters
    ----------
    history : mapping of str to sequence of float
        ``loss``, ``val_loss`` and ``val_error_deg`` (in degrees), with one value per epoch.
    untrained : mapping of str to float, optional
        ``val_loss`` and ``val_error_deg`` before training, drawn at epoch 0. Default: not drawn.

    Raises
    ------
    ValueError
        If a key is missing, or the lists differ in length.
    """
    keys = ("loss", "val_loss", "val_error_deg")
    history = non_empty_mapping(history, name="history")
    series = _histories({key: history[key] for key in keys if key in history}, required=keys)
    before = {}
    if untrained is not None:
        if not {"val_loss", "val_error_deg"} <= set(non_empty_mapping(untrained, name="untrained")):
            raise ValueError(f"untrained must contain val_loss and val_error_deg, got {', '.join(untrained)}")
        before = {key: untrained[key] for key in ("val_loss", "val_error_deg")}
    fig = panels(layout={"height": 380, "legend": LEGEND_ABOVE}, cols=2, horizontal_spacing=0.12)
    for column, key, name, colour in (
        (1, "loss", "training images", BLUE),
        (1, "val_loss", "held-out images", VERMILION),
        (2, "val_error_deg", "held-out images", VERMILION),
    ):
        values = finite_array(series[key], name=f"history[{key!r}]", ndim=1)
        epochs = np.arange(1, len(values) + 1)
        if key in before:
            epochs, values = np.r_[0, epochs], np.r_[before[key], values]
        style = {"name": name, "colour": colour, "legendgroup": name, "width": 2, "mode": "lines+markers"}
        line = curve(epochs, values, hover="epoch %{x}: %{y:.4g}<extra></extra>", **style)
        fig.add_trace(line, row=1, col=column)
    fig.update_xaxes(title_text="epoch", dtick=max(1, len(series["loss"]) // 8))
    fig.update_yaxes(title_text="label-free loss", row=1, col=1)
    fig.update_yaxes(title_text="mean true error (degrees)", row=1, col=2)
    return one_legend_entry_per_group(fig)


def recovery_loss(losses: Mapping[str, np.ndarray] | np.ndarray, *, log_x: bool = True) -> go.Figure:
    """Plot the loss of orientation recovery against the iteration, with the final value in the legend.

    The loss axis is logarithmic.

    Parameters
    ----------
    losses : (n,) array or mapping of str to (n,) array
        Losses in rad^2, one per iteration. To plot several curves, pass a mapping from name to losses.
    log_x : bool
        Whether the iteration axis is also logarithmic.

    Raises
    ------
    ValueError
        If an array is not one-dimensional or not finite.
    """
    if not isinstance(losses, Mapping):
        losses = {"recovery": losses}
    fig = figure(showlegend=True, legend=LEGEND_ABOVE)
    drawn = []
    for name, colour in named_colours(non_empty_mapping(losses, name="losses")).items():
        values = finite_array(losses[name], name=f"losses[{name!r}]", ndim=1, dtype=float)
        # draw at most 2,000 iterations, evenly spaced along the axis
        if log_x and len(values) > MOST_ITERATIONS:
            chosen = np.unique(np.geomspace(1, len(values), MOST_ITERATIONS).round().astype(int)) - 1
        else:
            chosen = thinned(len(values), MOST_ITERATIONS)
        style = {"name": f"{name}, final {values[-1]:.3g}", "colour": colour}
        style["mode"] = "lines" if len(values) > 30 else "lines+markers"
        hover = "iteration %{x}<br>loss %{y:.4g} rad²<extra></extra>"
        fig.add_trace(curve(chosen + 1, values[chosen], hover=hover, **style))
        drawn.append(values)
    fig.update_xaxes(title_text="iteration", exponentformat="none")
    if log_x:
        fig.update_xaxes(type="log", dtick=1)
    fig.update_yaxes(log_axis(np.concatenate(drawn)), title_text="loss (rad²)")
    return fig


def recovery_panels(
    losses: Mapping[str, tuple],
    shares: Mapping[str, tuple],
    *,
    published_loss_rad2: float | None = None,
    published_error_rad: float | None = None,
) -> go.Figure:
    """Plot how the recovery loss decreases, next to the distribution of the orientation errors.

    Parameters
    ----------
    losses : mapping of str to tuple
        Losses by method, each ``(step, loss)``: (n,) positive step numbers and (n,) losses in rad^2.
    shares : mapping of str to tuple
        Histograms by method, each ``(edges, percent)``: (b + 1,) increasing positive errors in radians, and (b,) shares
        of the images in percent.
    published_loss_rad2, published_error_rad : float, optional
        Published final loss and mean error, drawn as dotted lines.

    Raises
    ------
    ValueError
        If there are no losses or no shares, or the arrays of a curve do not match or are not positive where their axis
        is logarithmic.
    """
    colours = named_colours(
        non_empty_mapping(losses, name="losses") | non_empty_mapping(shares, name="shares")
    )
    layout = {"height": 400, "showlegend": True, "legend": LEGEND_ABOVE, "margin": {"t": 80}}
    fig = panels(layout=layout, cols=2, horizontal_spacing=0.1)
    for name, points in losses.items():
        step, loss = points_of(points, name=f"losses[{name!r}]", increasing=True, log_x=True)
        hover = "step %{x}<br>loss %{y:.4g} rad²<extra>%{fullData.name}</extra>"
        style = {"name": name, "colour": colours[name], "legendgroup": name, "hover": hover}
        fig.add_trace(dotted(step, loss, size=5, **style), row=1, col=1)
    for name, (edges, percent) in shares.items():
        _, percent = points_of((edges[:-1], percent), name=f"shares[{name!r}]", increasing=True, log_x=True)
        hover = "from %{x:.3g} rad: %{y:.1f} %<extra>%{fullData.name}</extra>"
        style = {"name": name, "colour": colours[name], "legendgroup": name, "hover": hover}
        fig.add_trace(histogram(edges, percent, **style), row=1, col=2)
    line = {"line": {"color": INK, "width": 1.8, "dash": "dot"}, "row": 1}
    note = {"showarrow": False, "font": {"size": 12}, "bgcolor": "rgba(255,255,255,0.8)"}
    if published_loss_rad2 is not None:
        fig.add_hline(y=published_loss_rad2, col=1, **line)
        place = {
            "x": 1,
            "xref": "x domain",
            "xanchor": "right",
            "y": published_loss_rad2,
            "yanchor": "bottom",
        }
        fig.add_annotation(text=f"published L<sub>OR</sub> {published_loss_rad2:g} rad²", **place, **note)
    if published_error_rad is not None:
        fig.add_vline(x=published_error_rad, col=2, **line)
        # the position of a text on a logarithmic axis is the logarithm
        place = {"x": np.log10(published_error_rad), "xref": "x2", "xanchor": "left", "xshift": 4}
        place |= {"y": 1, "yref": "y2 domain", "yanchor": "top"}
        fig.add_annotation(text=f"published E<sub>OR</sub><br>{published_error_rad:g} rad", **place, **note)
    steps = np.concatenate([np.asarray(step, float) for step, _ in losses.values()])
    edges = np.concatenate([np.asarray(own, float) for own, _ in shares.values()])
    fig.update_xaxes(log_axis(steps), title_text="round or recorded step", row=1, col=1)
    fig.update_yaxes(title_text="recovery loss (rad²)", rangemode="tozero", row=1, col=1)
    fig.update_xaxes(log_axis(edges), title_text="orientation error (rad)", row=1, col=2)
    fig.update_yaxes(title_text="share of images (%)", rangemode="tozero", row=1, col=2)
    return one_legend_entry_per_group(fig)


def refinement_history(history: Mapping[str, Sequence[float]]) -> go.Figure:
    """Plot how each quantity changes over the refinement rounds, with one panel per quantity.

    Parameters
    ----------
    history : mapping of str to sequence of float
        Lists with one value per round, by name. Missing values are NaN. If a name ends in a unit (``_deg``, ``_rad``,
        ``_angstrom``, ``_px`` or ``_seconds``), the axis title shows the unit.

    Raises
    ------
    ValueError
        If there are no lists, or they are empty or differ in length.
    """
    series = _histories(history)
    n = len(next(iter(series.values())))
    columns = min(2, len(series))
    rows = -(-len(series) // columns)
    fig = panels(
        layout={"height": 90 + 250 * rows, "showlegend": False},
        rows=rows,
        cols=columns,
        horizontal_spacing=0.14,
        vertical_spacing=0.3 / rows,
    )
    for index, (name, colour) in enumerate(named_colours(series).items()):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        title, values = label_with_unit(name), series[name]
        hover = f"round %{{x}}<br>{title} %{{y:.4g}}<extra></extra>"
        fig.add_trace(dotted(np.arange(1, n + 1), values, name=title, colour=colour, hover=hover), **place)
        span = [1 - 0.05 * n, n + 0.18 * n]
        fig.update_xaxes(title_text="round", tickformat="d", dtick=max(1, n // 8), range=span, **place)
        fig.update_yaxes(title_text=title, **place)
        if np.isfinite(values[-1]):
            # to the right of the last dot, where no curve passes
            label = {"text": f"<b>{values[-1]:.3g}</b>", "font": {"color": colour}}
            label |= {"xanchor": "left", "xshift": 8, "showarrow": False}
            fig.add_annotation(x=n, y=values[-1], **label, **place)
    return fig


def _histories(history, *, required: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the history as float arrays, after checking their lengths and that all ``required`` keys exist."""
    arrays = {k: np.asarray(v, dtype=float) for k, v in non_empty_mapping(history, name="history").items()}
    missing = [key for key in required if key not in arrays]
    if missing:
        raise ValueError(f"history must contain {', '.join(missing)}, got {', '.join(history)}")
    count = max(values.size for values in arrays.values())
    for key, values in arrays.items():
        if values.shape != (count,) or count == 0:
            raise ValueError(
                f"history must contain non-empty lists of equal length, but the longest has {count} values "
                f"and history[{key!r}] has shape {values.shape}"
            )
    return arrays
