"""Training of pair networks f(a, b), which estimate the angle from image a to image b.

``"udl"``, unsupervised difference learning (arXiv 2205.11829): a and b are rotated by known random angles alpha and
beta, and the answer must change by beta - alpha. This requires only consistency, and a consistent answer can be wrong
in three ways:

- It can contain a constant bias. The bias is calibrated after every epoch without true angles: it is the network's
  answer for an image and its rotated copy, minus the known rotation. Because the bias can differ between pairs, the
  loss also requires that the answer for b and its rotated copy equals beta (``against_itself``).
- It can depend on the displacement of b, which rotates with b. To prevent this, the rotated b can be displaced again
  (``displacement_px``).
- It can depend on the noise, which also rotates. To prevent this, the original and the rotated images can use disjoint
  halves of the pixels (``split_pixels``), so that noise that is independent between pixels has no effect.

``"supervised"``: the answer must equal the true angle.

``"stn"``, a spatial transformer: ``first``, rotated by the answer, must equal ``second``. The loss is the mean square
difference inside the circular mask.

``"published"``: differences with the network and loss of the paper; see ``published``. Both rotated images are also
displaced, and the bias is calibrated as for ``"udl"``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial

import numpy as np

from cryoem.training.backend import keras, ops
from cryoem.training.compilation import TrainingSchedule
from cryoem.udl.natural import crop_mask, natural_pairs
from cryoem.udl.networks import compile_and_fit, direction_loss, relative_direction, rotated_by
from cryoem.udl.published import TURN_DEG, difference_loss, published_optimizer
from cryoem.udl.rotation import angle_errors_deg, rotate_images, unit_vectors
from cryoem.validation import not_negative, one_each, square_images, whole_number

METHODS = ("udl", "supervised", "stn", "published")
CALIBRATION_IMAGES = 256
PREDICTED_AT_ONCE = 64
_APART = 2**31  # an epoch that training never reaches

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


# --- streams of pairs


class PairStream(keras.utils.PyDataset):
    """Stream of batches of random pairs (first, second, angles), drawn on demand; the same seed gives the same batches.

    Parameters
    ----------
    draw : callable
        Function that takes a number of pairs n and a random number generator. It returns the images ``first`` and
        ``second``, each (n, y, x), and the (n,) angles from ``first`` to ``second`` in radians, or None if the angles
        are unknown. See ``natural_draw`` and ``stack_draw``.
    batch_size, steps : int
        Number of pairs per batch and number of batches per epoch.
    seed : int
        Seed for all batches. Default: 0.
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
        """Return batch ``index`` of the current epoch: first, second (b, y, x) float32, angles (b,) or None."""
        return self._draw(self.batch_size, self.rng(self.epoch, index))

    def some_images(self, n: int) -> np.ndarray:
        """Draw (n, y, x) images with a random number generator that is not used for any batch."""
        return self._draw(n, self.rng(_APART, 0))[0]

    def rng(self, *key: int) -> np.random.Generator:
        """Return the random number generator for a key. Generators for different keys are independent."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def natural_draw(photographs: Sequence[np.ndarray], **options) -> Draw:
    """Return a ``draw`` function for ``PairStream`` that draws pairs of crops from photographs.

    The function returns the first crops, the second crops and the true angles between them. Each crop is standardised
    to zero mean and unit variance. The ``options`` are passed to ``natural_pairs``.
    """

    def standardised(images):
        images = images - images.mean(axis=(1, 2), keepdims=True)
        return images / np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-6)

    def draw(n, rng):
        pairs = natural_pairs(photographs, n, rng=rng, **options)
        return standardised(pairs.first), standardised(pairs.second), pairs.angles_rad

    return draw


def stack_draw(images: np.ndarray, angles_rad: np.ndarray | None = None) -> Draw:
    """Return a ``draw`` function for ``PairStream`` that draws pairs of different images from one stack.

    Parameters
    ----------
    images : (n, y, x) array
        At least two square images, such as the spectra returned by ``power_spectra``. They are used without
        standardisation.
    angles_rad : (n,) array, optional
        True angle of each image. Default: the angles are unknown.
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
        Training method: ``"udl"``, ``"stn"`` and ``"published"`` do not use true angles; ``"supervised"`` does.
        Default: ``"udl"``.
    periods : int
        Number of periods of the angle in a full turn: 1 for images, 2 for centrosymmetric spectra. Default: 1.
    against_itself : bool
        Whether ``"udl"`` also compares the second image with its rotated copy, which the published method does not do.
        Default: True.
    displacement_px : float
        Limit of an additional displacement in pixels, whose x and y components are drawn from U[-limit, limit].
        ``"udl"`` displaces the rotated second image, and ``"published"`` displaces both rotated images. The published
        limit is 5. Default: 0.
    split_pixels : bool
        Whether ``"udl"`` uses disjoint random halves of the pixels in the original and the rotated images, and sets all
        other pixels to 0. Default: False.

    Raises
    ------
    ValueError
        If a value is out of range, or if an option does not apply to the method.
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
        if self.displacement_px and self.method not in ("udl", "published"):
            raise ValueError(
                f"displacement_px requires method 'udl' or 'published', got {self.method!r}; omit displacement_px"
            )
        if self.split_pixels and self.method != "udl":
            raise ValueError(f"split_pixels requires method 'udl', got {self.method!r}; omit split_pixels")


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
        Pair network. For all methods but ``"published"``, a network from ``build_polar_pair_network``, which maps two
        images, (b, y, x), to (b, 2) unit vectors: the cosine and sine of ``periods`` times the angle from the first to
        the second image. For ``"published"``, a network from ``build_pair_network``, which maps two images to (b, 1)
        angles in degrees.
    stream, validation : PairStream
        Pairs for training and for validation. The validation pairs are the same after every epoch.
    schedule : TrainingSchedule
        Learning rate and stopping criteria.
    objective : PairObjective, optional
        Training method and its options. Default: ``PairObjective()``, unsupervised difference learning.
    checkpoints, callbacks, verbose
        See ``training.fit``.

    Returns
    -------
    dict of str to list of float
        History of ``training.fit``, with one value per epoch. It also contains ``bias_deg``, the bias that
        ``predict_angles`` must subtract (0 for methods without a bias). If the true angles of the validation pairs are
        known, it also contains ``val_error_deg``, the mean error after the bias is subtracted.

    Raises
    ------
    ValueError
        If the method is ``"supervised"`` and the angles of the pairs are unknown; if the network does not fit the
        method; or if the checkpoints belong to a different training run.
    """
    objective = objective or PairObjective()
    published, values = objective.method == "published", network.output_shape[-1]
    if values != (1 if published else 2):
        builder = "build_pair_network" if published else "build_polar_pair_network"
        raise ValueError(
            f"method {objective.method!r} requires a network from {builder}, "
            f"got one with {values} values per pair"
        )
    model, loss = training_model(network, objective)
    periods = objective.periods
    calibration = stream.some_images(CALIBRATION_IMAGES) if objective.method in ("udl", "published") else None
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
        optimizer=published_optimizer(schedule.learning_rate) if published else None,
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
        The first and the second image of each pair, with the image size for which the network was built.
    bias_rad : float
        Bias to subtract from the angles: ``bias_deg`` from the history of ``train_pairs``, converted to radians.
        Default: 0.
    periods : int
        Number of periods of the angle in a full turn: 1 for images, 2 for spectra. Default: 1.

    Returns
    -------
    (n,) array
        Angles from ``first`` to ``second`` in radians, in [0, 2 pi / periods).
    """
    answer = network.predict([first, second], batch_size=PREDICTED_AT_ONCE, verbose=0)
    if answer.shape[1] == 1:  # published: degrees, of the first image relative to the second
        angles = -np.radians(answer[:, 0].astype(float))
    else:
        angles = np.arctan2(answer[:, 1], answer[:, 0]) / periods
    return np.mod(angles - bias_rad, 2 * np.pi / periods)


