"""One point of a grid on the disk: executed, recorded, and recognised when it is asked for again.

``point.json`` is written last and whole: its presence means that the point is complete.  It names the parameters, the
code of the notebook and of this package and the versions that made it, and holds the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cryoem
from cryoem.pipeline.execution import NotebookError, code_of, execute_notebook, log_of, read_notebook
from cryoem.pipeline.files import canonical_json, write_text
from cryoem.pipeline.inputs import sha256_of
from cryoem.pipeline.lock import wait_for_kernel
from cryoem.plain_files import read_json
from cryoem.sources import sources_sha256
from cryoem.whole_files import remove_left_overs, to_disk

RECORD_FILE, ROWS_FILE, NOTEBOOK_FILE = "point.json", "rows.json", "executed.ipynb"
PARTIAL_NOTEBOOK_FILE = "partial.ipynb"
PACKAGES = ("numpy", "scipy", "keras", "tensorflow")


class PointFailedError(RuntimeError):
    """A point's notebook stopped; the message says where and why."""


@dataclass(frozen=True)
class Point:
    """``title``: for the reader; ``notebook``: to execute, with ``parameters``; ``folder``: of the result; ``sources``:
    checksum of this package's code.
    """

    title: str
    notebook: Path
    parameters: Mapping[str, object]
    folder: Path
    sources: str = field(default_factory=sources_sha256)

    def fingerprint(self) -> dict:
        """What makes the result what it is: parameters, code, versions, and a map that is a file."""
        code = "\n\0".join(code_of(read_notebook(self.notebook)))
        made_from = {
            "parameters": dict(self.parameters),
            "notebook_sha256": hashlib.sha256(code.encode()).hexdigest(),
            "sources_sha256": self.sources,
            "versions": {"cryoem": cryoem.__version__} | {name: version(name) for name in PACKAGES},
        }
        map_name = self.parameters.get("map_name", "")
        if os.sep in map_name:
            made_from["map_sha256"] = sha256_of(Path(map_name))
        return json.loads(canonical_json(made_from))  # as it comes back from the file

    def record(self) -> dict | None:
        """The record of this point; None where it is not complete, or was made from something else."""
        try:
            record = read_json(self.folder / RECORD_FILE)
            is_current = record["made_from"] == self.fingerprint()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if is_current else None


def execute_point(point: Point, *, home: Path, progress: bool) -> dict:
    """Execute a point's notebook and write its record.

    Parameters
    ----------
    home : the data folder of its kernel.
    progress : whether to show a bar.

    Returns
    -------
    The record: ``made_from``, ``rows``, ``seconds``.

    Raises
    ------
    PointFailedError : a cell raised, the kernel died, or the notebook handed back no rows.
    """
    folder = point.folder
    folder.mkdir(parents=True, exist_ok=True)
    wait_for_kernel(log_of(folder / PARTIAL_NOTEBOOK_FILE))
    remove_left_overs(folder)
    for name in (RECORD_FILE, ROWS_FILE, NOTEBOOK_FILE):
        (folder / name).unlink(missing_ok=True)
    partial = folder / PARTIAL_NOTEBOOK_FILE
    made_from = point.fingerprint()
    start = time.monotonic()
    try:
        execute_notebook(
            point.notebook,
            partial,
            parameters={**point.parameters, "rows_file": str(folder / ROWS_FILE)},
            environment={"CRYOEM_HOME": str(home)},
            title=point.title,
            progress=progress,
        )
    except NotebookError as error:
        raise PointFailedError(
            f"{point.title} stopped: {error}; the partly executed notebook is {partial}"
        ) from error
    if not (folder / ROWS_FILE).is_file():
        raise PointFailedError(f"{point.title} ran to its end without save_rows(); its notebook is {partial}")
    rows = json.loads((folder / ROWS_FILE).read_text(encoding="utf-8"))
    record = {"made_from": made_from, "rows": rows, "seconds": time.monotonic() - start}
    to_disk(partial)
    os.replace(partial, folder / NOTEBOOK_FILE)
    write_text(folder / RECORD_FILE, json.dumps(record, allow_nan=False))
    (folder / ROWS_FILE).unlink()
    return record
