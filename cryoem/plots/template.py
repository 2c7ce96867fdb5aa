"""Shared parts of all figures: the plotly template ``cryoem``, colours, lines, panels, ticks and value checks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from itertools import cycle

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from cryoem.validation import finite_array

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e7ebef"
PAPER = "#ffffff"

# Palette of Okabe and Ito (2008) for all common forms of colour vision, without yellow, which is too pale for lines.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, SLATE = PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#4d5a66",
)
# White to deep blue with evenly decreasing lightness, for heat maps.
SEQUENTIAL = ((0.0, "#f1f6fb"), (0.25, "#b9d6ec"), (0.5, "#6aaed6"), (0.75, "#2171b5"), (1.0, "#08264f"))
# Blue for fine and vermilion for coarse resolution, as is common for maps coloured by local resolution.
RESOLUTION_COLOURS = ((0.0, BLUE), (0.25, SKY), (0.5, "#f4f4f4"), (0.75, ORANGE), (1.0, VERMILION))

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"

# Above the plot, so that the legend hides no curve, and on the left, away from plotly's buttons.
LEGEND_ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"}
LEGEND_INSIDE = {"x": 0.02, "y": 0.98, "xanchor": "left", "yanchor": "top"}


def import_nbformat() -> None:
    """Import nbformat, which plotly needs to display figures, without a dependency that is slow to import.

    ``rfc3987_syntax`` lets jsonschema check internationalised addresses (IRIs) where it is installed. The format of
    notebooks has none. Other schemas are then checked without it in this process, too.
    """
    grammars = "rfc3987_syntax"
    if grammars in sys.modules:
        return
    sys.modules[grammars] = None  # as if it were not installed
    try:
        importlib.import_module("nbformat")
    except ImportError:  # figures can be saved, but not displayed
        pass
    finally:
        sys.modules.pop(grammars, None)


def figure(**layout) -> go.Figure:
    """Return an empty figure with the template ``cryoem`` and the given layout options."""
    return go.Figure(layout={"template": "cryoem", **layout})


def panels(*, layout: dict, **options) -> go.Figure:
    """Return a figure with empty panels and the template ``cryoem``; ``options`` are those of ``make_subplots``."""
    return make_subplots(**options).update_layout(template="cryoem", **layout)


def curve(x, y, *, name: str, colour: str, width: float = 2.5, hover: str | None = None, **options):
    """Return a ``go.Scatter`` line in one colour; ``hover`` is its hover template, or None for no hover text."""
    line = {"color": colour, "width": width, **options.pop("line", {})}
    hovering = {"hoverinfo": "skip"} if hover is None else {"hovertemplate": hover}
    return go.Scatter(x=x, y=y, name=name, line=line, **{"mode": "lines", **hovering, **options})


def dotted(x, y, *, size: float = 8, marker: dict | None = None, **options):
    """Return a line, as in ``curve``, with a dot at each point."""
    return curve(x, y, mode="lines+markers", marker={"size": size, **(marker or {})}, **options)


def histogram(edges: np.ndarray, heights: np.ndarray, *, colour: str, **options):
    """Return a histogram as a filled curve, from (n + 1,) bin edges and (n,) heights."""
    bars = {"line": {"shape": "hv"}, "fill": "tozeroy", "fillcolor": translucent(colour, 0.17)}
    return curve(edges, np.append(heights, heights[-1]), colour=colour, width=2, **bars, **options)


def dashed(x, y, *, name: str, colour: str = MUTED, width: float = 1.5):
    """Return a thin dashed reference line, such as y = x, without hover text."""
    return curve(x, y, name=name, colour=colour, width=width, line={"dash": "dash"})


def one_legend_entry_per_group(fig: go.Figure) -> go.Figure:
    """Show only the first curve of each legend group in the legend."""
    shown = set()
    for line in fig.data:
        if line.legendgroup is not None:
            line.showlegend = line.legendgroup not in shown
            shown.add(line.legendgroup)
    return fig


def named_colours(names: Iterable[str]) -> dict[str, str]:
    """Assign palette colours to names in order, and repeat the palette if necessary."""
    return dict(zip(names, cycle(PALETTE), strict=False))


def translucent(colour: str, opacity: float) -> str:
    """Convert a colour ``#rrggbb`` and an opacity in [0, 1] to ``rgba(...)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def round_below(value: float) -> float:
    """Round a positive ``value`` down to 1, 2 or 5 times a power of ten."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(max(step * decade for step in (1, 2, 5) if step == 1 or step * decade <= value))


def log_axis(values: np.ndarray) -> dict:
    """Return the options for a logarithmic plotly axis with round ticks that cover ``values``.

    Ticks are evenly spaced if the values span less than one decade, at 1, 2 and 5 times powers of ten if they span up
    to two decades, and at powers of ten otherwise. Values that are not positive or not finite are ignored.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size or positive.min() == positive.max():
        return {"type": "log"}
    lowest, highest = positive.min(), positive.max()
    first, last = np.floor(np.log10(lowest)), np.ceil(np.log10(highest))
    if highest < 10 * lowest:
        step = round_below((highest - lowest) / 3)
        ticks = step * np.arange(np.ceil(lowest / step), np.floor(highest / step) + 1)
    elif highest <= 100 * lowest:
        ticks = np.outer(10.0 ** np.arange(first, last + 1), [1, 2, 5]).ravel()
    else:
        ticks = 10.0 ** np.arange(first, last + 1, max(1, np.ceil((last - first) / 8)))
    texts = [f"{t:.0e}" if t < 0.99e-4 else f"{t:.4g}" for t in ticks]
    return {"type": "log", "tickvals": ticks, "ticktext": texts}


