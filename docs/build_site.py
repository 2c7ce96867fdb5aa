"""Build the web site: execute the notebooks, gather the pages, let Sphinx write them.

    python docs/build_site.py                         notebooks at toy size, some minutes on two cores; also `make site`
    python docs/build_site.py --profile quick         notebooks at the sizes that they have in JupyterLab
    python docs/build_site.py --execute '0-*'         these alone; the others are shown without results

Needs the extra ``site``. Nothing is fetched. The site appears whole, and an earlier one stays until then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main
from website.executed import executed_notebooks, kept_home
from website.pages import gather

from cryoem.pipeline import PROFILES, PhaseFailedError, RunInProgressError
from cryoem.pipeline.execution import NotebookError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the API reference imports TensorFlow

DOCS = Path(__file__).resolve().parent
WORK = DOCS / "_build"
MARKER = ".cryoem-site"  # in a folder that a build may replace


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="toy", choices=tuple(PROFILES), help="size of the notebooks")
    parser.add_argument(
        "--execute", nargs="*", default=["*"], metavar="PATTERN", help="which notebooks to execute"
    )
    parser.add_argument("--out", type=Path, default=WORK / "html", help="folder of the site")
    parser.add_argument("--home", type=Path, help="data folder of the notebooks, kept for the next build")
    options = parser.parse_args()
    out = options.out.absolute()
    try:
        refuse_what_is_no_site(out)
        home = kept_home(WORK) if options.home is None else options.home.expanduser().absolute()
        executed = executed_notebooks(home, profile=options.profile, patterns=options.execute)
    except (NotebookError, PhaseFailedError, RunInProgressError, FileNotFoundError, ValueError) as error:
        sys.exit(f"build_site: {error}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        source, html = Path(scratch, "source"), Path(scratch, "html")
        gather(source, executed, profile=options.profile)
        arguments = ["-b", "html", "-q", "-W", "--keep-going", "-c", str(DOCS), "-d", f"{scratch}/doctrees"]
        if build_main([*arguments, str(source), str(html)]) != 0:
            sys.exit("build_site: Sphinx complained, see above; there is no new site")
        take_the_place(html, out)
    print(f"wrote {out / 'index.html'}")


def refuse_what_is_no_site(out: Path) -> None:
    """Raise ValueError where ``out`` holds something other than an earlier site, which would be lost."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MARKER).is_file() or (out / ".git").exists():
        raise ValueError(f"out must be a new or an empty folder or an earlier site, got {out}")


def take_the_place(made: Path, out: Path) -> None:
    """Move the folder ``made`` to ``out``, whatever was there away."""
    (made / MARKER).touch()
    earlier = out.with_name(f".{out.name}-earlier")
    if out.exists():
        os.replace(out, earlier)
    try:
        os.replace(made, out)
    except BaseException:
        if earlier.exists():
            os.replace(earlier, out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


if __name__ == "__main__":
    main()
