"""Draw the figure in docs/conventions.md: ``python docs/images/draw_conventions.py`` writes conventions.svg and .png.

The particle, the image and the frames are computed with ``cryoem.rotations``. The script needs matplotlib (extra
``site``).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import Circle, FancyArrowPatch, Polygon, Rectangle
from matplotlib.transforms import Affine2D

from cryoem.rotations import from_relion_euler_deg, viewing_directions

HERE = Path(__file__).parent
INK, MUTED, FAINT = "#1f2933", "#66727f", "#cbd2d9"
BLUE, GREEN, VERMILION, ORANGE = "#0072b2", "#009e73", "#d55e00", "#e69f00"
CHAIN = LinearSegmentedColormap.from_list("chain", ["#b9d6ec", "#6aaed6", "#2171b5", "#08264f"])
GREYS = LinearSegmentedColormap.from_list("greys", ["#f4f6f8", "#9aa5b1", "#1f2933"])

ROT_TILT_PSI_DEG = np.array([84.0, 56.0, 38.0])
CAMERA_AZIMUTH, CAMERA_ELEVATION = np.deg2rad([24.0, 20.0])
BEAD_RADIUS = 0.15
AXIS_LENGTH = 1.75
CAMERA_DISTANCE = 2.15  # from the particle to the image plane, panel 1
DETECTOR_Z = -2.35  # panel 2
IMAGE_HALF_WIDTH = 1.35


def to_page(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points (..., 3) onto the page: page coordinates (..., 2) and depth towards the viewer (...)."""
    (sa, ca), (se, ce) = ((np.sin(a), np.cos(a)) for a in (CAMERA_AZIMUTH, CAMERA_ELEVATION))
    across, up, nearer = (-sa, ca, 0), (-se * ca, -se * sa, ce), (ce * ca, ce * sa, se)
    points = np.asarray(points, float)
    return points @ np.stack([across, up], axis=1), points @ np.array(nearer)


def particle() -> np.ndarray:
    """Return the positions (n, 3) of beads that form an asymmetric, chiral chain: a tapering helix with an arm."""
    t = np.linspace(0, 1, 34)
    angle = 2 * np.pi * 1.6 * t
    radius = 0.72 - 0.34 * t
    helix = np.stack([radius * np.cos(angle), radius * np.sin(angle), -0.75 + 1.35 * t], axis=1)
    arm = helix[-1] + np.linspace(0, 1, 6)[1:, None] * np.array([0.25, 0.72, 0.10])
    beads = np.concatenate([helix, arm])
    return beads - beads.mean(axis=0)


def draw_particle(ax, beads: np.ndarray) -> None:
    """Draw shaded beads from back to front. The last bead of the arm is orange."""
    page, nearness = to_page(beads)
    colours = [CHAIN(0.1 + 0.85 * i / (len(beads) - 1)) for i in range(len(beads))]
    colours[-1] = to_rgb(ORANGE)
    for i in np.argsort(nearness):
        order = 3 + nearness[i] / 10
        ax.add_patch(
            Circle(page[i], BEAD_RADIUS, facecolor=colours[i], edgecolor="white", lw=0.5, zorder=order)
        )
        light = 0.55 + 0.45 * np.array(to_rgb(colours[i]))
        ax.add_patch(
            Circle(page[i] + [-0.045, 0.055], 0.05, facecolor=light, edgecolor="none", zorder=order + 1e-4)
        )


def arrow(ax, start, end, *, colour=INK, width=1.6, zorder=2.0, style="-|>", **options) -> None:
    (start, end), _ = to_page(np.array([start, end]))
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, mutation_scale=13, lw=width, color=colour, shrinkA=0, shrinkB=0,
            zorder=zorder, **options,
        )
    )  # fmt: skip


def line(ax, points, *, colour=MUTED, width=1.1, style="-", zorder=1.5) -> None:
    page, _ = to_page(np.asarray(points))
    ax.plot(*page.T, color=colour, lw=width, ls=style, zorder=zorder, solid_capstyle="round")


def label(ax, point, text, *, colour=INK, size=12, offset=(0, 0), **options) -> None:
    page, _ = to_page(np.asarray(point))
    options = {"ha": "center", "va": "center", "zorder": 6} | options
    ax.text(*(page + offset), text, color=colour, fontsize=size, **options)


def arc(start: np.ndarray, end: np.ndarray, *, steps: int = 60) -> np.ndarray:
    """Return unit vectors (steps, 3) on the great circle between two unit vectors."""
    angle = np.arccos(np.clip(start @ end, -1, 1))
    t = np.linspace(0, 1, steps)[:, None]
    return (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)


def arc_arrow(ax, points: np.ndarray, *, colour: str, zorder: float = 2.5) -> None:
    line(ax, points, colour=colour, width=1.4, zorder=zorder)
    arrow(ax, points[-6], points[-1], colour=colour, width=1.4, zorder=zorder)


