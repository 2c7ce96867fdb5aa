"""Training of a compiled model with Keras callbacks: history, checkpoints, resuming and early stopping.

A checkpoint folder contains

- ``training.json``: the fingerprint, which is everything that determines the numbers; a mismatch is an error;
- ``history.csv``: losses and metrics of each epoch, written by Keras' ``CSVLogger``;
- ``epoch-<n>/``: weights and optimizer state after n epochs, written by Keras' ``BackupAndRestore``, with checksums.

Keras overwrites its backup in place, so a killed process could leave a partial file. Here each epoch is written to a
temporary folder, which is renamed when it is complete. The history is written before the backup; rows of epochs
without a backup are ignored.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoem.files.reading import first_line, read_json, sha256_of
from cryoem.files.writing import write_text
from cryoem.training.backend import keras
from cryoem.training.compilation import TrainingSchedule, computes_in_float16, strategy_scope

FINGERPRINT_FILE = "training.json"
HISTORY_FILE = "history.csv"
CHECKSUM_FILE = "sha256.json"
PARTIAL = ".partial"


def fit(
    model: keras.Model,
    stream: keras.utils.PyDataset,
    validation: keras.utils.PyDataset | tuple,
    *,
    schedule: TrainingSchedule,
    checkpoints: str | os.PathLike | None = None,
    fingerprint: Mapping[str, object] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    validation_batch_size: int | None = None,
) -> dict[str, list[float]]:
    """Train a compiled model, resuming from checkpoints if there are any.

    Parameters
    ----------
    model : keras.Model
        Model compiled by ``compile_network`` with the same schedule; trained in place.
    stream : keras.utils.PyDataset
        Training batches (inputs, targets). Its attribute ``epoch`` is set before each epoch, including after a resume.
    validation : keras.utils.PyDataset or (inputs, targets)
        Validation data.
    schedule : TrainingSchedule
        Learning rate and stopping criteria.
    checkpoints : path, optional
        Folder to which a checkpoint is written after every epoch. An interrupted run resumes from it and produces the
        same results as an uninterrupted run. Damaged checkpoints are discarded with a warning. Default: no checkpoints.
    fingerprint : mapping of str to JSON values, optional
        Everything else that determines the results, such as the data, the seeds and the loss. It is stored with the
        checkpoints, and training resumes only if it has not changed.
    callbacks, verbose, validation_batch_size
        Passed to ``model.fit``. The history includes values that callbacks add to the logs at the end of an epoch.

    Returns
    -------
    dict of str to list of float
        One value per epoch for each of ``loss``, ``val_loss``, the metrics, ``learning_rate``, ``step`` and
        ``seconds``, which is the elapsed training time, including the time before interruptions.

    Raises
    ------
    ValueError
        If the checkpoints belong to a different training run.
    OSError
        If the checkpoints cannot be written.
    """
    past: dict[str, list[float]] = {}
    saving = []
    if checkpoints is not None:
        shapes = repr([tuple(weight.shape) for weight in model.weights]).encode()
        of_training = {
            "epochs": schedule.epochs,
            "steps": len(stream),
            "learning_rate": schedule.learning_rate,
            "network": f"{model.count_params()} weights, checksum {digest(np.frombuffer(shapes, np.uint8))}",
            "precision": "mixed_float16" if computes_in_float16(model) else "float32",
        }
        folder = Path(checkpoints)
        past = open_checkpoints(folder, of_training | dict(fingerprint or {}))
        saving = [
            keras.callbacks.CSVLogger(folder / HISTORY_FILE, append=True),
            EpochBackup(folder, len(past.get("loss", ()))),
        ]
    stops = [] if schedule.patience is None else [_Patience(schedule.patience, past.get("val_loss", []))]
    log = _EpochLog(stream, schedule.seconds, past)
    # if training had already ended, fit runs no epoch and only restores the weights
    ended = log.time_is_up() or any(stop.was_reached(model) for stop in stops)
    try:
        with strategy_scope(model):
            fitted = model.fit(
                stream,
                epochs=len(past.get("loss", ())) if ended else schedule.epochs,
                validation_data=validation,
                validation_batch_size=validation_batch_size,
                callbacks=[*callbacks, log, *saving, *stops],
                verbose=verbose,
                shuffle=False,
            )
    finally:
        for logger in saving[:1]:
            logger.on_train_end()  # also close the file after an exception
        # Keras stores the restored epoch on the model and would start the next fit from it
        model._initial_epoch = None
    return {name: past.get(name, []) + values for name, values in fitted.history.items()} or past


class _EpochLog(keras.callbacks.Callback):
    """Set the stream's epoch; log the learning rate, step and elapsed seconds; stop at the time limit."""

    def __init__(self, stream, limit_seconds: float | None, past: Mapping[str, list[float]]):
        super().__init__()
        self._stream, self._limit = stream, limit_seconds
        self._seconds = self._seconds_before = past["seconds"][-1] if past else 0.0

    def time_is_up(self) -> bool:
        return self._limit is not None and self._seconds >= self._limit

    def on_train_begin(self, logs=None):
        self._start = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._stream.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        # with several outputs, Keras prefixes the metric's name with the output's name
        for name in list(logs):
            logs[name.replace("features_distance", "distance")] = float(logs.pop(name))
        self._seconds = self._seconds_before + time.monotonic() - self._start
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["step"] = (epoch + 1) * len(self._stream)
        logs["seconds"] = self._seconds
        if self.time_is_up():
            self.model.stop_training = True