def log_axis_at(values: np.ndarray) -> dict:
    """Return the options for a logarithmic plotly axis with one tick at each value."""
    return {"type": "log", "tickvals": values, "ticktext": [f"{value:,.7g}" for value in values]}


def thinned(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced indices into ``count`` items, including the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def non_empty_mapping(values, *, name: str) -> Mapping:
    """Return ``values`` if it is a non-empty mapping; otherwise raise a ValueError."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(
            f"{name} must be a mapping from names to values with at least one entry, got {values!r}"
        )
    return values


def points_of(
    points: tuple, *, name: str, increasing: bool = False, log_x: bool = False, log_y: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y values of a curve as (n,) arrays, or raise a ValueError; x may contain words."""
    x, y = np.asarray(points[0]), finite_array(points[1], name=f"{name} y", ndim=1, dtype=float)
    if x.dtype.kind in "iuf":
        x = finite_array(x, name=f"{name} x", ndim=1, dtype=float)
    if len(x) != len(y):
        raise ValueError(f"{name} must have as many x as y values, got {len(x)} and {len(y)}")
    if increasing and np.any(np.diff(x) <= 0):
        raise ValueError(f"{name} must have increasing x values, got {x[:4]}")
    for values, is_log in ((x, log_x), (y, log_y)):
        if is_log and values.min() <= 0:
            raise ValueError(f"{name} must be positive on a logarithmic axis, got {values.min():.4g}")
    return x, y


def animation_controls(names: list[str]) -> dict:
    """Return plotly's play and pause buttons and a slider for the animation frames."""

    def options(milliseconds):
        frame = {"duration": milliseconds}
        return {"mode": "immediate", "fromcurrent": True, "transition": {"duration": 0}, "frame": frame}

    play = {"label": "▶ play", "method": "animate", "args": [None, options(120)]}
    pause = {"label": "❚❚ pause", "method": "animate", "args": [[None], options(0)]}
    steps = [{"label": name, "method": "animate", "args": [[name], options(0)]} for name in names]
    left = {"x": 0.02, "y": 0, "xanchor": "left", "yanchor": "top", "pad": {"t": 22}}
    buttons = {"type": "buttons", "direction": "left", "buttons": [play, pause], "showactive": False, **left}
    right = {"x": 0.3, "len": 0.65, "y": 0, "pad": {"t": 10, "b": 10}}
    label = {"prefix": "shown: "}
    slider = {"active": len(names) - 1, "steps": steps, "currentvalue": label, **right}
    return {"updatemenus": [buttons], "sliders": [slider]}


def _template() -> go.layout.Template:
    axis = {
        "showline": True,
        "linecolor": "#9aa5b1",
        "linewidth": 1,
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#9aa5b1",
        "ticklen": 5,
        "tickfont": {"size": 12, "color": "#3e4c59"},
        "title": {"font": {"size": 14, "color": INK}, "standoff": 12},
        "automargin": True,
    }
    scene_axis = {
        "showbackground": False,
        "gridcolor": "#dfe4ea",
        "linecolor": "#9aa5b1",
        "zeroline": False,
        "tickfont": {"size": 11, "color": MUTED},
        "title": {"font": {"size": 13, "color": INK}},
        "showspikes": False,
    }
    colour_bar = {
        "outlinewidth": 0,
        "thickness": 14,
        "len": 0.85,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#9aa5b1",
        "tickfont": {"size": 12, "color": "#3e4c59"},
        "title": {"font": {"size": 13, "color": INK}, "side": "right"},
    }
    control = {"bgcolor": "#ffffff", "bordercolor": "#cbd2d9", "font": {"size": 12, "color": INK}}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {"font": {"size": 17, "color": INK}, "x": 0.0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(PALETTE),
            "colorscale": {"sequential": SEQUENTIAL},
            "coloraxis": {"colorbar": colour_bar},
            "margin": {"l": 70, "r": 30, "t": 50, "b": 60},
            "height": 440,
            "xaxis": axis,
            "yaxis": axis,
            "scene": {"xaxis": scene_axis, "yaxis": scene_axis, "zaxis": scene_axis, "dragmode": "orbit"},
            "legend": {
                "bgcolor": "rgba(255,255,255,0.85)",
                "borderwidth": 0,
                "font": {"size": 13},
                "title": {"font": {"size": 13}},
            },
            "hoverlabel": {
                "bgcolor": "#ffffff",
                "bordercolor": "#cbd2d9",
                "font": {"color": INK, "size": 12},
            },
            "annotationdefaults": {"font": {"size": 13, "color": INK}, "arrowcolor": MUTED, "arrowwidth": 1},
            "sliderdefaults": {
                **control,
                "activebgcolor": BLUE,
                "borderwidth": 1,
                "tickcolor": "#9aa5b1",
                "ticklen": 4,
                "currentvalue": {"font": {"size": 13, "color": INK}, "xanchor": "left"},
            },
            "updatemenudefaults": control,
        },
        data={
            "heatmap": [{"colorbar": colour_bar}],
            "scatter3d": [{"marker": {"colorbar": colour_bar}}],
        },
    )


pio.templates["cryoem"] = _template()
import_nbformat()
