"""The one look of all figures: the plotly template ``cryoem`` and the colours behind it."""

from __future__ import annotations

from itertools import cycle

import plotly.graph_objects as go
import plotly.io as pio

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e7ebef"
PAPER = "#ffffff"

# Okabe and Ito (2008), told apart with every common colour vision; their yellow is too pale for lines.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, SLATE = PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#4d5a66",
)
# White to deep blue, of evenly falling lightness: densities of points.
SEQUENTIAL = ((0.0, "#f1f6fb"), (0.25, "#b9d6ec"), (0.5, "#6aaed6"), (0.75, "#2171b5"), (1.0, "#08264f"))

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


# above the plot, so that no line runs behind it, and at the left, away from the buttons
LEGEND_ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"}


def named_colours(names) -> dict[str, str]:
    """A colour of the palette for each name, in order, starting over when the palette ends."""
    return dict(zip(names, cycle(PALETTE), strict=False))


def translucent(colour: str, opacity: float) -> str:
    """``#rrggbb`` and an opacity in [0, 1] as a plotly ``rgba(...)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def figure(**layout) -> go.Figure:
    """An empty figure with the template ``cryoem`` and further layout options."""
    return go.Figure(layout={"template": "cryoem", **layout})


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
