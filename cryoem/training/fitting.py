"""Fitting of a compiled model with Keras' callbacks: history, checkpoints, resume, early stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from cryoem.training.checkpoints import HISTORY_FILE, EpochBackup, digest, open_checkpoints
from cryoem.training.compilation import TrainingSchedule, computes_in_float16, strategy_scope


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
        Folder that is written after every epoch and from which an interrupted training resumes, with the same numbers
        as without the interruption. Damaged checkpoints are discarded with a warning. By default nothing is written.
    fingerprint : mapping of str to JSON values, optional
        Everything else that determines the numbers: data, seeds, loss. Checkpoints with other values are an error.
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
        shapes = np.frombuffer(repr([tuple(weight.shape) for weight in model.weights]).encode(), np.uint8)
        of_training = {
            "epochs": schedule.epochs,
            "steps": len(stream),
            "learning_rate": schedule.learning_rate,
            "network": f"{model.count_params()} weights, checksum {digest(shapes)}",
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
        """Return whether the epochs before a resume ended the training."""
        self.set_model(model)
        model.stop_training = False
        self.on_train_begin()
        return model.stop_training
