"""Training of pair networks f(a, b), the angle from image a to image b, on differences, labels or warping.

``"udl"``, unsupervised difference learning (arXiv 2205.11829): a and b are rotated by known random angles alpha and
beta, and the answer must change by beta - alpha. Differences require consistency only, and a consistent answer can be
wrong in three ways:

- By a constant, the bias. It is calibrated after every epoch without the truth: the bias is the network's answer for
  an image and its rotated copy, minus the known rotation. The bias can differ between pairs, so the answer for b and
  its rotated copy, which must be beta, is part of the loss (``against_itself``).
- By the displacement of b, which rotates with b. The rotated b can be displaced again (``displacement_px``).
- By noise, which also rotates. Rotated and original images can have disjoint halves of the pixels (``split_pixels``),
  so that noise that is independent between pixels has no influence.

``"supervised"``: the answer must be the true angle.

``"stn"``, a spatial transformer: ``first``, rotated by the answer, must equal ``second`` in the mean square inside
their circle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import keras
import numpy as np
from keras import ops

from cryoem.training.compilation import TrainingSchedule
from cryoem.udl.natural import crop_mask, natural_pairs
from cryoem.udl.networks import compile_and_fit, direction_loss, relative_direction, rotated_by
from cryoem.udl.rotation import angle_errors_deg, rotate_images, unit_vectors
from cryoem.validation import not_negative, one_each, square_images, whole_number

METHODS = ("udl", "supervised", "stn")
CALIBRATION_IMAGES = 256
PREDICTED_AT_ONCE = 64
_APART = 2**31  # an epoch that no training reaches

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


# --- streams of pairs


class PairStream(keras.utils.PyDataset):
    """Batches of new pairs (first, second, angles); the same seed gives the same batches.

    Parameters
    ----------
    draw : callable
        (number n, generator) -> ``first`` and ``second`` (n, y, x), and the angles (n,) in radians from one to the
        other, or None if unknown. From ``natural_draw`` or ``stack_draw``.
    batch_size, steps : int
        Pairs of a batch and batches of an epoch.
    seed : int
    """

    def __init__(self, draw: Draw, *, batch_size: int, steps: int, seed: int = 0):
        super().__init__()
        self.epoch = 0
        self.batch_size = whole_number(batch_size, name="batch_size", at_least=1)
        self._steps = whole_number(steps, name="steps", at_least=1)
        self._draw, self.seed = draw, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Batch ``index`` of the current epoch: first, second (b, y, x) float32, angles (b,) or None."""
        return self._draw(self.batch_size, self.rng(self.epoch, index))

    def some_images(self, n: int) -> np.ndarray:
        """Draw (n, y, x) images that are in no batch."""
        return self._draw(n, self.rng(_APART, 0))[0]

    def rng(self, *key: int) -> np.random.Generator:
        """Return an independent generator for every key."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def natural_draw(photographs: Sequence[np.ndarray], **options) -> Draw:
    """Draw standardised pairs of crops of photographs for a ``PairStream``; options are those of ``natural_pairs``."""

    def standardised(images):
        images = images - images.mean(axis=(1, 2), keepdims=True)
        return images / np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-6)

    def draw(n, rng):
        pairs = natural_pairs(photographs, n, rng=rng, **options)
        return standardised(pairs.first), standardised(pairs.second), pairs.angles_rad

    return draw


def stack_draw(images: np.ndarray, angles_rad: np.ndarray | None = None) -> Draw:
    """Draw pairs of different images of one stack for a ``PairStream``.

    Parameters
    ----------
    images : (n, y, x) array
        At least two square images, such as those of ``power_spectra``; used unchanged.
    angles_rad : (n,) array, optional
        True angle of each image.
    """
    images = square_images(images, at_least=2)
    if angles_rad is not None:
        angles_rad = one_each(angles_rad, count=len(images), name="angles_rad")

    def draw(n, rng):
        first = rng.integers(len(images), size=n)
        second = (first + rng.integers(1, len(images), size=n)) % len(images)
        angles = None if angles_rad is None else angles_rad[second] - angles_rad[first]
        return images[first], images[second], angles

    return draw


# --- training


@dataclass(frozen=True)
class PairObjective:
    """Training objective of a pair network.

    Parameters
    ----------
    method : str
        ``"udl"`` or ``"stn"``, which use no true angles, or ``"supervised"``.
    periods : int
        Periods of the angle in a full turn: 1 for images, 2 for centrosymmetric spectra.
    against_itself : bool
        For ``"udl"``: also compare the second image with its rotated copy; the published method does not.
    displacement_px : float
        For ``"udl"``: displace the rotated second image by U[-limit, limit] along x and y.
    split_pixels : bool
        For ``"udl"``: rotated and original images have disjoint random halves of the pixels; the others are 0.
    """

    method: str = "udl"
    periods: int = 1
    against_itself: bool = True
    displacement_px: float = 0.0
    split_pixels: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        whole_number(self.periods, name="periods", at_least=1)
        not_negative(self.displacement_px, name="displacement_px")
        if self.method != "udl" and (self.displacement_px or self.split_pixels):
            raise ValueError(f"displacement_px and split_pixels require method 'udl', got {self.method!r}")


def train_pairs(
    network: keras.Model,
    stream: PairStream,
    *,
    validation: PairStream,
    schedule: TrainingSchedule,
    objective: PairObjective | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train a pair network in place.

    Parameters
    ----------
    network : keras.Model
        Two images (b, y, x) -> (b, 2), the unit vector of ``periods`` times the angle from the first to the second;
        from ``build_pair_network`` or ``build_polar_pair_network``.
    stream, validation : PairStream
        Pairs for training and for validation; ``validation`` gives the same pairs after every epoch.
    schedule : TrainingSchedule
    objective : PairObjective, optional
        Method and its options; by default unsupervised differences.
    checkpoints, callbacks, verbose
        See ``training.fit``.

    Returns
    -------
    dict of str to list of float
        One value per epoch, as ``training.fit``; also ``bias_deg``, which ``predict_angles`` subtracts (0 except for
        ``"udl"``), and ``val_error_deg``, the mean error after that, if the true angles of ``validation`` are known.

    Raises
    ------
    ValueError
        If the pairs for ``"supervised"`` have no angles, or ``checkpoints`` belong to a different training.
    """
    objective = objective or PairObjective()
    model, loss = training_model(network, objective)
    periods = objective.periods
    calibration = stream.some_images(CALIBRATION_IMAGES) if objective.method == "udl" else None
    first, second, angles = zip(*(validation[i] for i in range(len(validation))), strict=True)

    def measure(epoch, logs):
        bias = 0.0 if calibration is None else calibrate_bias(network, calibration, periods=periods)
        logs["bias_deg"] = float(np.degrees(bias))
        if angles[0] is not None:
            pairs = np.concatenate(first), np.concatenate(second)
            found = predict_angles(network, *pairs, bias_rad=bias, periods=periods)
            logs["val_error_deg"] = float(
                angle_errors_deg(found, np.concatenate(angles), periods=periods).mean()
            )

    return compile_and_fit(
        model,
        ObjectiveBatches(stream, objective),
        ObjectiveBatches(validation, objective),
        loss=loss,
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint={
            "objective": list(astuple(objective)),
            "seed": stream.seed,
            "batch_size": stream.batch_size,
        },
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure), *callbacks],
        verbose=verbose,
    )


