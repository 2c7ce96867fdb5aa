"""Polar networks: one estimates the angle of a single spectrum, the other the angle between the two images of a pair.

In polar coordinates, a rotation is a circular shift.

Every layer of the spectrum network commutes with this shift, so rotating an image changes its angle by exactly that
rotation, and the network need not learn anything about rotations. It learns which parts of the spectrum to use. A
weight for each frequency ring, computed from the strength and anisotropy of all rings, suppresses zeros of the image's
CTF and rings that contain only noise. Two small circular convolutions clean the spectrum, and ``TemplateMatch`` reads
off the angle. The angle of a pair is the difference between the angles of its images, so the network runs once per
image.

The pair network is for natural images. Both images are sampled on circles about their origin, and the same circular
convolutions turn each into a feature map. The circular correlation of the two feature maps (the feature-matching layer
of arXiv 2205.11829, in polar coordinates) measures how well they match at every angle, and dense layers read the angle
from these matches. Dense layers are not equivariant, so the network has to learn how its answer changes when either
image is rotated; ``pairs`` offers three ways to train it. Training takes minutes on a CPU.
"""

from __future__ import annotations

import numpy as np

from cryoem.distances.encoders import CircularPad, PolarSampling, Standardize
from cryoem.training.backend import keras, layers, ops
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

# spectrum network
FILTERS = 8
KERNEL = (5, 3)  # along the angle, across rings
GATE_WIDTH = 32
SHARPNESS = 20.0  # initial sharpness of the softmax
TEMPLATE_STEP = 1.0  # unit of the learned change of the template, in standard deviations of the template
# pair network
N_ANGLES = 64
KERNEL_WIDTH = 5
SMALLEST_PX = 16


