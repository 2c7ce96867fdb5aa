"""Training of an encoder with ``model.fit``: schedule, checkpoints, early stop, resume."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from cryoem.checks import positive_number, square_images, whole_number
from cryoem.siamese.losses import LOSSES, METRICS
from cryoem.siamese.stream import ProjectionStream

WARM_UP_STEPS = 50
LAST_RATE = 0.05
HISTORY_FILE = "history.json"


def train(
    encoder: keras.Model,
    stream: ProjectionStream,
    *,
    epochs: int,
    validation: tuple[np.ndarray, np.ndarray],
    feature_distance: str = "kernel",
    learning_rate: float = 2e-3,
    patience: int | None = None,
    seconds: float | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train an encoder so that the distances of its features are those of the orientations.

    AdamW with a short linear warm-up and a cosine fall of the learning rate over all epochs.

    Parameters
    ----------
    encoder : from ``build_encoder``; trained in place.
    stream : fresh batches; its length is the number of steps of an epoch.
    epochs : to train for.
    validation : (images (n, y, x), quaternions (n, 4)) that the stream does not hold.
    feature_distance : ``"kernel"``, ``"cosine"`` or ``"euclidean"``, see ``losses``.
    learning_rate : at its highest.
    patience : stop after so many epochs without a lower validation loss; never by default.
    seconds : stop after the epoch in which this time has passed; never by default.
    checkpoints : folder that is written after every epoch and from which an interrupted training goes on, with the same
        numbers as if it had not been interrupted; none by default.
    callbacks, verbose : passed to ``model.fit``.

    Returns
    -------
    History, one value an epoch: ``loss``, ``val_loss``, ``distance_error_rad`` and ``val_distance_error_rad`` (mean
    absolute error of the distances of a batch), ``learning_rate``, ``step``, ``seconds`` (since the start, all
    interrupted trainings counted).

    Raises
    ------
    ValueError : ``feature_distance`` is unknown, ``epochs`` is below 1, the learning rate is not positive,
        the validation set does not suit the encoder, or ``checkpoints`` hold a damaged state.
    """
    if feature_distance not in LOSSES:
        raise ValueError(f"feature_distance must be one of {', '.join(LOSSES)}, got {feature_distance!r}")
    epochs = whole_number(epochs, name="epochs", at_least=1)
    positive_number(learning_rate, name="learning_rate")
    images, quaternions = (
        square_images(validation[0], name="validation images", at_least=2),
        np.asarray(validation[1]),
    )
    if images.shape[1:] != encoder.input_shape[1:]:
        raise ValueError(
            f"validation images must be {encoder.input_shape[1:]} for this encoder, got {images.shape[1:]}"
        )
    if quaternions.shape != (len(images), 4) or not np.allclose(
        np.linalg.norm(quaternions, axis=1), 1, atol=1e-3
    ):
        raise ValueError(
            f"validation must hold {len(images)} unit quaternions (n, 4), got shape {quaternions.shape}"
        )
    total = epochs * len(stream)
    schedule = keras.optimizers.schedules.CosineDecay(
        LAST_RATE * learning_rate,
        decay_steps=max(1, total - WARM_UP_STEPS),
        alpha=LAST_RATE,
        warmup_target=learning_rate,
        warmup_steps=min(WARM_UP_STEPS, total - 1),
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=1.0)
    encoder.compile(optimizer=optimizer, loss=LOSSES[feature_distance], metrics=[METRICS[feature_distance]])
    folder = None if checkpoints is None else Path(checkpoints)
    first_epoch, history = (0, {}) if folder is None else _restore(encoder, folder)
    record = _Record(stream, folder, history, patience=patience, seconds=seconds)
    if record.is_over():
        return history
    encoder.fit(
        stream,
        initial_epoch=first_epoch,
        epochs=epochs,
        validation_data=(images, quaternions.astype(np.float32)),
        validation_batch_size=_validation_batch(len(images)),
        callbacks=[record, *callbacks],
        verbose=verbose,
        shuffle=False,
    )
    return record.history


def _validation_batch(n: int) -> int:
    """At most 128 images, such that the last batch of n is not a single one, which has no pair."""
    return next(size for size in range(min(128, n), 1, -1) if n % size != 1)


class _Record(keras.callbacks.Callback):
    """Keep the history and, in ``folder``, the state of the training; tell the stream its epoch; stop when it
    is over.
    """

    def __init__(
        self,
        stream: ProjectionStream,
        folder: Path | None,
        history: dict,
        *,
        patience: int | None,
        seconds: float | None,
    ):
        super().__init__()
        self.history: dict[str, list[float]] = history
        self._stream, self._folder, self._patience, self._limit = stream, folder, patience, seconds
        self._elapsed_before = history["seconds"][-1] if history else 0.0

    def is_over(self) -> bool:
        """True when the time is up, or the validation loss has not fallen for ``patience`` epochs."""
        if not self.history:
            return False
        if self._limit is not None and self.history["seconds"][-1] >= self._limit:
            return True
        losses = np.nan_to_num(self.history["val_loss"], nan=np.inf)
        return self._patience is not None and len(losses) - 1 - int(np.argmin(losses)) >= self._patience

    def on_train_begin(self, logs=None):
        self._start = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._stream.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        numbers = {name: float(value) for name, value in logs.items()}
        numbers["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        numbers["step"] = (epoch + 1) * len(self._stream)
        numbers["seconds"] = self._elapsed_before + time.monotonic() - self._start
        for name, value in numbers.items():
            self.history.setdefault(name, []).append(value)
        if self._folder is not None:
            _save_state(self.model, self._folder, epoch + 1, self.history)
        if self.is_over():
            self.model.stop_training = True


def _save_state(encoder: keras.Model, folder: Path, epochs_done: int, history: dict) -> None:
    """Write history, then weights and optimizer, whose file name says the epoch; the older state goes last."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".partial-{HISTORY_FILE}"
    aside.write_text(json.dumps(history), encoding="utf-8")
    os.replace(aside, folder / HISTORY_FILE)
    aside = folder / ".partial-state.weights.h5"
    encoder.save_weights(aside, overwrite=True)
    os.replace(aside, _state_path(folder, epochs_done))
    for epoch in _saved_epochs(folder):
        if epoch < epochs_done:
            _state_path(folder, epoch).unlink()


def _restore(encoder: keras.Model, folder: Path) -> tuple[int, dict[str, list[float]]]:
    """Load the latest state of an interrupted training; the number of epochs it had done and their history."""
    epochs = _saved_epochs(folder)
    if not epochs:
        return 0, {}
    latest = max(epochs)
    try:
        kept = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
        history = {name: values[:latest] for name, values in kept.items()}
        if not history or {len(values) for values in history.values()} != {latest}:
            raise ValueError(f"its history does not hold {latest} epochs")
        encoder.optimizer.build(encoder.trainable_variables)
        encoder.load_weights(_state_path(folder, latest))
    except Exception as error:  # Keras, h5py and TensorFlow each raise their own kinds
        raise ValueError(
            f"checkpoints {folder} hold no usable training state, remove it to train anew: {first_line(error)}"
        ) from None
    return latest, history


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":")


def _state_path(folder: Path, epochs_done: int) -> Path:
    return folder / f"after-epoch-{epochs_done}.weights.h5"


def _saved_epochs(folder: Path) -> list[int]:
    return [
        int(path.name.split(".")[0].rsplit("-", 1)[1]) for path in folder.glob("after-epoch-*.weights.h5")
    ]
