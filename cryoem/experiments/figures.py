"""Exported figures: a folder in which a notebook saves its figures as HTML, SVG and PDF."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryoem.files.writing import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGE_FORMATS = ("svg", "pdf")
WIDTH_PX = 900
LIBRARY = "plotly.min.js"


class FigureFolder:
    """A folder in which the figures of a notebook are saved as HTML and, if ``images`` is true, also as SVG and PDF.

    SVG and PDF require kaleido and Chromium.
    """

    def __init__(self, folder: str | os.PathLike, *, images: bool = True):
        self.folder, self.images = Path(folder), images
        self._figures: dict[str, go.Figure] = {}

    def save(self, name: str, figure: go.Figure) -> go.Figure:
        """Write a figure to ``<name>.html``, which works offline with a shared copy of plotly.js, and return it."""
        if not (self.folder / LIBRARY).is_file():
            from plotly.offline import get_plotlyjs

            write_text(self.folder / LIBRARY, get_plotlyjs())
        page = figure.to_html(include_plotlyjs=LIBRARY, config={"displaylogo": False})
        write_text(self.folder / f"{name}.html", page)
        self._figures[name] = figure
        return figure

    def finish(self) -> str:
        """Export all figures as SVG and PDF if requested and possible, and return a sentence that lists the formats."""
        count = f"{len(self._figures)} figures as HTML"
        if not self.images:
            return f"{count} in {self.folder}; SVG and PDF were not requested"
        try:
            self._write_images()
        except Exception as error:  # kaleido, its browser and plotly raise different types
            return f"{count} in {self.folder}; no SVG or PDF, because {_reason(error)}"
        return f"{count}, SVG and PDF in {self.folder}"

    def _write_images(self) -> None:
        import plotly.io

        # choreographer logs a harmless traceback for every browser message that it cannot parse
        logging.getLogger("choreographer").setLevel(logging.CRITICAL)
        wanted = {
            f"{name}.{suffix}": figure for name, figure in self._figures.items() for suffix in IMAGE_FORMATS
        }
        heights = [one.layout.height or one.layout.template.layout.height for one in wanted.values()]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as aside:
            partial = [Path(aside) / file for file in wanted]
            # start the browser once for all figures
            plotly.io.write_images(list(wanted.values()), partial, width=WIDTH_PX, height=heights)
            for path in partial:
                os.replace(path, self.folder / path.name)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if any(word in text.lower() for word in ("chrome", "chromium", "browser")):
        return "Chromium is not installed or does not start"
    if "kaleido" in text.lower() and "install" in text.lower():
        return "kaleido is not installed; run pip install -e '.[export]' in the checkout"
    return f"{type(error).__name__}: {text:.200}"