def particle_frame(ax, rotation) -> None:
    """Draw panel 1, the particle in its own frame and the camera at (rot, tilt, psi)."""
    rot, tilt, _ = np.deg2rad(ROT_TILT_PSI_DEG)
    camera_x, camera_y, view = rotation.as_matrix()
    assert np.allclose(view, viewing_directions(rotation))
    draw_particle(ax, particle())
    for axis, name in zip(np.eye(3), "xyz", strict=True):
        arrow(ax, 0 * axis, AXIS_LENGTH * axis, zorder=2)
        label(ax, (AXIS_LENGTH + 0.16) * axis, f"${name}$", size=14)

    centre = CAMERA_DISTANCE * view
    foot = np.array([np.cos(rot), np.sin(rot), 0.0])
    arrow(ax, 0 * view, centre, colour=VERMILION, width=2.2, zorder=4.5)
    on_ground = 1.3 * foot
    line(ax, [0 * foot, on_ground], style=(0, (3, 3)), colour=MUTED)
    rot_arc, tilt_arc = 1.08 * arc(np.eye(3)[0], foot), 1.2 * arc(np.eye(3)[2], view)
    arc_arrow(ax, rot_arc, colour=MUTED)
    arc_arrow(ax, tilt_arc, colour=MUTED, zorder=4.2)
    label(ax, 1.12 * rot_arc[17], "rot", offset=(0.0, -0.1))
    label(ax, 1.10 * tilt_arc[30], "tilt", offset=(0.12, 0.06))

    half = 0.78
    corners = [centre + half * (i * camera_x + j * camera_y) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    page, _ = to_page(np.array(corners))
    ax.add_patch(Polygon(page, facecolor="#eef2f6", edgecolor=FAINT, lw=1.2, alpha=0.75, zorder=4.6))
    for axis, name, colour in ((camera_x, "x", BLUE), (camera_y, "y", GREEN)):
        arrow(ax, centre, centre + 1.12 * axis, colour=colour, width=2, zorder=5)
        label(ax, centre + 1.32 * axis, f"${name}$", colour=colour, size=14)
    meridian = np.array([np.cos(tilt) * foot[0], np.cos(tilt) * foot[1], -np.sin(tilt)])
    line(ax, [centre, centre + 0.98 * meridian], style=(0, (3, 3)), zorder=5)
    psi_arc = centre + 0.6 * arc(meridian, camera_x)
    arc_arrow(ax, psi_arc, colour=MUTED, zorder=5.1)
    label(ax, centre + 0.8 * arc(meridian, camera_x)[30], "psi")
    rows = (
        ("first row of $R$", BLUE),
        ("second row of $R$", GREEN),
        ("third row of $R$: viewing direction", VERMILION),
    )
    for i, (text, colour) in enumerate(rows):
        ax.text(1.02, -0.9 - 0.27 * i, text, color=colour, fontsize=11, va="center")


def microscope_frame(ax, rotation) -> None:
    """Draw panel 2, the rotated particle and its image, which is the integral along z."""
    beads = rotation.apply(particle())
    draw_particle(ax, beads)
    for axis, name, colour in zip(np.eye(3), "xyz", (BLUE, GREEN, VERMILION), strict=True):
        arrow(ax, 0 * axis, AXIS_LENGTH * axis, colour=colour, width=2, zorder=2)
        label(ax, (AXIS_LENGTH + 0.16) * axis, f"${name}$", colour=colour, size=14)

    at = np.linspace(-IMAGE_HALF_WIDTH, IMAGE_HALF_WIDTH, 91)
    x, y = np.meshgrid(at, at)
    image = sum(np.exp(-((x - b[0]) ** 2 + (y - b[1]) ** 2) / (2 * BEAD_RADIUS**2)) for b in beads)
    origin, unit_x, unit_y = to_page(np.array([[0, 0, DETECTOR_Z], [1, 0, DETECTOR_Z], [0, 1, DETECTOR_Z]]))[
        0
    ]
    (a, b), (c, d) = unit_x - origin, unit_y - origin
    onto_detector = Affine2D(np.array([[a, c, origin[0]], [b, d, origin[1]], [0, 0, 1]])) + ax.transData
    ax.contourf(x, y, image, levels=18, cmap=GREYS, transform=onto_detector, zorder=1)
    w = IMAGE_HALF_WIDTH
    square = np.array([[-w, -w], [w, -w], [w, w], [-w, w]])
    ax.add_patch(Polygon(square, fill=False, edgecolor=INK, lw=1.2, transform=onto_detector, zorder=1.2))
    for corner in square:
        line(ax, [[*corner, 0.95], [*corner, DETECTOR_Z]], colour=FAINT, width=0.9, zorder=0.5)
    for i in (0, len(beads) - 1):
        bead = beads[i]
        end = [bead[0], bead[1], DETECTOR_Z]
        line(ax, [bead, end], style=(0, (1, 2)), colour=ORANGE if i else BLUE, width=1.4, zorder=2)
        dot, _ = to_page(np.array(end))
        ax.add_patch(Circle(dot, 0.045, color=ORANGE if i else BLUE, zorder=2.2))
    for axis, name, colour in ((np.eye(3)[0], "x", BLUE), (np.eye(3)[1], "y", GREEN)):
        start = np.array([0, 0, DETECTOR_Z])
        arrow(ax, start, start + (w + 0.4) * axis, colour=colour, width=1.6, zorder=1.6)
        label(ax, start + (w + 0.56) * axis, f"${name}$", colour=colour, size=14)
    label(ax, [-w, w, DETECTOR_Z], "image$[y, x]$", offset=(0.1, 0.3), ha="right", size=11, colour=MUTED)
    label(ax, [0, w, -0.95], "integrate\nalong $z$", size=11, colour=MUTED, ha="left", offset=(0.12, 0))
    arrow(ax, [0, w + 0.02, -0.45], [0, w + 0.02, -1.45], colour=MUTED, width=1.2)


def pixel_grid(ax, n: int, *, left: float, bottom: float, side: float) -> None:
    """Draw an n x n image with pixel n // 2 marked. Row indices increase upwards, column indices to the right."""
    step = side / n
    for row in range(n):
        for column in range(n):
            at_origin = row == column == n // 2
            on_axis = n // 2 in (row, column)
            face = VERMILION if at_origin else "#eef2f6" if on_axis else "white"
            corner = (left + column * step, bottom + row * step)
            ax.add_patch(Rectangle(corner, step, step, facecolor=face, edgecolor=FAINT, lw=1))
    for i in range(n):
        strong = {"fontweight": "bold", "color": VERMILION} if i == n // 2 else {"color": MUTED}
        middle = (i + 0.5) * step
        ax.text(left + middle, bottom - 0.14, str(i), ha="center", va="center", fontsize=10, **strong)
        ax.text(left - 0.14, bottom + middle, str(i), ha="center", va="center", fontsize=10, **strong)
    origin = np.array([left, bottom]) + (n // 2 + 0.5) * step
    for offset, name, colour in (((1, 0), "x", BLUE), ((0, 1), "y", GREEN)):
        tip = origin + np.array(offset) * (left + side - origin[0] + 0.3)
        ax.add_patch(
            FancyArrowPatch(
                origin, tip, arrowstyle="-|>", mutation_scale=12, lw=1.8, color=colour, shrinkA=0, shrinkB=0
            )
        )
        ax.text(
            *(tip + 0.13 * np.array(offset)), f"${name}$", color=colour, fontsize=13, ha="center", va="center"
        )
    ax.add_patch(Circle(origin, 0.05, color="white", zorder=5))
    kind = "odd" if n % 2 else "even"
    text = f"$n = {n}$, {kind}:\norigin at\nindex {n // 2}"
    ax.text(left + side + 0.68, bottom + side / 2, text, va="center", fontsize=11, color=INK, linespacing=1.5)


def arrays(ax) -> None:
    """Draw panel 3, the origin in even and odd boxes."""
    pixel_grid(ax, 6, left=0, bottom=2.65, side=1.8)
    pixel_grid(ax, 5, left=0, bottom=0, side=1.8)


def draw() -> plt.Figure:
    rotation = from_relion_euler_deg(ROT_TILT_PSI_DEG)
    fig = plt.figure(figsize=(13.2, 5.6))
    panels = (
        (
            (0.0, 0.385),
            (-1.75, 3.2),
            (-1.65, 2.4),
            "Particle frame",
            "the map's own axes, and the camera of one image",
        ),
        (
            (0.395, 0.335),
            (-2.3, 2.5),
            (-3.3, 2.1),
            "Microscope frame",
            r"$x_\mathrm{microscope} = R\; x_\mathrm{particle}$",
        ),
        ((0.735, 0.265), (-0.4, 3.9), (-0.35, 4.95), "Arrays", r"the origin is $n\,//\,2$ on every axis"),
    )
    drawings = (
        lambda ax: particle_frame(ax, rotation), lambda ax: microscope_frame(ax, rotation), arrays,
    )  # fmt: skip
    for ((left, width), across, upward, title, subtitle), drawing in zip(panels, drawings, strict=True):
        ax = fig.add_axes((left, 0.01, width, 0.86))
        drawing(ax)
        ax.set_aspect("equal")
        ax.set(xlim=across, ylim=upward)
        ax.axis("off")
        fig.text(left + 0.02, 0.955, title, fontsize=15, fontweight="bold", color=INK, va="center")
        fig.text(left + 0.02, 0.905, subtitle, fontsize=11.5, color=MUTED, va="center")
    return fig


if __name__ == "__main__":
    mpl.rcParams.update({"svg.hashsalt": "cryoem", "mathtext.fontset": "dejavuserif", "font.size": 12})
    figure = draw()
    figure.savefig(HERE / "conventions.svg", metadata={"Date": None})
    figure.savefig(HERE / "conventions.png", dpi=150, metadata={"Software": None})
    print(f"wrote {HERE / 'conventions.svg'} and {HERE / 'conventions.png'}")
