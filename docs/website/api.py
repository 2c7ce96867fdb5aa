"""The pages of the API reference, a page for each module of the package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import cryoem

# As data flow; what is not named here follows in the order of the alphabet.
PIPELINE = (
    "rotations",
    "volumes",
    "registry",
    "projectors",
    "imaging",
    "particles",
    "distances",
    "siamese",
    "recovery",
    "gauge",
    "evaluation",
    "reconstruction",
    "refinement",
    "resolution",
    "udl",
    "plots",
    "pipeline",
)
COMMANDS = "cli"  # the commands speak for themselves, `cryoem --help`


def write_pages(folder: Path) -> None:
    """Write ``index.rst`` and a page for each module of the package into ``folder``."""
    found = {module.name for module in pkgutil.iter_modules(cryoem.__path__)} - {COMMANDS}
    names = [name for name in PIPELINE if name in found] + sorted(found - set(PIPELINE))
    folder.mkdir(parents=True)
    rows = []
    for name in names:
        module = importlib.import_module(f"cryoem.{name}")
        (folder / f"{name}.rst").write_text(_page(module), encoding="utf-8")
        rows += [f":doc:`{name}`", f"    {_first_sentence(module)}", ""]
    contents = [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names)]
    text = [*_title("API reference"), cryoem.__doc__ or "", "", *rows, *contents]
    (folder / "index.rst").write_text("\n".join(text) + "\n", encoding="utf-8")


def _page(module: ModuleType) -> str:
    """A module by what it offers; a package that offers nothing itself by the modules in it."""
    lines = [*_title(module.__name__.removeprefix("cryoem.")), *_automodule(module.__name__)]
    if hasattr(module, "__path__") and not _offers_something(module):
        for inner in pkgutil.iter_modules(module.__path__):
            lines += [*_title(inner.name, line="-"), *_automodule(f"{module.__name__}.{inner.name}")]
    return "\n".join(lines) + "\n"


def _offers_something(module: ModuleType) -> bool:
    functions = inspect.getmembers(module, inspect.isfunction)
    own = [name for name, function in functions if function.__module__ == module.__name__]
    return hasattr(module, "__all__") or any(not name.startswith("_") for name in own)


def _automodule(name: str) -> list[str]:
    return [f".. automodule:: {name}", "   :members:", "   :member-order: bysource", ""]


def _title(text: str, *, line: str = "=") -> list[str]:
    return [text, line * len(text), ""]


def _first_sentence(module: ModuleType) -> str:
    paragraph = " ".join(inspect.getdoc(module).partition("\n\n")[0].split())
    return f"{paragraph.partition('. ')[0].rstrip('.')}."
