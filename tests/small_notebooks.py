"""Notebooks of a few lines in the place of those of the four phases, for tests of the pipeline itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat

from cryoem import pipeline

PARAMETERS_CELL = "profile = 'toy'\nmap_name = None\nrun = None\noverrides = {}"
OPENING_CELL = """
import os, signal, time
from pathlib import Path
import numpy as np
from cryoem import pipeline
home = Path(os.environ["CRYOEM_HOME"])
def first_time(name):
    flag = home / name
    if flag.exists():
        return False
    flag.touch()
    return True
phase = pipeline.open_phase({name!r}, run=run, profile=profile, map_name=map_name, overrides=overrides)
"""
LAST_CELL = """
print("one", flush=True)
print("two")
phase.finish()
"""


def write_notebooks(folder: Path, bodies: Mapping[str, str], *, last: str = LAST_CELL) -> Path:
    """The four notebooks, each of four cells, under the names that the pipeline expects."""
    for name, info in pipeline.PHASES.items():
        sources = [PARAMETERS_CELL, OPENING_CELL.replace("{name!r}", repr(name)), bodies[name], last]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        path = folder / info.notebook
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    return folder


def finish_phases(names=tuple(pipeline.PHASES), **options) -> None:
    """The phases as notebooks finish them, each with an array."""
    for name in names:
        phase = pipeline.open_phase(name, profile="toy", **options)
        phase.save("numbers", {"x": ([0.0, 1.0, 2.0], "px")})
        phase.finish()


def pretend_executed(home: Path, notebooks: Path) -> None:
    """Notebooks beside the finished phases of the run, as if they had been executed."""
    for info in pipeline.PHASES.values():
        executed = json.loads((notebooks / info.notebook).read_text())
        executed["metadata"]["papermill"] = {"duration": 1.5}
        (home / "runs" / "toy" / info.notebook).write_text(json.dumps(executed))


def wait_for(path: Path, *, seconds: float) -> None:
    """Until the file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear within {seconds} s"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Neither gone nor dead and waiting to be noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_ended(*processes: int) -> None:
    """It should be at once, but for what a busy machine takes."""
    deadline = time.monotonic() + 5
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, f"one of the processes {processes} goes on"
        time.sleep(0.01)
