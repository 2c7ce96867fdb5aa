"""The notebooks with their results: executed once for each state of the package, kept for the next build."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from cryoem import pipeline
from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import code_of, execute_notebook
from cryoem.sources import sources_sha256

TOY = "toy"  # the profile whose sizes for other notebooks than the phases' stand in toy.json beside them
PREFIX = "executed-"
RUNS_MEASURED = (
    "6-your-particles/6.1-from-a-job-to-a-map.ipynb"  # in whose run lie the phases of measured particles
)


def all_notebooks() -> list[str]:
    """Paths within the notebooks folder, in the order of the phases."""
    folder = notebooks_folder()
    found = [path.relative_to(folder).as_posix() for path in folder.glob("[!.]*/*.ipynb")]
    return sorted(found, key=_with_numbers)


def _with_numbers(name: str) -> list:
    """A key that sorts 4.10 after 4.2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def kept_home(work: Path) -> Path:
    """The data folder within ``work`` for the present state of the package; those of other states are removed."""
    home = work / f"{PREFIX}{sources_sha256()[:12]}"
    for other in work.glob(f"{PREFIX}*"):
        if other != home:
            shutil.rmtree(other)
    return home


def executed_notebooks(home: Path, *, profile: str, patterns: Sequence[str]) -> dict[str, Path]:
    """Execute what matches one of the patterns, unless it is done; path within the notebooks folder -> executed one.

    Parameters
    ----------
    home : data folder of the notebooks.
    profile : of the phases; the other notebooks take their own parameters, or those of ``toy.json`` where it is "toy".
    patterns : of paths within the notebooks folder, ``"4-*"``.

    Raises
    ------
    NotebookError, PhaseFailedError : a notebook stopped.
    ValueError : there is no such profile, or a pattern matches no notebook.
    """
    chosen = [name for name in all_notebooks() if any(fnmatch(name, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in chosen):
            raise ValueError(f"execute must match a notebook, got {pattern!r}")
    os.environ["CRYOEM_HOME"] = str(home)
    done: dict[str, Path] = {}
    phases = {info.notebook for info in pipeline.PHASES.values()}.intersection(chosen)
    if phases:
        folder = pipeline.run(profile=profile).folder
        done |= {name: folder / name for name in phases}
    of_measured = {info.notebook_of_measured for info in pipeline.PHASES.values()}.intersection(chosen)
    if of_measured:
        _executed(RUNS_MEASURED, home / "notebooks" / profile, profile)
        done |= {name: home / "runs" / "measured" / name for name in of_measured}
    for name in chosen:
        if name not in done:
            done[name] = _executed(name, home / "notebooks" / profile, profile)
    return {name: done[name] for name in chosen}


def _executed(name: str, folder: Path, profile: str) -> Path:
    source, executed = notebooks_folder() / name, folder / name
    parameters = _toy_parameters(source) if profile == TOY else {}
    if _is_done(executed, source, parameters):
        return executed
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_suffix(".partial.ipynb")
    environment = {"CRYOEM_HOME": os.environ["CRYOEM_HOME"]}
    execute_notebook(
        source, partial, parameters=parameters, environment=environment, title=source.stem, progress=True
    )
    os.replace(partial, executed)
    return executed


def _toy_parameters(source: Path) -> dict:
    path = source.with_name("toy.json")
    sizes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return sizes.get(source.stem, {})


def _is_done(executed: Path, source: Path, parameters: dict) -> bool:
    if not executed.is_file():
        return False
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    same_code = code_of(notebook) == code_of(json.loads(source.read_text(encoding="utf-8")))
    return same_code and notebook["metadata"]["papermill"]["parameters"] == parameters
