"""Minimal notebooks that replace those of the four phases in tests of the runner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat

from cryoem import runs

TOY_RUN = "phantom-toy"
PARAMETERS_CELL = "profile = 'toy'\nmap_name = None\nrun = None\noverrides = {}"
OPENING_CELL = """
import os, signal, time
from pathlib import Path
import numpy as np
from cryoem import runs
home = Path(os.environ["CRYOEM_HOME"])
def first_time(name):
    flag = home / name
    if flag.exists():
        return False
    flag.touch()
    return True
def kill_run_first_time(name):
    if first_time(name):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # this kernel ends with its parent
phase = runs.open_phase(PHASE, run=run, profile=profile, map_name=map_name, overrides=overrides)
"""
LAST_CELL = "print('one', flush=True)\nprint('two')\nphase.finish()"


def cells_of(name: str, body: str) -> list[str]:
    """Return the sources of the four cells of a phase."""
    return [PARAMETERS_CELL, OPENING_CELL.replace("PHASE", repr(name)), body, LAST_CELL]


def write_notebooks(folder: Path, bodies: Mapping[str, str]) -> Path:
    """Write one notebook with four cells for each phase; a phase without a body does nothing."""
    for name, info in runs.PHASES.items():
        sources = cells_of(name, bodies.get(name, "pass"))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        notebook.cells[0].metadata["tags"] = ["parameters"]
        path = folder / info.notebook
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    return folder


def start_run(home: Path, notebooks: Path, **options) -> subprocess.Popen:
    """Start a toy run in a separate process."""
    script = f"from cryoem import runs; runs.run(profile='toy', notebooks={str(notebooks)!r})"
    environment = os.environ | {"CRYOEM_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **options)


def finish_phases(names=tuple(runs.PHASES), **options) -> None:
    """Finish phases as if their notebooks had been run by hand, each with one array."""
    for name in names:
        phase = runs.open_phase(name, profile="toy", **options)
        phase.save("numbers", {"x": ([0.0, 1.0, 2.0], "px")})
        phase.finish()


def wait_for(path: Path, *, seconds: float) -> None:
    """Wait until a file exists."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear within {seconds} s"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Return whether a process with this ID exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
