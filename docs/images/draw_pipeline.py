"""Draw the pipeline figure in the README: ``python docs/images/draw_pipeline.py`` writes pipeline.svg.

The script needs matplotlib (extra ``site``).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, MUTED, BLUE, VERMILION = "#1f2933", "#66727f", "#0072b2", "#d55e00"
DATA, STEP = "#e8f1f8", "#ffffff"  # fill of the input and output boxes, and of the boxes between them

WIDTH, HEIGHT, GAP = 2.0, 0.95, 0.62
TOP, BOTTOM = 1.75, 0.0
BOXES = {  # text: (column, row)
    "density map": (0, TOP),
    "projections": (1, TOP),
    "pairwise\ndistances": (2, TOP),
    "orientations": (3, TOP),
    "gauge, from\ncommon lines": (3, BOTTOM),
    "reconstruction": (2, BOTTOM),
    "refinement": (1, BOTTOM),
    "map and\nresolution": (0, BOTTOM),
}
PHASES = {  # label above the first box in each phase
    "density map": "phase 0",
    "pairwise\ndistances": "phase 1",
    "orientations": "phase 2",
    "reconstruction": "phase 3",
}
ENDS = ("density map", "map and\nresolution")


def centre(name: str) -> tuple[float, float]:
    column, row = BOXES[name]
    return column * (WIDTH + GAP), row


def draw_box(ax, name: str) -> None:
    x, y = centre(name)
    end = name in ENDS
    ax.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, facecolor=DATA if end else STEP,
            edgecolor=BLUE, lw=1.6, boxstyle=f"round,pad=0,rounding_size={HEIGHT / 2 if end else 0.14}",
        )
    )  # fmt: skip
    ax.text(x, y, name, ha="center", va="center", fontsize=12.5, color=INK, linespacing=1.15)
    if name in PHASES:
        ax.text(x, y + HEIGHT / 2 + 0.09, PHASES[name], ha="center", va="bottom", fontsize=10, color=MUTED)


def arrow(ax, start, end, **options) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 15, "lw": 1.5, "color": INK, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, **(look | options)))


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "cryoem", "font.family": "DejaVu Sans"})
    fig, ax = plt.subplots(figsize=(10.4, 3.9))
    names = list(BOXES)
    for name in names:
        draw_box(ax, name)
    for one, other in pairwise(names):
        (x, y), (to_x, to_y) = centre(one), centre(other)
        if y == to_y:
            side = WIDTH / 2 if to_x > x else -WIDTH / 2
            arrow(ax, (x + side, y), (to_x - side, to_y))
        else:
            arrow(ax, (x, y - HEIGHT / 2), (to_x, to_y + HEIGHT / 2))
    (x, y), (to_x, to_y) = centre("refinement"), centre("reconstruction")
    arrow(
        ax, (x, y - HEIGHT / 2), (to_x, to_y - HEIGHT / 2), color=VERMILION, linestyle=(0, (4, 2.5)),
        connectionstyle="arc3,rad=0.35",
    )  # fmt: skip
    ax.text(
        (x + to_x) / 2, y - 1.13, "better orientations", ha="center", va="top", fontsize=11, color=VERMILION
    )
    right = centre("orientations")[0] + WIDTH / 2
    ax.set(xlim=(-WIDTH / 2 - 0.1, right + 0.1), ylim=(-1.5, TOP + HEIGHT / 2 + 0.4), aspect="equal")
    ax.axis("off")
    fig.savefig(
        Path(__file__).with_name("pipeline.svg"), bbox_inches="tight", pad_inches=0.05, facecolor="white",
        metadata={"Date": None},
    )  # fmt: skip


if __name__ == "__main__":
    main()
