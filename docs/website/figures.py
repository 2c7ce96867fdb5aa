"""plotly figures that live in the page: plotly.js once in the site, and only on pages with a figure."""

from __future__ import annotations

import json
from pathlib import Path

from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx

from cryoem.report import figures_script, render_figure

PLOTLY_JSON = "application/vnd.plotly.v1+json"
SCRIPTS = {"plotly.min.js": get_plotlyjs, "figures.js": figures_script}


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def embed_figures(notebook: dict) -> None:
    """Replace the plotly outputs of an executed notebook by HTML that ``figures.js`` draws, in place."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if PLOTLY_JSON in output.get("data", {}):
                output["data"] = {"text/html": render_figure(json.dumps(output["data"][PLOTLY_JSON]))}


def write_scripts(app: Sphinx) -> None:
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    for name, text in SCRIPTS.items():
        (static / name).write_text(text(), encoding="utf-8")


def add_scripts(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    if 'class="figure-json"' in context.get("body", ""):
        for name in SCRIPTS:
            app.add_js_file(name, loading_method="defer")
