"""The notebooks of phase 4: how they are written, and that each reaches its headline number at toy size."""

from __future__ import annotations

import json

import nbformat
import pytest
from notebook_rules import assert_well_written

from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import NotebookError, execute_notebook

FOLDER = notebooks_folder() / "4-udl-alignment"
TOY = json.loads((FOLDER / "toy.json").read_text(encoding="utf-8"))  # the site's sizes, too
EACH = pytest.mark.parametrize("name", TOY)


def cells_of(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells


def execute(name: str, home, **parameters) -> nbformat.NotebookNode:
    executed = home / f"{name}.ipynb"
    execute_notebook(
        FOLDER / f"{name}.ipynb",
        executed,
        parameters={**TOY[name], **parameters},
        environment={"CRYOEM_HOME": str(home)},
        title="",
        progress=False,
    )
    return nbformat.read(executed, as_version=4)


def test_each_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(TOY)


@EACH
def test_notebooks_are_well_written(name):
    assert_well_written(cells_of(name), title=f"Phase {name[:3]}", parameters=TOY[name])


@pytest.mark.notebooks
@EACH
def test_notebooks_run_at_toy_size(name, tmp_path):
    cells = execute(name, tmp_path).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    errors = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in errors
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(figures) >= (0 if name.startswith("4.6") else 3)


@pytest.mark.notebooks
def test_a_missed_headline_stops_the_notebook_with_the_number(tmp_path):
    with pytest.raises(NotebookError, match=r"must be below 0\.0001 degrees, but is \d"):
        execute("4.1-synthetic-particles", tmp_path, expected_error_deg=1e-4)
