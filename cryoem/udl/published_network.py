"""The published pair network: two images in, the angle between them out; kept as a baseline.

Published (arXiv 2205.11829 and the authors' code):

- a sigmoid mask branch of five 3 x 3 convolutions (4, 8, 16, 32, 1 channels), multiplied by the image;
- a Siamese extractor of residual stages. Each is a bottleneck block (1 x 1, 3 x 3, 1 x 1 convolutions of the stage's
  width, and a 1 x 1 shortcut) and a 2 x 2 maximum;
- the two feature vectors, concatenated. For natural images: the correlations of the 8 x 8 feature maps of four stages,
  first to second and second to first, each through two more 3 x 3 convolutions (128, 256 channels);
- three dense layers (2000, 2000, and the answer).

Changed here:

- The answer is a unit vector instead of a number of degrees; it has no jump at the full turn.
- A ReLU follows the first two dense layers. The published ones are linear, so three of them equal one.
- Feature vectors are normalised before their inner products, as in Rocco et al. (arXiv 1703.05593).
- Group normalisation replaces batch normalisation. Its statistics come from one image, in training and in inference,
  so a batch may contain one image, and no image depends on the others in its batch.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from cryoem.training.compilation import device_precision
from cryoem.validation import whole_number

PUBLISHED_FILTERS = (32, 64, 128, 256, 512, 1024, 2048)
PUBLISHED_CORRELATION_STAGES = 4
PUBLISHED_DENSE = (2000, 2000)
MASK_FILTERS = (4, 8, 16, 32)
CORRELATION_FILTERS = (128, 256)
CORRELATION_SIDES_PX = (4, 16)
LARGEST_GROUP_COUNT = 8
SMALLEST_GROUP = 4
_SMALLEST_SQUARE = 1e-4  # bounds the gradient of a unit vector, one over the vector's length, by 100


@keras.saving.register_keras_serializable("cryoem")
class UnitLength(layers.Layer):
    """Scale vectors along the last axis to length 1; vectors shorter than 0.01 stay shorter than 1, zero stays zero."""

    def call(self, vectors):
        """(..., c) -> (..., c)"""
        square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
        return vectors * ops.rsqrt(ops.maximum(square, _SMALLEST_SQUARE))


@keras.saving.register_keras_serializable("cryoem")
class FeatureCorrelation(layers.Layer):
    """Inner products of all unit feature vectors of two maps (Rocco et al., CVPR 2017, arXiv 1703.05593, section 3.2).

    Channel ``y * w + x`` of the result, at a position of the first map, is the match with position (y, x) of the
    second. Negative matches are set to zero, and the matches of one position are scaled to length 1.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._unit = UnitLength(dtype=self.dtype_policy)

    def call(self, first, second):
        """(b, h, w, c), (b, h, w, c) -> (b, h, w, h w)"""
        height, width, channels = first.shape[1:]
        first, second = (ops.reshape(self._unit(x), (-1, height * width, channels)) for x in (first, second))
        matches = ops.relu(ops.matmul(first, ops.transpose(second, (0, 2, 1))))  # (b, h w, h w)
        return ops.reshape(self._unit(matches), (-1, height, width, height * width))

    def compute_output_shape(self, first_shape, second_shape):
        return (*first_shape[:3], first_shape[1] * first_shape[2])


