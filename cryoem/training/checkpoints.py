"""Checkpoints of a training: the state after each epoch, the history, and a fingerprint of what was trained.

A folder of checkpoints contains

- ``training.json``, the fingerprint: everything that the numbers depend on; a different training is an error,
- ``history.csv``: losses and metrics of each epoch, from Keras' ``CSVLogger``,
- ``epoch-<n>/``: weights and optimizer after n epochs, from Keras' ``BackupAndRestore``, and their checksums.

Keras writes its backup in place, so that a kill would leave a partial file. Here each epoch has a folder, which is
renamed when it is complete. The history is written before the backup; rows of later epochs are ignored.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from cryoem.files.reading import first_line, read_json, sha256_of
from cryoem.files.writing import write_text

FINGERPRINT_FILE = "training.json"
HISTORY_FILE = "history.csv"
CHECKSUM_FILE = "sha256.json"
PARTIAL = ".partial"


class EpochBackup(keras.callbacks.BackupAndRestore):
    """Restore the state after ``epochs_done`` epochs when training starts; save the state after each epoch."""

    def __init__(self, folder: Path, epochs_done: int):
        super().__init__(str(folder / f"epoch-{epochs_done}"), delete_checkpoint=False)
        self._folder = folder

    def on_epoch_end(self, epoch, logs=None):
        partial, complete = self._folder / PARTIAL, self._folder / f"epoch-{epoch + 1}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            backup = keras.callbacks.BackupAndRestore(str(partial), delete_checkpoint=False)
            backup.set_model(self.model)
            backup.on_epoch_end(epoch)
            (partial / CHECKSUM_FILE).write_text(json.dumps(_checksums(partial)), encoding="utf-8")
            os.replace(partial, complete)
        except (OSError, RuntimeError) as error:  # h5py raises either on a full disk
            raise OSError(f"cannot write the checkpoints {self._folder}: {first_line(error)}") from None
        for older in self._folder.glob("epoch-*"):
            if older != complete:
                shutil.rmtree(older, ignore_errors=True)


def open_checkpoints(folder: Path, fingerprint: Mapping[str, object]) -> dict[str, list[float]]:
    """Return the history of a folder of checkpoints; without complete epochs, prepare the folder and return {}.

    Damaged checkpoints are removed with a warning. A ValueError lists the values of the fingerprint that differ.
    """
    fingerprint = json.loads(json.dumps(fingerprint, default=float))  # as it is read from the file
    saved, history = _read(folder)
    if not history:
        for path in (folder / PARTIAL, *folder.glob("epoch-*")):
            shutil.rmtree(path, ignore_errors=True)
        (folder / HISTORY_FILE).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FINGERPRINT_FILE, json.dumps(fingerprint, indent=2))
        return {}
    others = [
        f"{name} {saved.get(name)!r} instead of {fingerprint.get(name)!r}"
        for name in sorted(fingerprint.keys() | saved.keys())
        if saved.get(name) != fingerprint.get(name)
    ]
    if others:
        raise ValueError(
            f"checkpoints {folder} belong to a different training, with {', '.join(others)}; "
            "remove the folder to start over"
        )
    return history


def digest(value: np.ndarray | np.random.Generator) -> str:
    """Return a checksum of an array's shape, type and values, or of a generator's state, for a fingerprint."""
    if isinstance(value, np.random.Generator):
        return hashlib.sha256(repr(value.bit_generator.state).encode()).hexdigest()[:16]
    sha256 = hashlib.sha256(f"{value.shape} {value.dtype}".encode())
    sha256.update(np.ascontiguousarray(value).data)
    return sha256.hexdigest()[:16]


def _read(folder: Path) -> tuple[dict, dict[str, list[float]]]:
    """Fingerprint and history of a folder's last complete epoch; both are empty without one or if it is damaged."""
    numbers = [path.name.removeprefix("epoch-") for path in folder.glob("epoch-*")]
    done = max((int(number) for number in numbers if number.isdecimal()), default=0)
    if not done:
        return {}, {}
    try:
        saved, epoch_folder = read_json(folder / FINGERPRINT_FILE), folder / f"epoch-{done}"
        if read_json(epoch_folder / CHECKSUM_FILE) != _checksums(epoch_folder):
            raise ValueError(f"a file in {epoch_folder.name} differs from its checksum")
        return saved, _read_history(folder / HISTORY_FILE, done)
    except Exception as error:  # damage shows in many ways
        warnings.warn(
            f"checkpoints {folder} are damaged; training starts over: {first_line(error)}",
            stacklevel=5,  # the caller of train
        )
        return {}, {}


def _read_history(path: Path, done: int) -> dict[str, list[float]]:
    """History of the first ``done`` epochs, the last row of each."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = {int(row.pop("epoch")): row for row in csv.DictReader(file)}
    if not rows.keys() >= set(range(done)):
        raise ValueError(f"{path.name} does not contain the history of {done} epochs")
    return {
        name: [
            int(text) if text.isdecimal() else float(text) for text in (rows[i][name] for i in range(done))
        ]
        for name in rows[0]
    }


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 of the files that Keras wrote into a folder, by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUM_FILE}
