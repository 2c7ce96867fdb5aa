"""Execute one notebook with papermill, in a kernel of the running interpreter, with progress."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tqdm import tqdm

from cryoem.errors import first_line
from cryoem.pipeline import kernel
from cryoem.pipeline.lock import kernel_log

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError


class NotebookError(RuntimeError):
    """A cell raised, or the kernel died; the message is one sentence."""


class Progress:
    """A progress bar over the cells of a notebook; what the running cell prints last stands beside it.

    papermill writes the cells' output to it as to a text stream.
    """

    def __init__(self, title: str, *, cells: int, visible: bool):
        self._bar = tqdm(
            total=cells,
            desc=title,
            leave=False,
            dynamic_ncols=True,
            disable=None if visible else True,  # None: no bar where the output is not a terminal
            bar_format="{desc} |{bar:16}| cell {n_fmt}/{total_fmt} {elapsed}{postfix}",
        )

    def cell_started(self, cell, cell_index: int) -> None:
        self._bar.n = cell_index + 1
        self._bar.set_postfix_str("")

    def write(self, text: str) -> None:
        if line := last_line(text):
            self._bar.set_postfix_str(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._bar.close()


def last_line(text: str) -> str:
    """The last line with something on it, as a terminal would show it: no colours, what was overwritten left out."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in re.split(r"[\r\n\b]+", plain)]
    return next((line for line in reversed(lines) if line), "")


def read_notebook(path: Path) -> dict:
    """A notebook as its JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(notebook: dict) -> list[str]:
    """The code of a notebook, cell by cell, without the cell that papermill injects."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [
        "".join(cell["source"])
        for cell in cells
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]


def log_of(output: Path) -> Path:
    """Where the kernel's own words go while a notebook is executed to ``output``."""
    return output.with_suffix(".log")


def warnings_of(notebook: dict) -> list[str]:
    """What an executed notebook warned of, each once."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    said = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
    return list(dict.fromkeys(re.findall(r"^.*\b(?:User|Runtime)Warning: (.+)$", said, re.MULTILINE)))


def execute_notebook(
    notebook: Path, output: Path, *, parameters: dict, environment: dict[str, str], title: str, progress: bool
) -> None:
    """Execute a notebook from the top; ``output`` is saved after every cell.

    Parameters
    ----------
    notebook, output : the notebook, never modified, and where the executed one goes.
    parameters : injected after the cell tagged ``parameters``.
    environment : variables added to the kernel's environment.
    title : of the progress bar.
    progress : whether to show it.

    Raises
    ------
    NotebookError : a cell raised, or the kernel died or did not start; ``output`` keeps what was executed, and
        ``log_of(output)`` what the kernel itself said.
    RunInProgressError : the kernel of an earlier execution does not end.
    OSError : ``output`` cannot be written, such as on a full disk.
    """
    import papermill

    cells = read_notebook(notebook)["cells"]
    bar = Progress(title, cells=len(cells) + 1, visible=progress)  # and the cell that papermill injects
    log = log_of(output)
    try:
        with kernel_log(log) as log_file, _failures_in_one_sentence(output):
            papermill.execute_notebook(
                notebook,
                output,
                parameters=parameters,
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
        log.unlink()
    finally:
        bar.close()


@contextmanager
def _failures_in_one_sentence(output: Path) -> Iterator[None]:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        yield
    except PapermillExecutionError as error:
        raise NotebookError(_error_that_ended(output, error)) from error
    except DeadKernelError as error:
        raise NotebookError("its kernel was killed or ran out of memory") from error
    except RuntimeError as error:  # of jupyter_client
        raise NotebookError(f"its kernel did not start: {first_line(error)}") from error
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(
            f"cannot write {output}: {error.strerror}"
        ) from error  # nothing else is written meanwhile


def _error_that_ended(output: Path, first: PapermillExecutionError) -> str:
    """The last error that the notebook shows: what goes wrong in a destructor is shown, too, and stops nothing."""
    shown = [(first.ename, first.evalue)]
    with suppress(ValueError):  # of a notebook that is cut short by a full disk
        for cell in read_notebook(output)["cells"]:
            errors = (one for one in cell.get("outputs", ()) if one["output_type"] == "error")
            shown += [(error["ename"], error["evalue"]) for error in errors]
    name, message = shown[-1]
    return f"{name}: {' '.join(message.split())}"


def _kernel_manager_class(environment: dict[str, str], log_file: BinaryIO) -> type:
    """Starts kernels with ``sys.executable``, whichever kernelspecs are installed; their own output goes to a file, and
    they end with this process.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    # else the debugger warns of frozen modules, and TensorFlow of every instruction set, in each executed notebook
    quiet = {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }
    described = get_kernel_dict() | {"env": quiet | environment}
    start = described["argv"].index("-m")  # of ipykernel_launcher
    described["argv"][start : start + 2] = [
        "-P",
        str(Path(kernel.__file__)),
    ]  # -P: its folder is nothing to import from
    spec = KernelSpec(**described)

    class RunningInterpreterKernelManager(AsyncKernelManager):
        kernel_spec = spec

        def __init__(self, **options):
            super().__init__(transport_encryption="auto", **options)  # else the kernel warns of eavesdroppers

        async def start_kernel(self, **options):
            await super()._async_start_kernel(stdout=log_file, stderr=log_file, **options)

    return RunningInterpreterKernelManager
