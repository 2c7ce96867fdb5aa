"""Damaged files of every format are either read correctly or raise one sentence that names the file."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from file_formats import FORMATS, Format

pytestmark = pytest.mark.filterwarnings("ignore:.*has no CTF parameters:UserWarning")
FOREIGN = {
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 40,
    "zeros": bytes(4096),
    "random bytes": np.random.default_rng(1).bytes(4096),
    "zip": b"PK\x03\x04" + bytes(500),
    "PDF": b"%PDF-1.7\n" + bytes(range(256)) * 4,
    "UTF-16": "data_ loop_ _rlnImageName 1@a.mrcs".encode("utf-16") * 20,
}


def damages(form: Format, whole: bytes) -> dict[str, tuple[bytes, str | None]]:
    """Return damaged contents and a regular expression for the error of each, or None if it may also be readable."""
    some, any_error = None if form.checked == "nothing" else "", ""
    contents: dict[str, tuple[bytes, str | None]] = {"empty": (b"", any_error)}
    for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
        contents[f"cut at {part:.0%}"] = (whole[: int(part * len(whole))], some)
    contents["cut by a byte"] = (whole[:-1], some)
    contents["first half twice"] = (whole[: len(whole) // 2] * 2, None)
    # Flip bits in headers, at the beginning, more often than in data.
    for position in sorted({int(len(whole) * share**3) for share in np.linspace(0, 0.999, 14)}):
        flipped = bytes([whole[position] ^ (1 << position % 7)])
        contents[f"bit flipped at {position}"] = (whole[:position] + flipped + whole[position + 1 :], None)
    for name, value in (("zeros", b"\0"), ("ones", b"\xff")):
        start = len(whole) // 3
        contents[f"a block of {name}"] = (whole[:start] + value * 64 + whole[start + 64 :], None)
    contents |= {name: (content, any_error) for name, content in FOREIGN.items()}
    return contents | {name: (change(whole), says) for name, (change, says) in form.absurd.items()}


def complaint(form: Format, path: Path, whole: object, says: str | None) -> str | None:
    """Return what is wrong with the way in which a damaged file is handled, or None."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = form.read(form.reader_path(path))
    except (ValueError, OSError) as error:
        text = str(error)
        if path.name not in text and path.parent.name not in text:
            return f"does not name the file: {text}"
        if "\n" in text or text.endswith(".") or len(text) > 1000:
            return f"is not one sentence: {text}"
        return None if re.search(says or "", text) else f"does not match {says!r}: {text}"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if found == whole:
        return f"was not noticed, expected {says!r}" if says else None
    if says is not None or form.checked == "all":
        return f"was read as something else: {str(found)[-80:]}"
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_one_sentence_or_a_correct_read(tmp_path, name):
    form = FORMATS[name]
    path = tmp_path / "folder" / form.file
    path.parent.mkdir()
    form.make(path)
    content, whole = path.read_bytes(), form.read(form.reader_path(path))
    complaints = {}
    for damage, (damaged, says) in damages(form, content).items():
        if damaged == content:
            continue
        path.write_bytes(damaged)
        if why := complaint(form, path, whole, says):
            complaints[damage] = why
        assert path.read_bytes() == damaged
    path.write_bytes(content)
    gc.collect()
    assert not complaints, "\n".join(f"{damage}: {why}" for damage, why in complaints.items())
    assert form.read(form.reader_path(path)) == whole
