"""Plots against spatial frequency: Fourier shell correlation, power spectra and polar spectra."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    MUTED,
    curve,
    dotted,
    figure,
    log_axis,
    named_colours,
    non_empty_mapping,
    panels,
    points_of,
    round_below,
)
from cryoem.reconstruction.resolution import FSC, HALF_MAP_THRESHOLD
from cryoem.reconstruction.sharpening import Guinier
from cryoem.validation import finite_array, positive_number


def fourier_shell_correlation(
    curves: Mapping[str, tuple],
    *,
    thresholds: Sequence[float] = (0.5, HALF_MAP_THRESHOLD),
    published_angstrom: Mapping[str, float] | None = None,
    title: str = "Fourier shell correlation",
) -> go.Figure:
    """Plot Fourier shell correlations, and mark the resolution where each curve first falls below each threshold.

    Parameters
    ----------
    curves : mapping of str to tuple
        Curves by name, each ``(frequency, correlation)``: (n,) increasing frequencies in 1/angstrom, and (n,)
        correlations in [-1, 1]. An optional third element is a threshold that replaces ``thresholds`` for this curve,
        or None for a dotted curve whose resolution is not marked.
    thresholds : sequence of float
        Thresholds in (0, 1), drawn as dashed lines.
    published_angstrom : mapping of str to float, optional
        Published resolutions in angstrom by name, drawn as open symbols at the first threshold.
    title : str
        Title of the vertical axis.

    Raises
    ------
    ValueError
        If there are no curves, or the arrays of a curve differ in length, its frequencies do not increase, or a
        correlation is outside [-1, 1].
    """
    fig = figure(height=480, showlegend=True, legend=LEGEND_ABOVE)
    highest, lowest = 0.0, -0.05
    crossings: dict[float, list] = {threshold: [] for threshold in thresholds}
    for name, colour in named_colours(non_empty_mapping(curves, name="curves")).items():
        frequency, correlation = points_of(curves[name], name=f"curves[{name!r}]", increasing=True)
        if np.abs(correlation).max() > 1 + 1e-4:
            raise ValueError(
                f"curves[{name!r}] must have correlations in [-1, 1], got magnitude {np.abs(correlation).max():.4g}"
            )
        highest, lowest = max(highest, frequency[-1]), min(lowest, correlation.min() - 0.03)
        style = {"hover": f"%{{customdata:.1f}} Å<br>correlation %{{y:.3f}}<extra>{name}</extra>"}
        style |= {"name": name, "colour": colour, "customdata": 1 / np.maximum(frequency, 1e-9)}
        own = curves[name][2:] or thresholds
        fig.add_trace(
            curve(frequency, correlation, **style, line={"dash": "dot" if None in own else "solid"})
        )
        for threshold in own:
            if threshold is not None and correlation[0] >= threshold > correlation.min():
                at_angstrom = FSC(frequency, correlation).resolution_angstrom(threshold)
                crossings.setdefault(threshold, []).append((1 / at_angstrom, colour))
    symbols = itertools.cycle(("diamond-open", "square-open", "circle-open"))
    for (name, angstrom), symbol in zip((published_angstrom or {}).items(), symbols, strict=False):
        marks = {"symbol": symbol, "size": 11, "color": INK, "line": {"width": 2}}
        label = {"name": f"{name}: {angstrom:g} Å", "hovertemplate": f"{angstrom:g} Å<extra>{name}</extra>"}
        fig.add_scatter(x=[1 / angstrom], y=[thresholds[0]], mode="markers", marker=marks, **label)
    for threshold, found in crossings.items():
        _add_threshold(fig, threshold, found, flip_beyond=0.85 * highest)
    ticks = np.round(np.arange(0, highest + 1e-9, round_below(highest / 4)), 10)
    fig.update_xaxes(
        title_text="spatial frequency (1/Å); resolution (Å) in bold",
        range=[0, highest],
        tickvals=ticks,
        ticktext=["0"] + [f"{t:g}<br><b>{1 / t:.3g} Å</b>" for t in ticks[1:]],
    )
    fig.update_yaxes(title_text=title, range=[lowest, 1.04])
    return fig


def _add_threshold(fig: go.Figure, threshold: float, crossings: list, *, flip_beyond: float) -> None:
    """Draw a threshold line, and label each crossing with its resolution."""
    label = {"text": f"{threshold:g}", "font": {"color": MUTED, "size": 12}}
    line = {"color": MUTED, "width": 1.3, "dash": "dash"}
    side = "left" if any(at > flip_beyond for at, _ in crossings) else "right"
    fig.add_hline(y=threshold, line=line, annotation=label, annotation_position=f"top {side}")
    # place each label above its neighbour to the right to avoid overlaps
    for rank, (at, colour) in enumerate(sorted(crossings, reverse=True)):
        side = 1 if at < flip_beyond else -1
        ring = {"size": 9, "color": "white", "line": {"color": colour, "width": 2.5}}
        silent = {"showlegend": False, "hoverinfo": "skip"}
        fig.add_scatter(x=[at], y=[threshold], mode="markers", marker=ring, **silent)
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


def guinier_plot(plots: Mapping[str, Guinier]) -> go.Figure:
    """Plot the logarithm of the amplitudes of maps against the squared frequency, with the lines of their B factors.

    Parameters
    ----------
    plots : mapping of str to Guinier
        Results of ``reconstruction.guinier``, by name. Shells without amplitude are not drawn.

    Raises
    ------
    ValueError
        If there are no plots.
    """
    fig = figure(height=440, showlegend=True, legend=LEGEND_ABOVE)
    furthest = 0.0
    for name, colour in named_colours(non_empty_mapping(plots, name="plots")).items():
        found = plots[name]
        drawn = found.log_amplitude > np.log(1e-30)
        x, y = found.frequency_squared[drawn], found.log_amplitude[drawn]
        furthest = max(furthest, x.max())
        hover = f"%{{customdata:.1f}} Å<br>%{{y:.2f}}<extra>{name}</extra>"
        resolution = 1 / np.sqrt(np.maximum(x, 1e-12))
        style = {"size": 6, "colour": colour, "hover": hover, "customdata": resolution}
        fig.add_trace(dotted(x, y, name=name, width=1.5, **style))
        label = f"B = {found.b_factor_angstrom2:.0f} Å²"
        fitted = found.frequency_squared[found.fitted], found.line[found.fitted]
        fig.add_trace(curve(*fitted, name=label, colour=colour, width=3, line={"dash": "5px,3px"}))
    ticks = np.round(np.arange(0, furthest + 1e-12, round_below(furthest / 4)), 10)
    labels = ["0"] + [f"{t:.3g}<br><b>{1 / np.sqrt(t):.3g} Å</b>" for t in ticks[1:]]
    fig.update_xaxes(
        title_text="squared spatial frequency (1/Å²); resolution (Å) in bold", tickvals=ticks, ticktext=labels
    )
    return fig.update_yaxes(title_text="ln(amplitude)")


def power_spectrum(
    frequency: np.ndarray,
    power: np.ndarray,
    fitted: np.ndarray,
    *,
    pixel_size_angstrom: float,
    fit_name: str = "signal and white noise",
) -> go.Figure:
    """Plot the mean power spectrum of images and a fit to it, with a logarithmic power axis.

    Parameters
    ----------
    frequency : (n,) array
        Increasing spatial frequencies in cycles per pixel.
    power, fitted : (n,) array
        Measured and fitted power, which must be positive.
    pixel_size_angstrom : float
        Pixel size in angstrom.
    fit_name : str
        What was fitted, for the legend.

    Raises
    ------
    ValueError
        If the arrays differ in length, or the power or the pixel size is not positive.
    """
    pixel = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    fig = figure(height=420, legend=LEGEND_ABOVE)
    titles = {"power": "images", "fitted": f"fit: {fit_name}"}
    colours = named_colours(titles)
    for name, values, dash in (("power", power, "solid"), ("fitted", fitted, "dash")):
        x, y = points_of((frequency, values), name=name, log_y=True)
        hover = f"%{{x:.3f}} 1/Å: %{{y:.3g}}<extra>{titles[name]}</extra>"
        style = {"name": titles[name], "colour": colours[name], "line": {"dash": dash}, "hover": hover}
        fig.add_trace(curve(x / pixel, y, **style))
    fig.update_xaxes(title_text="spatial frequency (1/Å)")
    title = "power per pixel (squared image units)"
    fig.update_yaxes(log_axis(np.concatenate([power, fitted])), title_text=title)
    return fig


def polar_spectra(
    spectra: np.ndarray, *, frequencies_per_angstrom: np.ndarray, period_deg: float, titles: Sequence[str]
) -> go.Figure:
    """Plot polar spectra in adjacent panels, each with its own contrast.

    The vertical axis is the angle, and the horizontal axis is the spatial frequency.

    Parameters
    ----------
    spectra : (n, angles, radii) array
        Amplitudes on a polar grid.
    frequencies_per_angstrom : (radii,) array
        Spatial frequency of each radius in 1/angstrom.
    period_deg : float
        Range of angles that each spectrum covers, in degrees.
    titles : sequence of str
        Short titles, one per spectrum.

    Raises
    ------
    ValueError
        If the spectra are not three-dimensional or not finite, or there is not one frequency per radius and one title
        per spectrum.
    """
    spectra = finite_array(spectra, name="spectra", ndim=3)
    frequencies = finite_array(frequencies_per_angstrom, name="frequencies_per_angstrom", ndim=1)
    if len(frequencies) != spectra.shape[2] or len(titles) != len(spectra):
        raise ValueError(
            f"spectra must match {len(frequencies)} frequencies and {len(titles)} titles, got shape {spectra.shape}"
        )
    fig = panels(
        layout={"height": 400},
        cols=len(spectra),
        subplot_titles=list(titles),
        shared_yaxes=True,
        horizontal_spacing=0.02,
    )
    angles = period_deg * np.arange(spectra.shape[1]) / spectra.shape[1]
    for column, spectrum in enumerate(spectra, start=1):
        low, high = np.percentile(spectrum, [1, 99])
        fig.add_heatmap(
            z=spectrum.astype(np.float32),
            x=frequencies,
            y=angles,
            zmin=low,
            zmax=high,
            colorscale="gray",
            showscale=False,
            hovertemplate="%{x:.3f} 1/Å, %{y:.0f}°<extra></extra>",
            row=1,
            col=column,
        )
    fig.update_xaxes(showgrid=False, nticks=4, title_text="1/Å")
    fig.update_yaxes(visible=False)
    return fig.update_yaxes(visible=True, showgrid=False, title_text="angle (degrees)", row=1, col=1)
