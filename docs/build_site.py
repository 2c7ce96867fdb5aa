"""Build the website in docs/_build/html: execute the notebooks, copy the pages and run Sphinx.

    python docs/build_site.py                         execute all notebooks at toy size (minutes), like `make site`
    python docs/build_site.py --profile quick         execute the notebooks at their default size
    python docs/build_site.py --execute '0-*'         execute only these; show the others without results

The script needs the extra `site`, but no network connection. Executed notebooks are reused until the package or the
notebook changes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from sphinx.cmd.build import build_main

from cryoem.runs.execution import NotebookError, execute_notebook
from cryoem.runs.runner import figures_script, render_figure

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "docs" / "_build"
PLOTLY_JSON = "application/vnd.plotly.v1+json"
COPIED = (
    "docs/*.md",
    "docs/images/*",
    "data/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="toy", help="size at which notebooks run (toy, quick or paper)")
    parser.add_argument("--execute", nargs="*", default=["*"], metavar="PATTERN", help="notebooks to execute")
    parser.add_argument(
        "--out", type=Path, default=BUILD, help="build folder; the site is in its subfolder html/"
    )
    options = parser.parse_args()
    names = [path.relative_to(ROOT) for path in sorted(ROOT.glob("notebooks/[0-9]*/*.ipynb"))]
    chosen = [name for name in names if any(fnmatch(name.name, pattern) for pattern in options.execute)]
    if options.execute and not chosen:
        sys.exit(f"build_site: no notebook matches {options.execute}; use a pattern such as '0-*'")
    build = options.out.resolve()
    executed = {name: execute(name, build, profile=options.profile) for name in chosen}
    source = build / "source"
    shutil.rmtree(source, ignore_errors=True)
    for path in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source / path.relative_to(ROOT))
    for name in names:
        note = f"Executed with the profile `{options.profile}` when this site was built."
        write_notebook(executed.get(name, name), source / name, note if name in executed else "Not executed.")
    write_index(source / "index.md")
    scripts = build / "html" / "_static"
    scripts.mkdir(parents=True, exist_ok=True)
    (scripts / "figures.js").write_text(figures_script(), encoding="utf-8")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the API reference imports TensorFlow
    arguments = ["-q", "-E", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", str(build / "doctrees")]
    if build_main([*arguments, str(source), str(build / "html")]) != 0:
        sys.exit("build_site: Sphinx failed; see the messages above")
    print(f"wrote {build / 'html' / 'index.html'}")


def execute(name: Path, build: Path, *, profile: str) -> Path:
    """Execute a notebook, unless neither it nor the package has changed since its last execution."""
    notebook, executed = ROOT / name, build / "executed" / profile / name
    newest = max(path.stat().st_mtime for path in (notebook, *ROOT.glob("cryoem/**/*.py")))
    if executed.is_file() and executed.stat().st_mtime > newest:
        return executed
    code = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parameters = (
        {"profile": profile} if any('profile = "' in "".join(cell["source"]) for cell in code) else {}
    )
    toy = notebook.with_name("toy.json")
    if profile == "toy" and toy.is_file():
        parameters |= json.loads(toy.read_text(encoding="utf-8")).get(notebook.stem, {})
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_suffix(".partial.ipynb")
    environment = {"CRYOEM_HOME": str(build / "data")}
    try:
        execute_notebook(
            notebook, partial, parameters=parameters, environment=environment, title=name.stem, progress=True
        )
    except NotebookError as error:
        sys.exit(f"build_site: {name} failed: {error}")
    os.replace(partial, executed)
    return executed


def write_notebook(path: Path, place: Path, note: str) -> None:
    """Write a notebook for Sphinx with folded code, a note, and its plotly figures as HTML."""
    notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        for output in cell.get("outputs", []):
            if figure := output.get("data", {}).get(PLOTLY_JSON):
                output["data"] = {"text/html": render_figure(json.dumps(figure))}
    about = {"cell_type": "markdown", "id": "about-this-page", "metadata": {}, "source": f"*{note}*"}
    notebook["cells"].insert(1, about)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(notebook), encoding="utf-8")


def write_index(place: Path) -> None:
    """Write README.md as the first page, followed by the table of contents."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    contents = (ROOT / "docs" / "contents.txt").read_text(encoding="utf-8")
    place.write_text(re.sub(r"\]\(README\.md", "](index.md", readme) + contents, encoding="utf-8")


if __name__ == "__main__":
    main()
