"""Style rules for notebooks, and a helper that executes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat

from cryoem.runs import execute_notebook

LONGEST_CELL = 40  # lines, which fit on one screen


def assert_well_written(cells, *, title: str, parameters=()) -> None:
    """Check the title, the parameters cell and its names, the imports after it, short cells and missing outputs."""
    assert re.match(rf"# {title}: \S.*\n\n\S", cells[0].source)
    assert [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])] == [cells[1]]
    assert set(parameters) <= {statement.targets[0].id for statement in ast.parse(cells[1].source).body}
    code = code_cells(cells)
    for position, cell in enumerate(code):
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        assert "sys.path" not in cell.source
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE)  # no magics or shell commands
        nodes = list(ast.walk(ast.parse(cell.source)))
        has_imports = any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)
        assert has_imports == (position == 1)
    assert all(cell.source.strip() for cell in cells)


def code_cells(cells) -> list[nbformat.NotebookNode]:
    return [cell for cell in cells if cell.cell_type == "code"]


def execute(notebook: Path, home: Path, **parameters) -> nbformat.NotebookNode:
    """Execute a notebook with ``home`` as the data folder, and return it with its outputs."""
    executed = home / notebook.name
    execute_notebook(
        notebook, executed, parameters=parameters, environment={"CRYOEM_HOME": str(home)}, progress=False
    )
    return nbformat.read(executed, as_version=4)


def outputs_of(notebook: nbformat.NotebookNode) -> tuple[str, list]:
    """Return the printed text and plotly figures of an executed notebook, which must not contain warnings."""
    outputs = [output for cell in code_cells(notebook.cells) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "Warning" not in "".join(output.text for output in outputs if output.get("name") == "stderr")
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    kind = "application/vnd.plotly.v1+json"
    return printed, [output.data[kind] for output in outputs if kind in output.get("data", {})]
