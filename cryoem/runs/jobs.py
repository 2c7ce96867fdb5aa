"""Notebook jobs: a notebook is executed with parameters, and its output is stored in a folder.

A job is a phase of a run or a point of an experiment. ``record.json`` is written last, so that its presence means that
the job is complete. The record contains everything that determines the results, the checksums of the files in the
folder, and the results reported by the notebook.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import cryoem
from cryoem.files.reading import canonical_json, read_json, sha256_of, sources_sha256
from cryoem.files.writing import write_text
from cryoem.runs.execution import NotebookError, code_sha256, execute_notebook, read_notebook

RECORD_FILE = "record.json"
LOCK_FILE = ".lock"
NO_ARTEFACTS = (RECORD_FILE, "*.ipynb", "*.log", ".*")
RECORD_FIELDS = {"id": str, "made_from": dict, "built_on": dict, "artefacts": dict, "results": dict}
NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
KERNEL_ENDS_SECONDS = 2.0  # a kernel checks every second whether its parent process is still running


class RunInProgressError(RuntimeError):
    """Another process is using the same folder."""


@dataclass(frozen=True)
class NotebookJob:
    """A notebook, its parameters, and the folder for its executed copy, results and record.

    Parameters
    ----------
    title : str
        Name of the job, for messages.
    notebook, folder, parameters, environment
        Path of the notebook, folder for its output, and parameters and environment for ``execute_notebook``.
    made_from : mapping
        Everything that determines the results, as JSON values: settings, checksums of input files and versions.
    built_on : mapping
        ``id`` from the record of each earlier job whose results this job reads, by job name.
    """

    title: str
    notebook: Path
    folder: Path
    parameters: Mapping[str, object]
    made_from: Mapping[str, object]
    built_on: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def executed(self) -> Path:
        """Path of the executed notebook."""
        return self.folder / self.notebook.name

    def why_not_current(self) -> str | None:
        """Return why the job must be executed, as the end of a sentence, or None if its results are current."""
        if reason := why_not_current(self.folder, self.made_from, self.built_on):
            return reason
        made_by = read_record(self.folder).get("notebook_sha256")
        if made_by is None:
            return "was run by hand, or interrupted just before it was complete"
        if made_by != code_sha256(read_notebook(self.notebook)):
            return "is out of date because its notebook has changed"
        try:
            read_notebook(self.executed)
        except FileNotFoundError:
            return f"is missing its executed notebook {self.executed.name}"
        except ValueError:
            return f"has a damaged executed notebook {self.executed.name}"
        return None

    def execute(self, *, progress: bool = False) -> dict:
        """Execute the notebook, and return its record.

        Raises
        ------
        NotebookError
            If the notebook fails or does not write its results.
        OSError
            If the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.executed.with_suffix(".partial.ipynb")
        if partial.exists():  # if an earlier attempt was killed recently, let its kernel exit
            time.sleep(KERNEL_ENDS_SECONDS)
        (self.folder / RECORD_FILE).unlink(missing_ok=True)
        self.executed.unlink(missing_ok=True)
        start = time.monotonic()
        options = {"environment": self.environment, "title": self.title, "progress": progress}
        try:
            execute_notebook(self.notebook, partial, parameters=self.parameters, **options)
        except NotebookError as error:
            raise NotebookError(
                f"{self.title} failed: {error}; the partly executed notebook is {partial}"
            ) from error
        try:
            results = read_json(self.folder / RECORD_FILE)["results"]
        except (FileNotFoundError, KeyError):
            raise NotebookError(
                f"{self.title} did not write its results; the executed notebook is {partial}"
            ) from None
        os.replace(partial, self.executed)
        return write_record(
            self.folder,
            made_from=self.made_from,
            built_on=self.built_on,
            results=results,
            seconds=time.monotonic() - start,
            notebook_sha256=code_sha256(read_notebook(self.executed)),
        )


def why_not_current(folder: Path, made_from: Mapping, built_on: Mapping[str, str]) -> str | None:
    """Return why the results in a folder do not belong to a job, as the end of a sentence, or None if they do."""
    record = read_record(folder)
    if record is None:
        return f"has a damaged {RECORD_FILE}" if (folder / RECORD_FILE).exists() else "is not complete"
    wanted, made = json.loads(canonical_json(made_from)), record["made_from"]
    if made != wanted:
        names = [name for name in wanted | made if wanted.get(name) != made.get(name)]
        before, now = (
            ", ".join(f"{name}={one.get(name)!r:.100}" for name in names) for one in (made, wanted)
        )
        return f"was run with {before}, not {now}"
    for name, identifier in built_on.items():
        if record["built_on"].get(name) != identifier:
            return f"is older than the results of {name}"
    found = artefact_checksums(folder)
    for name, sha256 in record["artefacts"].items():
        if name not in found:
            return f"is missing its file {name}"
        if found[name] != sha256:
            return f"has a damaged or modified file {name}"
    return None


def read_record(folder: Path) -> dict | None:
    """Return the record of a job, or None if the job is not complete or the record is damaged."""
    try:
        record = read_json(folder / RECORD_FILE)
    except (FileNotFoundError, ValueError):
        return None
    is_whole = all(isinstance(record.get(name), kind) for name, kind in RECORD_FIELDS.items())
    return record if is_whole else None


def write_record(
    folder: Path,
    *,
    made_from: Mapping[str, object],
    built_on: Mapping[str, str],
    results: Mapping[str, object],
    seconds: float,
    notebook_sha256: str | None = None,
) -> dict:
    """Write the record of a job, which marks the job as complete, and return the record.

    Call this function after all other files of the job have been written. ``results`` are the results reported by the
    notebook, and ``notebook_sha256`` is the checksum of its code, or None if the notebook was run by hand.
    """
    record = {
        "made_from": made_from,
        "built_on": built_on,
        "notebook_sha256": notebook_sha256,
        "artefacts": artefact_checksums(folder),
        "results": results,
    }
    record = {
        "id": hashlib.sha256(canonical_json(record).encode()).hexdigest(),
        **record,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            "cryoem": cryoem.__version__,
            "cryoem_sources_sha256": sources_sha256(),
            **{name: version(name) for name in ("numpy", "scipy", "tensorflow", "keras")},
        },
    }
    write_json(folder / RECORD_FILE, record)
    return record


def artefact_checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of each result file in a job's folder and its subfolder ``figures``, by relative path."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted((*folder.glob("*"), *folder.glob("figures/*")))
        if path.is_file() and not any(path.match(pattern) for pattern in NO_ARTEFACTS)
    }


@contextmanager
def folder_lock(folder: Path, *, remedy: str = "wait for it") -> Iterator[None]:
    """Lock a folder, or raise a RunInProgressError with the ``remedy`` if the folder is in use.

    On a file system without ``flock``, a marker file is used instead, and a warning is issued.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in NO_FLOCK:
                raise
            warnings.warn(
                f"the file system of {folder} does not support locks; do not start a second run in this folder",
                stacklevel=3,
            )
            lock = SoftFileLock(path.with_suffix(".marker"), blocking=False)
            lock.acquire()
    except Timeout:
        dead = f", or delete {lock.lock_file} if that run has ended" if isinstance(lock, SoftFileLock) else ""
        raise RunInProgressError(f"{folder} is in use by another run; {remedy}{dead}") from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, value: Mapping) -> None:
    """Write a value as a JSON file, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False))