def predict_angles(
    network: keras.Model,
    first: np.ndarray,
    second: np.ndarray,
    *,
    bias_rad: float = 0.0,
    periods: int = 1,
) -> np.ndarray:
    """Estimate the in-plane angle between the two images of each pair.

    Parameters
    ----------
    network : keras.Model
        Trained pair network.
    first, second : (n, y, x) arrays
        Images of the size that the network was built for.
    bias_rad : float
        Constant that is subtracted: ``bias_deg`` of the training's history.
    periods : int
        Number of periods of the angle in a full turn.

    Returns
    -------
    (n,) array
        Angles from ``first`` to ``second``, radians in [0, 2 pi / periods).
    """
    answer = network.predict([first, second], batch_size=PREDICTED_AT_ONCE, verbose=0)
    return np.mod(np.arctan2(answer[:, 1], answer[:, 0]) / periods - bias_rad, 2 * np.pi / periods)


def calibrate_bias(network: keras.Model, images: np.ndarray, *, periods: int = 1) -> float:
    """Bias of a network's angles, rad: its estimates for (n, y, x) images and rotated copies, minus the rotations."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, len(images))
    rotated = rotate_images(images, angles, outside="edge-mean")
    answers = predict_angles(network, images, rotated, periods=periods)
    return float(np.angle(np.exp(1j * periods * (answers - angles)).mean()) / periods)


def random_half(shape: tuple[int, int, int], periods: int, rng: np.random.Generator) -> np.ndarray:
    """Choose a random half of the pixels of (n, y, x) images: (n, y, x) bool.

    For even ``periods`` a pixel and its twin about pixel n // 2 are chosen together: centrosymmetric spectra have the
    same noise there.
    """
    draw = rng.random(shape, dtype=np.float32)
    if periods % 2 == 0:
        odd = 1 - shape[1] % 2
        twin = np.roll(draw[:, ::-1, ::-1], (odd, odd), axis=(1, 2))
        return draw + twin < 1
    return draw < 0.5


def training_model(network: keras.Model, objective: PairObjective):
    """A model whose output is compared with the targets of ``ObjectiveBatches``, and the loss."""
    first, second = (keras.Input(x.shape[1:], name=x.name) for x in network.inputs)
    answer = network([first, second])
    if objective.method == "supervised":
        return keras.Model([first, second], answer), direction_loss
    if objective.method == "stn":
        mask = crop_mask(first.shape[1])

        def masked_mean_square(true, predicted):
            return ops.mean(ops.sum(ops.square(true - predicted) * mask, axis=(1, 2))) / mask.sum()

        return keras.Model([first, second], rotated_by(first, answer, objective.periods)), masked_mean_square
    rotated = [keras.Input(x.shape[1:], name=f"rotated_{x.name}") for x in network.inputs]
    answers = [relative_direction(answer, network(rotated))]
    if objective.against_itself:
        answers.append(network([second, rotated[1]]))
    answers = ops.stack(answers, axis=1)  # (b, 1 or 2, 2)
    return keras.Model([first, second, *rotated], answers), direction_loss


class ObjectiveBatches(keras.utils.PyDataset):
    """Inputs and targets of an objective from the pairs of a stream."""

    def __init__(self, stream: PairStream, objective: PairObjective):
        super().__init__()
        self.epoch = 0
        self._stream, self._objective = stream, objective

    def __len__(self):
        return len(self._stream)

    def __getitem__(self, index):
        self._stream.epoch = self.epoch
        first, second, angles = self._stream[index]
        if self._objective.method == "stn":
            return (first, second), second
        if self._objective.method == "supervised":
            if angles is None:
                raise ValueError("stream must give the angles of its pairs for method 'supervised', got None")
            return (first, second), self._targets(angles)
        # the pairs, the rotated pairs, and the change of their angle (and the rotation of the second image)
        rng = self._stream.rng(self.epoch, index, 1)
        before, rotated, angles = [], [], rng.uniform(0, 2 * np.pi, (2, len(first)))
        limits = 0.0, self._objective.displacement_px
        for images, angle, limit in zip((first, second), angles, limits, strict=True):
            kept = left = images
            if self._objective.split_pixels:
                chosen = random_half(images.shape, self._objective.periods, rng)
                kept, left = images * chosen, images * ~chosen
            shifts = rng.uniform(-limit, limit, (len(images), 2))
            before.append(kept)
            rotated.append(rotate_images(left, angle, shifts, outside="edge-mean"))
        targets = [angles[1] - angles[0]]
        if self._objective.against_itself:
            targets.append(angles[1])
        return (*before, *rotated), self._targets(np.stack(targets, axis=1))

    def _targets(self, angles_rad):
        return unit_vectors(angles_rad, periods=self._objective.periods).astype(np.float32)
