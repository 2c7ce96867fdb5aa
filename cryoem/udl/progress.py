"""A training on a progress bar."""

from __future__ import annotations

import keras
from tqdm import tqdm


class StepsOnBar(keras.callbacks.Callback):
    """Count the steps of a training on a bar, and show the validation loss of each epoch."""

    def __init__(self, bar: tqdm):
        super().__init__()
        self._bar = bar

    def on_train_begin(self, logs=None):
        self._bar.set_description("training", refresh=False)
        self._bar.reset(total=self.params["epochs"] * self.params["steps"])

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self._bar.set_postfix(
            epoch=f"{epoch + 1}/{self.params['epochs']}", val_loss=f"{logs['val_loss']:.4f}"
        )