def calibrate_bias(network: keras.Model, images: np.ndarray, *, periods: int = 1) -> float:
    """Return the bias of a network's angles in radians.

    It is the mean of the answers for (n, y, x) images and rotated copies of them, minus the rotations.
    """
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, len(images))
    rotated = rotate_images(images, angles, outside="edge-mean")
    answers = predict_angles(network, images, rotated, periods=periods)
    return float(np.angle(np.exp(1j * periods * (answers - angles)).mean()) / periods)


def random_half(shape: tuple[int, int, int], periods: int, rng: np.random.Generator) -> np.ndarray:
    """Choose a random half of the pixels in each of (n, y, x) images: (n, y, x) bool.

    If ``periods`` is even, each pixel and its counterpart about pixel n // 2 are chosen together, because
    centrosymmetric spectra have the same noise at both.
    """
    draw = rng.random(shape, dtype=np.float32)
    if periods % 2 == 0:
        odd = 1 - shape[1] % 2
        twin = np.roll(draw[:, ::-1, ::-1], (odd, odd), axis=(1, 2))
        return draw + twin < 1
    return draw < 0.5


def training_model(network: keras.Model, objective: PairObjective):
    """Return a model whose output is compared with the targets of ``ObjectiveBatches``, and its loss."""
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
    if objective.method == "published":
        # the pairs, followed by the rotated pairs: (2 b, 1) degrees -> (b, 2)
        answers = network([ops.concatenate(x, axis=0) for x in zip([first, second], rotated, strict=True)])
        answers = ops.concatenate(ops.split(answers, 2, axis=0), axis=1)
        loss = partial(difference_loss, period_deg=TURN_DEG / objective.periods)
        return keras.Model([first, second, *rotated], answers), loss
    answers = [relative_direction(answer, network(rotated))]
    if objective.against_itself:
        answers.append(network([second, rotated[1]]))
    answers = ops.stack(answers, axis=1)  # (b, 1 or 2, 2)
    return keras.Model([first, second, *rotated], answers), direction_loss


class ObjectiveBatches(keras.utils.PyDataset):
    """Inputs and targets of an objective, made from the pairs of a stream."""

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
                raise ValueError("method 'supervised' needs pair angles, but stream has none")
            return (first, second), self._targets(angles)
        # the pairs, the rotated pairs, and the change in angle (and the rotation of the second image)
        rng = self._stream.rng(self.epoch, index, 1)
        before, rotated, angles = [], [], rng.uniform(0, 2 * np.pi, (2, len(first)))
        published, limit = self._objective.method == "published", self._objective.displacement_px
        limits = limit if published else 0.0, limit
        for images, angle, limit in zip((first, second), angles, limits, strict=True):
            kept = left = images
            if self._objective.split_pixels:
                chosen = random_half(images.shape, self._objective.periods, rng)
                kept, left = images * chosen, images * ~chosen
            shifts = rng.uniform(-limit, limit, (len(images), 2))
            before.append(kept)
            rotated.append(rotate_images(left, angle, shifts, outside="edge-mean"))
        if published:
            return (*before, *rotated), np.degrees(angles[0] - angles[1]).astype(np.float32)
        targets = [angles[1] - angles[0]]
        if self._objective.against_itself:
            targets.append(angles[1])
        return (*before, *rotated), self._targets(np.stack(targets, axis=1))

    def _targets(self, angles_rad):
        return unit_vectors(angles_rad, periods=self._objective.periods).astype(np.float32)
