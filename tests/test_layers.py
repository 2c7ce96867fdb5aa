"""Reconstruction imports few modules, none of which reads files or loads a heavy library.

The layers themselves are checked by import-linter in ``make lint``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
READERS = ("open", "read_bytes", "read_text", "load", "memmap", "fromfile", "loadtxt", "File", "imread")
HEAVY = ("keras", "tensorflow", "dask", "distributed", "pandas", "plotly", "h5py", "mrcfile", "starfile")


def file_of(module: str) -> Path | None:
    """Return the source file of a module in the package, or None."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def module_imports(tree: ast.Module) -> set[str]:
    """Return the modules in the package that a module imports when it is loaded."""
    found = set()
    statements = list(tree.body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.dump(node):
            statements += ast.iter_child_nodes(node)
    return {name for name in found if name.startswith("cryoem") and file_of(name)}


def closure(module: str) -> dict[str, ast.Module]:
    """Return all modules in the package that are loaded with a module, including the ``__init__`` of folders."""
    trees: dict[str, ast.Module] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in trees:
            trees[name] = ast.parse(file_of(name).read_text(encoding="utf-8"))
            parts = name.split(".")
            waiting += [".".join(parts[:end]) for end in range(1, len(parts))]
            waiting += module_imports(trees[name])
    return trees


def test_reconstruction_needs_few_modules_and_no_file():
    trees = closure("cryoem.reconstruction.maps")
    assert "cryoem.projection.fourier" in trees  # the search does follow imports
    assert len(trees) <= 15, sorted(trees)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                if getattr(getattr(node.func, "value", None), "id", "") == "builder":
                    continue  # generates instructions; ``load`` reads no file
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert called not in READERS, f"{name}, line {node.lineno}"


def test_compiled_functions_contain_nothing_of_other_modules():
    # numba discards its stored machine code if the file of the function changes, but not if that of an inlined one does
    compiled = 0
    for path in sorted((ROOT / "cryoem").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom) and "cryoem" in ast.unparse(node)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "jit" in "".join(map(ast.unparse, node.decorator_list)):
                compiled += 1
                used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                assert not used & imported, f"{path.name}, {node.name}"
    assert compiled >= 20


def test_reconstruct_loads_no_heavy_library():
    code = (
        "import sys, cryoem.reconstruction; cryoem.reconstruction.reconstruct; "
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


def test_the_documented_layers_are_those_of_the_contract():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (c["layers"] for c in pyproject["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    documented = re.search(r"```\n(cli > .*?)\n```", page, re.S).group(1)
    assert re.split(r"[\s>,]+", documented) == re.split(r"[\s:]+", " ".join(layers))
