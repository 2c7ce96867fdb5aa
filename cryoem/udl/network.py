"""The polar network: from the polar spectrum of an image to a unit vector, the angle in units of its period.

In polar coordinates a rotation is a circular shift. Every layer commutes with it, so a rotation of the image changes
the network's angle by exactly that rotation, and nothing about rotation has to be learned. The network learns which
parts of the spectrum to use:

- ``RingGate``: a weight for each ring of frequencies, from the strength and anisotropy of all rings. It suppresses
  the zeros of this image's contrast transfer and rings of noise.
- Two small circular convolutions clean the spectrum.
- ``TemplateMatch``: circular correlation with a template, initialised from the spectra themselves, and the mean
  direction of a softmax over the angles.

The angle of a pair is the difference of two images' angles, so the network runs once per image, not once per pair.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from cryoem.training.compilation import (
    TrainingSchedule,
    check_divisible,
    compile_network,
    device_precision,
    global_batch_loss,
    replica_count,
)
from cryoem.training.fitting import fit
from cryoem.udl.spectra import PolarGrid

FILTERS = 8
KERNEL = (5, 3)  # along the angle, across rings
GATE_WIDTH = 32
SHARPNESS = 20.0  # initial, of the softmax
TEMPLATE_STEP = 1.0  # unit of the learned change of the template, in standard deviations of the template


@keras.saving.register_keras_serializable("cryoem")
class SubtractRingMeans(layers.Layer):
    """Subtract the mean of each ring of (b, angle, radius)."""

    def call(self, spectra):
        """(b, angle, radius) -> (b, angle, radius)"""
        return spectra - ops.mean(spectra, axis=1, keepdims=True)


@keras.saving.register_keras_serializable("cryoem")
class RingStatistics(layers.Layer):
    """Mean and variance of each ring: (b, angle, radius) -> (b, 2 radius)."""

    def call(self, spectra):
        """(b, angle, radius) -> (b, 2 radius)"""
        return ops.concatenate([ops.mean(spectra, axis=1), ops.var(spectra, axis=1)], axis=-1)


@keras.saving.register_keras_serializable("cryoem")
class RingGate(layers.Layer):
    """Multiply each ring of (b, angle, radius) by the exponential of (b, radius)."""

    def call(self, spectra, logarithms):
        """(b, angle, radius), (b, radius) -> (b, angle, radius)"""
        return spectra * ops.exp(logarithms)[:, None, :]


@keras.saving.register_keras_serializable("cryoem")
class PolarPad(layers.Layer):
    """Pad (b, angle, radius, c) for a ``kernel``: periodically along the angle, with zeros across the radius."""

    def __init__(self, kernel: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.kernel = tuple(kernel)

    def call(self, x):
        """(b, a, r, c) -> (b, a + k - 1, r + l - 1, c)"""
        along, across = self.kernel[0] // 2, self.kernel[1] // 2
        x = ops.concatenate([x[:, -along:], x, x[:, :along]], axis=1)
        return ops.pad(x, ((0, 0), (0, 0), (across, across), (0, 0)))


@keras.saving.register_keras_serializable("cryoem")
class TemplateMatch(layers.Layer):
    """Direction in which (b, angle, radius) spectra agree best with a template: (b, 2) unit vectors.

    The template is a fixed start, random or from ``warm_start``, plus a learned change.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape):
        """Create the start, the learned change and the sharpness of the softmax."""
        _, n_angles, n_radii = input_shape
        shape = (n_angles, n_radii)
        start = keras.initializers.GlorotUniform(seed=self.seed)
        self.start = self.add_weight(shape=shape, initializer=start, trainable=False, name="start")
        self.change = self.add_weight(shape=shape, initializer="zeros", name="change")
        self.log_sharpness = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.log(SHARPNESS)), name="log_sharpness"
        )
        angle = 2 * np.pi * np.arange(n_angles) / n_angles
        steps = np.arange(n_angles)
        # row a contains the indices of the template rotated by a steps
        self._rotated = np.mod(steps - steps[:, None], n_angles).astype("int32")
        self._directions = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype("float32")

    def warm_start(self, template: np.ndarray) -> None:
        """Restart from an (angle, radius) template, scaled so that a perfect match scores 1."""
        self.start.assign(template / np.sum(template**2))
        self.change.assign(np.zeros_like(template))

    def call(self, spectra):
        """(b, angle, radius) -> (b, 2)"""
        n_angles, n_radii = spectra.shape[1:]
        deviation = ops.sqrt(ops.mean(ops.square(self.start)))
        template = self.start + TEMPLATE_STEP * deviation * self.change
        rotated = ops.reshape(ops.take(template, self._rotated, axis=0), (n_angles, n_angles * n_radii))
        flat = ops.reshape(spectra, (-1, n_angles * n_radii))
        scores = ops.matmul(flat, ops.transpose(rotated))  # (b, angle)
        where = ops.softmax(ops.exp(self.log_sharpness) * scores, axis=-1)
        direction = ops.matmul(where, self._directions)
        return direction / ops.sqrt(
            ops.maximum(ops.sum(ops.square(direction), axis=-1, keepdims=True), 1e-12)
        )


