"""The polar network: from the polar spectrum of one image to a unit vector, the angle in units of its period.

In polar coordinates a rotation is a circular shift, and every layer moves with it, so that the network's angle turns by
exactly what the image is turned by: there is nothing to learn about rotation as such.  What is learned is
where to look:

- ``RingGate``: from how strong and how anisotropic each ring of frequencies is, a weight for each ring, so
  that the zeros of this image's contrast transfer, and rings of noise, have no say;
- two small circular convolutions that clean the spectrum;
- ``TemplateMatch``: circular correlation with a template, warm-started from the spectra themselves, and the
  mean direction of a softmax over the angles.

A pair's angle is the difference of two images' angles: one pass an image, not one a pair.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from cryoem.devices import device_precision
from cryoem.udl.spectra import PolarGrid

FILTERS = 8
KERNEL = (5, 3)  # along the angle, across rings
GATE_WIDTH = 32
SHARPNESS = 20.0
TEMPLATE_STEP = 1.0  # of the learned change of the template, in units of the template's own deviation


@keras.saving.register_keras_serializable("cryoem")
class WithoutRings(layers.Layer):
    """(b, angle, radius) less the mean of each ring."""

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
    """Pad (b, angle, radius, c) periodically along the angle and with zeros across the radius, for a ``kernel``."""

    def __init__(self, kernel: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.kernel = tuple(kernel)

    def call(self, x):
        """(b, a, r, c) -> (b, a + k - 1, r + l - 1, c)"""
        along, across = self.kernel[0] // 2, self.kernel[1] // 2
        x = ops.concatenate([x[:, -along:], x, x[:, :along]], axis=1)
        return ops.pad(x, ((0, 0), (0, 0), (across, across), (0, 0)))

    def get_config(self):
        return {**super().get_config(), "kernel": self.kernel}


@keras.saving.register_keras_serializable("cryoem")
class TemplateMatch(layers.Layer):
    """Direction in which (b, angle, radius) spectra agree with a template: (b, 2) unit vectors.

    The template is a fixed start plus a learned change; ``initializer`` is that of the start.
    """

    def __init__(self, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        """Create the start (set by ``warm_start``), the learned change and the sharpness of the softmax."""
        _, n_angles, n_radii = input_shape
        shape = (n_angles, n_radii)
        self.start = self.add_weight(shape=shape, initializer=self.initializer, trainable=False, name="start")
        self.change = self.add_weight(shape=shape, initializer="zeros", name="change")
        self.log_sharpness = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.log(SHARPNESS)), name="log_sharpness"
        )
        angle = 2 * np.pi * np.arange(n_angles) / n_angles
        steps = np.arange(n_angles)
        self._turns = np.mod(steps - steps[:, None], n_angles).astype(
            "int32"
        )  # [a]: the template turned by a steps
        self._directions = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype("float32")

    def warm_start(self, template: np.ndarray) -> None:
        """Begin anew from an (angle, radius) template, scaled so that a perfect match scores 1."""
        self.start.assign(template / np.sum(template**2))
        self.change.assign(np.zeros_like(template))

    def call(self, spectra):
        """(b, angle, radius) -> (b, 2)"""
        n_angles, n_radii = spectra.shape[1:]
        deviation = ops.sqrt(ops.mean(ops.square(self.start)))
        template = self.start + TEMPLATE_STEP * deviation * self.change
        turned = ops.reshape(ops.take(template, self._turns, axis=0), (n_angles, n_angles * n_radii))
        scores = ops.matmul(
            ops.reshape(spectra, (-1, n_angles * n_radii)), ops.transpose(turned)
        )  # (b, angle)
        where = ops.softmax(ops.exp(self.log_sharpness) * scores, axis=-1)
        return unit_vector(ops.matmul(where, self._directions))

    def get_config(self):
        return {**super().get_config(), "initializer": keras.initializers.serialize(self.initializer)}


def unit_vector(x):
    """(..., 2) vectors at length 1; one of length zero stays so."""
    return x / ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


@device_precision()
def build_polar_network(grid: PolarGrid, *, seed: int = 0) -> keras.Model:
    """The network of a polar grid: (b, n_angles, n_radii) -> (b, 2), (cos, sin) of ``periods`` times the angle.

    The template is random; ``network.get_layer("template").warm_start(...)`` gives it a better one.  ``seed``
    is that of the initial weights.
    """
    start = [keras.initializers.GlorotUniform(seed=seed + layer) for layer in range(3)]
    spectra = keras.Input((grid.n_angles, grid.n_radii), name="spectra")
    rings = layers.LayerNormalization()(RingStatistics(dtype="float32")(spectra))
    gates = layers.Dense(GATE_WIDTH, activation="gelu", kernel_initializer=start[0])(rings)
    gates = layers.Dense(grid.n_radii, kernel_initializer="zeros")(gates)
    x = WithoutRings(dtype="float32")(spectra)
    cleaner = layers.Reshape((grid.n_angles, grid.n_radii, 1))(x)
    cleaner = layers.Conv2D(FILTERS, KERNEL, activation="gelu", kernel_initializer=start[1])(
        PolarPad(KERNEL)(cleaner)
    )
    cleaner = layers.Conv2D(1, KERNEL, kernel_initializer="zeros")(PolarPad(KERNEL)(cleaner))
    x = layers.Add(dtype="float32")([x, layers.Reshape((grid.n_angles, grid.n_radii))(cleaner)])
    x = RingGate(dtype="float32")(x, gates)
    return keras.Model(
        spectra, TemplateMatch(start[2], name="template", dtype="float32")(x), name="polar_aligner"
    )
