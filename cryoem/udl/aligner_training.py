"""Training of the aligner of ``align_file``, with a progress bar."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from cryoem.udl.aligner import METHODS, Aligner, template_aligner
from cryoem.udl.spectra import cyclic_order
from cryoem.validation import positive_number, whole_number


@dataclass(frozen=True)
class AlignerTraining:
    """Training options of ``align_file``.

    Parameters
    ----------
    method : str
        ``"judl"``, ``"udl"``, or ``"template"``, which needs no training.
    symmetry : str
        In-plane symmetry of the class, ``"C1"``, ``"C2"``, ...
    epochs : int, optional
        Epochs of the training; 5 by default.
    seconds : float, optional
        Stop after the epoch in which this time has passed.
    export : bool
        Also write the aligner as a stand-alone TensorFlow model.

    Raises
    ------
    ValueError
        If a value is out of range, or ``"template"`` has training options.
    """

    method: str = "judl"
    symmetry: str = "C1"
    epochs: int | None = None
    seconds: float | None = None
    export: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        given = [name for name in ("epochs", "seconds", "export") if getattr(self, name) not in (None, False)]
        if self.method == "template" and given:
            raise ValueError(f"method 'template' needs no training; omit {', '.join(given)}")
        cyclic_order(self.symmetry)
        if self.epochs is not None:
            whole_number(self.epochs, name="epochs", at_least=1)
        if self.seconds is not None:
            positive_number(self.seconds, name="seconds")


def obtain_aligner(
    sample: np.ndarray, training: AlignerTraining, rng: np.random.Generator, progress: bool
) -> Aligner:
    """Train an aligner on (n, y, x) images, with a progress bar, or build the classical one."""
    if training.method == "template":
        say("making the template", progress)
        return template_aligner(sample, symmetry=training.symmetry)
    import keras  # an exported model does without

    from cryoem.training.compilation import TrainingSchedule
    from cryoem.udl.training import DEFAULT_SCHEDULE, AlignerOptions, train

    epochs = training.epochs or DEFAULT_SCHEDULE.epochs
    with tqdm(desc="finding first angles", unit="step", disable=not progress) as bar:

        def begin(logs=None):
            bar.set_description("training", refresh=False)
            bar.reset(total=watch.params["epochs"] * watch.params["steps"])

        def end_batch(batch, logs=None):
            bar.update()

        def end_epoch(epoch, logs=None):
            bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", val_loss=f"{logs['val_loss']:.4f}")

        watch = keras.callbacks.LambdaCallback(
            on_train_begin=begin, on_train_batch_end=end_batch, on_epoch_end=end_epoch
        )
        return train(
            sample,
            method=training.method,
            options=AlignerOptions(symmetry=training.symmetry),
            schedule=TrainingSchedule(epochs, DEFAULT_SCHEDULE.learning_rate, seconds=training.seconds),
            callbacks=[watch],
            rng=rng,
        ).aligner


def say(text: str, progress: bool) -> None:
    """Print a line of progress on stderr, without breaking a progress bar."""
    if progress:
        tqdm.write(text, file=sys.stderr)
