"""Schematics of the first paper's method: its idea, its two steps, distance learning and the published network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.plots import canvas as draw
from cryoem.plots.template import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    SEQUENTIAL,
    VERMILION,
    translucent,
)
from cryoem.rotations import viewing_directions
from cryoem.validation import finite_array, many_rotations

_EYE = Rotation.from_euler("zx", [-35, -65], degrees=True)  # view of the sphere in the overview


def intuition_schematic(images: np.ndarray, distances: np.ndarray) -> go.Figure:
    """Draw the idea of the method: the closer two orientations are, the more similar their projections.

    Parameters
    ----------
    images : (3, y, x) array
        Projections i, j and k, of which i and j have similar orientations.
    distances : (3, 3) array
        Distances between their orientations in radians.

    Raises
    ------
    ValueError
        If there are not three images, or the distances are not a (3, 3) array of finite numbers.
    """
    images = _some(images, count=3)
    distances = finite_array(distances, name="distances", ndim=2, dtype=float)
    if distances.shape != (3, 3):
        raise ValueError(f"distances must have shape (3, 3), got {distances.shape}")
    fig = draw.blank(390)
    centre, radius = np.array([215.0, 165.0]), 104.0
    draw.globe(fig, centre, radius)
    fig.add_shape(
        draw.ellipse(centre, 22, 16), fillcolor=translucent(BLUE, 0.25), line={"color": BLUE, "width": 1.5}
    )
    draw.text(fig, centre - [0, 30], "particle", colour=BLUE, size=12)
    angles = np.deg2rad(128) - np.array([0, distances[0, 1], distances[0, 2]])
    at = draw.around(centre, radius, angles)
    # move the images i and j apart
    places = draw.around(centre, radius + 60, angles + np.deg2rad([18, -16, 0]))
    for image, name, point, place in zip(images, "ijk", at, places, strict=True):
        draw.line(fig, centre + 0.22 * (point - centre), point, colour=MUTED, dash="dot")
        draw.line(fig, point, point + 0.45 * (place - point), colour=MUTED, dash="solid")
        draw.dot(fig, point, colour=INK)
        draw.picture(fig, image, place, 70)
        draw.text(fig, (place[0], place[1] + 46), f"<b>p</b><sub>{name}</sub>", size=14)
    for start, end, colour, scale in ((0, 1, GREEN, 0.78), (0, 2, VERMILION, 0.58)):
        along = np.linspace(angles[start], angles[end], 40)
        x, y = draw.around(centre, scale * radius, along).T
        fig.add_scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 4})
    draw.text(
        fig,
        [215, 22],
        "orientations q<sub>i</sub>, q<sub>j</sub>, q<sub>k</sub> around the particle",
        colour=MUTED,
    )
    rows = ((285, 1, GREEN, "close orientations: similar projections"),)
    rows += ((130, 2, VERMILION, "distant orientations: different projections"),)
    for y, other, colour, words in rows:
        draw.picture(fig, images[0], [530, y], 92)
        draw.picture(fig, images[other], [810, y], 92)
        draw.arrow(fig, [582, y], [758, y], colour=colour, both=True)
        name = "ijk"[other]
        degrees = np.rad2deg(distances[0, other])
        value = f"d(q<sub>i</sub>, q<sub>{name}</sub>) = {distances[0, other]:.2f} rad ({degrees:.0f}°)"
        draw.text(fig, [670, y + 16], value, colour=colour)
        draw.text(fig, [670, y + 64], words, size=14)
    draw.text(
        fig, [670, 38], "The distances between all projections constrain all orientations.", colour=MUTED
    )
    return fig


def overview_schematic(images: np.ndarray, distances: np.ndarray, rotations: Rotation) -> go.Figure:
    """Draw the two steps of the method, from projections to distances and from distances to orientations.

    Parameters
    ----------
    images : (9, y, x) array
        Example projections.
    distances : (n, n) array
        Distances between n projections in radians.
    rotations : Rotation
        Recovered orientations.

    Raises
    ------
    ValueError
        If there are not nine images, the distances are not a square matrix of finite numbers, or ``rotations`` is empty
        or not a sequence of rotations.
    """
    images = _some(images, count=9)
    distances = finite_array(distances, name="distances", ndim=2, dtype=float)
    directions = _EYE.apply(viewing_directions(many_rotations(rotations)))
    fig = draw.blank(290)
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        draw.picture(fig, image, [34 + 46 * column, 211 - 46 * row], 43)
    half = 66
    fig.add_heatmap(
        z=distances,
        x=np.linspace(430 - half, 430 + half, len(distances)),
        y=np.linspace(165 + half, 165 - half, len(distances)),
        colorscale=SEQUENTIAL,
        showscale=False,
        hoverinfo="skip",
    )
    centre, radius = np.array([815.0, 165.0]), 68.0
    draw.globe(fig, centre, radius)
    for front, colour in ((False, translucent(VERMILION, 0.25)), (True, VERMILION)):
        some = directions[(directions[:, 2] > 0) == front]
        x, y = (centre + radius * some[:, :2]).T
        fig.add_scatter(x=x, y=y, mode="markers", marker={"size": 5, "color": colour})
    draw.box(fig, [253, 165], 124, 92, "<b>1. Distances</b><br>encoder and<br>feature distance", colour=BLUE)
    draw.box(
        fig, [617, 165], 132, 92, "<b>2. Orientations</b><br>recovery from<br>distances", colour=VERMILION
    )
    for start, end in ((153, 186), (320, 356), (504, 546), (688, 738)):
        draw.arrow(fig, [start, 165], [end, 165])
    draw.text(fig, [80, 268], "projections <b>p</b><sub>i</sub>", size=14)
    draw.text(fig, [430, 268], "distances d<sub>p</sub>(<b>p</b><sub>i</sub>, <b>p</b><sub>j</sub>)", size=14)
    draw.text(fig, [815, 268], "orientations q<sub>i</sub>", size=14)
    for y, words in zip(
        (62, 26),
        (
            ("paper", "2 arccos of the cosine similarity", "stochastic descent"),
            ("ours", "kernel that features can represent", "linear algebra, Gauss-Newton"),
        ),
        strict=True,
    ):
        for x, word, colour in zip((80, 253, 617), words, (INK, BLUE, VERMILION), strict=True):
            draw.text(fig, [x, y], f"<b>{word}</b>" if x == 80 else word, colour=colour, size=12)
    return fig


def distance_learning_schematic(images: np.ndarray) -> go.Figure:
    """Draw how the paper learns distances: one encoder for both projections of a pair, trained on the true distance.

    Parameters
    ----------
    images : (2, y, x) array
        Two projections.

    Raises
    ------
    ValueError
        If there are not two images.
    """
    images = _some(images, count=2)
    fig = draw.blank(380)
    for y, image, name in ((280, images[0], "i"), (110, images[1], "j")):
        draw.picture(fig, image, [62, y], 92)
        draw.text(fig, [62, y + 60], f"projection <b>p</b><sub>{name}</sub>")
        draw.box(fig, [245, y], 130, 72, "encoder G<sub>w</sub>", colour=BLUE)
        draw.arrow(fig, [112, y], [176, y])
        draw.arrow(fig, [314, y], [368, y])
        heights = np.abs(np.sin(np.arange(8) * (1.9 if name == "i" else 2.3))) * 0.8 + 0.1
        for k, shade in enumerate(heights):
            low = y - 44 + 11 * k
            fill = {"fillcolor": translucent(BLUE, float(shade)), "line": {"color": "white", "width": 1}}
            fig.add_shape(type="rect", x0=378, x1=398, y0=low, y1=low + 11, **fill)
        draw.text(fig, [388, y + 58], f"features <b>f</b><sub>{name}</sub>")
        draw.arrow(fig, [406, y], [478, 195 + (14 if name == "i" else -14)])
    draw.line(fig, [245, 240], [245, 150], colour=BLUE, dash="dot")
    draw.text(fig, [245, 195], "shared weights w", colour=BLUE, background=True)
    draw.box(
        fig,
        [545, 195],
        128,
        72,
        "feature distance<br>d<sub>p</sub>(<b>p</b><sub>i</sub>, <b>p</b><sub>j</sub>)",
    )
    draw.box(fig, [795, 195], 150, 72, "<b>loss</b><br>|d<sub>p</sub> − d<sub>q</sub>|", colour=VERMILION)
    draw.arrow(fig, [612, 195], [716, 195])
    draw.box(
        fig, [795, 62], 150, 66, "true distance<br>d<sub>q</sub>(q<sub>i</sub>, q<sub>j</sub>)", colour=GREEN
    )
    draw.arrow(fig, [795, 98], [795, 156], colour=GREEN)
    draw.text(
        fig, [610, 62], "orientations q<sub>i</sub>, q<sub>j</sub><br>of simulated projections", colour=GREEN
    )
    corners = np.array([[795, 234], [795, 362], [245, 362], [245, 320]], float)
    fig.add_scatter(
        x=corners[:-1, 0],
        y=corners[:-1, 1],
        mode="lines",
        line={"color": VERMILION, "width": 1.6, "dash": "dash"},
    )
    draw.arrow(fig, corners[-2], corners[-1], colour=VERMILION)
    draw.text(fig, [545, 362], "gradient: update the weights", colour=VERMILION, background=True)
    return fig


def architecture_schematic(
    convolutions: Sequence[tuple[int, int, int]], *, image: np.ndarray, parameters: int
) -> go.Figure:
    """Draw a convolutional encoder: one block per convolution, each followed by pooling, and the mean of the features.

    Parameters
    ----------
    convolutions : sequence of (int, int, int)
        Kernel width in pixels, number of channels, and width of the output before pooling in pixels, for each layer.
    image : (y, x) array
        Input image.
    parameters : int
        Number of parameters of the encoder.

    Raises
    ------
    ValueError
        If there are no layers, or the image is not two-dimensional or not finite.
    """
    image = finite_array(image, name="image", ndim=2)
    if not len(convolutions):
        raise ValueError("convolutions must contain at least one layer, got none")
    fig = draw.blank(340)
    base, largest = 190.0, max(size for _, _, size in convolutions)
    side = 118.0
    draw.picture(fig, image, [68, base], side)
    draw.text(fig, [68, base + 82], f"image, {largest} px")
    x, before = 158.0, None
    widths = [6 + 2.2 * np.sqrt(channels) for _, channels, _ in convolutions]
    # give each block the same free space, up to the column of features
    depths = [0.32 * max(side * size / largest, 8) for _, _, size in convolutions]
    gap = (772 - x - sum(widths) - sum(depths)) / len(convolutions)
    for (kernel, channels, size), width, depth in zip(convolutions, widths, depths, strict=True):
        height = max(side * size / largest, 8)
        draw.block(fig, [x, base - height / 2], width, height, depth)
        middle = x + width / 2
        draw.text(fig, [middle, 88], f"{kernel} × {kernel}", size=12)
        draw.text(fig, [middle, 68], f"<b>{channels}</b>", size=14)
        draw.text(
            fig,
            [middle + depth / 2, base + height / 2 + 0.6 * depth + 14],
            f"{size} px",
            colour=MUTED,
            size=12,
        )
        if before is not None:
            draw.arrow(fig, [before, base], [x - 3, base])
        before, x = x + width + depth + 2, x + width + depth + gap
    draw.arrow(fig, [before, base], [822, base])
    draw.text(fig, [812, base + 82], "mean over<br>the pixels", colour=MUTED, size=12)
    fill = {"fillcolor": translucent(VERMILION, 0.45), "line": {"color": VERMILION, "width": 1.2}}
    fig.add_shape(type="rect", x0=830, x1=848, y0=base - 60, y1=base + 60, **fill)
    draw.text(fig, [840, 88], f"{convolutions[-1][1]}", size=14, colour=VERMILION)
    draw.text(fig, [840, 68], "features", colour=VERMILION)
    draw.text(fig, [68, 88], "convolution", size=12)
    draw.text(fig, [68, 68], "channels", size=14)
    draw.text(
        fig,
        [450, 22],
        f"Each convolution is followed by a ReLU and 2 × 2 max pooling. {parameters:,} parameters in total.",
        colour=MUTED,
    )
    return fig


def _some(images: np.ndarray, *, count: int) -> np.ndarray:
    images = finite_array(images, name="images", ndim=3)
    if len(images) != count:
        raise ValueError(f"images must contain {count} images, got {len(images)}")
    return images
