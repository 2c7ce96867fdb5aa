"""The aligner of a particle file: options of its training, training with a progress bar, and loading of a given one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from cryoem.particles.files import ParticleFile
from cryoem.udl.aligner import Aligner, load_aligner
from cryoem.udl.classical import template_aligner
from cryoem.udl.spectra import cyclic_order, polar_grid
from cryoem.validation import positive_number, whole_number

METHODS = ("template", "udl", "judl")


@dataclass(frozen=True)
class AlignerTraining:
    """Training options of ``align_file``.

    Parameters
    ----------
    method : str
        ``"judl"``, ``"udl"``, or ``"template"``, which needs no training. Default: ``"judl"``.
    symmetry : str
        Cyclic in-plane symmetry of the class: ``"C1"``, ``"C2"``, ... Default: ``"C1"``.
    epochs : int, optional
        Number of epochs. Default: 5.
    seconds : float, optional
        Time limit in seconds. Training stops after the epoch in which the limit is reached. Default: no limit.
    initial_model : path-like, optional
        Folder of a saved aligner whose weights are used as the initial weights. It must have been trained for the same
        image size and symmetry. Default: random weights.
    export : bool
        Whether to also write the aligner as a stand-alone TensorFlow model. Default: False.

    Raises
    ------
    ValueError
        If a value is out of range, or if ``"template"`` is combined with options for training.
    """

    method: str = "judl"
    symmetry: str = "C1"
    epochs: int | None = None
    seconds: float | None = None
    initial_model: str | os.PathLike | None = None
    export: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        names = ("epochs", "seconds", "initial_model", "export")
        given = [name for name in names if getattr(self, name) not in (None, False)]
        if self.method == "template" and given:
            raise ValueError(f"method 'template' needs no training; omit {', '.join(given)}")
        cyclic_order(self.symmetry)
        if self.epochs is not None:
            whole_number(self.epochs, name="epochs", at_least=1)
        if self.seconds is not None:
            positive_number(self.seconds, name="seconds")


def obtain_aligner(
    sample: np.ndarray,
    training: AlignerTraining,
    start: Aligner | None,
    rng: np.random.Generator,
    progress: bool,
) -> Aligner:
    """Train an aligner on (n, y, x) images with a progress bar, or build one without learning."""
    if training.method == "template":
        say("computing the template", progress)
        return template_aligner(sample, symmetry=training.symmetry)
    from cryoem.training.backend import keras  # not needed for an exported model
    from cryoem.training.compilation import TrainingSchedule
    from cryoem.udl.training import DEFAULT_SCHEDULE, AlignerOptions, train

    epochs = training.epochs or DEFAULT_SCHEDULE.epochs
    # tqdm's own callback for Keras warns in notebooks without widgets
    with tqdm(desc="estimating initial angles", unit="step", disable=not progress) as bar:

        def begin(logs=None):
            bar.set_description("training", refresh=False)
            bar.reset(total=watch.params["epochs"] * watch.params["steps"])

        def end_epoch(epoch, logs=None):
            bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", val_loss=f"{logs['val_loss']:.4f}")

        watch = keras.callbacks.LambdaCallback(
            on_train_begin=begin,
            on_train_batch_end=lambda batch, logs=None: bar.update(),
            on_epoch_end=end_epoch,
        )
        return train(
            sample,
            method=training.method,
            options=AlignerOptions(symmetry=training.symmetry, initial_aligner=start),
            schedule=TrainingSchedule(epochs, DEFAULT_SCHEDULE.learning_rate, seconds=training.seconds),
            callbacks=[watch],
            rng=rng,
        ).aligner


def load_for(
    name: str, folder: str | os.PathLike, particles: ParticleFile, *, symmetry: str | None = None
) -> Aligner:
    """Load the aligner in ``folder`` and check that it fits the particles and, for further training, the symmetry."""
    aligner = load_aligner(folder)
    if aligner.grid.image_size != particles.image_size:
        raise ValueError(
            f"{name} {folder} is for images {aligner.grid.image_size} px wide, "
            f"but the images in {particles.path} are {particles.image_size} px wide"
        )
    if symmetry is not None and not hasattr(aligner.network, "get_weights"):
        raise ValueError(f"{name} {folder} is an exported aligner, which cannot be trained; use a saved one")
    if symmetry is not None and aligner.grid != polar_grid(particles.image_size, symmetry=symmetry):
        raise ValueError(
            f"{name} {folder} was not trained for symmetry {symmetry}: its angles have a period of "
            f"{np.degrees(aligner.grid.period_rad):g} degrees"
        )
    return aligner


def say(text: str, progress: bool) -> None:
    """Print a line of progress on stderr, without breaking a progress bar."""
    if progress:
        tqdm.write(text, file=sys.stderr)
