"""Plots of pairwise distances and orientation errors: histograms, predicted against true distances, neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.densities import projection_gallery
from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    LEGEND_INSIDE,
    ORANGE,
    SEQUENTIAL,
    curve,
    dashed,
    dotted,
    figure,
    histogram,
    named_colours,
    non_empty_mapping,
    thinned,
)
from cryoem.validation import finite_array, whole_number

HISTOGRAM_BINS = 90
ERROR_BINS, BIAS_BINS = 60, 40
MEDIAN_BINS, FEWEST_IN_BIN = 50, 10
MOST_PAIRS = 2_000_000

_RADIAN_TICKS = {
    "tickvals": [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4, np.pi],
    "ticktext": ["0", "π/4", "π/2", "3π/4", "π"],
}


def error_histogram(errors: Mapping[str, np.ndarray]) -> go.Figure:
    """Plot histograms of orientation errors in degrees, with lines at the mean (solid) and the median (dashed).

    The bins range from zero to the 99.5th percentile of all errors. The last bin includes all larger errors.

    Parameters
    ----------
    errors : mapping of str to (n,) array
        Errors in radians by name.

    Raises
    ------
    ValueError
        If an array is not one-dimensional or not finite, or an error is outside [0, pi].
    """
    degrees = {}
    for name, values in non_empty_mapping(errors, name="errors").items():
        values = finite_array(values, name=f"errors[{name!r}]", ndim=1)
        if values.min() < 0 or values.max() > np.pi + 1e-6:
            raise ValueError(
                f"errors[{name!r}] must be radians from 0 to pi, got {values.min():.4g} to {values.max():.4g}"
            )
        degrees[name] = np.rad2deg(values)
    largest = float(np.percentile(np.concatenate(list(degrees.values())), 99.5)) or 1.0
    edges = np.linspace(0, largest, ERROR_BINS + 1)
    fig = figure(showlegend=True, legend=LEGEND_ABOVE)
    for name, colour in named_colours(degrees).items():
        values, style = degrees[name], {"colour": colour, "legendgroup": name}
        mean, median = values.mean(), np.median(values)
        count, _ = np.histogram(np.minimum(values, largest), bins=edges)
        percent = 100 * count / len(values)
        label = f"{name}: mean {mean:.2f}°, median {median:.2f}°"
        hover = f"%{{x:.2f}}°<br>%{{y:.1f}} %<extra>{name}</extra>"
        fig.add_trace(histogram(edges, percent, name=label, hover=hover, **style))
        top = 1.05 * percent.max()
        for middle, dash in ((mean, "solid"), (median, "dash")):
            options = {"name": name, "width": 2, "line": {"dash": dash}, "showlegend": False, **style}
            fig.add_trace(curve([middle, middle], [0, top], **options))
    title = "orientation error (°)<br>solid line: mean; dashed line: median"
    if any((values > largest).any() for values in degrees.values()):
        title += f"; last bin: all errors above {edges[-2]:.3g}°"
    fig.update_xaxes(title_text=title, range=[0, largest])
    fig.update_yaxes(title_text="share of images (%)", rangemode="tozero")
    return fig


def distance_histograms(distances: Mapping[str, np.ndarray]) -> go.Figure:
    """Plot the probability density of pairwise distances, and the density expected for uniform orientations.

    For uniform (Haar-distributed) orientations, the probability density of a distance d is ``(1 - cos d) / pi``.

    Parameters
    ----------
    distances : mapping of str to array
        Distances in radians, by name. Each entry is an array of p pairwise distances or an (n, n) matrix, of which only
        the values above the diagonal are used.

    Raises
    ------
    ValueError
        If an array is neither a square matrix nor one-dimensional, is not finite, or has values that are too large to
        be in radians.
    """
    distances = non_empty_mapping(distances, name="distances")
    pairs = {name: pair_distances(values, name=f"distances[{name!r}]") for name, values in distances.items()}
    lowest = min(0.0, *(p.min() for p in pairs.values()))
    highest = max(np.pi, *(p.max() for p in pairs.values()))
    edges = np.linspace(lowest, highest, HISTOGRAM_BINS + 1)
    fig = figure(legend=LEGEND_INSIDE)
    for name, colour in named_colours(pairs).items():
        density, _ = np.histogram(pairs[name], bins=edges, density=True)
        hover = f"d %{{x:.2f}} rad<br>density %{{y:.3f}}<extra>{name}</extra>"
        fig.add_trace(histogram(edges, density, name=name, colour=colour, hover=hover))
    angle = np.linspace(0, np.pi, 181)
    haar = (1 - np.cos(angle)) / np.pi
    fig.add_trace(dashed(angle, haar, name="uniform on SO(3)", colour=INK, width=2))
    fig.update_xaxes(title_text="distance d (rad)", range=[lowest, highest], **_RADIAN_TICKS)
    fig.update_yaxes(title_text="probability density (1/rad)", rangemode="tozero")
    return fig


def predicted_against_true(true: np.ndarray, predicted: np.ndarray) -> go.Figure:
    """Plot the joint histogram of true and predicted distances, with the running median and the 10-90 % band.

    If there are more than 2,000,000 pairs, the histogram shows an evenly spaced subset (by index). The title shows the
    mean absolute error over all pairs.

    Parameters
    ----------
    true, predicted : (n, n) or (p,) array
        Distances in radians, in arrays of the same shape. For matrices, only the values above the diagonal are used.

    Raises
    ------
    ValueError
        If the shapes differ, an array is neither a square matrix nor one-dimensional, is not finite, or has values
        that are too large to be in radians.
    """
    x, y = _matching_pairs(true, predicted, name="predicted")
    error = np.abs(y - x).mean()
    drawn = thinned(len(x), MOST_PAIRS)
    x, y = x[drawn], y[drawn]
    top = max(np.pi, float(y.max()))
    span = [[0, np.pi], [min(0.0, float(y.min())), top]]
    count, x_edges, y_edges = np.histogram2d(x, y, bins=HISTOGRAM_BINS, range=span)
    with np.errstate(divide="ignore"):
        log_count = np.where(count > 0, np.log10(count), np.nan).astype(np.float32)
    decades = np.arange(int(np.ceil(np.nanmax(log_count))) + 1)
    texts = [f"{10 ** int(decade):,}" for decade in decades]
    fig = figure(
        height=600,
        width=680,
        title={"text": f"mean absolute error {error:.3f} rad ({np.rad2deg(error):.1f}°)"},
        legend=LEGEND_INSIDE,
        hovermode="closest",
    )
    fig.add_heatmap(
        x=(x_edges[:-1] + x_edges[1:]) / 2,
        y=(y_edges[:-1] + y_edges[1:]) / 2,
        z=log_count.T,
        customdata=count.T.astype(np.int32),
        colorscale=SEQUENTIAL,
        zmin=0,
        colorbar={"title": {"text": "pairs"}, "tickvals": decades, "ticktext": texts},
        hovertemplate="true %{x:.2f} rad<br>predicted %{y:.2f} rad<br>%{customdata} pairs<extra></extra>",
        showlegend=False,
    )
    fig.add_trace(dashed([0, np.pi], [0, np.pi], name="identity"))
    centres, low, median, high = _running_percentiles(x, y)
    gap = [np.nan]
    band = np.concatenate([centres, gap, centres]), np.concatenate([low, gap, high])
    fig.add_trace(curve(*band, name="10 % and 90 %", colour=ORANGE, width=1.8, line={"dash": "dot"}))
    fig.add_trace(curve(centres, median, name="median", colour=ORANGE, width=3, hover="%{x:.2f}: %{y:.2f}"))
    square = {"constrain": "domain", **_RADIAN_TICKS}
    fig.update_xaxes(title_text="true distance (rad)", range=[0, np.pi], **square)
    fig.update_yaxes(title_text="predicted distance (rad)", range=[float(y_edges[0]), top], **square)
    return fig.update_yaxes(scaleanchor="x")


def bias_against_distance(true: np.ndarray, predicted: Mapping[str, np.ndarray]) -> go.Figure:
    """Plot the mean difference between predicted and true distances against the true distance.

    Parameters
    ----------
    true : (n, n) or (p,) array
        True distances in radians. For a matrix, only the values above the diagonal are used.
    predicted : mapping of str to array
        Predicted distances by name, each of the same shape as ``true``.

    Raises
    ------
    ValueError
        If an array does not have the same shape as ``true``, or if values are not finite or are too large to be in
        radians.
    """
    fig = figure(showlegend=True, legend=LEGEND_ABOVE)
    fig.add_hline(y=0, line={"color": INK, "width": 1.5, "dash": "dash"})
    edges = np.linspace(0, np.pi, BIAS_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    for name, colour in named_colours(non_empty_mapping(predicted, name="predicted")).items():
        x, y = _matching_pairs(true, predicted[name], name=f"predicted[{name!r}]")
        which = np.clip(np.digitize(x, edges) - 1, 0, BIAS_BINS - 1)
        count = np.bincount(which, minlength=BIAS_BINS)
        seen = count > 0
        bias = np.bincount(which, weights=y - x, minlength=BIAS_BINS)[seen] / count[seen]
        hover = "true %{x:.2f} rad<br>bias %{y:+.3f} rad<extra>%{fullData.name}</extra>"
        fig.add_trace(dotted(centres[seen], bias, name=name, colour=colour, size=5, hover=hover))
    fig.update_xaxes(title_text="true distance (rad)", range=[0, np.pi], **_RADIAN_TICKS)
    fig.update_yaxes(title_text="mean predicted − true distance (rad)")
    return fig


def nearest_neighbours(
    images: np.ndarray,
    distances: np.ndarray,
    *,
    index: int | Sequence[int],
    count: int = 5,
    true: np.ndarray | None = None,
) -> go.Figure:
    """Plot images, each followed by the images whose orientations are nearest to its own.

    Parameters
    ----------
    images : (n, y, x) array
        Images, each shown with its own grey scale.
    distances : (n, n) array
        Distances between the orientations of the images in radians, such as those estimated by a network.
    index : int or sequence of int
        Images whose neighbours are shown, one per row.
    count : int
        Number of neighbours, in order of increasing distance. If there are fewer other images, all are shown.
    true : (n, n) array, optional
        True distances in radians, which are added to the titles.

    Returns
    -------
    Figure
        The title of each neighbour is its distance in degrees.

    Raises
    ------
    ValueError
        If there are fewer than two images, a matrix is not (n, n) or not in radians, an index is out of range, or
        ``count`` is less than 1.
    """
    images = finite_array(images, name="images", ndim=3)
    n, shown = len(images), whole_number(count, name="count", at_least=1)
    for name, matrix in {"distances": distances, "true": distances if true is None else true}.items():
        pair_distances(matrix, name=name)
        if np.shape(matrix) != (n, n):
            raise ValueError(f"{name} must be ({n}, {n}), one row per image, got shape {np.shape(matrix)}")
    order, titles = [], []
    for query in np.atleast_1d(index):
        if not 0 <= whole_number(query, name="index", at_least=0) < n:
            raise ValueError(f"index must be less than the number of images ({n}), got {query}")
        nearest = np.argsort(distances[query], kind="stable")
        nearest = nearest[nearest != query][:shown]
        order += [query, *nearest]
        titles.append(f"image {query}")
        for other in nearest:
            suffix = "" if true is None else f" (true {np.rad2deg(true[query, other]):.1f}°)"
            titles.append(f"{np.rad2deg(distances[query, other]):.1f}°{suffix}")
    return projection_gallery(images[order], columns=min(shown, n - 1) + 1, titles=titles)


def pair_distances(distances: np.ndarray, *, name: str) -> np.ndarray:
    """Check that distances are in radians, and return the pairs i < j of an (n, n) matrix or a (p,) array unchanged."""
    distances = np.asarray(distances)
    if distances.ndim == 2 and distances.shape[0] == distances.shape[1] > 1:
        distances = distances[np.triu_indices(len(distances), k=1)]
    elif distances.ndim != 1:
        raise ValueError(f"{name} must be (n, n) with n > 1 or one-dimensional, got shape {distances.shape}")
    distances = finite_array(distances, name=name, ndim=1)
    if np.abs(distances).max() > 4 * np.pi:
        raise ValueError(f"{name} must be in radians, got a value of {np.abs(distances).max():.4g}")
    return distances


def _matching_pairs(true: np.ndarray, predicted: np.ndarray, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(true) != np.shape(predicted):
        raise ValueError(
            f"{name} must have the same shape as true, {np.shape(true)}, got {np.shape(predicted)}"
        )
    return pair_distances(true, name="true"), pair_distances(predicted, name=name)


def _running_percentiles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the centres of the x bins with enough points, and the 10th, 50th and 90th percentiles of y in each bin."""
    edges = np.linspace(0, np.pi, MEDIAN_BINS + 1)
    order = np.argsort(x, kind="stable")
    bounds = np.searchsorted(x[order], edges)
    rows = [
        ((edges[i] + edges[i + 1]) / 2, *np.percentile(y[order[start:end]], [10, 50, 90]))
        for i, (start, end) in enumerate(itertools.pairwise(bounds))
        if end - start >= FEWEST_IN_BIN
    ]
    return np.array(rows).reshape(-1, 4).T
