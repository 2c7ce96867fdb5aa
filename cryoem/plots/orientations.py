"""Orientations on the sphere of viewing directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations
from cryoem.plots.checks import thinned
from cryoem.plots.template import INK, figure
from cryoem.rotations import to_relion_euler_deg, viewing_directions

_ABOVE = 1.012  # points and lines float this far out, so that the sphere does not swallow half of them
_ARC_POINTS = 6


def coverage_sphere(rotations: Rotation, *, max_points: int = 3000) -> go.Figure:
    """Viewing directions as points on the unit sphere, coloured by the in-plane angle.

    Parameters
    ----------
    rotations : n orientations R, particle to microscope. A viewing direction is the particle-frame unit
        vector that points along the microscope's z-axis, the third row of R; the in-plane angle is RELION's
        psi in degrees.
    max_points : beyond this many, evenly spaced ones are drawn.

    Raises
    ------
    ValueError : ``rotations`` is not a non-empty sequence of rotations.
    """
    rotations = many_rotations(rotations, name="rotations")
    rotations = rotations[thinned(len(rotations), max_points)]
    x, y, z = viewing_directions(rotations).astype(np.float32).T * _ABOVE
    fig = _sphere_figure()
    fig.add_trace(
        go.Scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            name="viewing directions",
            marker={
                "size": 3.4 if len(rotations) > 500 else 5,
                "color": to_relion_euler_deg(rotations)[:, 2].astype(np.float32),
                "colorscale": "Phase",
                "cmin": -180,
                "cmax": 180,
                "colorbar": {
                    "title": {"text": "in-plane angle (°)"},
                    "tickvals": [-180, -90, 0, 90, 180],
                    "len": 0.7,
                },
            },
            hovertemplate="x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<br>%{marker.color:.0f}°<extra></extra>",
        )
    )
    return fig


def recovered_against_true(
    true: Rotation,
    recovered_frames: Sequence[Rotation],
    *,
    frame_names: Sequence[str] | None = None,
    max_points: int = 400,
) -> go.Figure:
    """True and recovered viewing directions on the sphere, joined by arcs, animated over the recovery.

    Parameters
    ----------
    true : n orientations, particle to microscope.
    recovered_frames : sequences of n orientations each, already aligned to the frame of ``true``; the last is
        drawn first.
    frame_names : one label a frame for the slider.
    max_points : beyond this many, evenly spaced ones are drawn.

    Returns
    -------
    Figure with hollow true and filled recovered points. Their colour is the angle in degrees between the two
    orientations, in-plane rotation included, so a point can lie right and still be coloured.

    Raises
    ------
    ValueError : there is no frame, a frame is not as long as ``true``, or frames and names differ in number.
    """
    true = many_rotations(true, name="true")
    if not len(recovered_frames):
        raise ValueError("recovered_frames must hold at least one frame, got 0")
    for index, frame in enumerate(recovered_frames):
        many_rotations(frame, name=f"recovered_frames[{index}]")
        if len(frame) != len(true):
            raise ValueError(
                f"recovered_frames[{index}] must hold {len(true)} rotations like true, got {len(frame)}"
            )
    names = (
        [str(i) for i in range(len(recovered_frames))]
        if frame_names is None
        else [str(n) for n in frame_names]
    )
    if len(names) != len(recovered_frames):
        raise ValueError(
            f"frame_names must have one entry a frame, {len(recovered_frames)}, got {len(names)}"
        )

    drawn = thinned(len(true), max_points)
    true, frames = true[drawn], [frame[drawn] for frame in recovered_frames]
    directions = viewing_directions(true)
    errors_deg = [np.rad2deg((frame * true.inv()).magnitude()) for frame in frames]
    # the scale is that of the last frame: what is still far off saturates, what is left in the end shows
    worst_deg = max(1.0, 2 * float(np.percentile(errors_deg[-1], 95)))
    moving = [_moving_traces(directions, f, e, worst_deg) for f, e in zip(frames, errors_deg, strict=True)]

    fig = _sphere_figure()
    x, y, z = directions.astype(np.float32).T * _ABOVE
    fig.add_trace(
        go.Scatter3d(
            **{"x": x, "y": y, "z": z},
            mode="markers",
            name="true",
            marker={"size": 5, "symbol": "circle-open", "color": INK, "line": {"width": 1}},
            hovertemplate="true direction<br>x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<extra></extra>",
        )
    )
    first_moving = len(fig.data)
    fig.add_traces(moving[-1])
    titles = [f"mean error {e.mean():.1f}°, median {np.median(e):.1f}°" for e in errors_deg]
    fig.update_layout(
        title={"text": titles[-1], "y": 0.97},
        showlegend=True,
        legend={"x": 0, "y": 1, "itemsizing": "constant"},
    )
    if len(frames) > 1:
        fig.frames = [
            go.Frame(
                name=name,
                data=traces,
                traces=[first_moving, first_moving + 1],
                layout={"title": {"text": title}},
            )
            for name, traces, title in zip(names, moving, titles, strict=True)
        ]
        fig.update_layout(**_animation_controls(names))
    return fig


def _moving_traces(
    directions: np.ndarray, recovered: Rotation, error_deg: np.ndarray, worst_deg: float
) -> list:
    """The arcs and the coloured points of one frame."""
    ends = viewing_directions(recovered)
    arcs_x, arcs_y, arcs_z = _arcs(directions, ends).astype(np.float32).T
    x, y, z = ends.astype(np.float32).T * _ABOVE
    arcs = go.Scatter3d(
        **{"x": arcs_x, "y": arcs_y, "z": arcs_z},
        mode="lines",
        name="error",
        line={"color": "#66727f", "width": 2},
        hoverinfo="skip",
    )
    points = go.Scatter3d(
        **{"x": x, "y": y, "z": z},
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
    """Great-circle arcs between (n, 3) unit vectors as one broken line (n * (_ARC_POINTS + 1), 3)."""
    weight = np.linspace(0, 1, _ARC_POINTS)[None, :, None]
    angle = np.arccos(np.clip(np.sum(start * end, axis=1), -1, 1))[:, None, None]
    # 0 and pi (where any great circle will do) would divide by zero
    angle = np.clip(angle, 1e-6, np.pi - 1e-6)
    line = (np.sin((1 - weight) * angle) * start[:, None] + np.sin(weight * angle) * end[:, None]) / np.sin(
        angle
    )
    line *= _ABOVE / np.maximum(np.linalg.norm(line, axis=-1, keepdims=True), 1e-6)
    gap = np.full((len(start), 1, 3), np.nan)
    return np.concatenate([line, gap], axis=1).reshape(-1, 3)


def _sphere_figure() -> go.Figure:
    """Figure with a lit unit sphere, its graticule and the three axes of the particle frame."""
    fig = figure(height=600, margin={"l": 20, "r": 20, "t": 50, "b": 10}, showlegend=False)
    longitude, latitude = np.meshgrid(np.linspace(0, 2 * np.pi, 73), np.linspace(-np.pi / 2, np.pi / 2, 37))
    x, y, z = _on_sphere(longitude, latitude).astype(np.float32)
    fig.add_trace(
        go.Surface(
            **{"x": x, "y": y, "z": z},
            surfacecolor=np.zeros(x.shape, np.uint8),
            colorscale=[[0, "#e6ebf1"], [1, "#e6ebf1"]],
            showscale=False,
            lighting={"ambient": 0.72, "diffuse": 0.4, "specular": 0.06, "roughness": 0.8, "fresnel": 0.05},
            lightposition={"x": 4000, "y": 1000, "z": 6000},
            hoverinfo="skip",
            contours={a: {"highlight": False} for a in "xyz"},
            name="unit sphere",
        )
    )
    x, y, z = _graticule().astype(np.float32)
    fig.add_trace(
        go.Scatter3d(
            **{"x": x, "y": y, "z": z},
            mode="lines",
            line={"color": "#cdd5de", "width": 1},
            hoverinfo="skip",
            showlegend=False,
            name="graticule",
        )
    )
    inner, outer, gap = np.eye(3), 1.22 * np.eye(3), np.full((3, 3), np.nan)
    x, y, z = np.stack([inner, outer, gap], axis=1).reshape(-1, 3).astype(np.float32).T
    fig.add_trace(
        go.Scatter3d(
            **{"x": x, "y": y, "z": z},
            mode="lines+text",
            text=[label for axis in "xyz" for label in ("", f"<b>{axis}</b>", "")],
            textposition="top center",
            textfont={"size": 14, "color": INK},
            line={"color": INK, "width": 4},
            hoverinfo="skip",
            showlegend=False,
            name="particle axes",
        )
    )
    hidden = {"visible": False, "range": [-1.3, 1.3]}
    camera = {"eye": {"x": 0.87, "y": 0.87, "z": 0.55}}
    fig.update_scenes(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube", camera=camera, uirevision="kept"
    )
    return fig


def _on_sphere(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=0
    )


def _graticule() -> np.ndarray:
    """Meridians and parallels every 30 degrees as one broken line, (3, m)."""
    along = np.append(np.linspace(0, 2 * np.pi, 73), np.nan)
    parallels = [_on_sphere(along, np.full_like(along, at)) for at in np.deg2rad(np.arange(-60, 61, 30))]
    meridians = [_on_sphere(np.full_like(along, at), along) for at in np.deg2rad(np.arange(0, 180, 30))]
    return 1.003 * np.concatenate(parallels + meridians, axis=1)


def _animation_controls(names: list[str]) -> dict:
    at_once = {"mode": "immediate", "fromcurrent": True, "transition": {"duration": 0}}
    play = {"label": "▶ play", "method": "animate", "args": [None, {**at_once, "frame": {"duration": 120}}]}
    pause = {
        "label": "❚❚ pause",
        "method": "animate",
        "args": [[None], {**at_once, "frame": {"duration": 0}}],
    }
    steps = [
        {"label": name, "method": "animate", "args": [[name], {**at_once, "frame": {"duration": 0}}]}
        for name in names
    ]
    return {
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "left",
                "buttons": [play, pause],
                "showactive": False,
                "x": 0.02,
                "y": 0,
                "xanchor": "left",
                "yanchor": "top",
                "pad": {"t": 22},
            }
        ],
        "sliders": [
            {
                "active": len(names) - 1,
                "steps": steps,
                "currentvalue": {"prefix": "recovery: "},
                "x": 0.3,
                "len": 0.65,
                "y": 0,
                "pad": {"t": 10, "b": 10},
            }
        ],
    }
