"""Execute notebooks with papermill, in a kernel of the current Python interpreter, and read executed notebooks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from cryoem.files.reading import first_line

# their messages are complete sentences
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError, MemoryError)
SHOWN_WARNINGS = (UserWarning, RuntimeWarning)


def notice(text: str, *, progress: bool) -> None:
    """Print a line on stderr if progress is shown."""
    if progress:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class NotebookError(RuntimeError):
    """A cell raised an error, or the kernel died or did not start."""


def execute_notebook(
    notebook: Path,
    output: Path,
    *,
    parameters: Mapping[str, object],
    environment: Mapping[str, str],
    title: str = "",
    progress: bool = False,
) -> None:
    """Execute a notebook in a kernel of the current Python interpreter, and save the executed copy after every cell.

    Parameters
    ----------
    notebook, output : Path
        Path of the notebook, which is not modified, and path of its executed copy.
    parameters : mapping
        Values to inject after the cell tagged ``parameters``.
    environment : mapping
        Additional environment variables for the kernel.
    title, progress : str and bool
        Title of the progress bar, and whether to show the bar if stderr is a terminal or that of a notebook.

    Raises
    ------
    NotebookError
        If a cell raises an error, or the kernel dies or does not start. ``output`` then contains the results up to
        that point, and a ``.log`` file with the same name contains the messages of the kernel process.
    OSError
        If ``output`` cannot be written, for example because the disk is full.
    """
    from cryoem.plots.template import import_nbformat

    import_nbformat()
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # papermill also raises the errors that it logs
    log = output.with_suffix(".log")
    shown = {
        "total": len(read_notebook(notebook)["cells"]) + 1,  # papermill injects one cell
        "desc": title,
        "leave": False,
        "dynamic_ncols": True,
        "disable": not (progress and _shows_progress()),
        "mininterval": 0.5,
        "bar_format": "{desc} |{bar:16}| cell {n_fmt}/{total_fmt} {elapsed}{postfix}",
    }
    try:
        with open(log, "wb") as log_file, _CellProgress(**shown) as bar:
            papermill.execute_notebook(
                notebook,
                output,
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=notebook.parent,
                progress_bar=False,
                stdout_file=bar,
                stderr_file=bar,
                on_cell_start=bar.cell_started,
                coalesce_streams=True,
                kernel_manager_class=_kernel_manager_class(environment, log_file),
            )
    except KeyboardInterrupt:
        # the abandoned task that waits for the kernel would log an error
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except PapermillExecutionError as error:
        raise NotebookError(_last_error(output) or _sentence(error.ename, error.evalue)) from error
    except DeadKernelError as error:
        raise NotebookError("the kernel was killed or ran out of memory") from error
    except RuntimeError as error:  # from jupyter_client
        raise NotebookError(f"the kernel did not start: {first_line(error)}") from error
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        # the only file that papermill writes is the output
        raise OSError(f"cannot write {output}: {error.strerror}") from error
    log.unlink()


def _shows_progress() -> bool:
    """Return whether stderr is a terminal or is shown in a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")


class _CellProgress(tqdm):
    """A progress bar over the cells of a notebook that shows the last line printed by the running cell."""

    def cell_started(self, cell, cell_index: int) -> None:
        self.n = cell_index + 1
        if not self.disable:
            self.set_postfix_str("")

    def write(self, text: str) -> None:
        """Show the last line of ``text``, which papermill receives from the running cell."""
        if not self.disable and (line := _last_line(text)):
            self.set_postfix_str(line)

    def flush(self) -> None:
        pass


def _last_line(text: str) -> str:
    """Return the last non-empty line as shown in a terminal, without colour codes and overwritten text."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in re.split(r"[\r\n\b]+", plain)]
    return next((line for line in reversed(lines) if line), "")


def _last_error(executed: Path) -> str:
    """Return the last error in a notebook, which stopped it; earlier errors were only displayed."""
    try:
        cells = read_notebook(executed)["cells"]
    except ValueError:  # the notebook is truncated if the disk was full
        return ""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    errors = [output for output in outputs if output["output_type"] == "error"]
    return _sentence(errors[-1]["ename"], " ".join(errors[-1]["evalue"].split()))


def _sentence(name: str, text: str) -> str:
    """Return the message of an error of the class ``name``, which begins with the name if the error is unexpected."""
    if name in _names_of(EXPECTED_ERRORS):
        return re.sub(r"^\[Errno \d+\] ", "", text) or name
    return f"{name}: {text}"


def _names_of(kinds: tuple[type, ...]) -> set[str]:
    """Return the names of classes and of their subclasses in Python and in the loaded modules of this package.

    The output of a notebook contains only the names of the classes.
    """
    names = {kind.__name__ for kind in kinds if re.match(r"(builtins|cryoem\.)", kind.__module__)}
    return names.union(*(_names_of(tuple(kind.__subclasses__())) for kind in kinds))


def _kernel_manager_class(environment: Mapping[str, str], log_file: BinaryIO) -> type:
    """Return a kernel manager that uses ``sys.executable``, whether or not a kernelspec is installed."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    # hide warnings from the debugger and TensorFlow, which would appear in every executed notebook
    quiet = {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }
    spec = KernelSpec(**get_kernel_dict() | {"env": quiet | dict(environment)})

    class RunningInterpreterKernelManager(AsyncKernelManager):
        kernel_spec = spec

        def __init__(self, **options):
            # encrypt if ZeroMQ supports it, without a warning if it does not
            super().__init__(transport_encryption="auto", **options)

        async def start_kernel(self, **options):
            await super()._async_start_kernel(stdout=log_file, stderr=log_file, **options)

    return RunningInterpreterKernelManager


def read_notebook(path: Path) -> dict:
    """Read a notebook, and return its JSON content."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_sha256(notebook: dict) -> str:
    """Return the sha256 of the code cells of a notebook, without the cell injected by papermill."""
    sha256 = hashlib.sha256()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", []):
            sha256.update("".join(cell["source"]).encode() + b"\n\0")
    return sha256.hexdigest()


def warnings_of(notebook: dict) -> list[str]:
    """Return each different UserWarning and RuntimeWarning, or subclass of them, in the output of a notebook."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    stderr = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
    names = "|".join(_names_of(SHOWN_WARNINGS))
    return list(dict.fromkeys(re.findall(rf"^.*\b(?:{names}): (.+)$", stderr, re.MULTILINE)))