@device_precision()
def build_pair_network(
    image_size: int,
    *,
    channels_in: int = 1,
    correlation: bool = False,
    filters: tuple[int, ...] | None = None,
    dense: tuple[int, ...] = PUBLISHED_DENSE,
    rng: np.random.Generator | int | None = None,
) -> keras.Model:
    """Build the network of a pair of square images.

    Parameters
    ----------
    image_size : int
        Side of the images, pixels, at least 2 to the power of the number of stages.
    channels_in : int
        Values per pixel; images are (b, y, x) for 1 and (b, y, x, channels_in) for more.
    correlation : bool
        Correlate the two feature maps position by position (natural images) instead of concatenating them.
    filters : tuple of int, optional
        Widths of the residual stages, multiples of 4; each stage halves the side. By default the published 32, 64 ...
        2048; with ``correlation`` the first four of them, which leave 8 x 8 positions of 128 px.
    dense : tuple of int
        Widths of the dense layers before the last.
    rng : numpy.random.Generator or int
        For the initial weights.

    Returns
    -------
    keras.Model
        [first, second], or {"first": ..., "second": ...}, -> (b, 2) float32: the unit vector (cos, sin) of the angle
        between the images times the number of periods in a full turn (1 for images, 2 for centrosymmetric spectra).
        Images are used unchanged, so standardise them before. Trained on differences alone, any such network gives
        the angle up to a constant.

    Raises
    ------
    ValueError
        If a size or width is out of range, there are no stages, the images are too small for the stages, or the map for
        ``correlation`` is not 4 to 16 px a side.
    """
    image_size = whole_number(image_size, name="image_size", at_least=1)
    channels_in = whole_number(channels_in, name="channels_in", at_least=1)
    if filters is None:
        filters = PUBLISHED_FILTERS[:PUBLISHED_CORRELATION_STAGES] if correlation else PUBLISHED_FILTERS
    filters = [whole_number(width, name="filters", at_least=SMALLEST_GROUP) for width in filters]
    for width in filters:
        if width % SMALLEST_GROUP:
            raise ValueError(f"filters must be multiples of {SMALLEST_GROUP}, got {width}")
    dense = [whole_number(width, name="dense", at_least=1) for width in dense]
    side = _last_side(image_size, len(filters), correlation)

    layer = _Layers(rng)
    shape = (image_size, image_size) if channels_in == 1 else (image_size, image_size, channels_in)
    inputs = [keras.Input(shape, name=name) for name in ("first", "second")]
    extractor = _extractor(shape, filters, layer)
    features = [extractor(image) for image in inputs]  # each (b, side, side, filters[-1])
    if correlation:
        # two convolutions read the matches: (b, side, side, side^2) -> (b, side, side, 256)
        matches = x = keras.Input((side, side, side * side))
        for width in CORRELATION_FILTERS:
            x = layers.ReLU()(layer.normalised(x, width, 3))
        reader = keras.Model(matches, x, name="correlation_reader")
        correlate = FeatureCorrelation(dtype="float32")
        features = [reader(correlate(a, b)) for a, b in (features, features[::-1])]
    x = layers.Concatenate(name="pair")([layers.Flatten()(f) for f in features])
    for width in dense:
        x = layer.dense(width, activation="relu")(x)
    answer = UnitLength(name="cos_sin", dtype="float32")(layer.dense(2, use_bias=False)(x))
    return keras.Model(inputs, answer, name="published_pair_network")


def _last_side(image_size: int, stages: int, correlation: bool) -> int:
    """Side of the last feature map, pixels; a ValueError if the stages do not fit the images."""
    if not stages:
        raise ValueError("filters must have at least one stage, got none")
    side = image_size // 2**stages
    if side < 1:
        raise ValueError(
            f"image_size must be at least {2**stages} px for the {stages} stages of filters, got {image_size}"
        )
    low, high = CORRELATION_SIDES_PX
    if correlation and not low <= side <= high:
        raise ValueError(
            f"filters must leave a map of {low} to {high} px a side for the correlation, "
            f"got {stages} stages, which leave {side} px of {image_size}"
        )
    return side


class _Layers:
    """Factory of layers whose initial weights come from one generator."""

    def __init__(self, rng: np.random.Generator | int | None):
        self._rng = np.random.default_rng(rng)

    def _start(self):
        return keras.initializers.HeNormal(seed=int(self._rng.integers(2**31)))

    def convolution(self, filters: int, kernel: int, **options):
        return layers.Conv2D(filters, kernel, padding="same", kernel_initializer=self._start(), **options)

    def dense(self, units: int, **options):
        return layers.Dense(units, kernel_initializer=self._start(), **options)

    def normalised(self, x, filters: int, kernel: int):
        """Apply a convolution without bias, then normalise one image's groups of channels."""
        groups = math.gcd(filters // SMALLEST_GROUP, LARGEST_GROUP_COUNT)
        return layers.GroupNormalization(groups)(self.convolution(filters, kernel, use_bias=False)(x))


def _extractor(shape: tuple[int, ...], filters: list[int], layer: _Layers) -> keras.Model:
    """Multiply the image by the mask branch, then apply the residual stages: -> (b, side, side, filters[-1])."""
    images = keras.Input(shape)
    x = images if len(shape) == 3 else layers.Reshape((*shape, 1))(images)
    mask = x
    for width in MASK_FILTERS:
        mask = layers.ReLU()(layer.normalised(mask, width, 3))
    mask = layer.convolution(1, 3, activation="sigmoid", name="mask")(mask)  # (b, y, x, 1)
    x = layers.Multiply()([x, mask])
    for width in filters:
        y = layers.ReLU()(layer.normalised(x, width, 1))
        y = layers.ReLU()(layer.normalised(y, width, 3))
        y = layer.normalised(y, width, 1)
        y = layers.ReLU()(layers.Add()([y, layer.normalised(x, width, 1)]))
        x = layers.MaxPooling2D(2)(y)
    return keras.Model(images, x, name="features")
