"""Training of the published pair network on particle images: ``"published-udl"`` and ``"published-judl"``.

In pairwise training, each image is compared with the next image of the stack, and the last image with the first. Both
are rotated by known random angles alpha and beta. The network receives their log power spectra, and its answer must
change by alpha - beta modulo 180 degrees.

In joint training, each image is compared with the first image. The spectrum of each image, rotated by the answer, is
also passed through an autoencoder. Its mean square error, multiplied by 20 times the epoch, is added to the loss. As in
the authors' program, this term aligns the spectra, not the images. Both networks share an optimizer, which for Adam is
equivalent to one optimizer each.

The answer is determined only up to a constant, the bias. Here it is chosen so that the mean answer for an image
compared with itself is 0. The published programs compute it from the true angles; the error with that bias is reported
separately.

Images and spectra are rotated about pixel n // 2, which holds the zero frequency of a spectrum. The authors' program
rotates about the middle of the square, half a pixel away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cryoem.training.backend import keras, layers, ops
from cryoem.training.compilation import TrainingSchedule, compile_network, global_batch_loss
from cryoem.training.fitting import digest, fit
from cryoem.udl.networks import rotated
from cryoem.udl.pairs import PREDICTED_AT_ONCE, predict_angles
from cryoem.udl.published import (
    TURN_DEG,
    build_autoencoder,
    build_pair_network,
    difference_loss,
    log_spectra,
    published_optimizer,
    unit_range,
)
from cryoem.udl.registration import constant_images
from cryoem.udl.rotation import angle_errors_deg
from cryoem.validation import square_images, whole_number

METHODS = ("published-udl", "published-judl")
SCHEDULES = {
    "published-udl": TrainingSchedule(epochs=100, learning_rate=3e-4),
    "published-judl": TrainingSchedule(epochs=100, learning_rate=1e-4),
}
PERIODS = 2  # of the angles of spectra in a full turn
JOINT_WEIGHT = 20.0  # times the epoch
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class PublishedAligner:
    """Published pair network for particle images, together with the image to which it compares all others.

    The network normalises batches of 32 pairs, so results depend slightly on the neighbours of an image.

    Parameters
    ----------
    network : keras.Model
        Network that maps two images, (b, y, x), to the angle of the first relative to the second, (b, 1) in degrees.
    first_images : (m, y, x) array
        First images of the training stack. The first one is at angle 0; the others complete small batches.
    bias_rad : float
        Mean answer of the network for an image compared with itself, in radians. It is subtracted from all answers.
    method : str
        ``"published-udl"`` or ``"published-judl"``.
    epochs : int
        Total number of training epochs, including the epochs of the initial aligner, if any. Default: 0.
    """

    network: keras.Model
    first_images: np.ndarray
    bias_rad: float
    method: str
    epochs: int = 0

    reference = None  # attribute of an Aligner; there is no class average here

    @property
    def image_size(self) -> int:
        """Side length of the images in pixels."""
        return self.network.inputs[0].shape[1]

    def angles(self, images: np.ndarray) -> np.ndarray:
        """Estimate the angles of (n, y, x) images relative to the first training image: (n,) in [0, pi)."""
        images = self._checked(images)
        first, more = (np.broadcast_to(self.first_images[0], x.shape) for x in (images, self.first_images))
        return self._compare((first, images), (more, self.first_images))

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimate the angle from the first to the second image of each pair: (n,) in [0, pi)."""
        first, second = self._checked(first), self._checked(second)
        if first.shape != second.shape:
            raise ValueError(
                f"first and second must have the same shape, got {first.shape} and {second.shape}"
            )
        return self._compare((first, second), (self.first_images, np.roll(self.first_images, -1, axis=0)))

    def _checked(self, images) -> np.ndarray:
        images = square_images(images)
        if images.shape[1] != self.image_size:
            raise ValueError(
                f"images must be {self.image_size} px wide for this model, got {images.shape[1]}"
            )
        return images

    def _compare(self, pairs, more) -> np.ndarray:
        """Estimate the angles of pairs of images; ``more`` pairs complete the last batch."""
        count = len(pairs[0])
        rows = np.arange(PREDICTED_AT_ONCE * -(-count // PREDICTED_AT_ONCE)) % (count + len(more[0]))
        first, second = (np.concatenate(both)[rows] for both in zip(pairs, more, strict=True))
        return predict_angles(self.network, first, second, bias_rad=self.bias_rad, periods=PERIODS)[:count]


@dataclass(frozen=True)
class PublishedOptions:
    """Options of ``train`` for the published methods.

    Parameters
    ----------
    channels_divisor : int
        Number by which the layer widths of the network are divided. Use 1, as published, on a GPU, and 4 or 8 on a CPU.
        Default: 1.
    batch_size : int
        Number of pairs per training step. Default: 32, as published.
    validation_fraction : float
        Fraction of the images that are reserved for validation, at most 0.5. These images are taken from the end of the
        stack. Default: 0.1.
    initial_aligner : PublishedAligner, optional
        Aligner whose weights are used as the initial weights. The state of its optimizer is not used. The authors'
        program trains ``"published-judl"`` from the weights of a trained ``"published-udl"`` network and includes the
        epochs of the latter in its count. Default: random weights.

    Raises
    ------
    ValueError
        If a value is out of range, or if ``initial_aligner`` is not a ``PublishedAligner``.
    """

    channels_divisor: int = 1
    batch_size: int = 32
    validation_fraction: float = 0.1
    initial_aligner: PublishedAligner | None = None

    def __post_init__(self):
        whole_number(self.channels_divisor, name="channels_divisor", at_least=1)
        whole_number(self.batch_size, name="batch_size", at_least=2)
        if not 0 < self.validation_fraction <= 0.5:
            raise ValueError(
                f"validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}"
            )
        initial = self.initial_aligner
        if initial is not None and not isinstance(initial, PublishedAligner):
            raise ValueError(
                f"initial_aligner must be a PublishedAligner for the published methods, got {type(initial).__name__}"
            )


def train_published(
    images: np.ndarray,
    *,
    method: str,
    options: PublishedOptions,
    schedule: TrainingSchedule | None,
    true_angles_rad: np.ndarray | None,
    checkpoints: str | os.PathLike | None,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int,
    rng: np.random.Generator | int | None,
) -> tuple[PublishedAligner, dict[str, list[float]], dict[str, float]]:
    """Train a published network on validated images; return the aligner, history and start of a ``TrainingResult``."""
    schedule = schedule or SCHEDULES[method]
    initial, divisor = options.initial_aligner, options.channels_divisor
    fingerprint = {
        "images": digest(images),
        "method": method,
        "channels_divisor": divisor,
        "batch_size": options.batch_size,
        "validation_fraction": options.validation_fraction,
        "initial_aligner": None if initial is None else [digest(w) for w in initial.network.get_weights()],
        "epochs_before": 0 if initial is None else initial.epochs,
        "true_angles_rad": true_angles_rad is not None,
        "rng": None if rng is None else digest(np.random.default_rng(rng)),
    }
    rng = np.random.default_rng(rng)
    if constant_images(images).any():
        raise ValueError(
            f"images must not be constant; number of constant images: {constant_images(images).sum()}"
        )
    network = image_network(build_pair_network(images.shape[1], channels_divisor=divisor, rng=rng))
    epochs_before = 0
    if initial is not None:
        if [w.shape for w in initial.network.weights] != [w.shape for w in network.weights]:
            raise ValueError(
                f"initial_aligner must be trained on {images.shape[1]} px images with channels_divisor {divisor}, "
                f"got a different network for {initial.image_size} px images"
            )
        network.set_weights(initial.network.get_weights())
        epochs_before = initial.epochs
    joint = None
    if method == "published-judl":
        joint = ReconstructionError(build_autoencoder(images.shape[1], rng=rng), name="joint")
    model = difference_model(network, joint)
    # pair each image with the next, or the first image with each
    n = len(images)
    rows = np.arange(n) if joint is None else np.arange(1, n)
    held_out = max(2, round(options.validation_fraction * n))
    parts = rows[:-held_out], rows[-held_out:]
    pairs = [
        np.stack([part, np.roll(part, -1)] if joint is None else [0 * part, part], axis=1) for part in parts
    ]
    stream, validation = (
        DifferencePairs(images, p, options.batch_size, joint=joint is not None, seed=int(rng.integers(2**31)))
        for p in pairs
    )

    def aligner(epochs: int = 0) -> PublishedAligner:
        unbiased = PublishedAligner(network, images[:PREDICTED_AT_ONCE], 0.0, method, epochs_before + epochs)
        some = images[parts[0]][:CALIBRATION_IMAGES]
        phases = PERIODS * unbiased.between(some, some)
        return replace(unbiased, bias_rad=float(np.angle(np.exp(1j * phases).mean()) / PERIODS))

    def measured() -> dict[str, float]:
        now = aligner()
        result = {"bias_deg": float(np.degrees(now.bias_rad))}
        if true_angles_rad is not None:
            first, second = pairs[1].T
            found, true = (
                now.between(images[first], images[second]),
                true_angles_rad[second] - true_angles_rad[first],
            )
            rest = np.angle(np.exp(1j * PERIODS * (found - true)).mean()) / PERIODS
            for name, angles in (("val_error_deg", found), ("val_error_true_bias_deg", found - rest)):
                result[name] = float(angle_errors_deg(angles, true, periods=PERIODS).mean())
        return result

    def set_weight(epoch: int) -> None:
        if joint is not None:
            joint.weight.assign(JOINT_WEIGHT * (epochs_before + epoch + 1))

    losses = {"differences": global_batch_loss(partial(difference_loss, period_deg=TURN_DEG / PERIODS))}
    if joint is not None:
        losses["joint"] = mean_of_answers
    compile_network(
        model,
        schedule=schedule,
        steps_per_epoch=len(stream),
        optimizer=published_optimizer(schedule.learning_rate, decay=joint is None),
        loss=losses,
    )
    set_weight(0)
    start = model.evaluate(validation, verbose=0, return_dict=True)
    untrained = {"val_loss": float(start["loss"]), **measured()}
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: set_weight(epoch),
        on_epoch_end=lambda _, logs: logs.update(measured()),
    )
    history = fit(
        model,
        stream,
        validation,
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint=fingerprint,
        callbacks=[watch, *callbacks],
        verbose=verbose,
    )
    return aligner(len(history["loss"])), history, untrained


def image_network(network: keras.Model) -> keras.Model:
    """Return a network that compares two images (b, y, x) by passing their spectra to a network for spectra."""
    images = [keras.Input(x.shape[1:], name=x.name) for x in network.inputs]
    return keras.Model(images, network([log_spectra(unit_range(image)) for image in images]))


def difference_model(network: keras.Model, joint: ReconstructionError | None = None) -> keras.Model:
    """Return a model for the batches of ``DifferencePairs``, which answers each pair before and after its rotation.

    With ``joint``, it also computes the reconstruction error of the second image's spectrum, rotated by the answer onto
    the first.
    """
    first, second = (keras.Input(x.shape[1:], name=x.name) for x in network.inputs)
    rotations = keras.Input((2,), name="rotations_rad")
    images = [unit_range(image) for image in (first, second)]
    turned = [rotated(x, rotations[:, i : i + 1], mirrored=True) for i, x in enumerate(images)]
    answers = network([ops.concatenate(both, axis=0) for both in zip(images, turned, strict=True)])
    answer, changed = ops.split(answers, 2, axis=0)
    answers = layers.Concatenate(name="differences")([answer, changed])  # (b, 2)
    outputs = {"differences": answers}
    if joint is not None:
        aligned = rotated(log_spectra(images[1]), answer * (np.pi / 180), mirrored=True)
        outputs["joint"] = joint(aligned)
    return keras.Model([first, second, rotations], outputs)


class ReconstructionError(layers.Layer):
    """Layer that returns ``weight`` times an autoencoder's mean square error for each of (b, y, x) images: (b,)."""

    def __init__(self, autoencoder: keras.Model, **options):
        super().__init__(**options)
        self.autoencoder = autoencoder
        self.weight = self.add_weight(shape=(), initializer="ones", trainable=False, name="weight")

    def call(self, images, training=None):
        """Map (b, y, x) images to (b,) errors."""
        again = self.autoencoder(images, training=training)
        return self.weight * ops.mean(ops.square(again - images), axis=(1, 2))


def mean_of_answers(true, answers):
    """Return the mean of an output that is itself a loss; the true values are not used."""
    return ops.mean(answers)


class DifferencePairs(keras.utils.PyDataset):
    """Shuffled batches of pairs from a stack, with new random rotations of both images and their differences."""

    def __init__(self, images: np.ndarray, pairs: np.ndarray, batch_size: int, *, joint: bool, seed: int):
        super().__init__()
        self.epoch = 0
        self._images, self._pairs, self._joint, self._seed = images, pairs, joint, seed
        self._batch_size = min(batch_size, len(pairs))

    def __len__(self) -> int:
        return len(self._pairs) // self._batch_size

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, ...], Mapping[str, np.ndarray]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(len(self._pairs))
        chosen = self._pairs[order[index * self._batch_size : (index + 1) * self._batch_size]]
        rotations = np.random.default_rng((self._seed, self.epoch, index + 1)).uniform(
            0, 2 * np.pi, chosen.shape
        )
        targets = {"differences": np.degrees(rotations[:, 0] - rotations[:, 1]).astype(np.float32)}
        if self._joint:
            targets["joint"] = np.zeros(len(chosen), np.float32)
        return (*(self._images[rows] for rows in chosen.T), rotations.astype(np.float32)), targets
