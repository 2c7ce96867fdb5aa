"""Build the website in docs/_build/html: execute the notebooks, copy the pages and run Sphinx.

    python docs/build_site.py                         execute all notebooks at toy size (minutes), like `make site`
    python docs/build_site.py --profile quick         execute the notebooks at their default size (hours)
    python docs/build_site.py --execute '0-*'         show only the results of these
    python docs/build_site.py --repository URL        link each page to the repository

The script needs the extra `site`, but no network connection. A notebook that was already executed at its default size,
by this script or by `make demo`, is shown at that size until its code changes. Notebooks executed at toy size are
reused until the package or the notebook changes. Each page states the size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

from sphinx.cmd.build import build_main

from cryoem.files import data_folder
from cryoem.runs import PHASES, get_profile, run_name
from cryoem.runs.execution import NotebookError, code_sha256, execute_notebook, read_notebook
from cryoem.runs.pipeline import WITHOUT_MAP
from cryoem.runs.report import figures_script, render_figure

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "docs" / "_build"
PLOTLY_JSON = "application/vnd.plotly.v1+json"
SIZES = {
    "toy": "Executed at toy size, with few and small images, so that this site can be built in minutes. The numbers in "
    "the text refer to the default size, which is more accurate.",
    "quick": "Executed at the default size.",
    "paper": "Executed at the size of the first paper.",
}
# absolute paths of the data folder, whose subfolders these are
DATA_PATH = re.compile(r"(?<![\w/.:])/(?:[^\s\"'`<>:,]+?/)*?(?=(?:runs|jobs|udl|experiments|downloads)/)")
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
    parser.add_argument(
        "--repository", default="", metavar="URL", help="address of the repository, for links"
    )
    options = parser.parse_args()
    names = [path.relative_to(ROOT) for path in sorted(ROOT.glob("notebooks/[0-9]*/*.ipynb"))]
    chosen = [name for name in names if any(fnmatch(name.name, pattern) for pattern in options.execute)]
    if options.execute and not chosen:
        sys.exit(f"build_site: no notebook matches {options.execute}; use a pattern such as '0-*'")
    build = options.out.resolve()
    executed = {name: shown_copy(name, build, size=options.profile) for name in chosen}
    source = build / "source"
    shutil.rmtree(source, ignore_errors=True)
    for path in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source / path.relative_to(ROOT))
    for name in names:
        path, size = executed.get(name, (ROOT / name, None))
        original = source / "originals" / name
        original.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, original)
        write_notebook(path, source / name, note(path, size, original=f"/originals/{name.as_posix()}"))
    write_index(source / "index.md")
    scripts = build / "html" / "_static"
    scripts.mkdir(parents=True, exist_ok=True)
    (scripts / "figures.js").write_text(figures_script(), encoding="utf-8")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the API reference imports TensorFlow
    arguments = ["-q", "-E", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", str(build / "doctrees")]
    if options.repository:
        host = next((name for name in ("gitlab", "bitbucket") if name in options.repository), "github")
        linked = {"repository_url": options.repository, "repository_provider": host}
        linked |= {"use_repository_button": "true", "use_issues_button": "true"}
        arguments += [f"-Dhtml_theme_options.{name}={value}" for name, value in linked.items()]
    if build_main([*arguments, str(source), str(build / "html")]) != 0:
        sys.exit("build_site: Sphinx failed; see the messages above")
    print(f"wrote {build / 'html' / 'index.html'}")


def shown_copy(name: Path, build: Path, *, size: str) -> tuple[Path, str]:
    """Return an executed copy of a notebook and its size, which is ``size`` or the default size.

    The notebook is executed unless it has already been executed at its default size and its code has not changed.
    """
    for path in (build / "executed" / "quick" / name, *default_run(name)):
        if size == "toy" and path.is_file() and same_code(path, ROOT / name):
            return path, "quick"
    return execute(name, build, size=size), size


def execute(name: Path, build: Path, *, size: str) -> Path:
    """Return an executed copy of a notebook at the given size.

    The notebooks of earlier phases that it reads are executed before it. A notebook is not executed again if neither it
    nor the package has changed, and no earlier phase was executed since.
    """
    notebook, executed = ROOT / name, build / "executed" / size / name
    earlier = [execute(each, build, size=size) for each in earlier_phases(name)]
    newest = max(path.stat().st_mtime for path in (notebook, *earlier, *ROOT.glob("cryoem/**/*.py")))
    if executed.is_file() and executed.stat().st_mtime > newest:
        return executed
    code = read_notebook(notebook)["cells"]
    parameters = {"profile": size} if any('profile = "' in "".join(cell["source"]) for cell in code) else {}
    toy = notebook.with_name("toy.json")
    if size == "toy" and toy.is_file():
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


def earlier_phases(name: Path) -> list[Path]:
    """Return the notebooks of the phases whose results a notebook reads."""
    phases = [Path("notebooks") / info.notebook for info in PHASES.values()]
    if name == Path("notebooks") / WITHOUT_MAP.notebook:
        return phases[:1]
    return phases[: phases.index(name)] if name in phases else []


def default_run(name: Path) -> list[Path]:
    """Return where the default run (`make demo`) saves the executed copy of a phase's notebook."""
    folder = data_folder() / "runs" / run_name(get_profile("quick"))
    return [
        folder / phase / name.name for phase, info in PHASES.items() if Path(info.notebook).name == name.name
    ]


def same_code(executed: Path, notebook: Path) -> bool:
    """Return whether an executed copy has the same code as a notebook."""
    try:
        return code_sha256(read_notebook(executed)) == code_sha256(read_notebook(notebook))
    except ValueError:  # damaged
        return False


def note(path: Path, size: str | None, *, original: str) -> str:
    """Return the Markdown text about a page: size and date of its execution, and a link to the notebook."""
    about = "Not executed."
    if size is not None:
        day = date.fromtimestamp(path.stat().st_mtime)
        about = f"{SIZES[size]} ({day.day} {day:%B %Y})"
    return f"*{about}* {{download}}`Download the notebook <{original}>`"


def write_notebook(path: Path, place: Path, text: str) -> None:
    """Write a notebook for Sphinx with folded code, a note, its plotly figures as HTML, and no absolute paths."""
    notebook = read_notebook(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
            cell["source"] = without_paths(cell["source"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = without_paths(output["text"])
            data = output.get("data", {})
            if figure := data.get(PLOTLY_JSON):
                output["data"] = {"text/html": render_figure(json.dumps(figure))}
                continue
            for kind in ("text/markdown", "text/html"):  # a caption below its figure; a table
                if kind in data:
                    output["data"] = {kind: without_paths(data[kind])}
    about = {"cell_type": "markdown", "id": "about-this-page", "metadata": {}, "source": text}
    notebook["cells"].insert(1, about)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(notebook), encoding="utf-8")


def without_paths(text: str | list[str]) -> str:
    """Return text in which the data folder is called ``data``, and paths in the checkout are relative."""
    joined = DATA_PATH.sub("data/", "".join(text))
    return joined.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")


def write_index(place: Path) -> None:
    """Write README.md as the first page, followed by the table of contents."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    contents = (ROOT / "docs" / "contents.txt").read_text(encoding="utf-8")
    place.write_text(re.sub(r"\]\(README\.md", "](index.md", readme) + contents, encoding="utf-8")


if __name__ == "__main__":
    main()
