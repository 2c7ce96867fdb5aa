"""Plots of orientations as parameters: rotation vectors in a ball, Euler angles and quaternion components."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.plots.sphere import sphere_figure, xyz
from cryoem.plots.template import (
    INK,
    LEGEND_ABOVE,
    dashed,
    histogram,
    named_colours,
    non_empty_mapping,
    one_legend_entry_per_group,
    panels,
    thinned,
)
from cryoem.rotations import to_relion_euler_deg
from cryoem.validation import many_rotations, one_each

MOST_POINTS = 3000
BIN_DEG, BIN_COMPONENT = 10, 0.1

_HALF_TURNS = {"tickvals": [-180, -90, 0, 90, 180]}


def rotation_ball(
    rotations: Rotation, *, colour: np.ndarray | None = None, colour_title: str = "rotation angle (°)"
) -> go.Figure:
    """Plot orientations as rotation vectors in a ball of radius pi.

    The direction of a rotation vector is the axis of the rotation, and its length is the angle in radians. Opposite
    points on the surface of the ball represent the same rotation. If there are more than 3,000 orientations, an evenly
    spaced subset (by index) is shown.

    Parameters
    ----------
    rotations : Rotation
        n orientations R, from the particle frame to the microscope frame.
    colour : (n,) array, optional
        Value that determines the colour of each point, such as its error. Default: the rotation angle in degrees.
    colour_title : str
        Title of the colour bar, with the unit of ``colour``.

    Returns
    -------
    Figure
        The points are drawn in units of pi, so the ball has radius 1. The colour scale extends to the 98th percentile
        of ``colour``, or to 180 degrees if ``colour`` is not given.

    Raises
    ------
    ValueError
        If ``rotations`` is empty or is not a sequence of rotations, or ``colour`` is not n finite numbers.
    """
    rotations = many_rotations(rotations)
    angles_deg = np.rad2deg(rotations.magnitude())
    values, lowest, highest = angles_deg, 0.0, 180.0
    if colour is not None:
        values = one_each(colour, count=len(rotations), name="colour")
        lowest, highest = min(0.0, float(values.min())), float(np.percentile(values, 98))
    drawn = thinned(len(rotations), MOST_POINTS)
    fig = sphere_figure(solid=False)
    fig.add_scatter3d(
        **xyz(rotations[drawn].as_rotvec().T / np.pi),
        mode="markers",
        name="rotation vectors",
        marker={
            "size": 3 if len(drawn) > 500 else 4.5,
            "color": values[drawn].astype(np.float32),
            "colorscale": "Viridis" if colour is None else "Plasma",
            "cmin": lowest,
            "cmax": highest,
            "colorbar": {"title": {"text": colour_title}, "len": 0.7},
        },
        customdata=angles_deg[drawn].astype(np.float32),
        hovertemplate="rotation by %{customdata:.0f}°<br>x %{x:.2f} π, y %{y:.2f} π, z %{z:.2f} π"
        "<br>%{marker.color:.3g}<extra></extra>",
    )
    return fig


def euler_histograms(samplings: Mapping[str, Rotation]) -> go.Figure:
    """Plot histograms of RELION's Euler angles rot, tilt and psi, with the histogram of uniform orientations.

    Each bin is 10 degrees wide. For orientations uniform on SO(3), rot and psi are uniform, and the probability density
    of the tilt angle t is ``sin(t) / 2``.

    Parameters
    ----------
    samplings : mapping of str to Rotation
        Orientations of each sampling, by name.

    Returns
    -------
    Figure
        One panel per angle, in degrees: rot and psi from -180 to 180, and tilt from 0 to 180. One curve per sampling.

    Raises
    ------
    ValueError
        If there are no samplings, or a sampling is empty or is not a sequence of rotations.
    """
    angles = {name: to_relion_euler_deg(drawn) for name, drawn in _checked(samplings).items()}
    turn = np.arange(-180, 181, BIN_DEG)
    tilt = np.arange(0, 181, BIN_DEG)
    ranges = {"rot (°)": turn, "tilt (°)": tilt, "psi (°)": turn}
    around = np.full(len(turn) - 1, BIN_DEG / 360)
    from_pole = -np.diff(np.cos(np.deg2rad(tilt))) / 2
    fig = _histogram_panels(angles, ranges, [around, from_pole, around])
    fig.update_yaxes(title_text=f"share per {BIN_DEG}° (%)")
    fig.update_xaxes(_HALF_TURNS, col=1).update_xaxes(_HALF_TURNS, col=3)
    return fig.update_xaxes(tickvals=[0, 45, 90, 135, 180], col=2)


def quaternion_histograms(samplings: Mapping[str, Rotation]) -> go.Figure:
    """Plot histograms of quaternion components, with the histogram of uniform orientations.

    The quaternions q and -q represent the same orientation; the one with w >= 0 is used. Each bin is 0.1 wide. For
    orientations uniform on SO(3), the probability density of x, y or z is ``2 sqrt(1 - x**2) / pi``, and that of w is
    twice as high.

    Parameters
    ----------
    samplings : mapping of str to Rotation
        Orientations of each sampling, by name.

    Returns
    -------
    Figure
        One panel per component: x, y and z from -1 to 1, and w from 0 to 1. One curve per sampling.

    Raises
    ------
    ValueError
        If there are no samplings, or a sampling is empty or is not a sequence of rotations.
    """
    components = {name: drawn.as_quat(canonical=True) for name, drawn in _checked(samplings).items()}
    signed = np.linspace(-1, 1, round(2 / BIN_COMPONENT) + 1)
    positive = np.linspace(0, 1, round(1 / BIN_COMPONENT) + 1)

    def uniform(edges):
        # distribution function of a component of a unit vector that is uniform in four dimensions
        return np.diff(edges * np.sqrt(1 - edges**2) + np.arcsin(edges)) / np.pi

    ranges = {"x": signed, "y": signed, "z": signed, "w": positive}
    fig = _histogram_panels(components, ranges, [uniform(signed)] * 3 + [2 * uniform(positive)])
    return fig.update_yaxes(title_text=f"share per {BIN_COMPONENT} (%)")


def _checked(samplings: Mapping[str, Rotation]) -> dict[str, Rotation]:
    samplings = non_empty_mapping(samplings, name="samplings")
    return {name: many_rotations(drawn, name=f"samplings[{name!r}]") for name, drawn in samplings.items()}


def _histogram_panels(
    values: Mapping[str, np.ndarray], ranges: Mapping[str, np.ndarray], uniform: list[np.ndarray]
) -> go.Figure:
    """Plot one panel for each column of (n, columns) values, given the bin edges by title and the expected shares."""
    fig = panels(
        layout={"height": 360, "legend": {**LEGEND_ABOVE, "y": 1.04}, "margin": {"t": 70}},
        cols=len(ranges),
        horizontal_spacing=0.24 / len(ranges),
    )
    colours = named_colours(values)
    for column, ((title, edges), expected) in enumerate(zip(ranges.items(), uniform, strict=True), start=1):
        place = {"row": 1, "col": column}
        for name, colour in colours.items():
            # rounding may place a value just outside the first or the last bin
            inside = np.clip(values[name][:, column - 1], edges[0], edges[-1])
            share = 100 * np.histogram(inside, bins=edges)[0] / len(inside)
            hover = f"from %{{x:.3g}}: %{{y:.2f}} %<extra>{name}</extra>"
            steps = histogram(edges, share, name=name, colour=colour, hover=hover, legendgroup=name)
            # several filled histograms would hide each other
            fig.add_trace(steps.update(fill="tozeroy" if len(values) == 1 else "none"), **place)
        middles = (edges[:-1] + edges[1:]) / 2
        theory = dashed(middles, 100 * expected, name="uniform on SO(3)", colour=INK, width=2)
        fig.add_trace(theory.update(legendgroup="uniform on SO(3)"), **place)
        fig.update_xaxes(title_text=title, range=[edges[0], edges[-1]], **place)
    fig.update_yaxes(rangemode="tozero", title_standoff=4)
    return one_legend_entry_per_group(fig)
