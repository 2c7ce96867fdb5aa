"""Training of an aligner on particle images without labels: pseudo-labels replace the unknown angles.

Pairwise, ``"udl"``: the difference of two images' angles is trained to equal the angle from the circular correlation
of their spectra, for many partners of every image. These pseudo-labels are coarse and some are wrong. Their errors
depend on the partner as much as on the image, so the network learns what they have in common. The equation of arXiv
2205.11829, that the angle changes by exactly the rotation of the image, is built into the polar network. An image
paired with itself has angle 0, so there is no bias to calibrate.

Joint, ``"judl"``: images are aligned to their own average, twins and shifts included. The angles at which the average
explains each image best are the pseudo-labels. The average replaces the published autoencoder, from which
aligned images are reconstructed.

Both start from a classically aligned template of spectra (see ``classical``). ``TrainingResult.untrained`` shows what
training adds to it. Under ``"udl"`` that is little, because the errors of the partners average out in the template.
From random weights, ``warm_start=False``, the same pairs teach the network everything, but less accurately.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np
from keras import ops

from cryoem.training.compilation import TrainingSchedule
from cryoem.training.fitting import digest
from cryoem.udl.aligner import Aligner
from cryoem.udl.classical import (
    PARTNERS,
    aligned_template,
    angles_of_pairs,
    mean_spectrum,
    pair_angles,
    random_pairs,
    synchronise,
)
from cryoem.udl.networks import build_polar_network, compile_and_fit, direction_loss, relative_direction
from cryoem.udl.registration import average_aligned, class_average, filter_reference, register
from cryoem.udl.rotation import joint_error_deg, pair_error_deg, unit_vectors
from cryoem.udl.spectra import SMALLEST_PX, polar_grid, polar_spectra
from cryoem.validation import one_each, square_images, whole_number

METHODS = ("udl", "judl")
FEWEST_IMAGES = 4
DEFAULT_SCHEDULE = TrainingSchedule(epochs=5, learning_rate=1e-3)


@dataclass(frozen=True)
class AlignerOptions:
    """Options of aligner training.

    Parameters
    ----------
    symmetry : str
        In-plane symmetry of the class, ``"C1"``, ``"C2"``, ...
    batch_size : int
        Images or pairs of a training step.
    validation_fraction : float
        Fraction of the images, at the end of the stack, that are used for validation only; at most 0.5.
    warm_start : bool
        Start from the classical template instead of random weights.
    """

    symmetry: str = "C1"
    batch_size: int = 128
    validation_fraction: float = 0.1
    warm_start: bool = True

    def __post_init__(self):
        whole_number(self.batch_size, name="batch_size", at_least=2)
        if not 0 < self.validation_fraction <= 0.5:
            raise ValueError(
                f"validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}"
            )


@dataclass(frozen=True)
class TrainingResult:
    """Result of ``train``.

    Parameters
    ----------
    aligner : Aligner
    history : dict of str to list of float
        One value per epoch, see ``train``.
    untrained : dict of str to float
        ``val_loss``, and ``val_error_deg`` if the truth is known, before the first epoch.
    """

    aligner: Aligner
    history: dict[str, list[float]]
    untrained: dict[str, float]


def train(
    stack: np.ndarray,
    *,
    method: str = "judl",
    options: AlignerOptions = AlignerOptions(),
    schedule: TrainingSchedule = DEFAULT_SCHEDULE,
    true_angles_rad: np.ndarray | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    rng: np.random.Generator | int | None = 0,
) -> TrainingResult:
    """Train a polar aligner on the images to align, or on some of them.

    Parameters
    ----------
    stack : (n, y, x) array
        At least four images of one class, or a particle stack.
    method : str
        ``"udl"``, pairwise, or ``"judl"``, joint.
    options : AlignerOptions
    schedule : TrainingSchedule
        By default 5 epochs with a peak learning rate of 1e-3.
    true_angles_rad : (n,) array, optional
        To record the true error; they do not enter the training.
    checkpoints, callbacks, verbose
        See ``training.fit``.
    rng : numpy.random.Generator or int
        For the pairs and the order of batches.

    Returns
    -------
    TrainingResult
        Its history is that of ``training.fit``; losses are the mean of sin(pi / period x deviation from the
        pseudo-labels). ``val_error_deg`` is the mean error of pairs of validation images (``"udl"``), or of validation
        images up to a constant (``"judl"``).

    Raises
    ------
    ValueError
        If images are not (n, y, y), too few, not finite or constant; the method or symmetry is unknown; replicas cannot
        share a batch equally; or ``checkpoints`` belong to a different training.
    """
    images = square_images(stack, at_least=FEWEST_IMAGES, smallest_px=SMALLEST_PX)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    grid = polar_grid(images.shape[1], symmetry=options.symmetry)
    if true_angles_rad is not None:
        true_angles_rad = one_each(true_angles_rad, count=len(images), name="true_angles_rad")
    fingerprint = {
        "images": digest(images),
        "method": method,
        **asdict(options),
        "true_angles_rad": true_angles_rad is not None,
        "rng": None if rng is None else digest(np.random.default_rng(rng)),
    }
    rng = np.random.default_rng(rng)
    spectra = polar_spectra(images, grid)
    held_out = max(2, round(options.validation_fraction * len(images)))
    parts = np.arange(len(images) - held_out), np.arange(len(images) - held_out, len(images))

    model = network = build_polar_network(grid, seed=int(rng.integers(2**31)))
    if method == "udl":
        template, labels = _pairwise_labels(spectra, parts, grid, rng)
        reference = None
        pair = [keras.Input((grid.n_angles, grid.n_radii), name=name) for name in ("first", "second")]
        model = keras.Model(pair, relative_direction(*(network(spectrum) for spectrum in pair)))
    else:
        template, labels, reference = _joint_labels(images, spectra, parts, grid)
    if options.warm_start:
        network.get_layer("template").warm_start(template)
    aligner = Aligner(network, grid, reference, method)
    stream, validation = (
        LabelledSpectra(
            spectra, *of_part, grid, options.batch_size, epoch_size=len(rows), seed=int(rng.integers(2**31))
        )
        for rows, of_part in zip(parts, labels, strict=True)
    )

    def true_error() -> dict[str, float]:
        if true_angles_rad is None:
            return {}
        error_deg = pair_error_deg if method == "udl" else joint_error_deg
        angles = aligner.angles_of_spectra(spectra[parts[1]])
        return {"val_error_deg": error_deg(angles, true_angles_rad[parts[1]], period_rad=grid.period_rad)}

    untrained = {"val_loss": _mean_loss(model, validation), **true_error()}
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs.update(true_error()))
    history = compile_and_fit(
        model,
        stream,
        validation,
        loss=direction_loss,
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint=fingerprint,
        callbacks=[watch, *callbacks],
        verbose=verbose,
    )
    return TrainingResult(aligner, history, untrained)


def _pairwise_labels(spectra, parts, grid, rng):
    """A template from synchronised pairs, and (pairs, angles) for training and for validation."""
    labels = []
    for rows in parts:
        pairs = rows[random_pairs(len(rows), PARTNERS, rng=rng)]
        labels.append((pairs, angles_of_pairs(spectra, pairs, grid)))
    together = synchronise(*labels[0], period_rad=grid.period_rad)
    return mean_spectrum(spectra[parts[0]], together, period_rad=grid.period_rad), labels


def _joint_labels(images, spectra, parts, grid):
    """A template, (rows, angles) for training and for validation from the class average, and this average."""
    training, held_out = (slice(rows[0], rows[-1] + 1) for rows in parts)  # views, where an index would copy
    angles, template = aligned_template(spectra[training], grid)
    average, power = class_average(images[training], angles)
    filtered = filter_reference(average, power)
    start = pair_angles(template[None], spectra[held_out], period_rad=grid.period_rad)
    found = [register(images[training], filtered, angles), register(images[held_out], filtered, start)]
    labels = [registration.angles_rad for registration in found]
    average = average_aligned(images[training], labels[0], found[0].shifts_px)
    template = mean_spectrum(spectra[training], labels[0], period_rad=grid.period_rad)
    return template, list(zip(parts, labels, strict=True)), average


class LabelledSpectra(keras.utils.PyDataset):
    """Shuffled batches of spectra, one input or two, and unit vectors of their angles; each epoch has other rows."""

    def __init__(self, spectra, rows, angles_rad, grid, batch_size, *, epoch_size, seed):
        super().__init__()
        self.epoch = 0
        self._spectra, self._rows, self._seed, self._epoch_size = spectra, rows, seed, epoch_size
        self._targets = unit_vectors(angles_rad, periods=grid.periods).astype(np.float32)
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


def _mean_loss(model: keras.Model, validation: keras.utils.PyDataset) -> float:
    """Mean loss of all batches of a stream."""
    batches = [validation[index] for index in range(len(validation))]
    # each replica returns the outputs of the whole batch, one after another
    losses = [
        direction_loss(targets, model.predict_on_batch(inputs)[: len(targets)]) for inputs, targets in batches
    ]
    return float(np.mean([ops.convert_to_numpy(loss) for loss in losses]))
