"""How every notebook is written, asserted once for all that tests look at."""

from __future__ import annotations

import ast
import re

LONGEST_CELL = 40  # lines: a screen


def assert_well_written(cells, *, title: str, parameters=()) -> None:
    """A title, one cell of parameters with the named ones in it, short cells, no results, an assertion at the end."""
    assert re.match(rf"# {title}: \S.*\n\n\S", cells[0].source)
    assert [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])] == [cells[1]]
    assert set(parameters) <= {statement.targets[0].id for statement in ast.parse(cells[1].source).body}
    for cell in cells:
        assert cell.source.strip()
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= LONGEST_CELL
    last = next(cell for cell in reversed(cells) if cell.cell_type == "code")
    asserts = [node for node in ast.walk(ast.parse(last.source)) if isinstance(node, ast.Assert)]
    assert asserts
    assert all(node.msg is not None for node in asserts)
