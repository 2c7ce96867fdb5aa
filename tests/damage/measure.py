"""Hand damaged files to their readers, in processes that may die of them, and collect what came of each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from damage.case import Case

MEMORY_BYTES = 200_000_000
CPU_SECONDS = 1.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of one input: the classes of the error (none where it was read), its text, the value that was read,
    the warnings, the seconds of the processor, and the memory that it took at most above what the process had.
    """

    error: tuple[str, ...]
    text: str
    value: str | None
    warnings: tuple[str, ...]
    seconds: float
    peak_bytes: int


def outcomes(
    cases: Sequence[Case],
    folder: Path,
    *,
    memory_bytes: int = MEMORY_BYTES,
    patience_seconds: float = 30.0,
) -> dict[str, Outcome]:
    """Read each case in a process that may take so much memory; outcomes by ``str(case)``.

    A reader that says nothing for ``patience_seconds`` by the clock hangs; that is long, since a busy machine is not a
    reader's fault.
    """
    paths = []
    for number, case in enumerate(cases):
        place = folder / f"{case.reader}-{number:03d}"
        place.mkdir(parents=True)
        paths.append(case.make(place))
    requests = [
        {"reader": case.reader, "path": str(path), "memory": memory_bytes, "seconds": patience_seconds}
        for case, path in zip(cases, paths, strict=True)
    ]
    answers = _answers(requests, sorted({case.reader for case in cases}))
    return {
        str(case): Outcome(
            tuple(answer["error"] or ()),
            answer["text"],
            answer.get("value"),
            tuple(answer.get("warnings", ())),
            answer.get("seconds", float("inf")),
            answer.get("peak_bytes", 0),
        )
        for case, answer in zip(cases, answers, strict=True)
    }


def _answers(requests: list[dict], readers: list[str]) -> list[dict]:
    """Of the worker, by way of files: what a pipe holds is limited, and what libraries print is no answer."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "requests", Path(folder) / "answers"
        asked.write_text("".join(json.dumps(request) + "\n" for request in requests), encoding="utf-8")
        worker = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("worker.py")), str(asked), str(answered), *readers],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"},
            text=True,
            errors="replace",
        )
        answers = [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]
    if worker.returncode != 0 or len(answers) != len(requests):
        raise RuntimeError(
            f"the worker ended after {len(answers)} of {len(requests)} cases: {worker.stderr[-2000:]}"
        )
    return answers


def complaint(case: Case, outcome: Outcome) -> str | None:
    """Why an outcome is not what a damaged input deserves, None where it is: one sentence that names file and field."""
    text = outcome.text
    if not outcome.error:
        return f"was read without an error: {outcome.value}"
    if not {"ValueError", "OSError"} & set(outcome.error):
        return f"raised {outcome.error[0]}: {text}"
    if case.blames not in text:
        return f"does not name {case.blames}: {text}"
    if "\n" in text or text.endswith(".") or len(text) > 1000:
        return f"is not one sentence: {text}"
    if re.search(r"(?i)unable to allocate|cannot allocate|out of memory|\bOOM\b", text):
        return f"ran out of memory: {text}"
    if not re.search(case.says, text):
        return f"does not say {case.says!r}: {text}"
    if outcome.seconds > CPU_SECONDS:
        return f"took {outcome.seconds:.2f} s"
    if outcome.peak_bytes > MEMORY_BYTES:
        return f"took {outcome.peak_bytes / 1e6:.0f} MB"
    return None
