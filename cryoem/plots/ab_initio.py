"""Plots of an ab initio search: rings and harmonics, the growing map, the posterior of an image, and the starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.plots.densities import POSITION, automatic_level, mesh, surface_mesh
from cryoem.plots.sphere import ABOVE, sphere_figure, xyz
from cryoem.plots.template import (
    BLUE,
    LEGEND_ABOVE,
    ORANGE,
    SKY,
    VERMILION,
    animation_controls,
    curve,
    figure,
    non_empty_mapping,
    panels,
    translucent,
)
from cryoem.rotations import viewing_directions
from cryoem.validation import finite_array
from cryoem.volumes.density import DensityMap

TRIANGLES_PER_ANIMATION = 90_000
EVIDENCE_BINS = 60

_HEAT = (
    (0.0, "#c3ccd6"),
    (0.1, "#f3c99b"),
    (0.5, "#e2703a"),
    (1.0, "#8a1f00"),
)  # grey where nothing is probable


def rings_and_harmonics(
    image: np.ndarray, values: np.ndarray, rotated: np.ndarray, *, ring: int
) -> go.Figure:
    """Plot the rings in the Fourier transform of an image, the values on one ring, and the size of their harmonics.

    Parameters
    ----------
    image : (y, x) array
        Image with y == x. The power of its Fourier transform is shown with the rings.
    values, rotated : (rings, angles) complex array
        Fourier transform of the image, and of the rotated image, on rings 1, 2, ... at evenly spaced angles on the
        half circle [0, pi).
    ring : int
        Ring whose values are shown, from 1.

    Raises
    ------
    ValueError
        If an array has the wrong number of dimensions or is not finite.
    """
    image = finite_array(image, name="image", ndim=2)
    rings, angles = values.shape
    fig = panels(
        layout={"height": 400, "legend": {**LEGEND_ABOVE, "x": 0.4, "y": 1.1}, "margin": {"t": 80, "l": 60}},
        cols=3,
        column_widths=[0.36, 0.34, 0.3],
        horizontal_spacing=0.1,
        subplot_titles=["rings in Fourier space", f"values on ring {ring}", f"harmonics of ring {ring}"],
    )
    size = image.shape[0]
    power = np.log10(np.abs(np.fft.fftshift(np.fft.fft2(image - image.mean()))) ** 2 + 1e-9)
    reach = min(size // 2 - 1, rings + 4)
    axis = np.arange(size) - size // 2
    shown = np.abs(axis) <= reach
    inside = power[np.ix_(shown, shown)].astype(np.float32)
    lowest, highest = np.percentile(inside, [2, 99.8])
    fig.add_heatmap(
        z=inside,
        x=axis[shown],
        y=axis[shown],
        colorscale="gray",
        zmin=lowest,
        zmax=highest,
        showscale=False,
        hoverinfo="skip",
        row=1,
        col=1,
    )
    circle = np.linspace(0, 2 * np.pi, 121)
    for radius in range(1, rings + 1):
        colour, width = (ORANGE, 3) if radius == ring else (translucent(SKY, 0.75), 1)
        style = {"colour": colour, "width": width, "name": f"ring {radius}", "showlegend": False}
        fig.add_trace(curve(radius * np.cos(circle), radius * np.sin(circle), **style), row=1, col=1)
    fig.update_yaxes(title_text="frequency", title_standoff=2, row=1, col=1)
    fig.update_yaxes(scaleanchor="x", constrain="domain", row=1, col=1)
    fig.update_xaxes(title_text="frequency (1 / image width)", constrain="domain", row=1, col=1)
    degrees = np.rad2deg(np.pi / angles * np.arange(2 * angles))
    for name, each, colour in (("image", values, BLUE), ("rotated image", rotated, VERMILION)):
        full = np.concatenate([each[ring - 1], each[ring - 1].conj()])
        hover = f"%{{x:.0f}}°: %{{y:.3g}}<extra>{name}</extra>"
        fig.add_trace(curve(degrees, full.real, name=name, colour=colour, hover=hover), row=1, col=2)
        sizes = np.abs(np.fft.fft(full))[: min(angles, 4 * ring) + 1] / len(full)
        bars = {
            "name": name,
            "showlegend": False,
            "hovertemplate": f"m = %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
        }
        fig.add_bar(x=np.arange(len(sizes)), y=sizes, marker_color=colour, **bars, row=1, col=3)
    fig.update_xaxes(title_text="angle (°)", range=[0, 360], tickvals=[0, 90, 180, 270, 360], row=1, col=2)
    fig.update_yaxes(title_text="real part", title_standoff=2, row=1, col=2)
    fig.update_xaxes(title_text="harmonic m", row=1, col=3)
    fig.update_yaxes(title_text="magnitude", title_standoff=2, row=1, col=3)
    return fig


def growing_map(maps: Mapping[str, DensityMap]) -> go.Figure:
    """Plot isosurfaces of maps as an animation, with one frame for each map.

    Parameters
    ----------
    maps : mapping of str to DensityMap
        Maps by the name of their frame. Each surface is drawn at the ``automatic_level`` of its map. The figure
        initially shows the last map.

    Raises
    ------
    ValueError
        If there are no maps, or a map has no positive voxels.
    """
    maps, budget = non_empty_mapping(maps, name="maps"), TRIANGLES_PER_ANIMATION // len(maps)
    meshes, reach = [], 0.0
    for density_map in maps.values():
        data = density_map.data
        vertices, triangles = surface_mesh(
            data,
            automatic_level(data),
            voxel_size_angstrom=density_map.voxel_size_angstrom,
            max_triangles=budget,
        )
        reach = float(np.abs(vertices).max())  # that of the last map, which is shown first
        meshes.append(mesh(vertices, triangles, hovertemplate=f"{POSITION}<extra></extra>"))
    fig = figure(height=520, margin={"l": 10, "r": 10, "t": 20, "b": 10})
    fig.add_trace(meshes[-1])
    span = {"visible": False, "range": [-reach, reach]}
    fig.update_scenes(
        xaxis=span,
        yaxis=span,
        zaxis=span,
        aspectmode="cube",
        camera={"eye": {"x": 0.92, "y": 0.92, "z": 0.55}, "center": {"x": 0, "y": 0, "z": -0.06}},
        uirevision="kept",
    )
    fig.frames = [
        go.Frame(name=name, data=[surface], traces=[0]) for name, surface in zip(maps, meshes, strict=True)
    ]
    return fig.update_layout(**animation_controls(list(maps)))


def posterior_sphere(rotations: Rotation, posteriors: Mapping[str, np.ndarray]) -> go.Figure:
    """Plot the posterior of the viewing direction of one image on the unit sphere, as an animation.

    Parameters
    ----------
    rotations : Rotation
        d orientations whose viewing directions cover the sphere.
    posteriors : mapping of str to array
        Probabilities (d,) of the viewing directions, by the name of the frame. Colours and sizes show the probability
        relative to the most probable direction. The title is the number of directions that are as probable as the
        posterior is uncertain: the exponential of its entropy.

    Raises
    ------
    ValueError
        If there are no posteriors, or one has a length other than d.
    """
    posteriors = non_empty_mapping(posteriors, name="posteriors")
    places = xyz(ABOVE * viewing_directions(rotations).T)
    points, titles = [], []
    for name, posterior in posteriors.items():
        share = finite_array(posterior, name=f"posteriors[{name!r}]", ndim=1, dtype=float)
        if len(share) != len(rotations):
            raise ValueError(
                f"posteriors[{name!r}] must have one value per rotation ({len(rotations)}), got {len(share)}"
            )
        share = np.maximum(share, 1e-30) / share.sum()
        count = np.exp(-(share * np.log(share)).sum())
        verb = "is" if round(count) == 1 else "are"
        titles.append(f"{count:.0f} of {len(share)} directions {verb} probable")
        relative = (share / share.max()).astype(np.float32)
        marker = {
            "size": 2.5 + 9 * np.sqrt(relative),
            "color": relative,
            "colorscale": _HEAT,
            "cmin": 0,
            "cmax": 1,
            "line": {"width": 0},
            "colorbar": {"title": {"text": "relative probability"}, "len": 0.7},
        }
        hover = "x %{x:.2f}, y %{y:.2f}, z %{z:.2f}<br>%{marker.color:.3f}<extra></extra>"
        points.append(go.Scatter3d(**places, mode="markers", marker=marker, hovertemplate=hover))
    fig = sphere_figure()
    moving = len(fig.data)
    fig.add_trace(points[-1])
    fig.frames = [
        go.Frame(name=name, data=[each], traces=[moving], layout={"title": {"text": title}})
        for name, each, title in zip(posteriors, points, titles, strict=True)
    ]
    fig.update_layout(title={"text": titles[-1], "y": 0.97}, **animation_controls(list(posteriors)))
    # look at the most probable direction of the last frame
    towards = viewing_directions(rotations)[np.argmax(list(posteriors.values())[-1])]
    return fig.update_scenes(camera={"eye": dict(zip("xyz", 1.5 * towards + [0, 0, 0.1], strict=True))})


def start_comparison(likelihoods: np.ndarray, agreement: np.ndarray) -> go.Figure:
    """Plot the likelihood of each random start, and how far the starts agree on the orientation of each image.

    Parameters
    ----------
    likelihoods : (starts,) array
        Mean log-likelihood of held-out images for each start.
    agreement : (n,) array
        Fraction of the other starts that agree with the best start on the orientation of each image; NaN if there is
        only one start.

    Raises
    ------
    ValueError
        If ``likelihoods`` is empty or not finite.
    """
    likelihoods = finite_array(likelihoods, name="likelihoods", ndim=1, dtype=float)
    fig = panels(
        layout={"height": 360, "showlegend": False},
        cols=2,
        horizontal_spacing=0.16,
        subplot_titles=["likelihood of the starts", "agreement between the starts"],
    )
    starts = np.arange(1, len(likelihoods) + 1)
    best = likelihoods.argmax()
    hover = "start %{x}: %{y:.2f}<extra></extra>"
    colours = [VERMILION if i == best else BLUE for i in range(len(starts))]
    marker = {"size": 13, "color": colours}
    fig.add_scatter(x=starts, y=likelihoods, mode="markers", marker=marker, hovertemplate=hover, row=1, col=1)
    fig.update_xaxes(
        title_text="start (best highlighted)", tickvals=starts, range=[0.5, starts[-1] + 0.5], row=1, col=1
    )
    fig.update_yaxes(title_text="mean log-likelihood", row=1, col=1)
    others = len(likelihoods) - 1
    known = np.round(agreement[np.isfinite(agreement)] * others).astype(int)
    counts = 100 * np.bincount(known, minlength=others + 1) / max(1, len(known))
    hover = "%{x} of the other starts: %{y:.1f} % of the images<extra></extra>"
    fig.add_bar(
        x=np.arange(len(counts)), y=counts, width=0.6, marker_color=BLUE, hovertemplate=hover, row=1, col=2
    )
    fig.update_xaxes(
        title_text=f"other starts that agree (of {others})",
        tickvals=np.arange(others + 1),
        range=[-0.5, others + 0.5],
        row=1,
        col=2,
    )
    fig.update_yaxes(title_text="images (%)", range=[0, 102], row=1, col=2)
    return fig


def evidence_histogram(evidence: np.ndarray) -> go.Figure:
    """Plot the evidence for the particle in each image, with images that are more likely to be noise in red.

    Parameters
    ----------
    evidence : (n,) array
        Log-likelihood ratio of the particle to pure noise; see ``orientations.AbInitio``.

    Raises
    ------
    ValueError
        If ``evidence`` is empty or not finite.
    """
    evidence = finite_array(evidence, name="evidence", ndim=1, dtype=float)
    low, high = min(evidence.min(), 0.0), max(np.percentile(evidence, 99.5), 0.0)
    width = max(high - low, 1e-6) / EVIDENCE_BINS
    # zero is an edge of the bins
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)
    fig = figure(showlegend=True, legend=LEGEND_ABOVE)
    for name, colour, chosen in (
        ("noise is more likely", VERMILION, evidence < 0),
        ("the particle is more likely", BLUE, evidence >= 0),
    ):
        counts, _ = np.histogram(np.minimum(evidence[chosen], edges[-1]), bins=edges)
        label = f"{name}: {chosen.sum():,} images"
        hover = "%{x:.1f}<br>%{y} images<extra></extra>"
        fig.add_bar(
            x=edges[:-1] + width / 2,
            y=counts,
            width=width,
            marker_color=colour,
            name=label,
            hovertemplate=hover,
        )
    fig.update_layout(barmode="stack", bargap=0)
    fig.update_xaxes(title_text="evidence: logarithm of the likelihood ratio of the particle to noise")
    fig.update_yaxes(title_text="images", rangemode="tozero")
    return fig
