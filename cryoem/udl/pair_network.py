"""A small pair network for natural images, and the sampler of a spatial transformer.

Both images are sampled on circles about their origin, where a rotation is a circular shift. Shared circular
convolutions turn them into features. The circular correlation of the two feature maps (the feature-matching layer of
arXiv 2205.11829, in polar coordinates) measures how well they match at every angle, and dense layers read the angle
from these matches. Dense layers are not equivariant, so the network has to learn how a rotation of either image
changes the answer; the three methods of ``pair_training`` teach this in three ways. It trains on a CPU in minutes.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from cryoem.distances.encoders import CircularPad, PolarSampling, Standardize
from cryoem.training.compilation import device_precision
from cryoem.udl.published_network import UnitLength
from cryoem.validation import not_negative, whole_number

N_ANGLES = 64
KERNEL_WIDTH = 5
SMALLEST_PX = 16


@keras.saving.register_keras_serializable("cryoem")
class CircularMatches(layers.Layer):
    """Cosine between one feature map and another, rotated back by every angle, for each group of channels.

    It is the correlation layer of Rocco et al. (arXiv 1703.05593), summed over all positions that are a rotation apart.
    """

    def __init__(self, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, first, second):
        """(b, a, c), (b, a, c) -> (b, a, groups): at step s the match of ``second`` rotated back by s angles."""
        n = first.shape[1]
        first, second = (self._unit(x) for x in (first, second))  # (b, groups, a, c / groups)
        matches = ops.matmul(first, ops.swapaxes(second, 2, 3))  # (b, groups, a, a)
        # sum the circular diagonals: rows, repeated twice, cut every 2 n + 1 elements start at their diagonal
        flat = ops.reshape(ops.concatenate([matches, matches], axis=-1), (-1, self.groups, 2 * n * n))
        skewed = ops.reshape(ops.pad(flat, ((0, 0), (0, 0), (0, n))), (-1, self.groups, n, 2 * n + 1))
        return ops.swapaxes(ops.sum(skewed[..., :n], axis=2), 1, 2)

    def _unit(self, features):
        """Subtract the mean over the angle, which matches at every angle, and scale each group to length 1."""
        n, channels = features.shape[1:]
        features = features - ops.mean(features, axis=1, keepdims=True)
        features = ops.reshape(features, (-1, n, self.groups, channels // self.groups))
        square = ops.sum(ops.square(features), axis=(1, 3), keepdims=True)
        return ops.transpose(features * ops.rsqrt(ops.maximum(square, 1e-6)), (0, 2, 1, 3))

    def compute_output_shape(self, first_shape, second_shape):
        return (*first_shape[:2], self.groups)


@keras.saving.register_keras_serializable("cryoem")
class RotateImages(layers.Layer):
    """Rotate images anticlockwise about pixel n // 2, bilinearly and differentiably by image and angle.

    The direction is that of ``rotation.rotate_images``. Outside the image, values are those of the nearest pixel. The
    angle in [0, 2 pi / periods) is given as pair networks predict it: (cos, sin) of ``periods`` times the angle.

    Source: Jaderberg et al., Spatial Transformer Networks, NIPS 2015 (arXiv 1506.02025), section 3.3.
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
        # the position in the original image of each pixel of the rotated one
        x = ops.clip(cos * u + sin * v + n // 2, 0, n - 1)  # (b, y x)
        y = ops.clip(cos * v - sin * u + n // 2, 0, n - 1)
        # interpolate between the four pixels around it
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
    """Build the network of a pair of square images.

    Parameters
    ----------
    image_size : int
        Side of the images, pixels, at least 16.
    channels, blocks : int
        Width and number of the residual blocks of circular convolutions.
    groups : int
        Groups of channels that are matched separately; divides ``channels``.
    dense : int
        Width of the layer that reads the matches.
    border_px : float
        Width of the ring at the border of the circle that is not sampled. If training displaces masked images, it must
        cover the displaced edge of the mask, which would reveal the displacement.
    rng : numpy.random.Generator or int
        For the initial weights.

    Returns
    -------
    keras.Model
        [first, second], or {"first": ..., "second": ...}, each (b, y, x), -> (b, 2) float32: the unit vector (cos, sin)
        of the angle from ``first`` to ``second`` times the number of periods in a full turn. The network standardises
        every image.

    Raises
    ------
    ValueError
        If a number is out of range, ``groups`` does not divide ``channels``, or ``border_px`` is more than a quarter of
        the side.
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

    # features of one image: (b, y, x) -> (b, angle, channels)
    images = keras.Input((image_size, image_size))
    n_radii = image_size // 2 - 1 - int(border_px)
    x = PolarSampling(N_ANGLES, n_radii, border_px, dtype="float32")(Standardize(dtype="float32")(images))
    x = layers.Dense(channels, kernel_initializer=start())(x)
    for _ in range(blocks):
        y = CircularPad(KERNEL_WIDTH // 2)(layers.LayerNormalization()(x))
        y = layers.Conv1D(channels, KERNEL_WIDTH, activation="gelu", kernel_initializer=start())(y)
        y = layers.Dense(channels, kernel_initializer=start())(y)
        x = layers.Add()([x, y])
    features = keras.Model(images, x, name="features")

    # matches of two images at every angle, (b, angle, groups), and the angle read from them
    inputs = [keras.Input((image_size, image_size), name=name) for name in ("first", "second")]
    matches = CircularMatches(groups, dtype="float32")(*(features(image) for image in inputs))
    x = layers.Dense(dense, activation="relu", kernel_initializer=start())(layers.Flatten()(matches))
    x = layers.Dense(2, use_bias=False, kernel_initializer=start())(x)
    answer = UnitLength(name="cos_sin", dtype="float32")(x)
    return keras.Model(inputs, answer, name="polar_pair_network")