@device_precision()
def build_polar_network(grid: PolarGrid, *, seed: int = 0) -> keras.Model:
    """Build the network that estimates the angles of spectra on a polar grid.

    The network maps (b, n_angles, n_radii) spectra to (b, 2) unit vectors, whose components are the cosine and sine of
    ``grid.periods`` times the angle. The initial template is random; to replace it, call
    ``network.get_layer("template").warm_start(...)``.

    Parameters
    ----------
    grid : PolarGrid
        Sampling points of the spectra.
    seed : int
        Seed for the initial weights. Default: 0.
    """
    start = [keras.initializers.GlorotUniform(seed=seed + layer) for layer in range(2)]
    spectra = keras.Input((grid.n_angles, grid.n_radii), name="spectra")
    # weights of the rings, from their means and variances: (b, n_radii)
    rings = ops.concatenate([ops.mean(spectra, axis=1), ops.var(spectra, axis=1)], axis=-1)
    gates = layers.Dense(GATE_WIDTH, activation="gelu", kernel_initializer=start[0])(
        layers.LayerNormalization()(rings)
    )
    gates = layers.Dense(grid.n_radii, kernel_initializer="zeros")(gates)
    # subtract the ring means, then clean the spectra
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
    """Layer that finds the direction in which (b, angle, radius) spectra best match a template: (b, 2) unit vectors.

    The result is the mean direction of a softmax over the circular correlation. The template is the sum of a fixed
    start, random or from ``warm_start``, and a learned change.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape):
        """Create the weights: the start, the learned change and the sharpness of the softmax."""
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
        """Start again from an (angle, radius) template, scaled so that a perfect match scores 1."""
        self.start.assign(template / np.sum(template**2))
        self.change.assign(np.zeros_like(template))

    def call(self, spectra):
        """Map (b, angle, radius) spectra to (b, 2) unit vectors."""
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
    """Return the direction (b, 2) of the second unit vector relative to the first: the difference of their angles."""
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
    """Build a network that estimates the angle between the two images of a pair.

    Parameters
    ----------
    image_size : int
        Side length of the images in pixels, at least 16.
    channels, blocks : int
        Width and number of the residual blocks. Default: 32 and 2.
    groups : int
        Number of groups of channels that are matched separately; ``channels`` must be a multiple of it. Default: 4.
    dense : int
        Width of the dense layer that reads the matches. Default: 256.
    border_px : float
        Width in pixels of a ring, along the edge of the inscribed circle, that is not sampled. If masked images are
        displaced during training, the ring must cover the displaced edge of the mask, which would otherwise reveal the
        displacement. Default: 0.
    rng : numpy.random.Generator or int
        Random number generator or seed for the initial weights.

    Returns
    -------
    keras.Model
        Network that maps [first, second] or {"first": ..., "second": ...}, each (b, y, x), to (b, 2) float32 unit
        vectors. The components of a vector are the cosine and sine of p times the angle from ``first`` to ``second``,
        where p is the number of periods of the angle in a full turn. The network standardises each image.

    Raises
    ------
    ValueError
        If a number is out of range, or if ``channels`` is not a multiple of ``groups``.
    """
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    channels = whole_number(channels, name="channels", at_least=1)
    blocks = whole_number(blocks, name="blocks", at_least=1)
    groups = whole_number(groups, name="groups", at_least=1)
    dense = whole_number(dense, name="dense", at_least=1)
    if channels % groups:
        raise ValueError(f"groups must be a divisor of channels ({channels}), got {groups}")
    border_px = not_negative(border_px, name="border_px")
    if border_px > image_size / 4:
        raise ValueError(
            f"border_px must be at most a quarter of image_size ({image_size}), got {border_px:g}"
        )
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
    """Return the cosine similarity of (b, a, c) feature maps, the second rotated back by every angle: (b, a, groups).

    Element s along the second axis compares ``first`` with ``second`` rotated back by s angular steps, for each group
    of channels. This is the correlation layer of Rocco et al. (arXiv 1703.05593), summed over all pairs of positions
    that differ by the same rotation.
    """
    n, channels = first.shape[1:]

    def unit(features):
        """Subtract the mean over the angle, which matches at every angle, and scale each group to unit length."""
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
    """Rotate (b, y, x) images anticlockwise about pixel n // 2, with bilinear interpolation: (b, y, x).

    The result is differentiable with respect to the images and angles. The direction is that of ``rotate_images``. The
    angles are given as (b, 2) ``vectors`` in the form that pair networks predict: (cos, sin) of ``periods`` times the
    angle. Points outside the image take the value of the nearest pixel.

    Source: Jaderberg et al., Spatial Transformer Networks, NIPS 2015 (arXiv 1506.02025), section 3.3.
    """
    return rotated(images, ops.arctan2(vectors[:, 1:], vectors[:, :1]) / periods)


def rotated(images, angles_rad, *, mirrored: bool = False):
    """Rotate images anticlockwise about pixel n // 2, bilinearly and differentiably by image and angle.

    (b, y, x), (b, 1) -> (b, y, x). The direction is that of ``rotate_images``. Outside the image, values are those of
    the nearest pixel, or of the image mirrored at its edge.

    Source: Jaderberg et al., Spatial Transformer Networks, NIPS 2015 (arXiv 1506.02025), section 3.3.
    """
    n = images.shape[1]
    axis = np.arange(n, dtype="float32") - n // 2
    u, v = np.tile(axis, n), np.repeat(axis, n)  # (y x,)
    cos, sin = ops.cos(angles_rad), ops.sin(angles_rad)

    def inside(position):
        if mirrored:
            position = ops.abs(position + 0.5) - 0.5
            position = n - 0.5 - ops.abs(n - 0.5 - position)
        return ops.clip(position, 0, n - 1)

    # where each pixel of the rotated image lies in the original image
    x = inside(cos * u + sin * v + n // 2)  # (b, y x)
    y = inside(cos * v - sin * u + n // 2)
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
    """Return the mean sine of half the angle between unit vectors (..., 2): linear for small angles, and bounded."""
    return ops.mean(ops.sqrt(ops.maximum(1 - ops.sum(true * predicted, axis=-1), 0) / 2 + 1e-6))


def compile_and_fit(
    model: keras.Model,
    stream: keras.utils.PyDataset,
    validation: keras.utils.PyDataset,
    *,
    loss,
    schedule: TrainingSchedule,
    optimizer: keras.optimizers.Optimizer | None = None,
    **options,
) -> dict[str, list[float]]:
    """Compile a model with a loss of whole batches and train it.

    ``options`` and the result are those of ``training.fit``.
    """
    if replica_count(model) > 1:
        check_divisible(len(stream[0][1]), model, name="the size of the training batches")
        check_divisible(len(validation[0][1]), model, name="the size of the validation batches")
    compile_network(
        model,
        schedule=schedule,
        steps_per_epoch=len(stream),
        optimizer=optimizer,
        loss=global_batch_loss(loss),
    )
    return fit(model, stream, validation, schedule=schedule, **options)
