"""Training of pair networks f(a, b), the angle from image a to image b: by differences, by labels, by warping.

``"udl"``, unsupervised difference learning (arXiv 2205.11829): a and b are turned by known random angles alpha
and beta, and the answer must change by beta - alpha.  Differences ask for consistency alone, and what is consistent can
be wrong in three ways:

- By a constant, the bias.  It is calibrated after every epoch without the truth: what the network says of an image
  and the same image turned by a known angle, less that angle, is the bias.  It may be another one for every pair; so
  the answer for b and b turned, which must be beta, is part of the loss (``against_itself``).
- By the displacement of b, which turns with b.  So b turned may be displaced anew (``displacement_px``).
- By noise, which turns too.  So the turned images may hold the one half of the pixels and those before the turn the
  other (``split_pixels``): noise that is independent between pixels then has no say.

``"supervised"``: the answer must be the true angle.

``"stn"``, a spatial transformer: ``first`` turned by the answer must look like ``second``, in the mean square inside
their circle.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from cryoem.checks import not_negative, positive_number, whole_number
from cryoem.udl.classical import wrapped
from cryoem.udl.natural import crop_mask
from cryoem.udl.natural_network import TurnImages
from cryoem.udl.pair_streams import PairStream
from cryoem.udl.rotation import rotate_images
from cryoem.udl.training import TurnBack, direction_loss, fit

METHODS = ("udl", "supervised", "stn")
CALIBRATION_IMAGES = 256


def train_pairs(
    network: keras.Model,
    stream: PairStream,
    *,
    method: str = "udl",
    validation: PairStream,
    epochs: int,
    periods: int = 1,
    against_itself: bool = True,
    displacement_px: float = 0.0,
    split_pixels: bool = False,
    learning_rate: float = 1e-3,
    seconds: float | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train a pair network in place.

    Parameters
    ----------
    network : of two images (b, y, x) -> (b, 2), the unit vector of ``periods`` times the angle from the first to the
        second: ``build_pair_network`` or ``build_polar_pair_network``.
    stream, validation : pairs to train on and to watch; ``validation`` gives the same ones after every epoch.
    method : ``"udl"``, ``"supervised"`` or ``"stn"``, see the module; the first and the last use no angles.
    epochs, learning_rate : of AdamW; the rate is the highest of a cosine.
    periods : of the angle in a full turn, 1 for images, 2 for centrosymmetric spectra.
    against_itself, displacement_px, split_pixels : for ``"udl"``: whether the loss holds the second image against
        itself turned (False: differences alone, as published); limit of the displacement U[-limit, limit] along x and
        y of the second image when turned; whether turned images and those before hold disjoint random halves of the
        pixels, the others being 0.
    seconds, checkpoints, callbacks, verbose : as in ``training.train``.

    Returns
    -------
    History, one value an epoch: ``loss`` and ``val_loss``, which need no truth but for ``"supervised"``; ``bias_deg``,
    to be taken off the network's angles (``predict_angles``), 0 but for ``"udl"``; ``val_error_deg``, where the truth
    of ``validation`` is known, the mean error after that; ``seconds``, ``step``, ``learning_rate``.

    Raises
    ------
    ValueError : the method is unknown, a number is out of its range, ``"supervised"`` gets pairs without angles, a
        method other than ``"udl"`` a displacement or a split, or ``checkpoints`` are of a training with other
        options or another seed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    epochs = whole_number(epochs, name="epochs", at_least=1)
    periods = whole_number(periods, name="periods", at_least=1)
    positive_number(learning_rate, name="learning_rate")
    displacement_px = not_negative(displacement_px, name="displacement_px")
    if method != "udl" and (displacement_px or split_pixels):
        raise ValueError(f"displacement_px and split_pixels are for method 'udl' alone, got {method!r}")
    options = (method, periods, against_itself, displacement_px, split_pixels)
    model, loss = _training_model(network, method, periods, against_itself)
    watch = _Watch(network, stream if method == "udl" else None, validation, periods)
    return fit(
        model,
        _Batches(stream, *options),
        _Batches(validation, *options),
        epochs=epochs,
        loss=loss,
        learning_rate=learning_rate,
        seconds=seconds,
        checkpoints=checkpoints,
        made_from={"options": options, "seed": stream.seed, "batch_size": stream.batch_size},
        callbacks=[watch, *callbacks],
        verbose=verbose,
    )


def predict_angles(
    network: keras.Model,
    first: np.ndarray,
    second: np.ndarray,
    *,
    bias_rad: float = 0.0,
    periods: int = 1,
    batch_size: int = 64,
) -> np.ndarray:
    """Angles from ``first`` to ``second`` (n, y, x): (n,) radians in [0, 2 pi / periods), the bias taken off."""
    answer = network.predict([first, second], batch_size=batch_size, verbose=0)
    return np.mod(np.arctan2(answer[:, 1], answer[:, 0]) / periods - bias_rad, 2 * np.pi / periods)


def calibrate(
    network: keras.Model,
    images: np.ndarray,
    *,
    periods: int = 1,
    rng: np.random.Generator | int | None = None,
) -> float:
    """The constant in a network's angles, radians: what it says of an image and itself turned, less the turn.

    ``images`` (n, y, x) that may be turned within their circle; the directions of all of them are averaged.
    """
    angles = np.random.default_rng(rng).uniform(0, 2 * np.pi, len(images))
    turned = rotate_images(images, angles, outside="edge-mean")
    said = predict_angles(network, images, turned, periods=periods)
    return float(np.angle(np.exp(1j * periods * (said - angles)).mean()) / periods)


def angle_errors_deg(estimated_rad: np.ndarray, true_rad: np.ndarray, *, periods: int = 1) -> np.ndarray:
    """Absolute differences of angles (n,), degrees, modulo the period: at most 180 / periods."""
    difference = np.asarray(estimated_rad, dtype=float) - np.asarray(true_rad, dtype=float)
    return np.degrees(np.abs(wrapped(difference, 2 * np.pi / periods)))


def _training_model(network: keras.Model, method: str, periods: int, against_itself: bool = False):
    """A model whose answer is compared with the targets of ``_Batches``, and the loss that compares them."""
    first, second = (keras.Input(x.shape[1:], name=x.name) for x in network.inputs)
    answer = network([first, second])
    if method == "supervised":
        return keras.Model([first, second], answer), direction_loss
    if method == "stn":
        return keras.Model([first, second], TurnImages(periods)(first, answer)), masked_square
    turned = [keras.Input(x.shape[1:], name=f"turned_{x.name}") for x in network.inputs]
    answers = [TurnBack()(answer, network(turned))]
    if against_itself:
        answers.append(network([second, turned[1]]))
    return keras.Model([first, second, *turned], ops.stack(answers, axis=1)), direction_loss


def masked_square(true, predicted):
    """Mean squared difference of images (b, y, x) inside their circle."""
    mask = crop_mask(true.shape[1])
    return ops.mean(ops.sum(ops.square(true - predicted) * mask, axis=(1, 2))) / mask.sum()


def random_half(shape: tuple[int, int, int], periods: int, rng: np.random.Generator) -> np.ndarray:
    """Every second pixel of (n, y, x) images by chance, with its twin about pixel n // 2 where half a turn is a
    whole number of periods: centrosymmetric spectra hold the same noise there.  (n, y, x) bool.
    """
    draw = rng.random(shape, dtype=np.float32)
    if periods % 2 == 0:
        odd = 1 - shape[1] % 2
        twin = np.roll(draw[:, ::-1, ::-1], (odd, odd), axis=(1, 2))
        return draw + twin < 1
    return draw < 0.5


class _Batches(keras.utils.PyDataset):
    """The inputs and targets of a method from the pairs of a stream."""

    def __init__(self, stream, method, periods, against_itself, displacement_px, split_pixels):
        super().__init__()
        self.epoch = 0
        self._stream, self._method, self._periods = stream, method, periods
        self._against_itself, self._displacement_px, self._split = (
            against_itself,
            displacement_px,
            split_pixels,
        )

    def __len__(self):
        return len(self._stream)

    def __getitem__(self, index):
        self._stream.epoch = self.epoch
        first, second, angles = self._stream[index]
        if self._method == "stn":
            return (first, second), second
        if self._method == "supervised":
            if angles is None:
                raise ValueError("stream must give the angles of its pairs for supervised training, got None")
            return (first, second), self._vectors(angles)
        return self._with_turned(first, second, self._stream.rng(self.epoch, index, 1))

    def _with_turned(self, first, second, rng):
        """The pairs, the pairs turned, and by how much this changes their angle; the turn of the second, if asked."""
        before, turned, angles = [], [], rng.uniform(0, 2 * np.pi, (2, len(first)))
        limits = 0.0, self._displacement_px
        for images, angle, limit in zip((first, second), angles, limits, strict=True):
            kept = left = images
            if self._split:
                chosen = random_half(images.shape, self._periods, rng)
                kept, left = images * chosen, images * ~chosen
            shifts = rng.uniform(-limit, limit, (len(images), 2))
            before.append(kept)
            turned.append(rotate_images(left, angle, shifts, outside="edge-mean"))
        asked = [angles[1] - angles[0], angles[1]] if self._against_itself else [angles[1] - angles[0]]
        return (*before, *turned), self._vectors(np.stack(asked, axis=1))

    def _vectors(self, angles_rad):
        turns = self._periods * angles_rad
        return np.stack([np.cos(turns), np.sin(turns)], axis=-1).astype(np.float32)


class _Watch(keras.callbacks.Callback):
    """Add the bias, calibrated where there is a stream for it, and the true error to the logs."""

    def __init__(self, network, calibration, validation, periods):
        super().__init__()
        self._network, self._periods = network, periods
        self._images = None if calibration is None else calibration.some_images(CALIBRATION_IMAGES)
        batches = [validation[i] for i in range(len(validation))]
        self._known = None
        if all(angles is not None for _, _, angles in batches):
            self._known = [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def on_epoch_end(self, epoch, logs=None):
        bias = 0.0
        if self._images is not None:
            bias = calibrate(self._network, self._images, periods=self._periods, rng=0)
        logs["bias_deg"] = float(np.degrees(bias))
        if self._known is not None:
            first, second, angles = self._known
            found = predict_angles(self._network, first, second, bias_rad=bias, periods=self._periods)
            logs["val_error_deg"] = float(angle_errors_deg(found, angles, periods=self._periods).mean())
