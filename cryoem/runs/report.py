"""The pages and the text that describe runs: figures as HTML, the report of one run, and its summary for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from cryoem.runs.quantities import Quantity
from cryoem.units import readable_duration

DEFAULT_HEIGHT_PX = 440  # of the plotly template
MAP_FIGURES = ("map-and-truth", "map")


def render_report(
    *,
    title: str,
    about: str,
    links: Mapping[str, str],
    command: str,
    summary: Mapping[str, Sequence[Quantity]],
    phases: Mapping[str, Mapping],
) -> str:
    """Render the map, numbers, warnings, phases and figures of a run as one HTML page.

    The page includes plotly.js once, and its content security policy forbids network requests. Figures are drawn when
    they scroll into view, because browsers allow only about 16 WebGL contexts per page. All text is escaped.

    Parameters
    ----------
    title, about, command : str
        Title of the page, the line below it, and the command that repeats the run.
    links : mapping of str to str
        Relative path of each file to which the page links, by link text.
    summary : mapping of str to sequence of Quantity
        Values by section. The first section is shown next to the map, and the other sections as tables.
    phases : mapping of str to mapping
        ``seconds``, ``status``, ``text``, ``notebook`` (relative path), ``warnings`` and ``figures`` of each phase, by
        title. Each figure is its name, caption and plotly JSON. The last figure with a name in ``MAP_FIGURES`` is also
        shown at the top of the page, where it turns.
    """
    sections, map_figure, count = [], None, 0
    for phase, details in phases.items():
        figures = []
        for name, caption, text in details["figures"]:
            count += 1
            figures.append({"id": f"figure-{count}", "caption": caption, **embeddable(text)})
            map_figure = f"figure-{count}" if name in MAP_FIGURES else map_figure
        kept = {key: details[key] for key in ("status", "text", "notebook")}
        duration = readable_duration(details["seconds"])
        sections.append({"title": phase, "duration": duration, "figures": figures, **kept})
    headline, *tables = ({"title": section, "rows": rows} for section, rows in summary.items())
    return render_page(
        "report.html",
        title=title,
        about=about,
        links=list(links.items()),
        command=command,
        map_figure=map_figure,
        headline=headline["rows"],
        warnings=_sentences(phases),
        tables=tables,
        sections=sections,
    )


def render_page(template: str, **content) -> str:
    """Render a template that extends ``page.html``, with plotly.js."""
    return _template(template).render(plotly_js=get_plotlyjs(), **content)


def render_figures(*, title: str, about: str, figures: Mapping[str, Figure]) -> str:
    """Render plotly figures by caption as a self-contained page, with a line of text below the title."""
    drawn = [embeddable(figure.to_json()) | {"caption": caption} for caption, figure in figures.items()]
    return render_page("figures.html", title=title, about=about, figures=drawn)


def render_figure(figure_json: str) -> str:
    """Render one plotly figure as HTML, for a page that includes plotly.js and ``figures_script()``."""
    return f"<figure>\n{_template('figure.html').render(figure=embeddable(figure_json))}</figure>"


def figures_script() -> str:
    """Return the JavaScript that draws the figures from ``render_figure``; it must be at the end of the page."""
    return _template("figures.js").render()


def render_text_summary(summary: Mapping[str, Sequence[Quantity]], phases: Mapping[str, Mapping]) -> str:
    """Render the numbers and warnings of a run as aligned columns; parameters as in ``render_report``."""
    blocks = [(section, [(row.label, row.text) for row in rows]) for section, rows in summary.items()]
    times = [
        (phase, f"{readable_duration(about['seconds']):>12}  {about['status']}")
        for phase, about in phases.items()
    ]
    blocks.append(("Phases", times))
    if warned := _sentences(phases):
        blocks.insert(1, ("Warnings", warned))
    width = max(len(label) for _, rows in blocks for label, _ in rows)
    lines = []
    for section, rows in blocks:
        lines += ["", section, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    return "\n".join(lines[1:])


def _sentences(phases: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    return [(phase, sentence) for phase, about in phases.items() for sentence in about["warnings"]]


def _template(name: str):
    return Environment(
        loader=PackageLoader("cryoem.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def embeddable(figure_json: str) -> dict:
    """Return the values that the template ``figure.html`` needs for a figure in plotly JSON."""
    layout = json.loads(figure_json).get("layout", {})
    return {
        # escape "<", because "</script>" in a string would end the script element
        "json": figure_json.replace("<", "\\u003c"),
        "height_px": int(layout.get("height") or DEFAULT_HEIGHT_PX),
        "width_px": int(layout.get("width") or 0),
    }
