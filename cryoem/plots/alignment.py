"""Two-dimensional alignment: methods side by side, and a label-free loss beside the true error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cryoem.checks import finite_array
from cryoem.plots.checks import non_empty_mapping
from cryoem.plots.template import BLUE, GRID, LEGEND_ABOVE, VERMILION, figure, named_colours
from cryoem.plots.ticks import log_ticks


def method_comparison(errors_deg: Mapping[str, Sequence[float]], *, names: Sequence[str]) -> go.Figure:
    """Mean errors of several methods on several data sets: a row a set, a dot a method, on a logarithmic axis.

    Parameters
    ----------
    errors_deg : method -> one error a data set, degrees, above zero.
    names : of the data sets, drawn from top to bottom.

    Raises
    ------
    ValueError : a method has not one error a set, or an error is not positive.
    """
    errors = {}
    for method, values in non_empty_mapping(errors_deg, name="errors_deg").items():
        values = finite_array(values, name=f"errors_deg[{method!r}]", ndim=1, dtype=float)
        if len(values) != len(names) or values.min() <= 0:
            raise ValueError(
                f"errors_deg[{method!r}] must be {len(names)} positive errors, one a name, "
                f"got {len(values)}, the lowest {values.min():.4g}"
            )
        errors[method] = values
    table = np.stack(list(errors.values()))
    fig = figure(height=120 + 30 * len(names), legend=LEGEND_ABOVE, margin={"t": 60})
    for name, low, high in zip(names, table.min(axis=0), table.max(axis=0), strict=True):
        fig.add_shape(
            type="line", x0=low, x1=high, y0=name, y1=name, line={"color": GRID, "width": 6}, layer="below"
        )
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


def loss_beside_error(
    history: Mapping[str, Sequence[float]], *, untrained: Mapping[str, float] | None = None
) -> go.Figure:
    """What can be watched without labels, and what it stands for: the losses, and the true error, over the epochs.

    Parameters
    ----------
    history : lists of one length: ``loss``, ``val_loss`` and ``val_error_deg`` (degrees), one value an epoch.
    untrained : ``val_loss`` and ``val_error_deg`` before the first epoch, drawn as epoch 0.

    Raises
    ------
    ValueError : one of them is missing, or their lengths differ.
    """
    history = non_empty_mapping(history, name="history")
    keys = ("loss", "val_loss", "val_error_deg")
    missing = [key for key in keys if key not in history]
    if missing:
        raise ValueError(f"history must hold {', '.join(missing)}, got {', '.join(history)}")
    loss, held_out, error = (finite_array(history[k], name=f"history[{k!r}]", ndim=1) for k in keys)
    if not len(loss) == len(held_out) == len(error):
        raise ValueError(
            f"history must hold lists of one length, got {len(loss)}, {len(held_out)} and {len(error)}"
        )
    epochs = np.arange(1, len(loss) + 1)
    all_epochs = epochs
    if untrained is not None:
        before = non_empty_mapping(untrained, name="untrained")
        if not {"val_loss", "val_error_deg"} <= set(before):
            raise ValueError(f"untrained must hold val_loss and val_error_deg, got {', '.join(before)}")
        held_out, error = np.r_[before["val_loss"], held_out], np.r_[before["val_error_deg"], error]
        all_epochs = np.arange(len(held_out))
    fig = make_subplots(cols=2, horizontal_spacing=0.12)
    for column, x, values, name, colour in (
        (1, epochs, loss, "training images", BLUE),
        (1, all_epochs, held_out, "held-out images", VERMILION),
        (2, all_epochs, error, "held-out images", VERMILION),
    ):
        fig.add_trace(
            go.Scatter(
                x=x,
                y=values,
                mode="lines+markers",
                line={"color": colour},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                hovertemplate="epoch %{x}: %{y:.4g}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    fig.update_xaxes(title_text="epoch", dtick=max(1, len(loss) // 8))
    fig.update_yaxes(title_text="loss, without labels", row=1, col=1)
    fig.update_yaxes(title_text="true mean error (degrees)", row=1, col=2)
    fig.update_layout(template="cryoem", height=380, legend=LEGEND_ABOVE)
    return fig


def polar_spectra(
    spectra: np.ndarray, *, frequencies_per_angstrom: np.ndarray, period_deg: float, titles: Sequence[str]
) -> go.Figure:
    """Polar spectra side by side, each with its own contrast: the angle upwards, the spatial frequency to the right.

    Parameters
    ----------
    spectra : (n, angles, radii).
    frequencies_per_angstrom : (radii,) of the rings.
    period_deg : what the angles go up to.
    titles : one short title a spectrum.

    Raises
    ------
    ValueError : the spectra are not (n, angles, radii) and finite, or frequencies or titles differ in number.
    """
    spectra = finite_array(spectra, name="spectra", ndim=3)
    frequencies = finite_array(frequencies_per_angstrom, name="frequencies_per_angstrom", ndim=1)
    if len(frequencies) != spectra.shape[2] or len(titles) != len(spectra):
        raise ValueError(
            f"spectra must match {len(frequencies)} frequencies and {len(titles)} titles, got {spectra.shape}"
        )
    fig = make_subplots(
        cols=len(spectra), subplot_titles=list(titles), shared_yaxes=True, horizontal_spacing=0.02
    )
    angles = period_deg * np.arange(spectra.shape[1]) / spectra.shape[1]
    for column, spectrum in enumerate(spectra, start=1):
        low, high = np.percentile(spectrum, [1, 99])
        fig.add_trace(
            go.Heatmap(
                z=spectrum.astype(np.float32),
                x=frequencies,
                y=angles,
                zmin=low,
                zmax=high,
                colorscale="gray",
                showscale=False,
                hovertemplate="%{x:.3f} 1/Å, %{y:.0f}°<extra></extra>",
            ),
            row=1,
            col=column,
        )
    fig.update_xaxes(showgrid=False, nticks=4, title_text="1/Å")
    fig.update_yaxes(visible=False)
    fig.update_yaxes(visible=True, showgrid=False, title_text="angle (degrees)", row=1, col=1)
    fig.update_layout(template="cryoem", height=400)
    return fig
