"""Training of an aligner on particle images, without labels.

``"udl"``, pair-wise: the difference of two images' angles must be what the circular correlation of their
spectra says, for many partners of every image.  Each of these pseudo-labels is coarse and some are wrong, but
their errors are those of the partner as much as of the image, so that the network learns what they have in
common.  That its angle turns by exactly what an image is turned by (the difference that arXiv 2205.11829
trains on) is built into the polar network, and an image against itself has angle 0, so that there is no bias
to calibrate.

``"judl"``, joint: images are aligned to their own average, twins and shifts included, and the angles under which the
average explains each image best become the pseudo-labels; a well aligned set is what reconstructs every member
well.  The average replaces the published autoencoder as the thing that aligned images are reconstructed from.

Both start from a template of spectra that is aligned classically (see ``classical``), and what training adds to it
can be read off ``Training.untrained``.  Under ``"udl"`` that is little: the partners' mistakes average out in the
template already.  From random weights, ``warm_start=False``, the same pairs teach everything, only not as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from cryoem.checkpoints import Record, digest, restore
from cryoem.checks import finite_array, positive_number, square_images, whole_number
from cryoem.compilation import compile_network, precision_of
from cryoem.replicas import check_divisible, of_whole_batch, replicas_of
from cryoem.udl.aligner import Aligner
from cryoem.udl.classical import mean_spectrum, neighbour_pairs, pair_angles, synchronise, wrapped
from cryoem.udl.joint import FEWEST_IMAGES, PARTNERS, angles_of_pairs, class_average, start_together
from cryoem.udl.network import build_polar_network
from cryoem.udl.registration import average_aligned, filter_reference, register
from cryoem.udl.spectra import PolarGrid, polar_grid, polar_spectra

METHODS = ("udl", "judl")


@dataclass(frozen=True)
class Training:
    """A trained ``aligner``, and the ``history`` of its training, one value an epoch, see ``train``.

    ``untrained``: what ``val_loss``, and ``val_error_deg`` where there is one, were before the first epoch.
    """

    aligner: Aligner
    history: dict[str, list[float]]
    untrained: dict[str, float]


def train(
    images: np.ndarray,
    *,
    method: str = "judl",
    symmetry: str = "C1",
    epochs: int = 5,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    validation_fraction: float = 0.1,
    warm_start: bool = True,
    true_angles_rad: np.ndarray | None = None,
    seconds: float | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    rng: np.random.Generator | int | None = 0,
) -> Training:
    """Train a polar aligner on the images it is to align (or on some of them).

    Parameters
    ----------
    images : (n, y, x), n >= 4, of one class.
    method : ``"udl"`` or ``"judl"``, see the module.
    symmetry : of the class in its plane, ``"C1"``, ``"C2"``, ...
    epochs, batch_size, learning_rate : of AdamW; the rate is the highest of a cosine.
    validation_fraction : of the images, the last ones, that are not trained on.
    warm_start : begin with the classical template, not with random weights.
    true_angles_rad : (n,), only to watch the true error (``val_error_deg``); nothing is trained on them.
    seconds : stop after the epoch in which this time has passed.
    checkpoints : folder that is written after every epoch and that an interrupted training goes on from; one that is
        damaged begins anew, with a warning.
    callbacks, verbose : passed to ``model.fit``.
    rng : of pairs and of the order of batches.

    Returns
    -------
    Training.  Its history: ``loss`` and ``val_loss``, the mean of sin(pi / period x disagreement with the
    pseudo-labels), which needs no truth; ``seconds``, ``step``, ``learning_rate``; ``val_error_deg`` where the
    truth is given: the mean error of pairs of validation images (``"udl"``), or of validation images up to a
    constant (``"judl"``).

    Raises
    ------
    ValueError : images are not (n, y, y), too few, not finite or constant; the method or symmetry is unknown;
        a number is out of its range; a batch cannot be shared alike by the replicas of the strategy this is called
        under; or ``checkpoints`` are of another training.
    """
    images = square_images(images, at_least=FEWEST_IMAGES, smallest_px=16)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    epochs = whole_number(epochs, name="epochs", at_least=1)
    batch_size = whole_number(batch_size, name="batch_size", at_least=2)
    positive_number(learning_rate, name="learning_rate")
    if seconds is not None:
        seconds = positive_number(seconds, name="seconds")
    if not 0 < validation_fraction <= 0.5:
        raise ValueError(f"validation_fraction must be above 0 and at most 0.5, got {validation_fraction}")
    if true_angles_rad is not None:
        true_angles_rad = finite_array(true_angles_rad, name="true_angles_rad", ndim=1, dtype=float)
        if len(true_angles_rad) != len(images):
            raise ValueError(f"true_angles_rad must be {len(images)}, got {len(true_angles_rad)}")
    made_from = {
        "images": digest(images),
        "method": method,
        "symmetry": symmetry,
        "batch_size": batch_size,
        "validation_fraction": validation_fraction,
        "warm_start": warm_start,
        "true_angles_rad": true_angles_rad is not None,
        "rng": None if rng is None else digest(np.random.default_rng(rng)),
    }
    rng = np.random.default_rng(rng)
    grid = polar_grid(images.shape[1], symmetry=symmetry)
    spectra = polar_spectra(images, grid)
    held_out = max(2, round(validation_fraction * len(images)))
    parts = np.arange(len(images) - held_out), np.arange(len(images) - held_out, len(images))

    network = build_polar_network(grid, seed=int(rng.integers(2**31)))
    if method == "udl":
        template, targets = _pairwise_labels(spectra, parts, grid, rng)
        model, reference = _pair_model(network, grid), None
    else:
        template, targets, reference = _joint_labels(images, spectra, parts, grid)
        model = network
    if warm_start:
        network.get_layer("template").warm_start(template)
    aligner = Aligner(network, grid, reference, method)
    stream, validation = (
        _LabelledSpectra(
            spectra, *labels, grid, batch_size, epoch_size=len(rows), seed=int(rng.integers(2**31))
        )
        for rows, labels in zip(parts, targets, strict=True)
    )
    measure = _true_error(aligner, spectra, parts[1], true_angles_rad)
    untrained = {"val_loss": _loss(model, validation), **measure()}
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs.update(measure()))
    history = fit(
        model,
        stream,
        validation,
        epochs=epochs,
        loss=direction_loss,
        learning_rate=learning_rate,
        seconds=seconds,
        checkpoints=checkpoints,
        made_from=made_from,
        callbacks=[watch, *callbacks],
        verbose=verbose,
    )
    return Training(aligner, history, untrained)


def fit(
    model: keras.Model,
    stream: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    *,
    epochs: int,
    loss,
    learning_rate: float,
    seconds: float | None = None,
    checkpoints: str | os.PathLike | None = None,
    made_from: Mapping[str, object] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """``model.fit`` with the schedule, the history and the checkpoints that all trainings of this folder share.

    Arguments as in ``train``; ``stream`` and ``validation`` give batches (inputs, targets), and a stream's
    ``epoch`` is set before each epoch.  ``made_from`` is what else the numbers come from, see ``checkpoints.restore``.
    """
    if replicas_of(model) > 1:
        for name, batches in (("batches to train on", stream), ("batches to validate on", validation)):
            check_divisible(len(batches[0][1]), model, name=name)
    compile_network(
        model,
        learning_rate=learning_rate,
        steps=epochs * len(stream),
        loss=of_whole_batch(loss, shared=True),
    )
    folder = None if checkpoints is None else Path(checkpoints)
    made_from = {"epochs": epochs, "steps": len(stream), "learning_rate": learning_rate, **(made_from or {})}
    made_from |= precision_of(model)
    first_epoch, history = (0, {}) if folder is None else restore(model, folder, made_from)
    record = Record(stream, folder, history, patience=None, seconds=seconds)
    if not record.is_over():
        model.fit(
            stream,
            initial_epoch=first_epoch,
            epochs=epochs,
            validation_data=validation,
            callbacks=[*callbacks, record],
            verbose=verbose,
            shuffle=False,
        )
    return record.history


def direction_loss(true, predicted):
    """Sine of half the angle between unit vectors (..., 2): like the angle itself when small, bounded when wrong."""
    return ops.mean(ops.sqrt(ops.maximum(1 - ops.sum(true * predicted, axis=-1), 0) / 2 + 1e-6))


def pair_error_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, period_rad: float = np.pi) -> float:
    """Mean error of the angles between neighbours in a stack, degrees, modulo the period."""
    error = wrapped(np.diff(estimated_rad) - np.diff(true_rad), period_rad)
    return float(np.degrees(np.abs(error).mean()))


def joint_error_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, period_rad: float = np.pi) -> float:
    """Mean error of angles to one reference, degrees, modulo the period, up to the best constant."""
    error = np.asarray(estimated_rad) - np.asarray(true_rad)
    constants = np.linspace(0, period_rad, 361)[:-1]
    costs = [np.abs(wrapped(error - c, period_rad)).mean() for c in constants]
    left = wrapped(error - constants[int(np.argmin(costs))], period_rad)
    return float(np.degrees(np.abs(wrapped(left - np.median(left), period_rad)).mean()))


class _LabelledSpectra(keras.utils.PyDataset):
    """Shuffled batches of spectra, one input or two, and unit vectors for their angles.

    An epoch takes ``epoch_size`` rows and the next one the following, so that every epoch has its own pairs.
    """

    def __init__(self, spectra, rows, angles_rad, grid, batch_size, *, epoch_size, seed):
        super().__init__()
        self.epoch = 0
        self._spectra, self._rows, self._seed, self._epoch_size = spectra, rows, seed, epoch_size
        turns = grid.periods * angles_rad
        self._targets = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
        self._batch_size = min(batch_size, epoch_size)

    def __len__(self):
        return self._epoch_size // self._batch_size

    def __getitem__(self, index):
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._epoch_size)
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        chosen = (chosen + self.epoch * self._epoch_size) % len(self._rows)
        rows = self._rows[chosen]
        inputs = self._spectra[rows] if rows.ndim == 1 else tuple(self._spectra[r] for r in rows.T)
        return inputs, self._targets[chosen]


@keras.saving.register_keras_serializable("cryoem")
class TurnBack(keras.layers.Layer):
    """Two unit vectors (b, 2) to the direction of the second seen from the first."""

    def call(self, first, second):
        """(b, 2), (b, 2) -> (b, 2)"""
        cos = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]
        sin = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
        return ops.stack([cos, sin], axis=1)


def _pair_model(network: keras.Model, grid: PolarGrid) -> keras.Model:
    first, second = (keras.Input((grid.n_angles, grid.n_radii), name=n) for n in ("first", "second"))
    return keras.Model([first, second], TurnBack()(network(first), network(second)), name="udl")


def _pairwise_labels(spectra, parts, grid, rng):
    """A template from synchronised pairs, and (pairs, angles) for training and for validation."""
    targets = []
    for rows in parts:
        pairs = rows[neighbour_pairs(len(rows), PARTNERS, rng=rng)]
        angles = angles_of_pairs(spectra, pairs, grid)
        targets.append((pairs, angles))
    pairs, angles = targets[0]
    together = synchronise(pairs, angles, period_rad=grid.period_rad)
    return mean_spectrum(spectra[parts[0]], together, period_rad=grid.period_rad), targets


def _joint_labels(images, spectra, parts, grid):
    """A template, (rows, angles) for training and for validation from the class average, and this average."""
    training, held_out = (slice(rows[0], rows[-1] + 1) for rows in parts)  # views, where an index would copy
    angles, template = start_together(spectra[training], grid)
    average, power = class_average(images[training], angles)
    filtered = filter_reference(average, power)
    start = pair_angles(template[None], spectra[held_out], period_rad=grid.period_rad)
    found = [register(images[training], filtered, angles), register(images[held_out], filtered, start)]
    labels = [registration.angles_rad for registration in found]
    average = average_aligned(images[training], labels[0], found[0].shifts_px)
    template = mean_spectrum(spectra[training], labels[0], period_rad=grid.period_rad)
    return template, list(zip(parts, labels, strict=True)), average


def _loss(model, validation):
    """The loss of all batches of a stream, as it is."""
    batches = [validation[index] for index in range(len(validation))]
    # replicas each answer for the whole batch, one after another
    losses = [
        direction_loss(targets, model.predict_on_batch(inputs)[: len(targets)]) for inputs, targets in batches
    ]
    return float(np.mean([ops.convert_to_numpy(loss) for loss in losses]))


def _true_error(aligner, spectra, rows, true_angles_rad):
    """A function that measures the true error of the validation images: a dictionary, empty without the truth."""
    if true_angles_rad is None:
        return dict
    error = pair_error_deg if aligner.method == "udl" else joint_error_deg

    def measure():
        angles = aligner.angles_of_spectra(spectra[rows])
        return {"val_error_deg": error(angles, true_angles_rad[rows], period_rad=aligner.grid.period_rad)}

    return measure
