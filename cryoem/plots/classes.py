"""Plots of two-dimensional classes: a gallery of the averages, and the quality of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from cryoem.plots.densities import projection_gallery
from cryoem.plots.template import BLUE, ORANGE, PINK, SLATE, VERMILION, figure
from cryoem.validation import finite_array, one_each

FAULT_COLOURS = {"": BLUE, "noise": VERMILION, "unresolved": ORANGE, "at the edge": PINK, "empty": SLATE}
FAULT_NAMES = {
    "": "particles",
    "noise": "noise",
    "unresolved": "unresolved",
    "at the edge": "signal at the edge",
}
COLUMNS = 6
LARGEST_DISC_PX = 34


def class_gallery(
    averages: np.ndarray,
    *,
    counts: np.ndarray,
    resolutions_angstrom: np.ndarray,
    faults: Sequence[str],
    pixel_size_angstrom: float,
) -> go.Figure:
    """Plot class averages with the number, count and resolution of each class, and frames around junk classes.

    Empty classes are left out.

    Parameters
    ----------
    averages : (k, y, x) array
        Class averages, each shown with its own grey scale.
    counts, resolutions_angstrom : (k,) array
        Number of images and resolution of each class. An infinite resolution is not shown.
    faults : sequence of str
        Reason why each class is junk, as in ``udl.Classification``, or ``""``.
    pixel_size_angstrom : float
        Pixel size in angstrom.

    Raises
    ------
    ValueError
        If the arrays do not have one entry per class, or all classes are empty.
    """
    averages = finite_array(averages, name="averages", ndim=3)
    counts = one_each(counts, count=len(averages), name="counts")
    if len(faults) != len(averages):
        raise ValueError(f"faults must have one entry for each of {len(averages)} classes, got {len(faults)}")
    shown = np.flatnonzero(counts)
    if not len(shown):
        raise ValueError(f"counts must contain a class with images, got {len(counts)} empty classes")
    titles = []
    for c in shown:
        about = f"{resolutions_angstrom[c]:.1f} Å" if np.isfinite(resolutions_angstrom[c]) else ""
        if faults[c]:
            about = f"<span style='color:{FAULT_COLOURS[faults[c]]}'>{faults[c]}</span>"
        titles.append(f"<b>{c + 1}</b> · {counts[c]:,.0f}<br>{about}")
    return projection_gallery(
        averages[shown],
        pixel_size_angstrom=pixel_size_angstrom,
        columns=COLUMNS,
        titles=titles,
        frames=[FAULT_COLOURS[faults[c]] if faults[c] else None for c in shown],
    )


def class_quality(
    log_likelihoods: np.ndarray,
    classes: np.ndarray,
    *,
    resolutions_angstrom: np.ndarray,
    faults: Sequence[str],
) -> go.Figure:
    """Plot the mean log-likelihood of the images in each class against the resolution of its average.

    Parameters
    ----------
    log_likelihoods : (n,) array
        Log-likelihood of each image relative to pure noise.
    classes : (n,) int array
        Class of each image, from 0.
    resolutions_angstrom : (k,) array
        Resolution of each class. Classes without a resolution are shown at the left edge.
    faults : sequence of str
        Reason why each class is junk, as in ``udl.Classification``, or ``""``.
    """
    log_likelihoods = finite_array(log_likelihoods, name="log_likelihoods", ndim=1)
    counts = np.bincount(classes, minlength=len(faults))
    means = np.bincount(classes, weights=log_likelihoods, minlength=len(faults)) / np.maximum(counts, 1)
    frequency = 1 / np.asarray(resolutions_angstrom, float)  # zero for an infinite resolution
    fig = figure(
        xaxis={"title": "1 / resolution (1/Å)", "rangemode": "tozero"},
        yaxis={"title": "mean log-likelihood"},
    )
    for fault, name in FAULT_NAMES.items():
        chosen = np.flatnonzero((np.array(faults) == fault) & (counts > 0))
        if not len(chosen):
            continue
        fig.add_scatter(
            x=frequency[chosen],
            y=means[chosen],
            name=name,
            mode="markers",
            marker={
                "color": FAULT_COLOURS[fault],
                "opacity": 0.75,
                "size": counts[chosen],
                "sizemode": "area",
                "sizeref": counts.max() / LARGEST_DISC_PX**2 * 2,
                "sizemin": 4,
            },
            customdata=np.stack([chosen + 1, counts[chosen]], axis=1),
            hovertemplate="class %{customdata[0]}: %{customdata[1]} images<br>log-likelihood %{y:.1f}<extra></extra>",
        )
    fig.add_hline(y=0, line={"color": SLATE, "width": 1, "dash": "dash"})
    return fig
