"""Fitting of a compiled model with Keras' callbacks: history, checkpoints, resume, early stopping.

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
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from cryoem.files.reading import first_line, read_json, sha256_of
from cryoem.files.writing import write_text
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
    """Train a compiled model; resume from checkpoints if there are any.

    Parameters
    ----------
    model : keras.Model
        From ``compile_network`` with the same schedule; trained in place.
    stream : keras.utils.PyDataset
        Batches (inputs, targets). Its attribute ``epoch`` is set before each epoch, also after a resume.
    validation : keras.utils.PyDataset or (inputs, targets)
    schedule : TrainingSchedule
    checkpoints : path, optional
        Folder from which an interrupted training resumes to the same numbers; written after every epoch. Damaged
        checkpoints are discarded with a warning.
    fingerprint : mapping of str to JSON values, optional
        Everything else that determines the numbers: data, seeds, loss.
    callbacks, verbose, validation_batch_size
        Passed to ``model.fit``. Values that callbacks add to the logs at the end of an epoch go into the history.

    Returns
    -------
    dict of str to list of float
        One value for each epoch: ``loss``, ``val_loss``, the metrics, ``learning_rate``, ``step`` and ``seconds`` since
        the start, including the time of interrupted trainings.

    Raises
    ------
    ValueError
        If the checkpoints belong to a different training.
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
    # a training that had ended only restores its weights: fit runs no epoch
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
        # Keras keeps the epoch that it restored on the model, and would start the next fit there
        model._initial_epoch = None
    return {name: past.get(name, []) + values for name, values in fitted.history.items()} or past


class _EpochLog(keras.callbacks.Callback):
    """Set the stream's epoch; add learning rate, step and seconds to the logs; stop when the time is up."""

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
        # with several outputs, Keras puts the output's name before that of its metric
        for name in list(logs):
            logs[name.replace("features_distance", "distance")] = float(logs.pop(name))
        self._seconds = self._seconds_before + time.monotonic() - self._start
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["step"] = (epoch + 1) * len(self._stream)
        logs["seconds"] = self._seconds
        if self.time_is_up():
            self.model.stop_training = True


class _Patience(keras.callbacks.EarlyStopping):
    """Early stopping that also counts epochs run before a resume."""

    def __init__(self, patience: int, past_losses: Sequence[float]):
        super().__init__("val_loss", patience=patience, mode="min")
        self._past_losses = past_losses

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for epoch, loss in enumerate(self._past_losses):
            self.on_epoch_end(epoch, {"val_loss": loss})

    def was_reached(self, model: keras.Model) -> bool:
        """Whether the epochs before a resume ended the training."""
        self.set_model(model)
        model.stop_training = False
        self.on_train_begin()
        return model.stop_training


# --- checkpoints


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
