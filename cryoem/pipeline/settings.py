"""What a setting of a profile may be: its type, range and choices."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import get_args


def setting(meaning: str, default, *, phase: int, minimum: float | None = None, choices: tuple = ()):
    """A dataclass field: what it means, its default, the number of the first phase that reads it, what it may be."""
    rules = {"minimum": minimum, "choices": choices}
    return dataclasses.field(default=default, metadata={"meaning": meaning, "phase": phase, "rules": rules})


class Settings(SimpleNamespace):
    """The settings that a phase may read, as attributes; another name, or a later phase's, raises AttributeError."""

    def __getattr__(self, name):
        raise AttributeError(f"this phase has no setting {name!r}, only {', '.join(vars(self))}")


def checked(name: str, value, hint, *, minimum: float | None, choices: tuple):
    """The value of a setting, an int made a float where the type asks for it.

    Raises
    ------
    ValueError : it is not of the type, not finite, below the minimum, or not one of the choices.
    """
    types = _types(hint)
    if float in types and type(value) is int:
        value = float(value)
    if type(value) not in types:
        raise ValueError(f"{name} must be {_described(types)}, got {value!r}")
    if choices and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if minimum is not None and value is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def from_text(name: str, text: str, hint):
    """The value that a text stands for, by type: ``none``, ``true`` and ``false`` where the type has them.

    Raises
    ------
    ValueError : the text is no such value.
    """
    readers = {
        NoneType: {"none": None}.__getitem__,
        bool: {"true": True, "false": False}.__getitem__,
        int: int,
        float: float,
        str: str,
    }
    types = _types(hint)
    for kind, read in readers.items():
        if kind in types:
            try:
                return read(text)
            except (KeyError, ValueError):
                continue
    raise ValueError(f"{name} must be {_described(types)}, got {text!r}")


def is_path(map_name: str) -> bool:
    """True where a map's name is a path: it has a folder or a suffix, which no registry name has."""
    return os.sep in map_name or Path(map_name).suffix != ""


def located(map_name: str) -> str:
    """An absolute path for a path, because notebooks run in another folder; a registry name as it is.

    Raises
    ------
    FileNotFoundError : there is no such file.
    """
    if not is_path(map_name):
        return map_name
    path = Path(map_name).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(f"map_name must be a map file or a registry name, there is no file {path}")
    return str(path)


def _types(hint) -> tuple[type, ...]:
    return get_args(hint) or (hint,)


def _described(types: tuple[type, ...]) -> str:
    return " or ".join("None" if kind is NoneType else kind.__name__ for kind in types)
