"""Export of figures: HTML, and SVG and PDF if Chromium is installed."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import plotly.graph_objects as go

from cryoem.files.writing import write_text

IMAGE_FORMATS = ("svg", "pdf")
WIDTH_PX = 900
LIBRARY = "plotly.min.js"


class FigureFolder:
    """A folder for the figures of a notebook; with ``images``, ``finish`` also exports SVG and PDF."""

    def __init__(self, folder: str | os.PathLike, *, images: bool = True):
        self.folder, self.images = Path(folder), images
        self._figures: dict[str, go.Figure] = {}

    def save(self, name: str, figure: go.Figure) -> go.Figure:
        """Write a figure as ``<name>.html`` and return it.

        The pages share one copy of plotly.js in the same folder and work offline.
        """
        if not (self.folder / LIBRARY).is_file():
            from plotly.offline import get_plotlyjs

            write_text(self.folder / LIBRARY, get_plotlyjs())
        page = figure.to_html(include_plotlyjs=LIBRARY, config={"displaylogo": False})
        write_text(self.folder / f"{name}.html", page)
        self._figures[name] = figure
        return figure

    def finish(self) -> str:
        """Export all figures as SVG and PDF if requested and possible; return a sentence that lists what was saved."""
        count = f"{len(self._figures)} figures as HTML"
        if not self.images:
            return f"{count} in {self.folder}; SVG and PDF were not requested"
        try:
            self._write_images()
        except Exception as error:  # kaleido, its browser and plotly raise different types
            return f"{count} in {self.folder}; no SVG and PDF, because {_reason(error)}"
        return f"{count}, SVG and PDF in {self.folder}"

    def _write_images(self) -> None:
        import plotly.io

        # it logs a traceback for every browser message that it cannot parse, and continues
        logging.getLogger("choreographer").setLevel(logging.CRITICAL)
        wanted = [
            (figure, f"{name}.{suffix}") for name, figure in self._figures.items() for suffix in IMAGE_FORMATS
        ]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as aside:
            figures, files = zip(*wanted, strict=True)
            # start the browser once for all figures
            plotly.io.write_images(
                list(figures),
                [Path(aside) / file for file in files],
                width=WIDTH_PX,
                height=[figure.layout.height or figure.layout.template.layout.height for figure in figures],
            )
            for file in files:
                os.replace(Path(aside) / file, self.folder / file)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if any(word in text.lower() for word in ("chrome", "chromium", "browser")):
        return "Chromium is not installed or does not start"
    if "kaleido" in text.lower() and "install" in text.lower():
        return "kaleido is not installed; run pip install -e '.[export]' in the checkout"
    return f"{type(error).__name__}: {text:.200}"