@keras.saving.register_keras_serializable("cryoem")
class RelativeDirection(layers.Layer):
    """Direction of the second of two unit vectors relative to the first: the difference of their angles."""

    def call(self, first, second):
        """(b, 2), (b, 2) -> (b, 2)"""
        cos = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]
        sin = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
        return ops.stack([cos, sin], axis=1)


@device_precision()
def build_polar_network(grid: PolarGrid, *, seed: int = 0) -> keras.Model:
    """Build the network of a polar grid: (b, n_angles, n_radii) -> (b, 2), (cos, sin) of ``periods`` times the angle.

    The template is random; ``network.get_layer("template").warm_start(...)`` replaces it.

    Parameters
    ----------
    grid : PolarGrid
    seed : int
        Seed of the initial weights.
    """
    start = [keras.initializers.GlorotUniform(seed=seed + layer) for layer in range(2)]
    spectra = keras.Input((grid.n_angles, grid.n_radii), name="spectra")
    rings = layers.LayerNormalization()(RingStatistics(dtype="float32")(spectra))
    gates = layers.Dense(GATE_WIDTH, activation="gelu", kernel_initializer=start[0])(rings)
    gates = layers.Dense(grid.n_radii, kernel_initializer="zeros")(gates)
    x = SubtractRingMeans(dtype="float32")(spectra)
    cleaner = layers.Reshape((grid.n_angles, grid.n_radii, 1))(x)
    cleaner = layers.Conv2D(FILTERS, KERNEL, activation="gelu", kernel_initializer=start[1])(
        PolarPad(KERNEL)(cleaner)
    )
    cleaner = layers.Conv2D(1, KERNEL, kernel_initializer="zeros")(PolarPad(KERNEL)(cleaner))
    x = layers.Add(dtype="float32")([x, layers.Reshape((grid.n_angles, grid.n_radii))(cleaner)])
    x = RingGate(dtype="float32")(x, gates)
    direction = TemplateMatch(seed + 2, name="template", dtype="float32")(x)
    return keras.Model(spectra, direction, name="polar_aligner")


def direction_loss(true, predicted):
    """Mean sine of half the angle between unit vectors (..., 2): linear for small angles, bounded for large ones."""
    return ops.mean(ops.sqrt(ops.maximum(1 - ops.sum(true * predicted, axis=-1), 0) / 2 + 1e-6))


def compile_and_fit(
    model: keras.Model,
    stream: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    *,
    loss,
    schedule: TrainingSchedule,
    **options,
) -> dict[str, list[float]]:
    """Compile a model for a loss of whole batches and train it; options and result are those of ``fit``."""
    if replica_count(model) > 1:
        for name, batches in (("training batches", stream), ("validation batches", validation)):
            check_divisible(len(batches[0][1]), model, name=name)
    compile_network(model, schedule=schedule, steps_per_epoch=len(stream), loss=global_batch_loss(loss))
    return fit(model, stream, validation, schedule=schedule, **options)
