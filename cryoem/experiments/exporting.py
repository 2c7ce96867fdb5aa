"""Figures as files: HTML always, SVG and PDF where Chromium is installed."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import plotly.graph_objects as go

from cryoem.pipeline.files import write_text

IMAGE_FORMATS = ("svg", "pdf")
WIDTH_PX = 900
LIBRARY = "plotly.min.js"


class FigureFolder:
    """A folder that figures are saved to, one after another; ``finish`` ends it.

    ``images``: whether ``finish`` shall draw SVG and PDF as well.
    """

    def __init__(self, folder: str | os.PathLike, *, images: bool = True):
        self.folder, self.images = Path(folder), images
        self._figures: dict[str, go.Figure] = {}

    def save(self, name: str, figure: go.Figure) -> go.Figure:
        """Write a figure as ``<name>.html``; the figure comes back.

        The pages share one copy of plotly, in the same folder, and need no network.
        """
        if not (self.folder / LIBRARY).is_file():
            from plotly.offline import get_plotlyjs

            write_text(self.folder / LIBRARY, get_plotlyjs())
        page = figure.to_html(include_plotlyjs=LIBRARY, config={"displaylogo": False})
        write_text(self.folder / f"{name}.html", page)
        self._figures[name] = figure
        return figure

    def finish(self) -> str:
        """Draw all figures as SVG and PDF, where that is wanted and possible; say in a sentence what was saved."""
        count = f"{len(self._figures)} figures as HTML"
        if not self.images:
            return f"{count} in {self.folder}; SVG and PDF were not asked for"
        try:
            self._write_images()
        except Exception as error:  # kaleido, its browser and plotly each raise their own kinds
            return f"{count} in {self.folder}; no SVG and PDF, because {_reason(error)}"
        return f"{count}, SVG and PDF in {self.folder}"

    def _write_images(self) -> None:
        import plotly.io

        # it logs each message of the browser that it cannot read, with a traceback, and goes on
        logging.getLogger("choreographer").setLevel(logging.CRITICAL)
        wanted = [
            (figure, f"{name}.{suffix}") for name, figure in self._figures.items() for suffix in IMAGE_FORMATS
        ]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as aside:
            figures, files = zip(*wanted, strict=True)
            # one browser for all of them
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
        return "Chromium is not installed, or does not start"
    if "kaleido" in text.lower() and "install" in text.lower():
        return "kaleido is not installed (pip install 'cryoem[export]')"
    return f"{type(error).__name__}: {text:.200}"
