"""Trainings that can be watched, stopped and resumed: history, checkpoints, early stop."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from cryoem.errors import first_line
from cryoem.replicas import scope_of
from cryoem.whole_files import remove_left_overs, written_aside

STATE_FILE = "state.json"
MADE_FROM_FILE = "made-from.json"
WEIGHTS_FILES = "after-epoch-*.weights.h5"


class Record(keras.callbacks.Callback):
    """Keep the history and, in ``folder``, the state of the training; tell the stream its epoch; stop when it
    is over.
    """

    def __init__(
        self,
        stream: keras.utils.PyDataset,
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
        # of several outputs, Keras puts the output's name before that of its metric
        numbers = {
            name.replace("features_distance", "distance"): float(value) for name, value in logs.items()
        }
        numbers["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        numbers["step"] = (epoch + 1) * len(self._stream)
        numbers["seconds"] = self._elapsed_before + time.monotonic() - self._start
        for name, value in numbers.items():
            self.history.setdefault(name, []).append(value)
        if self._folder is not None:
            _save_state(self.model, self._folder, epoch + 1, self.history)
        if self.is_over():
            self.model.stop_training = True


def _save_state(model: keras.Model, folder: Path, epochs_done: int, history: dict) -> None:
    """Write weights and optimizer, whose file name says the epoch, then the file that makes them count, which has their
    checksum and the history; the older state goes last.
    """
    weights = _weights_path(folder, epochs_done)
    with written_aside(weights) as aside:
        model.save_weights(aside, overwrite=True)
    state = {"epochs": epochs_done, "sha256": _sha256(weights), "history": history}
    with written_aside(folder / STATE_FILE) as aside:
        aside.write_text(json.dumps(state), encoding="utf-8")
    for path in folder.glob(WEIGHTS_FILES):
        if path != weights:
            path.unlink()


def restore(
    model: keras.Model, folder: Path, made_from: Mapping[str, object]
) -> tuple[int, dict[str, list[float]]]:
    """Load the latest state of an interrupted training; the number of epochs it had done and their history.

    ``made_from`` is what the training's numbers come from, by name, as JSON has it; see ``digest`` for arrays.  A
    folder without a state is given it, one with a state must have been made from the same.  A state that is not as it
    was written is said to be so by a warning, and the training begins anew.

    Raises
    ------
    ValueError : the state is of a training that was made from something else, or of another model.
    OSError : the folder cannot be written.
    """
    made_from = json.loads(json.dumps(made_from, default=float))  # as it comes back from the file
    remove_left_overs(folder)
    state = _whole_state(folder)
    if state is None:
        for path in (folder / STATE_FILE, *folder.glob(WEIGHTS_FILES)):
            path.unlink(missing_ok=True)
        with written_aside(folder / MADE_FROM_FILE) as aside:
            aside.write_text(json.dumps(made_from, indent=2), encoding="utf-8")
        return 0, {}
    before = state["made_from"]
    others = [
        f"{name} {before.get(name)!r} and not {made_from.get(name)!r}"
        for name in sorted(made_from.keys() | before.keys())
        if before.get(name) != made_from.get(name)
    ]
    if others:
        raise ValueError(
            f"checkpoints {folder} are of another training, with {', '.join(others)}; remove it to train anew"
        )
    try:
        with scope_of(model):
            model.optimizer.build(model.trainable_variables)
        model.load_weights(_weights_path(folder, state["epochs"]))
    except Exception as error:  # Keras, h5py and TensorFlow each raise their own kinds
        raise ValueError(
            f"checkpoints {folder} are not of this model, remove it to train anew: {first_line(error)}"
        ) from None
    return state["epochs"], state["history"]


def _whole_state(folder: Path) -> dict | None:
    """Epochs, history and what they were made from; None where nothing was kept, or not what was written."""
    if not (folder / STATE_FILE).is_file():
        return None
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        state["made_from"] = dict(json.loads((folder / MADE_FROM_FILE).read_text(encoding="utf-8")))
        lengths = {len(values) for values in state["history"].values()}
        if lengths != {state["epochs"]}:
            raise ValueError(f"{STATE_FILE} does not hold the history of {state['epochs']} epochs")
        weights = _weights_path(folder, state["epochs"])
        if _sha256(weights) != state["sha256"]:
            raise ValueError(f"{weights.name} is not as it was written")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(
            f"checkpoints {folder} hold no whole state, training begins anew: {first_line(error)}",
            stacklevel=4,  # whoever called train
        )
        return None
    return state


def digest(value: np.ndarray | np.random.Generator) -> str:
    """A checksum of an array's shape, kind and values, or of a generator's state, for ``restore``."""
    if isinstance(value, np.random.Generator):
        return hashlib.sha256(repr(value.bit_generator.state).encode()).hexdigest()[:16]
    sha256 = hashlib.sha256(f"{value.shape} {value.dtype}".encode())
    sha256.update(np.ascontiguousarray(value).data)
    return sha256.hexdigest()[:16]


def _weights_path(folder: Path, epochs_done: int) -> Path:
    return folder / f"after-epoch-{epochs_done}.weights.h5"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
