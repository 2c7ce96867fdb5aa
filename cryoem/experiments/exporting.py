"""Figures as files: HTML always, SVG and PDF where Chromium is installed."""

from __future__ import annotations

import os
from pathlib import Path

import plotly.graph_objects as go

from cryoem.pipeline.files import write_text, written_aside

IMAGE_FORMATS = ("svg", "pdf")
WIDTH_PX = 900


class FigureFolder:
    """A folder that figures are saved to, one after another.

    ``images`` turns False, and ``why_no_images`` says why, once an SVG could not be drawn.
    """

    def __init__(self, folder: str | os.PathLike, *, images: bool = True):
        self.folder, self.images, self.saved = Path(folder), images, []
        self.why_no_images = None if images else "images were not asked for"

    def save(self, name: str, figure: go.Figure) -> go.Figure:
        """Write a figure as ``<name>.html``, and as SVG and PDF where that is possible; the figure comes back.

        The HTML files share one copy of plotly, in the same folder, and need no network.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        library = self.folder / "plotly.min.js"
        if not library.is_file():
            from plotly.offline import get_plotlyjs

            write_text(library, get_plotlyjs())
        page = figure.to_html(include_plotlyjs=library.name, config={"displaylogo": False})
        write_text(self.folder / f"{name}.html", page)
        self.saved.append(name)
        if self.images:
            self._save_images(name, figure)
        return figure

    def _save_images(self, name: str, figure: go.Figure) -> None:
        for suffix in IMAGE_FORMATS:
            try:
                content = figure.to_image(format=suffix, width=WIDTH_PX)
            except Exception as error:  # kaleido, its browser and plotly each raise their own kinds
                self.images, self.why_no_images = False, _reason(error)
                return
            with written_aside(self.folder / f"{name}.{suffix}") as aside:
                aside.write_bytes(content)

    def summary(self) -> str:
        """What was saved where, in a sentence or two."""
        if self.images:
            return f"{len(self.saved)} figures as HTML, SVG and PDF in {self.folder}"
        return f"{len(self.saved)} figures as HTML in {self.folder}; no SVG or PDF: {self.why_no_images}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "kaleido" in text.lower() and "install" in text.lower():
        return "kaleido is not installed (pip install 'cryoem[export]')"
    if "chrome" in text.lower() or "chromium" in text.lower() or "browser" in text.lower():
        return "Chromium is not installed, or does not start"
    return f"{type(error).__name__}: {text:.200}"
