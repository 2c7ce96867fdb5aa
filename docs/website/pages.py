"""The folder that Sphinx reads: pages where they lie in the repository, README.md as the first one, and notebooks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from cryoem.folders import notebooks_folder
from website import api
from website.executed import all_notebooks
from website.figures import embed_figures

ROOT = Path(__file__).parents[2]
REFERENCE = ("docs/conventions", "api/index", "docs/benchmarks")
PROJECT = ("data/README", "CONTRIBUTING", "CHANGELOG")
INJECTED = "injected-parameters"
EXECUTED = "Executed when this site was built, at the size `{profile}`. The figures turn, zoom and tell their values."
AS_WRITTEN = "Shown as it is written, without results: this site was built without executing it."


def gather(folder: Path, executed: dict[str, Path], *, profile: str) -> None:
    """Fill a new folder with all pages.

    Parameters
    ----------
    folder : made here.
    profile : with which notebooks were executed; the pages say so.
    executed : path within the notebooks folder -> executed notebook; the others are shown as they are written.
    """
    others = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").glob("*.md")}
    reference = [*REFERENCE, *sorted(others.difference(REFERENCE))]
    for page in (*reference, *PROJECT):
        if not page.startswith("api/"):
            _copy_page(f"{page}.md", folder)
    for name in all_notebooks():
        about = EXECUTED.format(profile=profile) if name in executed else AS_WRITTEN
        _write_notebook(
            executed.get(name, notebooks_folder() / name), folder / "notebooks" / name, about=about
        )
    api.write_pages(folder / "api")
    notebooks = [f"notebooks/{name.removesuffix('.ipynb')}" for name in all_notebooks()]
    contents = {"Notebooks": notebooks, "Reference": reference, "Project": PROJECT}
    _copy_page("README.md", folder, to="index.md", after="".join(map(_contents, contents, contents.values())))


def _contents(caption: str, pages) -> str:
    lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
    return "\n".join(lines)


def _copy_page(name: str, folder: Path, *, to: str | None = None, after: str = "") -> None:
    """Copy a page and the files that it links to, other than pages."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(<?([^)\s>#]+)", text):
        linked = (ROOT / name).parent / target
        if linked.is_file() and linked.suffix not in (".md", ".ipynb"):
            copy = folder / linked.resolve().relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(linked, copy)
    place = folder / (to or name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text + after, encoding="utf-8")


def _write_notebook(source: Path, place: Path, *, about: str) -> None:
    """Copy a notebook: a line about it, code folded, figures alive, the parameters it ran with in place of its own."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    injected = [cell for cell in notebook["cells"] if INJECTED in cell["metadata"].get("tags", [])]
    if injected:
        notebook["cells"] = [
            cell for cell in notebook["cells"] if "parameters" not in cell["metadata"].get("tags", [])
        ]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
    notebook["cells"].insert(1, _markdown(f"{{.about-this-page}}\n{about}"))
    embed_figures(notebook)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(notebook), encoding="utf-8")


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "id": "about-this-page", "metadata": {}, "source": text}
