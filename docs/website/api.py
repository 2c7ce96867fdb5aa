"""The pages of the API reference, a page for each module of the package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import cryoem

# As data flow; what is not named here follows in the order of the alphabet.
PIPELINE = (
    "rotations",
    "volumes",
    "registry",
    "projectors",
    "contrast",
    "imaging",
    "calibration",
    "particles",
    "distances",
    "siamese",
    "recovery",
    "gauge",
    "evaluation",
    "reconstruction",
    "refinement",
    "resolution",
    "blockwise",
    "udl",
    "plots",
    "pipeline",
)
COMMANDS = "cli"  # the commands speak for themselves, `cryoem --help`


def write_pages(folder: Path) -> None:
    """Write ``index.rst`` and the pages of the modules into ``folder``, which is made.

    A package is told by what it offers; one that offers nothing itself by pages of the modules in it.
    """
    found = {module.name for module in pkgutil.iter_modules(cryoem.__path__)} - {COMMANDS}
    names = [name for name in PIPELINE if name in found] + sorted(found - set(PIPELINE))
    folder.mkdir(parents=True)
    for name in names:
        module = importlib.import_module(f"cryoem.{name}")
        inner = _modules_to_tell(module)
        for each in inner:
            _write(folder / f"{name}.{each}.rst", [*_title(f"{name}.{each}"), *_automodule(f"{name}.{each}")])
        contents = _contents(f"{name}.{each}" for each in inner)
        _write(folder / f"{name}.rst", [*_title(name), *_automodule(name), *contents])
    _write(folder / "index.rst", [*_title("API reference"), cryoem.__doc__, "", *_contents(names)])


def _write(page: Path, lines: list[str]) -> None:
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _modules_to_tell(module: ModuleType) -> list[str]:
    """Names of the modules in a package that have pages of their own."""
    if not hasattr(module, "__path__") or _offers_something(module):
        return []
    return [inner.name for inner in pkgutil.iter_modules(module.__path__)]


def _contents(names: Iterable[str]) -> list[str]:
    """A list of pages with what each is about, which is the table of contents, too."""
    names, lines = list(names), []
    for name in names:
        lines += [f":doc:`{name}`", f"    {_first_sentence(importlib.import_module(f'cryoem.{name}'))}", ""]
    if names:
        lines += [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names)]
    return lines


def _offers_something(module: ModuleType) -> bool:
    functions = inspect.getmembers(module, inspect.isfunction)
    own = [name for name, function in functions if function.__module__ == module.__name__]
    return hasattr(module, "__all__") or any(not name.startswith("_") for name in own)


def _automodule(name: str) -> list[str]:
    return [f".. automodule:: cryoem.{name}", "   :members:", "   :member-order: bysource", ""]


def _title(text: str) -> list[str]:
    return [text, "=" * len(text), ""]


def _first_sentence(module: ModuleType) -> str:
    paragraph = " ".join(inspect.getdoc(module).partition("\n\n")[0].split())
    return f"{paragraph.partition('. ')[0].rstrip('.')}."
