"""The report of a run: one HTML page that needs nothing but itself, and a few lines for the terminal.

Writing them to a file or a screen is the caller's job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

# a figure without a height of its own is drawn this tall, as the plotly template has it
_USUAL_HEIGHT_PX = 440


def render_report(
    *,
    title: str,
    summary: Mapping[str, Mapping[str, str]],
    figures: Sequence[tuple[str, str, str]],
    phases: Mapping[str, Mapping],
) -> str:
    """One self-contained HTML page with the numbers, phases and figures of a run.

    Parameters
    ----------
    title : headline of the page.
    summary : section -> label -> value, already formatted with its unit. The first section is the strip of
        big numbers below the title, the others are tables.
    figures : (phase, caption, plotly figure as JSON), shown in this order within the section of their phase.
    phases : phase -> ``{"seconds": float or None, "status": str, "text": str}``, in order; every key may be
        missing.

    Returns
    -------
    HTML text. plotly.js is inlined once and a content security policy forbids any request; figures are drawn
    as they scroll into view, because browsers allow about 16 WebGL contexts a page. All text is escaped.

    Raises
    ------
    ValueError : a figure belongs to no phase of ``phases``, or its JSON is not that of a plotly figure.
    """
    by_phase: dict[str, list] = {phase: [] for phase in phases}
    for index, (phase, caption, figure_json) in enumerate(figures):
        if phase not in by_phase:
            raise ValueError(
                f"figures[{index}] must belong to one of {list(phases)}, got the phase {phase!r}"
            )
        by_phase[phase].append({"caption": caption, **_embeddable(figure_json, name=f"figures[{index}]")})
    sections = [
        {
            "title": phase,
            "duration": "" if about.get("seconds") is None else readable_duration(about["seconds"]),
            "status": about.get("status", ""),
            "text": about.get("text", ""),
            "figures": by_phase[phase],
        }
        for phase, about in phases.items()
    ]
    blocks = [{"title": section, "rows": list(rows.items())} for section, rows in summary.items()]
    return (
        _templates()
        .get_template("report.html")
        .render(
            title=title,
            headline=blocks[0] if blocks else None,
            tables=blocks[1:],
            sections=sections,
            plotly_js=get_plotlyjs(),
        )
    )


def render_figure(figure_json: str) -> str:
    """HTML of one figure, for a page that has plotly.js and ``figures_script()``; other pages than the report use it.

    Parameters
    ----------
    figure_json : a plotly figure as JSON.

    Raises
    ------
    ValueError : it is not the JSON of a plotly figure.
    """
    figure = _embeddable(figure_json, name="figure_json")
    return f"<figure>\n{_templates().get_template('figure.html').render(figure=figure)}</figure>"


def figures_script() -> str:
    """JavaScript that draws what ``render_figure`` made, at the end of the page."""
    return _templates().get_template("figures.js").render()


def render_text_summary(summary: Mapping[str, Mapping[str, str]], phases: Mapping[str, Mapping]) -> str:
    """The same numbers as aligned columns for a terminal.

    Parameters
    ----------
    summary : section -> label -> value, as for ``render_report``.
    phases : phase -> ``{"seconds": float or None, "status": str}``, as for ``render_report``.

    Returns
    -------
    Text of one line an entry, without a newline at the end.
    """
    blocks = [
        (section, [(label, str(value)) for label, value in rows.items()]) for section, rows in summary.items()
    ]
    if phases:
        blocks.append(("Phases", [(phase, _phase_line(about)) for phase, about in phases.items()]))
    width = max((len(label) for _, rows in blocks for label, _ in rows), default=0)
    lines = []
    for section, rows in blocks:
        lines += ["", section, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    return "\n".join(lines[1:])


def _phase_line(about: Mapping) -> str:
    duration = "" if about.get("seconds") is None else readable_duration(about["seconds"])
    return f"{duration:>12}  {about.get('status', '')}".rstrip()


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("cryoem"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _embeddable(figure_json: str, *, name: str) -> dict:
    """What the template of a figure needs."""
    layout = _layout(figure_json, name=name)
    return {
        "json": _inside_script(figure_json),
        "height_px": int(layout.get("height") or _USUAL_HEIGHT_PX),
        "width_px": int(layout.get("width") or 0),
    }


def _layout(figure_json: str, *, name: str) -> dict:
    try:
        figure = json.loads(figure_json)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{name} must be the JSON of a plotly figure, got {str(figure_json)[:60]!r}"
        ) from error
    if not isinstance(figure, dict) or "data" not in figure:
        raise ValueError(
            f"{name} must be the JSON of a plotly figure with 'data', got {str(figure_json)[:60]!r}"
        )
    return figure.get("layout", {})


def _inside_script(figure_json: str) -> str:
    """JSON that cannot end the script element around it: ``<`` occurs in its strings only, and escapes."""
    return figure_json.replace("<", "\\u003c")


def readable_duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 07 s`` or ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