class _Patience(keras.callbacks.EarlyStopping):
    """Early stopping that also counts the epochs before a resume."""

    def __init__(self, patience: int, past_losses: Sequence[float]):
        super().__init__("val_loss", patience=patience, mode="min")
        self._past_losses = past_losses

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for epoch, loss in enumerate(self._past_losses):
            self.on_epoch_end(epoch, {"val_loss": loss})

    def was_reached(self, model: keras.Model) -> bool:
        """Return whether the epochs before a resume already exhausted the patience."""
        self.set_model(model)
        model.stop_training = False
        self.on_train_begin()
        return model.stop_training


# --- checkpoints


class EpochBackup(keras.callbacks.BackupAndRestore):
    """Restore the state after ``epochs_done`` epochs when training starts, and save the state after each epoch."""

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
        except (OSError, RuntimeError) as error:  # h5py may raise either if the disk is full
            raise OSError(f"cannot write checkpoints to {self._folder}: {first_line(error)}") from None
        for older in self._folder.glob("epoch-*"):
            if older != complete:
                shutil.rmtree(older, ignore_errors=True)


def open_checkpoints(folder: Path, fingerprint: Mapping[str, object]) -> dict[str, list[float]]:
    """Return the history in a checkpoint folder; if it contains no complete epoch, prepare it and return {}.

    Damaged checkpoints are removed with a warning. If the fingerprint differs, a ValueError lists the differences.
    """
    fingerprint = json.loads(json.dumps(fingerprint, default=float))  # the form in which it is read back
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
            f"checkpoints in {folder} belong to a different training run ({', '.join(others)}); "
            "remove the folder to start over"
        )
    return history


def digest(value: np.ndarray | np.random.Generator) -> str:
    """Return a checksum of an array's shape, dtype and values, or of a generator's state, for use in a fingerprint."""
    if isinstance(value, np.random.Generator):
        return hashlib.sha256(repr(value.bit_generator.state).encode()).hexdigest()[:16]
    sha256 = hashlib.sha256(f"{value.shape} {value.dtype}".encode())
    sha256.update(np.ascontiguousarray(value).data)
    return sha256.hexdigest()[:16]


def _read(folder: Path) -> tuple[dict, dict[str, list[float]]]:
    """Return the fingerprint and the history up to the last complete epoch; empty if there is none or it is damaged."""
    numbers = [path.name.removeprefix("epoch-") for path in folder.glob("epoch-*")]
    done = max((int(number) for number in numbers if number.isdecimal()), default=0)
    if not done:
        return {}, {}
    try:
        saved, epoch_folder = read_json(folder / FINGERPRINT_FILE), folder / f"epoch-{done}"
        if read_json(epoch_folder / CHECKSUM_FILE) != _checksums(epoch_folder):
            raise ValueError(f"a file in {epoch_folder.name} does not match its checksum")
        return saved, _read_history(folder / HISTORY_FILE, done)
    except Exception as error:  # damaged files raise many kinds of errors
        warnings.warn(
            f"checkpoints in {folder} are damaged, so training starts over: {first_line(error)}",
            stacklevel=5,  # the caller of train
        )
        return {}, {}


def _read_history(path: Path, done: int) -> dict[str, list[float]]:
    """Return the history of the first ``done`` epochs, using the last row of each epoch."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = {int(row.pop("epoch")): row for row in csv.DictReader(file)}
    if not rows.keys() >= set(range(done)):
        raise ValueError(f"{path.name} does not contain all epochs up to {done}")
    return {
        name: [
            int(text) if text.isdecimal() else float(text) for text in (rows[i][name] for i in range(done))
        ]
        for name in rows[0]
    }


def _checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 checksums of the files that Keras wrote to a folder, by file name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUM_FILE}
