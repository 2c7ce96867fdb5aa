"""How a command ends: an answer on stdout, for people or as JSON, or one sentence on stderr, and an exit code.

0: done; 1: an error; 2: wrong usage; 130 and 143: interrupted (SIGINT) and terminated (SIGTERM).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated

import typer

from cryoem.devices import DEVICES, VARIABLE, device_chosen

NOTHING_WRITTEN = "nothing was written, and the same command starts anew"
NOTHING_CHANGED = "nothing was changed"
SPEAK_FOR_THEMSELVES = (ValueError, OSError, RuntimeError, ImportError)

AsJson = Annotated[bool, typer.Option("--json", help="Answer in one JSON object, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help=f"{', '.join(DEVICES)}: where to compute; ${VARIABLE}, or auto, by default."
    ),
]


@dataclass(frozen=True)
class Answer:
    """What a command found: ``text`` for people, ``values`` for programs (names with units, as everywhere)."""

    text: str
    values: Mapping[str, object]


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a command as Ctrl-C does."""


def ends_in_order(*, afterwards: str, on_device: bool = False) -> Callable:
    """Decorate a command that returns an ``Answer``: it gets ``--json`` and ``--debug``, and ends as the module says.

    ``on_device``: it also gets ``--device``, the switch of ``cryoem.devices`` as long as it runs.

    ``afterwards`` says what an interrupted command leaves and how to go on; what is half done is cleared away before it
    ends.  Whatever else is printed meanwhile, and warnings, go to stderr.
    """

    def decorated(command: Callable[..., Answer]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(*args, as_json: bool, debug: bool, device: str | None = None, **kwargs) -> None:
            if device not in (None, *DEVICES):
                raise typer.BadParameter(
                    f"must be one of {', '.join(DEVICES)}, got {device!r}", param_hint="--device"
                )
            try:
                with (
                    _sigterm_raises(),
                    _warnings_in_one_line(),
                    redirect_stdout(sys.stderr),
                    device_chosen(device),
                ):
                    answer = command(*args, **kwargs)
            except (typer.Exit, typer.BadParameter):
                raise
            except _Terminated:
                _end(f"terminated; {afterwards}", code=128 + signal.SIGTERM)
            except KeyboardInterrupt:
                _end(f"interrupted; {afterwards}", code=128 + signal.SIGINT)
            except Exception as error:
                if debug:
                    raise
                sentence = " ".join(str(error).split())
                if not isinstance(error, SPEAK_FOR_THEMSELVES):
                    sentence = f"unexpected {type(error).__name__}: {sentence} (--debug shows where)"
                _end(sentence, code=1)
            typer.echo(json_text(answer.values) if as_json else answer.text)

        signature = inspect.signature(command, eval_str=True)
        options = [("device", Device, None)] if on_device else []
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, annotation, default in (*options, ("as_json", AsJson, False), ("debug", Debug, False))
        ]
        wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
        return wrapped

    return decorated


def json_text(values: Mapping[str, object]) -> str:
    """One JSON object; what is not a finite number is null, paths and other objects are their text."""
    return json.dumps(_plain(values), indent=2, allow_nan=False)


def _plain(value):
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise ``_Terminated``, so that what is half done is cleared away."""

    def raise_terminated(*_):
        raise _Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings as sentences on stderr, without the line of code that gave them."""

    def show(message, *_, **__) -> None:
        sentence = " ".join(str(message).split())
        typer.echo(f"cryoem: warning: {sentence}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _end(sentence: str, *, code: int) -> None:
    typer.echo(f"cryoem: {sentence}", err=True)
    raise typer.Exit(code)
