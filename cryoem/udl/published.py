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


@device_precision()
def build_pair_network(
    image_size: int,
    *,
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
        [first, second], or {"first": ..., "second": ...}, each (b, y, x), -> (b, 2) float32: the unit vector (cos, sin)
        of the angle between the images times the number of periods in a full turn (1 for images, 2 for centrosymmetric
        spectra). Images are used unchanged, so standardise them before. Trained on differences alone, any such network
        gives the angle up to a constant.

    Raises
    ------
    ValueError
        If a size or width is out of range, or the map for ``correlation`` is not 4 to 16 px a side.
    """
    image_size = whole_number(image_size, name="image_size", at_least=1)
    if filters is None:
        filters = PUBLISHED_FILTERS[:PUBLISHED_CORRELATION_STAGES] if correlation else PUBLISHED_FILTERS
    filters = [whole_number(width, name="filters", at_least=SMALLEST_GROUP) for width in filters]
    for width in filters:
        if width % SMALLEST_GROUP:
            raise ValueError(f"filters must be multiples of {SMALLEST_GROUP}, got {width}")
    dense = [whole_number(width, name="dense", at_least=1) for width in dense]
    side = _last_side(image_size, len(filters), correlation)
    rng = np.random.default_rng(rng)

    def start():
        return keras.initializers.HeNormal(seed=int(rng.integers(2**31)))

    def convolution(x, width, kernel, **options):
        return layers.Conv2D(width, kernel, padding="same", kernel_initializer=start(), **options)(x)

    def normalised(x, width, kernel):
        """Apply a convolution without bias, then normalise one image's groups of channels."""
        groups = math.gcd(width // SMALLEST_GROUP, LARGEST_GROUP_COUNT)
        return layers.GroupNormalization(groups)(convolution(x, width, kernel, use_bias=False))

    # multiply the image by the mask branch
    images = keras.Input((image_size, image_size))
    x = mask = layers.Reshape((image_size, image_size, 1))(images)
    for width in MASK_FILTERS:
        mask = layers.ReLU()(normalised(mask, width, 3))
    mask = convolution(mask, 1, 3, activation="sigmoid", name="mask")  # (b, y, x, 1)
    x = layers.Multiply()([x, mask])
    # residual stages
    for width in filters:
        y = layers.ReLU()(normalised(x, width, 1))
        y = layers.ReLU()(normalised(y, width, 3))
        y = normalised(y, width, 1)
        y = layers.ReLU()(layers.Add()([y, normalised(x, width, 1)]))
        x = layers.MaxPooling2D(2)(y)
    extractor = keras.Model(images, x, name="features")

    inputs = [keras.Input((image_size, image_size), name=name) for name in ("first", "second")]
    features = [extractor(image) for image in inputs]  # each (b, side, side, filters[-1])
    if correlation:
        # two convolutions read the matches: (b, side, side, side^2) -> (b, side, side, 256)
        matches = x = keras.Input((side, side, side * side))
        for width in CORRELATION_FILTERS:
            x = layers.ReLU()(normalised(x, width, 3))
        reader = keras.Model(matches, x, name="correlation_reader")
        features = [ops.cast(feature, "float32") for feature in features]
        features = [reader(feature_correlation(a, b)) for a, b in (features, features[::-1])]
    x = layers.Concatenate(name="pair")([layers.Flatten()(f) for f in features])
    for width in dense:
        x = layers.Dense(width, activation="relu", kernel_initializer=start())(x)
    x = layers.Dense(2, use_bias=False, kernel_initializer=start())(x)
    return keras.Model(inputs, unit_length(ops.cast(x, "float32")), name="published_pair_network")


def unit_length(vectors):
    """Scale vectors (..., c) to length 1; vectors shorter than 0.01 stay shorter than 1, zero stays zero."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(square, _SMALLEST_SQUARE))


def feature_correlation(first, second):
    """Inner products of all unit feature vectors of two maps: (b, h, w, c), (b, h, w, c) -> (b, h, w, h w).

    Channel ``y * w + x`` of the result, at a position of the first map, is the match with position (y, x) of the
    second. Negative matches are set to zero, and the matches of one position are scaled to length 1.

    Source: Rocco et al., CVPR 2017 (arXiv 1703.05593), section 3.2.
    """
    height, width, channels = first.shape[1:]
    first, second = (ops.reshape(unit_length(x), (-1, height * width, channels)) for x in (first, second))
    matches = ops.relu(ops.matmul(first, ops.transpose(second, (0, 2, 1))))  # (b, h w, h w)
    return ops.reshape(unit_length(matches), (-1, height, width, height * width))


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
