"""Shared parts of the commands: output, exit codes, checks of output files, and progress bars.

A command prints its answer on stdout, or an error of one sentence on stderr. The exit code is 0 for success, 1 for an
error, 2 for wrong usage, 130 if interrupted (SIGINT), and 143 if terminated (SIGTERM).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
import typer.core

from cryoem.devices import VARIABLE, device_chosen

if TYPE_CHECKING:
    import numpy as np

    from cryoem.particles.files import ParticleFile

NOTHING_WRITTEN = "nothing was written; rerun the command to start over"
NOTHING_CHANGED = "nothing was changed"
_outputs: ContextVar[dict[str, str]] = ContextVar("outputs")  # of the command that runs: options by path
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)  # their messages are complete sentences

MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".ccp4.gz")

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as a JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print the full traceback if an error occurs.")]
Device = Annotated[
    Literal["auto", "cpu", "gpu"] | None,
    typer.Option("--device", help=f"Device to use; by default the value of ${VARIABLE}, otherwise auto."),
]


@dataclass(frozen=True)
class Answer:
    """The result of a command: ``text`` for people, and ``values`` for programs, with names that end in the unit."""

    text: str
    values: Mapping[str, object]


class Command(typer.core.TyperCommand):
    """A command whose usage errors show the value that was given."""

    def make_context(self, *args, **kwargs) -> typer.Context:
        try:
            return super().make_context(*args, **kwargs)
        except typer.BadParameter as error:
            for each in getattr(error.__cause__, "errors", list)():  # of the validation by pydantic
                if (given := f"{each['input']}") not in error.message:
                    error.message += f", got {given}"
            raise


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that temporary files are removed."""


def command(*, afterwards: str, on_device: bool = False) -> Callable:
    """Turn a function that returns an ``Answer`` into a command that prints the answer or error and sets the exit code.

    A parameter whose type is a dataclass, such as ``options.Opening``, stands for one option for each of its fields.
    The command also has the options ``--json`` and ``--debug`` and, if ``on_device`` is true, ``--device``, which sets
    the device of ``cryoem.devices`` while the command runs. Warnings and the output of libraries go to stderr. After an
    interruption, the command prints ``afterwards``, which states what was kept and how to continue.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        parameters, bundles = [], {}
        for each in signature.parameters.values():
            if is_dataclass(each.annotation):
                bundles[each.name] = each.annotation
                parameters += inspect.signature(each.annotation, eval_str=True).parameters.values()
            else:
                parameters.append(each)

        def wrapped(
            *args,
            context: typer.Context,
            device: Device = None,
            as_json: AsJson = False,
            debug: Debug = False,
            **kwargs,
        ) -> None:
            _outputs.set({})
            try:
                for name, bundle in bundles.items():
                    kwargs[name] = bundle(**{field.name: kwargs.pop(field.name) for field in fields(bundle)})
                with _interruptible(), redirect_stdout(sys.stderr), device_chosen(device):
                    answer = function(*args, **kwargs)
            except (typer.Exit, typer.BadParameter):
                raise
            except _Terminated:
                _fail(f"terminated; {afterwards}", code=128 + signal.SIGTERM)
            except KeyboardInterrupt:
                _fail(f"interrupted; {afterwards}", code=128 + signal.SIGINT)
            except Exception as error:
                if debug:
                    raise
                _fail(_sentence(error, context.command.params), code=1)
            typer.echo(json_text(answer.values) if as_json else answer.text)

        own = inspect.signature(wrapped, eval_str=True).parameters.values()
        added = [
            each for each in own if each.kind is each.KEYWORD_ONLY and (on_device or each.name != "device")
        ]
        functools.update_wrapper(wrapped, function)
        # join the lines of each paragraph, because Rich keeps line breaks
        wrapped.__doc__ = re.sub(r"(?<=[^\s\b])\n(?=\S)", " ", inspect.cleandoc(function.__doc__))
        parameters = [each.replace(kind=each.KEYWORD_ONLY) for each in (*parameters, *added)]
        wrapped.__signature__ = signature.replace(parameters=parameters)
        return wrapped

    return decorate


def json_text(values: Mapping[str, object]) -> str:
    """Return values as a JSON object, with null for numbers that are not finite, and paths as strings."""
    return json.dumps(_plain(values), indent=2, allow_nan=False)


def _plain(value):
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise an exception on SIGTERM, and print each warning once, as one line on stderr."""
    shown = set()

    def terminate(*_):
        raise _Terminated

    def show(message, *_, **__) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            typer.echo(f"cryoem: warning: {text}", err=True)
        shown.add(text)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sentence(error: Exception, parameters: list) -> str:
    """Return an error message as one line, in which the name of a parameter at the start is replaced by the option."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # from the system, with an error number
        text = f"cannot access {error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this step{': ' if text else ''}{text}"
    if not isinstance(error, EXPECTED_ERRORS):
        return f"unexpected {type(error).__name__}: {text} (use --debug for the traceback)"
    name, _, rest = text.partition(" ")
    options = {each.name: each.opts[-1] for each in parameters if each.param_type_name == "option"}
    option = options.get(name) or options.get(re.sub("_(angstrom|px)$", "", name))
    return f"{option} {rest}" if option else text


def _fail(sentence: str, *, code: int) -> None:
    typer.echo(f"cryoem: {sentence}", err=True)
    raise typer.Exit(code)


def new_file(
    out: Path, *suffixes: str, force: bool, inputs: Iterable[Path] = (), option: str = "--out"
) -> Path:
    """Return ``out``, the value of ``option``, if the command can write this file; otherwise raise an error.

    The name must end in one of ``suffixes``, the folder must exist and be writable, and the file must be neither an
    input nor another output of the command. If the file exists, ``force`` is required.
    """
    from cryoem.files.writing import check_writable

    if not out.name.lower().endswith(suffixes):
        raise typer.BadParameter(
            f"file name must end in {' or '.join(suffixes)}, got {out}", param_hint=option
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder of {option} {out} does not exist; create it first")
    if out.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {out}")
    outputs, place = _outputs.get(), os.path.realpath(out)
    if place in outputs:
        raise ValueError(f"{outputs[place]} and {option} must be different files, got {out} for both")
    outputs[place] = option
    refuse_input(out, inputs)
    if os.path.lexists(out) and not force:
        raise FileExistsError(f"{out} exists; use --force to overwrite it")
    check_writable(out)
    return out


def refuse_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raise a ValueError if ``out`` is one of the input files of the command."""
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ValueError(
            f"{out} is an input of this command and cannot be its output; choose a different name"
        )


