"""A pair network for natural images that trains on a CPU in minutes, and the sampler of a spatial transformer.

Both images are read on circles about their origin, where a rotation is a circular shift; shared circular convolutions
turn them into features, and the circular correlation of the two feature maps (the feature-matching layer of
arXiv 2205.11829, in polar coordinates) says how well they match at every angle.  Dense layers read the angle off these
matches.  They know nothing about circles, so that equivariance is not built in, and how a turn of either image changes
the answer has to be learned: that is what the three methods of ``pairs`` teach, each in its own way.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from cryoem.checks import not_negative, whole_number
from cryoem.devices import device_precision
from cryoem.siamese.encoders import CircularPad, PolarSampling, Standardize
from cryoem.udl.published import UnitLength

N_ANGLES = 64
KERNEL_WIDTH = 5
SMALLEST_PX = 16


@keras.saving.register_keras_serializable("cryoem")
class CircularMatches(layers.Layer):
    """Cosine between one feature map and another turned back by every angle, for each group of channels.

    Source: the correlation layer of Rocco et al. (arXiv 1703.05593), summed over all positions a rotation apart.
    """

    def __init__(self, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, first, second):
        """(b, a, c), (b, a, c) -> (b, a, groups): at step s the match of ``second`` turned back by s angles."""
        n = first.shape[1]
        first, second = (self._unit(x) for x in (first, second))  # (b, groups, a, c / groups)
        matches = ops.matmul(first, ops.swapaxes(second, 2, 3))  # (b, groups, a, a)
        # Rows repeated twice and cut n + 1 + n elements apart begin at their diagonal.
        flat = ops.reshape(ops.concatenate([matches, matches], axis=-1), (-1, self.groups, 2 * n * n))
        skewed = ops.reshape(ops.pad(flat, ((0, 0), (0, 0), (0, n))), (-1, self.groups, n, 2 * n + 1))
        return ops.swapaxes(ops.sum(skewed[..., :n], axis=2), 1, 2)

    def _unit(self, features):
        """Without their mean over the angle, which matches at every angle, and at length 1 in each group."""
        n, channels = features.shape[1:]
        features = features - ops.mean(features, axis=1, keepdims=True)
        features = ops.reshape(features, (-1, n, self.groups, channels // self.groups))
        square = ops.sum(ops.square(features), axis=(1, 3), keepdims=True)
        return ops.transpose(features * ops.rsqrt(ops.maximum(square, 1e-6)), (0, 2, 1, 3))

    def compute_output_shape(self, first_shape, second_shape):
        return (*first_shape[:2], self.groups)

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable("cryoem")
class TurnImages(layers.Layer):
    """Images turned anticlockwise about pixel n // 2, bilinearly; gradients flow into image and angle.

    What is at (x, y) comes to (x cos a - y sin a, x sin a + y cos a), as in ``rotation.rotate_images``; what comes from
    beyond the border is the nearest pixel of the border.  The angle is given as the unit vector (cos, sin) of
    ``periods`` times itself, as the pair networks predict it, and is one in [0, 2 pi / periods).

    Source: the sampler of Jaderberg et al., Spatial Transformer Networks, NIPS 2015 (arXiv 1506.02025), section 3.3.
    """

    def __init__(self, periods: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.periods = periods

    def call(self, images, vectors):
        """(b, y, x), (b, 2) -> (b, y, x)"""
        n = images.shape[1]
        axis = np.arange(n, dtype="float32") - n // 2
        u, v = np.tile(axis, n), np.repeat(axis, n)  # (y x,)
        angle = ops.arctan2(vectors[:, 1:], vectors[:, :1]) / self.periods  # (b, 1)
        cos, sin = ops.cos(angle), ops.sin(angle)
        x = ops.clip(cos * u + sin * v + n // 2, 0, n - 1)  # (b, y x): where each pixel comes from
        y = ops.clip(cos * v - sin * u + n // 2, 0, n - 1)
        left = ops.minimum(ops.floor(x), n - 2)
        top = ops.minimum(ops.floor(y), n - 2)
        tx, ty = x - left, y - top
        corner = ops.cast(top * n + left, "int32")
        flat = ops.reshape(images, (-1, n * n))

        def read(step):
            return ops.take_along_axis(flat, corner + step, axis=1)

        upper = read(0) * (1 - tx) + read(1) * tx
        lower = read(n) * (1 - tx) + read(n + 1) * tx
        return ops.reshape(upper * (1 - ty) + lower * ty, (-1, n, n))

    def compute_output_shape(self, images_shape, vectors_shape):
        return images_shape

    def get_config(self):
        return {**super().get_config(), "periods": self.periods}


@device_precision()
def build_polar_pair_network(
    image_size: int,
    *,
    channels: int = 32,
    blocks: int = 2,
    groups: int = 4,
    dense: int = 256,
    border_px: float = 0.0,
    rng: np.random.Generator | int | None = None,
) -> keras.Model:
    """The network of a pair of square images, by way of their matches over the angle.

    Parameters
    ----------
    image_size : side of the images, pixels, at least 16.
    channels, blocks : width and number of the residual blocks of circular convolutions.
    groups : of channels that are matched on their own; it divides ``channels``.
    dense : width of the layer that reads the matches.
    border_px : width of the ring at the border of the circle that is not read.  Where training displaces images that
        have been masked, it must hide the mask's edge, displaced: this edge would give the displacement away.
    rng : generator or seed of the initial weights.

    Returns
    -------
    Keras model of [first, second], or {"first": ..., "second": ...}, each (b, y, x), -> (b, 2) float32: the unit vector
    (cos, sin) of the angle from ``first`` to ``second`` times the number of periods in the full circle.  Every image is
    brought to zero mean and unit variance by the network itself.

    Raises
    ------
    ValueError : a size or number is not a whole number as stated, ``groups`` does not divide ``channels``, or
        ``border_px`` is more than a quarter of the side.
    """
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    channels = whole_number(channels, name="channels", at_least=1)
    blocks = whole_number(blocks, name="blocks", at_least=1)
    groups = whole_number(groups, name="groups", at_least=1)
    dense = whole_number(dense, name="dense", at_least=1)
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")
    border_px = not_negative(border_px, name="border_px")
    if border_px > image_size / 4:
        raise ValueError(f"border_px must be at most a quarter of the {image_size} px, got {border_px:g}")
    rng = np.random.default_rng(rng)

    def start():
        return keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))

    inputs = [keras.Input((image_size, image_size), name=name) for name in ("first", "second")]
    features = _features(image_size, channels, blocks, border_px, start)
    matches = CircularMatches(groups, dtype="float32")(
        *(features(image) for image in inputs)
    )  # (b, angle, groups)
    x = layers.Dense(dense, activation="relu", kernel_initializer=start())(layers.Flatten()(matches))
    answer = UnitLength(name="cos_sin", dtype="float32")(
        layers.Dense(2, use_bias=False, kernel_initializer=start())(x)
    )
    return keras.Model(inputs, answer, name="polar_pair_network")


def _features(image_size: int, channels: int, blocks: int, border_px: float, start) -> keras.Model:
    """(b, y, x) -> (b, angle, channels)"""
    images = keras.Input((image_size, image_size))
    n_radii = image_size // 2 - 1 - int(border_px)
    x = PolarSampling(N_ANGLES, n_radii, border_px, dtype="float32")(Standardize(dtype="float32")(images))
    x = layers.Dense(channels, kernel_initializer=start())(x)
    for _ in range(blocks):
        y = CircularPad(KERNEL_WIDTH // 2)(layers.LayerNormalization()(x))
        y = layers.Conv1D(channels, KERNEL_WIDTH, activation="gelu", kernel_initializer=start())(y)
        y = layers.Dense(channels, kernel_initializer=start())(y)
        x = layers.Add()([x, y])
    return keras.Model(images, x, name="features")
