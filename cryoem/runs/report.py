"""The report of a run: a self-contained HTML page, and a few lines for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cryoem.units import readable_duration

DEFAULT_HEIGHT_PX = 440  # of the plotly template


def render_report(
    *, title: str, summary: Mapping[str, Mapping[str, str]], phases: Mapping[str, Mapping]
) -> str:
    """Render the numbers, warnings, phases and figures of a run as one HTML page.

    plotly.js is included once, and a content security policy forbids any request. Figures are drawn when they scroll
    into view, because browsers allow about 16 WebGL contexts per page. All text is escaped.

    Parameters
    ----------
    title : str
        Title of the page.
    summary : mapping
        Section -> label -> formatted value. The first section is shown in large type below the title, the others
        are tables.
    phases : mapping
        Phase -> dictionary with ``seconds`` (float), ``status``, ``text``, ``warnings`` (list of str) and
        ``figures`` (list of (caption, plotly figure as JSON)).

    Returns
    -------
    str
        HTML.
    """
    sections = [
        {
            "title": phase,
            "duration": readable_duration(about["seconds"]),
            "status": about["status"],
            "text": about["text"],
            "figures": [{"caption": caption, **_embeddable(text)} for caption, text in about["figures"]],
        }
        for phase, about in phases.items()
    ]
    headline, *tables = ({"title": section, "rows": list(rows.items())} for section, rows in summary.items())
    return _template("report.html").render(
        title=title,
        headline=headline,
        warnings=_warnings(phases),
        tables=tables,
        sections=sections,
        plotly_js=get_plotlyjs(),
    )


def render_figure(figure_json: str) -> str:
    """Render the HTML of one plotly figure, for a page that includes plotly.js and ``figures_script()``."""
    return f"<figure>\n{_template('figure.html').render(figure=_embeddable(figure_json))}</figure>"


def figures_script() -> str:
    """Return the JavaScript that draws the figures of ``render_figure``, for the end of the page."""
    return _template("figures.js").render()


def render_text_summary(summary: Mapping[str, Mapping[str, str]], phases: Mapping[str, Mapping]) -> str:
    """Render the numbers and warnings of a run as aligned columns, without a final newline.

    Parameters are those of ``render_report``. Warnings follow the first section.
    """
    blocks = [(section, list(rows.items())) for section, rows in summary.items()]
    times = [
        (phase, f"{readable_duration(about['seconds']):>12}  {about['status']}")
        for phase, about in phases.items()
    ]
    blocks.append(("Phases", times))
    if warned := _warnings(phases):
        blocks.insert(1, ("Warnings", warned))
    width = max(len(label) for _, rows in blocks for label, _ in rows)
    lines = []
    for section, rows in blocks:
        lines += ["", section, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    return "\n".join(lines[1:])


def _warnings(phases: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    return [(phase, sentence) for phase, about in phases.items() for sentence in about["warnings"]]


def _template(name: str):
    return Environment(
        loader=PackageLoader("cryoem.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _embeddable(figure_json: str) -> dict:
    """Return what the template of a figure needs."""
    layout = json.loads(figure_json).get("layout", {})
    return {
        # a "<" in a string could end the script element
        "json": figure_json.replace("<", "\\u003c"),
        "height_px": int(layout.get("height") or DEFAULT_HEIGHT_PX),
        "width_px": int(layout.get("width") or 0),
    }
