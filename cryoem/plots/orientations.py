"""Plots of viewing directions on the unit sphere: coverage, and recovered against true directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.plots.sphere import ABOVE, sphere_figure, xyz
from cryoem.plots.template import (
    INK,
    MUTED,
    RESOLUTION_COLOURS,
    animation_controls,
    non_empty_mapping,
    panels,
    thinned,
)
from cryoem.rotations import to_relion_euler_deg, viewing_directions
from cryoem.validation import finite_array, many_rotations

MOST_POINTS = 3000  # on one sphere
MOST_POINTS_IN_ROW = 1200  # on each of several spheres
MOST_ARCS = 400

_ARC_POINTS = 6


def coverage_sphere(rotations: Rotation) -> go.Figure:
    """Plot viewing directions as points on the unit sphere, coloured by the in-plane angle.

    If there are more than 3,000 orientations, an evenly spaced subset (by index) is shown.

    Parameters
    ----------
    rotations : Rotation
        n orientations R, from the particle frame to the microscope frame. The viewing direction is the third row of R:
        the unit vector along the microscope's z-axis, in the particle frame. The in-plane angle is RELION's psi in
        degrees.

    Raises
    ------
    ValueError
        If ``rotations`` is empty, or is not a sequence of rotations.
    """
    rotations = many_rotations(rotations, name="rotations")
    fig = sphere_figure()
    fig.add_trace(_viewing_directions(rotations[thinned(len(rotations), MOST_POINTS)]))
    return fig


def coverage_spheres(coverages: Mapping[str, Rotation]) -> go.Figure:
    """Plot the viewing directions of several samplings in a row of spheres, as in ``coverage_sphere``.

    Parameters
    ----------
    coverages : mapping of str to Rotation
        Orientations of each sampling, by name. If a sampling has more than 1,200 orientations, an evenly spaced
        subset (by index) is shown.

    Raises
    ------
    ValueError
        If there are no samplings, or a sampling is empty or is not a sequence of rotations.
    """
    names = list(non_empty_mapping(coverages, name="coverages"))
    fig = panels(
        layout={"height": 270, "margin": {"l": 0, "r": 0, "t": 50, "b": 0}},
        cols=len(names),
        specs=[[{"type": "scene"}] * len(names)],
        subplot_titles=names,
        horizontal_spacing=0.005,
    )
    sphere = sphere_figure()
    for column, name in enumerate(names, start=1):
        rotations = many_rotations(coverages[name], name=f"coverages[{name!r}]")
        points = _viewing_directions(rotations[thinned(len(rotations), MOST_POINTS_IN_ROW)])
        points.marker.update(size=2, showscale=column == len(names))
        fig.add_traces([*sphere.data, points], rows=1, cols=column)
    scene = sphere.layout.scene.to_plotly_json()
    scene["camera"] = {"eye": {"x": 1.4, "y": 1.4, "z": 0.89}}
    fig.update_scenes(scene)
    return fig.update_traces(showlegend=False)


def resolution_sphere(
    directions: np.ndarray, resolution_angstrom: np.ndarray, *, rotations: Rotation | None = None
) -> go.Figure:
    """Plot the resolution along each direction on the unit sphere, with the viewing directions of the images.

    Parameters
    ----------
    directions : (m, 3) array
        Unit vectors of the directions in the particle frame, such as those of ``reconstruction.conical_fsc``. Opposite
        directions have the same resolution.
    resolution_angstrom : (m,) array
        Resolution along each direction in angstrom, shown as the colour of the sphere.
    rotations : Rotation, optional
        Orientations of the images. Their viewing directions are drawn as points. If there are more than 3,000, an
        evenly spaced subset (by index) is shown. Default: no points.

    Raises
    ------
    ValueError
        If the arrays do not match, or ``rotations`` is empty or is not a sequence of rotations.
    """
    directions = finite_array(directions, name="directions", ndim=2, dtype=float)
    values = finite_array(resolution_angstrom, name="resolution_angstrom", ndim=1, dtype=float)
    if directions.shape != (len(values), 3):
        raise ValueError(
            f"directions must be (m, 3) with m = {len(values)} resolutions, got {directions.shape}"
        )
    fig = sphere_figure()
    surface = fig.data[0]
    points = np.stack([surface.x, surface.y, surface.z], axis=1)
    # average the directions around each point of the sphere, weighted by their distance
    closeness = np.exp((np.abs(points @ directions.T) - 1) * len(values))
    low, high = values.min(), values.max()
    surface.update(
        color=None,
        intensity=(closeness @ values / closeness.sum(axis=1)).astype(np.float32),
        colorscale=RESOLUTION_COLOURS,
        cmin=low,
        cmax=max(high, low + 0.1),
        colorbar={"title": {"text": "resolution (Å)", "side": "right"}, "len": 0.7, "thickness": 14},
        hoverinfo=None,
        hovertemplate="%{intensity:.1f} Å<extra></extra>",
        name="resolution",
    )
    if rotations is not None:
        rotations = many_rotations(rotations, name="rotations")
        seen = viewing_directions(rotations[thinned(len(rotations), MOST_POINTS)])
        marker = {"size": 2.2, "color": INK}
        fig.add_scatter3d(
            **xyz(ABOVE * seen.T), mode="markers", marker=marker, name="viewing directions", hoverinfo="skip"
        )
    return fig


def _viewing_directions(rotations: Rotation) -> go.Scatter3d:
    colour_bar = {"title": {"text": "in-plane angle (°)"}, "tickvals": [-180, -90, 0, 90, 180], "len": 0.7}
    return go.Scatter3d(
        **xyz(ABOVE * viewing_directions(rotations).T),
        mode="markers",
        name="viewing directions",
        marker={
            "size": 3.4 if len(rotations) > 500 else 5,
            "color": to_relion_euler_deg(rotations)[:, 2].astype(np.float32),
            "colorscale": "Phase",
            "cmin": -180,
            "cmax": 180,
            "colorbar": colour_bar,
        },
        hovertemplate="x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<br>%{marker.color:.0f}°<extra></extra>",
    )


def recovered_against_true(
    true: Rotation, recovered_frames: Sequence[Rotation], *, frame_names: Sequence[str] | None = None
) -> go.Figure:
    """Plot true and recovered viewing directions on the unit sphere, as an animation if there are several frames.

    Arcs connect each true direction with the corresponding recovered direction. If there are more than 400
    orientations, an evenly spaced subset (by index) is shown.

    Parameters
    ----------
    true : Rotation
        n orientations, from the particle frame to the microscope frame.
    recovered_frames : sequence of Rotation
        n recovered orientations for each frame of the animation, already aligned with ``true``. The figure initially
        shows the last frame.
    frame_names : sequence of str, optional
        Slider labels, one per frame. Default: 0, 1, 2, ....

    Returns
    -------
    Figure
        True directions are rings, and recovered directions are filled points. The colour of a point is the angle in
        degrees between the true and the recovered orientation. It includes the in-plane rotation, so a point in the
        right place can still have a large error.

    Raises
    ------
    ValueError
        If there are no frames, a frame differs in length from ``true``, or there is not one name per frame.
    """
    true = many_rotations(true, name="true")
    if not len(recovered_frames):
        raise ValueError("recovered_frames must contain at least one frame, got 0")
    for index, frame in enumerate(recovered_frames):
        if len(many_rotations(frame, name=f"recovered_frames[{index}]")) != len(true):
            raise ValueError(
                f"recovered_frames[{index}] must have one rotation per entry of `true` ({len(true)}), got {len(frame)}"
            )
    names = [str(name) for name in frame_names or range(len(recovered_frames))]
    if len(names) != len(recovered_frames):
        raise ValueError(
            f"frame_names must have one entry per frame ({len(recovered_frames)}), got {len(names)}"
        )
    drawn = thinned(len(true), MOST_ARCS)
    true, frames = true[drawn], [frame[drawn] for frame in recovered_frames]
    directions = viewing_directions(true)
    errors_deg = [np.rad2deg((frame * true.inv()).magnitude()) for frame in frames]
    # fit the colour scale to the last frame to make its errors visible; earlier frames may saturate
    worst_deg = max(1.0, 2 * float(np.percentile(errors_deg[-1], 95)))
    moving = [_moving_traces(directions, f, e, worst_deg) for f, e in zip(frames, errors_deg, strict=True)]

    fig = sphere_figure()
    rings = {"size": 5, "symbol": "circle-open", "color": INK, "line": {"width": 1}}
    hover = "true direction<br>x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<extra></extra>"
    places = xyz(ABOVE * directions.T)
    fig.add_scatter3d(**places, mode="markers", name="true", marker=rings, hovertemplate=hover)
    first_moving = len(fig.data)
    fig.add_traces(moving[-1])
    titles = [f"mean error {e.mean():.1f}°, median {np.median(e):.1f}°" for e in errors_deg]
    fig.update_layout(
        title={"text": titles[-1], "y": 0.97},
        showlegend=True,
        legend={"x": 0, "y": 1, "itemsizing": "constant"},
    )
    if len(frames) > 1:
        places = [first_moving, first_moving + 1]
        fig.frames = [
            go.Frame(name=name, data=traces, traces=places, layout={"title": {"text": title}})
            for name, traces, title in zip(names, moving, titles, strict=True)
        ]
        fig.update_layout(**animation_controls(names))
        # the controls leave less height, so move the camera back to keep the axis names visible
        fig.update_scenes(camera={"eye": {"x": 1.0, "y": 1.0, "z": 0.63}})
    return fig


def _moving_traces(
    directions: np.ndarray, recovered: Rotation, error_deg: np.ndarray, worst_deg: float
) -> list[go.Scatter3d]:
    """Return the arcs and the coloured points of one animation frame."""
    ends = viewing_directions(recovered)
    places, line = xyz(_arcs(directions, ends)), {"color": MUTED, "width": 2}
    arcs = go.Scatter3d(**places, mode="lines", name="error", line=line, hoverinfo="skip")
    points = go.Scatter3d(
        **xyz(ABOVE * ends.T),
        mode="markers",
        name="recovered",
        marker={
            "size": 4,
            "color": error_deg.astype(np.float32),
            "colorscale": "Plasma",
            "cmin": 0,
            "cmax": worst_deg,
            "colorbar": {"title": {"text": "orientation error (°)"}, "len": 0.7},
        },
        hovertemplate="recovered direction<br>x %{x:.2f}, y %{y:.2f}, z %{z:.2f}"
        "<br>error %{marker.color:.1f}°<extra></extra>",
    )
    return [arcs, points]


def _arcs(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the great-circle arcs between (n, 3) unit vectors as one (3, n * (_ARC_POINTS + 1)) broken line."""
    weight = np.linspace(0, 1, _ARC_POINTS)[None, :, None]
    angle = np.arccos(np.clip(np.sum(start * end, axis=1), -1, 1))[:, None, None]
    # avoid division by zero at 0 and pi; at pi, any great circle is correct
    angle = np.clip(angle, 1e-6, np.pi - 1e-6)
    line = np.sin((1 - weight) * angle) * start[:, None] + np.sin(weight * angle) * end[:, None]
    line *= ABOVE / np.maximum(np.linalg.norm(line, axis=-1, keepdims=True), 1e-6)
    gap = np.full((len(start), 1, 3), np.nan)
    return np.concatenate([line, gap], axis=1).reshape(-1, 3).T