def check_pose_table(table: Path, particles: ParticleFile, *, force: bool, option: str = "--out") -> None:
    """Check that new poses of particles can be written to ``table``, and the stack that some tables need next to it."""
    from cryoem.particles.writing import stack_of_poses

    refuse_input(table, particles.paths)
    if stack := stack_of_poses(table, particles):
        new_file(stack, ".mrcs", force=force, inputs=particles.paths, option=f"the stack of {option}")


def check_images(opened: ParticleFile, *, leave_out_outliers: bool) -> tuple[ParticleFile, np.ndarray]:
    """Check all images of a particle file; return the particles to use, and their indices in the file.

    Errors of the CTF parameters are raised before any image is read.
    """
    from cryoem.particles.outliers import usable_images

    _ = opened.ctf
    with progress("checking", len(opened)) as done:
        rows = usable_images(opened, leave_out_outliers=leave_out_outliers, callback=done)
    return (opened if len(rows) == len(opened) else opened[rows]), rows


def warn_of_repeats(opened: ParticleFile) -> None:
    """Warn if a particle file, from which half-maps are made, lists images more than once."""
    from cryoem.particles.outliers import describe_repeats

    if text := describe_repeats(opened):
        warnings.warn(f"{opened.path}: {text}", UserWarning, stacklevel=2)


@contextmanager
def shared_work(
    description: str, total: int, *, workers: int, scheduler: str | None, **ordering
) -> Iterator[tuple[Callable, Callable[[int], None]]]:
    """Yield ``map_blocks`` and ``callback`` for a step that is divided among workers and shown in a progress bar.

    ``ordering`` contains options of ``workers.in_order``.
    """
    from cryoem.workers import client_of, in_order

    with client_of(workers, scheduler=scheduler) as client, progress(description, total) as done:
        yield functools.partial(in_order, client=client, **ordering), done


@contextmanager
def progress(description: str, total: int, *, unit: str = "image") -> Iterator[Callable[[int], None]]:
    """Show a progress bar if stderr is a terminal, and yield a callback for the number of completed items."""
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit=unit, disable=None, leave=False) as bar:
        yield lambda done: bar.update(done - bar.n)
