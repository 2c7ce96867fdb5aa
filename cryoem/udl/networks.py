"""Polar networks: of one spectrum, which gives its angle, and of a pair of images, which gives the angle between them.

In polar coordinates a rotation is a circular shift.

The network of a spectrum commutes with this shift in every layer, so a rotation of the image changes its angle by
exactly that rotation, and nothing about rotation has to be learned. It learns which parts of the spectrum to use: a
weight for each ring of frequencies, from the strength and anisotropy of all rings, suppresses the zeros of this image's
contrast transfer and rings of noise; two small circular convolutions clean the spectrum; ``TemplateMatch`` reads the
angle. The angle of a pair is the difference of two images' angles, so the network runs once per image.

The network of a pair is for natural images. Shared circular convolutions turn both images, sampled on circles about
their origin, into features. The circular correlation of the two feature maps (the feature-matching layer of arXiv
2205.11829, in polar coordinates) measures how well they match at every angle, and dense layers read the angle from
these matches. Dense layers are not equivariant, so the network has to learn how a rotation of either image changes the
answer; ``pairs`` teaches this in three ways. It trains on a CPU in minutes.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from cryoem.distances.encoders import CircularPad, PolarSampling, Standardize
from cryoem.training.compilation import (
    TrainingSchedule,
    check_divisible,
    compile_network,
    device_precision,
    global_batch_loss,
    replica_count,
)
from cryoem.training.fitting import fit
from cryoem.udl.published import unit_length
from cryoem.udl.spectra import PolarGrid
from cryoem.validation import not_negative, whole_number

# the network of a spectrum
FILTERS = 8
KERNEL = (5, 3)  # along the angle, across rings
GATE_WIDTH = 32
SHARPNESS = 20.0  # initial, of the softmax
TEMPLATE_STEP = 1.0  # unit of the learned change of the template, in standard deviations of the template
# the network of a pair
N_ANGLES = 64
KERNEL_WIDTH = 5
SMALLEST_PX = 16


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
    # weights of the rings, from their means and variances: (b, n_radii)
    rings = ops.concatenate([ops.mean(spectra, axis=1), ops.var(spectra, axis=1)], axis=-1)
    gates = layers.Dense(GATE_WIDTH, activation="gelu", kernel_initializer=start[0])(
        layers.LayerNormalization()(rings)
    )
    gates = layers.Dense(grid.n_radii, kernel_initializer="zeros")(gates)
    # clean the spectra without their ring means
    x = spectra - ops.mean(spectra, axis=1, keepdims=True)
    cleaner = layers.Reshape((grid.n_angles, grid.n_radii, 1))(x)
    cleaner = layers.Conv2D(FILTERS, KERNEL, activation="gelu", kernel_initializer=start[1])(
        _polar_pad(cleaner)
    )
    cleaner = layers.Conv2D(1, KERNEL, kernel_initializer="zeros")(_polar_pad(cleaner))
    x = layers.Add(dtype="float32")([x, layers.Reshape((grid.n_angles, grid.n_radii))(cleaner)])
    x = x * ops.exp(ops.cast(gates, "float32"))[:, None, :]
    direction = TemplateMatch(seed + 2, name="template", dtype="float32")(x)
    return keras.Model(spectra, direction, name="polar_aligner")


def _polar_pad(x):
    """Pad (b, angle, radius, c) for ``KERNEL``: periodically along the angle, with zeros across the radius."""
    along, across = KERNEL[0] // 2, KERNEL[1] // 2
    x = ops.concatenate([x[:, -along:], x, x[:, :along]], axis=1)
    return ops.pad(x, ((0, 0), (0, 0), (across, across), (0, 0)))


@keras.saving.register_keras_serializable("cryoem")
class TemplateMatch(layers.Layer):
    """Direction in which (b, angle, radius) spectra agree best with a template: (b, 2) unit vectors.

    It is the mean direction of a softmax over the circular correlation. The template is a fixed start, random or from
    ``warm_start``, plus a learned change.
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


def relative_direction(first, second):
    """Direction (b, 2) of the second of two unit vectors relative to the first: the difference of their angles."""
    cos = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]
    sin = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    return ops.stack([cos, sin], axis=1)


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
        Width and number of the residual blocks.
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
        If a number is out of range, or ``groups`` does not divide ``channels``.
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
    matches = circular_matches(*(ops.cast(features(image), "float32") for image in inputs), groups)
    x = layers.Dense(dense, activation="relu", kernel_initializer=start())(layers.Flatten()(matches))
    x = layers.Dense(2, use_bias=False, kernel_initializer=start())(x)
    return keras.Model(inputs, unit_length(ops.cast(x, "float32")), name="polar_pair_network")


def circular_matches(first, second, groups: int):
    """Cosine between one feature map (b, a, c) and another, rotated back by every angle: (b, a, groups).

    Step s is the match of ``second`` rotated back by s angles, for each group of channels. It is the correlation layer
    of Rocco et al. (arXiv 1703.05593), summed over all positions that are a rotation apart.
    """
    n, channels = first.shape[1:]

    def unit(features):
        """Subtract the mean over the angle, which matches at every angle, and scale each group to length 1."""
        features = features - ops.mean(features, axis=1, keepdims=True)
        features = ops.reshape(features, (-1, n, groups, channels // groups))
        square = ops.sum(ops.square(features), axis=(1, 3), keepdims=True)
        return ops.transpose(features * ops.rsqrt(ops.maximum(square, 1e-6)), (0, 2, 1, 3))

    matches = ops.matmul(unit(first), ops.swapaxes(unit(second), 2, 3))  # (b, groups, a, a)
    # sum the circular diagonals: rows, repeated twice, cut every 2 n + 1 elements start at their diagonal
    flat = ops.reshape(ops.concatenate([matches, matches], axis=-1), (-1, groups, 2 * n * n))
    skewed = ops.reshape(ops.pad(flat, ((0, 0), (0, 0), (0, n))), (-1, groups, n, 2 * n + 1))
    return ops.swapaxes(ops.sum(skewed[..., :n], axis=2), 1, 2)


def rotated_by(images, vectors, periods: int = 1):
    """Rotate images anticlockwise about pixel n // 2, bilinearly and differentiably by image and angle.

    (b, y, x), (b, 2) -> (b, y, x). The direction is that of ``rotate_images``, and the angle is given as pair networks
    predict it: (cos, sin) of ``periods`` times the angle. Outside the image, values are those of the nearest pixel.

    Source: Jaderberg et al., Spatial Transformer Networks, NIPS 2015 (arXiv 1506.02025), section 3.3.
    """
    n = images.shape[1]
    axis = np.arange(n, dtype="float32") - n // 2
    u, v = np.tile(axis, n), np.repeat(axis, n)  # (y x,)
    angle = ops.arctan2(vectors[:, 1:], vectors[:, :1]) / periods  # (b, 1)
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


# --- training


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
        check_divisible(len(stream[0][1]), model, name="training batches")
        check_divisible(len(validation[0][1]), model, name="validation batches")
    compile_network(model, schedule=schedule, steps_per_epoch=len(stream), loss=global_batch_loss(loss))
    return fit(model, stream, validation, schedule=schedule, **options)
