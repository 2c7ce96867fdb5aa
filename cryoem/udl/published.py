"""The published networks and loss of unsupervised difference learning (UDL) and of its joint version (JUDL).

A pair network f maps two images to a single number in degrees. Both images are rotated by known random angles alpha and
beta, and f must change by alpha - beta modulo the period. The network consists of

- a mask branch of five 3 x 3 convolutions (4, 8, 16, 32 and 1 channels) with a sigmoid output, which multiplies the
  image;
- a Siamese extractor of residual stages, each a bottleneck block (1 x 1, 3 x 3 and 1 x 1 convolutions with the width of
  the stage, and a 1 x 1 shortcut) followed by 2 x 2 max pooling;
- the concatenation of the two feature vectors. For natural images, it is replaced by the correlations of the 8 x 8
  feature maps after four stages, second to first and first to second, each followed by two 3 x 3 convolutions (128 and
  256 channels);
- three dense layers (2000, 2000 and 1 units) without activations.

Every convolution is followed by batch normalisation. The joint version adds an autoencoder; see ``build_autoencoder``.

As in the published programs, predictions for natural images use the running statistics of batch normalisation, and
those for particles the statistics of each batch, so that the angle of a particle depends slightly on its neighbours in
the stack. Running statistics would not do for joint training, where the first image of all pairs is the same and has no
variance. Images smaller than 128 px have fewer stages: those that would follow a map of one pixel are omitted.

Source: arXiv 2205.11829; J. Struct. Biol. 215 (2023) 107940. Details that are missing there follow the authors'
program.
"""

from __future__ import annotations

import math

import numpy as np

from cryoem.training.backend import keras, layers, ops
from cryoem.validation import whole_number

PUBLISHED_FILTERS = (32, 64, 128, 256, 512, 1024, 2048)
PUBLISHED_CORRELATION_STAGES = 4
PUBLISHED_DENSE = (2000, 2000)
MASK_FILTERS = (4, 8, 16, 32)
CORRELATION_FILTERS = (128, 256)
CORRELATION_SIDES_PX = (2, 16)
AUTOENCODER_FILTERS = (2, 4, 8)
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalisation
DECAY_STEPS, DECAY_RATE = 12_000, 0.8
TURN_DEG = 360.0
_SMALLEST_SQUARE = 1e-4  # limits the gradient of a unit vector, which is one over the vector's length, to 100
_SMALLEST_MATCH = 1e-6


def build_pair_network(
    image_size: int,
    *,
    correlation: bool = False,
    channels_divisor: int = 1,
    rng: np.random.Generator | int | None = None,
) -> keras.Model:
    """Build the published network that estimates the angle between the two images of a pair.

    Parameters
    ----------
    image_size : int
        Side length of the images in pixels, at least 16. The published size is 128.
    correlation : bool
        Whether to use four stages and correlate the resulting feature maps, as published for natural images. Otherwise,
        seven stages (six for 64 px images) yield one feature vector per image, as published for particle spectra.
        Default: False.
    channels_divisor : int
        Number by which all layer widths are divided. The cost of a training step is approximately inversely
        proportional to the square of this number. Default: 1.
    rng : numpy.random.Generator or int
        Random number generator or seed for the initial weights.

    Returns
    -------
    keras.Model
        Network that maps [first, second] or {"first": ..., "second": ...}, each (b, y, x), to (b, 1) float32: the angle
        of ``first`` relative to ``second`` in degrees, up to a constant. The loss penalises angles outside the range 0
        to 360. During training, a batch consists of b / 2 pairs followed by rotated versions of the same pairs. Without
        ``correlation``, b must always be even, because both halves are normalised by their own statistics.

    Raises
    ------
    ValueError
        If a number is out of range, or if ``correlation`` is True and the feature maps are not 2 to 16 px wide.
    """
    image_size = whole_number(image_size, name="image_size", at_least=16)
    channels_divisor = whole_number(channels_divisor, name="channels_divisor", at_least=1)
    halvings = PUBLISHED_CORRELATION_STAGES if correlation else int(math.log2(image_size))
    stages = PUBLISHED_FILTERS[:halvings]
    side, (low, high) = image_size // 2 ** len(stages), CORRELATION_SIDES_PX
    if correlation and not low <= side <= high:
        raise ValueError(
            f"image_size must be between {low * 2 ** len(stages)} and {high * 2 ** len(stages)} px "
            f"to correlate feature maps, got {image_size}"
        )
    rng = np.random.default_rng(rng)

    def width(published):
        return max(1, published // channels_divisor)

    def start():
        return keras.initializers.HeNormal(seed=int(rng.integers(2**31)))

    def normalised(x, filters, kernel):
        """Apply a convolution without bias, followed by batch normalisation."""
        x = layers.Conv2D(filters, kernel, padding="same", use_bias=False, kernel_initializer=start())(x)
        return QuarterNormalization(running=correlation)(x)

    # multiply the image by the mask branch
    images = keras.Input((image_size, image_size))
    x = mask = layers.Reshape((image_size, image_size, 1))(images)
    for filters in MASK_FILTERS:
        mask = layers.ReLU()(normalised(mask, width(filters), 3))
    mask = layers.Activation("sigmoid", name="mask")(normalised(mask, 1, 3))
    x = layers.Multiply()([x, mask])  # (b, y, x, 1)
    # residual stages
    for filters in map(width, stages):
        y = layers.ReLU()(normalised(x, filters, 1))
        y = layers.ReLU()(normalised(y, filters, 3))
        y = normalised(y, filters, 1)
        x = layers.ReLU()(layers.Add()([y, normalised(x, filters, 1)]))
        x = layers.MaxPooling2D(2)(x)
    extractor = keras.Model(images, x, name="features")

    inputs = [keras.Input((image_size, image_size), name=name) for name in ("first", "second")]
    # both images pass the extractor together: (2 b, y, x) -> twice (b, side, side, filters)
    features = ops.split(extractor(ops.concatenate(inputs, axis=0)), 2, axis=0)
    if correlation:
        # two convolutions read the matches: (b, side, side, side^2) -> (b, side, side, 256)
        matches = x = keras.Input((side, side, side * side))
        for filters in CORRELATION_FILTERS:
            x = layers.ReLU()(normalised(x, width(filters), 3))
        reader = keras.Model(matches, x, name="correlation_reader")
        both = [feature_correlation(a, b) for a, b in (features, features[::-1])]
        features = ops.split(reader(ops.concatenate(both, axis=0)), 2, axis=0)
    x = layers.Concatenate(name="pair")([layers.Flatten()(f) for f in features])
    for units in PUBLISHED_DENSE:
        x = layers.Dense(width(units), kernel_initializer=start())(x)
    x = layers.Dense(1, use_bias=False, kernel_initializer=start())(x)
    return keras.Model(inputs, x, name="published_pair_network")


class QuarterNormalization(layers.Layer):
    """Batch normalisation of the four quarters of a batch of maps (4 b, y, x, c), each by its own statistics.

    In training, the quarters are the first images, their rotated versions, the second images and theirs. The published
    program passes them through the network one after another; one convolution of the whole batch is faster.

    Parameters
    ----------
    running : bool
        Use running statistics in inference.
    """

    def __init__(self, *, running: bool, **options):
        super().__init__(**options)
        self.running = running

    def build(self, shape):
        """Create the scale, the offset and the running statistics of the channels."""
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")
        self.offset = self.add_weight(shape=shape[-1:], initializer="zeros", name="offset")
        if self.running:
            self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="mean")
            self.variance = self.add_weight(
                shape=shape[-1:], initializer="ones", trainable=False, name="variance"
            )

    def compute_output_shape(self, shape):
        """Return the shape of the input; JAX cannot divide an unknown number of maps into quarters."""
        return shape

    def call(self, maps, training=None):
        """Normalise (4 b, y, x, c) maps, or any number of maps by running statistics."""
        if self.running and not training:
            scale = self.scale * ops.rsqrt(self.variance + EPSILON)
            return maps * scale + (self.offset - self.mean * scale)
        quarters = ops.split(maps, 4, axis=0)
        normalise = _normalised_by_tensorflow if keras.backend.backend() == "tensorflow" else _normalised
        quarters, mean, variance = zip(
            *(normalise(part, self.scale, self.offset) for part in quarters), strict=True
        )
        if self.running:
            for past, now in ((self.mean, mean), (self.variance, variance)):
                now = ops.cast(ops.mean(ops.stack(now), axis=0), self.compute_dtype)
                past.assign(MOMENTUM**4 * past + (1 - MOMENTUM**4) * now)
        return ops.concatenate(quarters, axis=0)


def _normalised(maps, scale, offset):
    """Normalise (b, y, x, c) maps by their mean and variance, each (c,), and return all three."""
    mean, variance = ops.moments(maps, axes=(0, 1, 2))
    scale = scale * ops.rsqrt(variance + EPSILON)
    return maps * scale + (offset - mean * scale), mean, variance


def _normalised_by_tensorflow(maps, scale, offset):
    """Like ``_normalised``, in a single operation, which is three times as fast on a CPU."""
    import tensorflow as tf

    scale, offset = (tf.cast(x, tf.float32) for x in (scale, offset))  # also if maps are float16
    return tf.compat.v1.nn.fused_batch_norm(maps, scale, offset, epsilon=EPSILON, is_training=True)


def build_autoencoder(image_size: int, *, rng: np.random.Generator | int | None = None) -> keras.Model:
    """Build the published autoencoder for joint alignment: (b, y, x) -> (b, y, x), non-negative.

    It consists of three 3 x 3 convolutions (2, 4 and 8 channels), each followed by batch normalisation, ReLU and 2 x 2
    max pooling, and three 2 x 2 transposed convolutions (4, 2 and 1 channels), each followed by batch normalisation and
    ReLU.

    Raises
    ------
    ValueError
        If ``image_size`` is not a multiple of 8.
    """
    image_size = whole_number(image_size, name="image_size", at_least=8)
    if image_size % 8:
        raise ValueError(f"image_size must be a multiple of 8 px for the autoencoder, got {image_size}")
    rng = np.random.default_rng(rng)

    def normalised(x, layer, filters, **options):
        start = keras.initializers.HeNormal(seed=int(rng.integers(2**31)))
        x = layer(filters, padding="same", use_bias=False, kernel_initializer=start, **options)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON)(x))

    images = keras.Input((image_size, image_size))
    x = layers.Reshape((image_size, image_size, 1))(images)
    for filters in AUTOENCODER_FILTERS:
        x = layers.MaxPooling2D(2)(normalised(x, layers.Conv2D, filters, kernel_size=3))
    for filters in (*AUTOENCODER_FILTERS[-2::-1], 1):
        x = normalised(x, layers.Conv2DTranspose, filters, kernel_size=2, strides=2)
    return keras.Model(images, layers.Reshape((image_size, image_size))(x), name="autoencoder")


def unit_range(images):
    """Scale each of (b, y, x) images to [0, 1]."""
    low, high = (limit(images, axis=(1, 2), keepdims=True) for limit in (ops.min, ops.max))
    return (images - low) / ops.maximum(high - low, 1e-12)


def log_spectra(images):
    """Compute log(1 + |FFT|) of images in [0, 1], scaled to [0, 1]: (b, y, x) -> (b, y, x) float32.

    The zero frequency is at pixel n // 2. Unlike in ``power_spectra``, the corners are kept.
    """
    real, imaginary = ops.fft2((images, ops.zeros_like(images)))
    half = images.shape[1] // 2
    magnitude = ops.roll(ops.sqrt(ops.square(real) + ops.square(imaginary)), (half, half), axis=(1, 2))
    return unit_range(ops.log1p(magnitude))


def difference_loss(true_deg, answers_deg, *, period_deg: float):
    """Compute the published loss of difference learning in degrees.

    Parameters
    ----------
    true_deg : (b,) tensor
        True differences, alpha - beta.
    answers_deg : (b, 2) tensor
        Answers of the network for each pair, and for the pair rotated by alpha and beta.
    period_deg : float
        180 for spectra, 360 for images.

    Notes
    -----
    The loss is the mean distance between the difference of the answers, modulo 360, and the nearer of two
    equivalent true angles, plus margins that keep the answers between 0 and 360. Both true angles are in [0, 360), so
    the loss is not periodic where the difference wraps: 359.9 against 0.1 costs 179.8 if the period is 180. The
    published loss has the same property.
    """
    difference = ops.mod(answers_deg[:, 1] - answers_deg[:, 0], TURN_DEG)
    true_deg = ops.mod(ops.reshape(true_deg, (-1,)), TURN_DEG)
    other = ops.where(true_deg < TURN_DEG / 2, true_deg + period_deg, true_deg - period_deg)
    distance = ops.minimum(ops.abs(difference - true_deg), ops.abs(difference - other))
    margins = ops.relu(-answers_deg) + ops.relu(answers_deg - TURN_DEG)
    return ops.mean(distance) + ops.sum(ops.mean(margins, axis=0))


def published_optimizer(learning_rate: float, *, decay: bool = True) -> keras.optimizers.Optimizer:
    """Return an Adam optimizer; with ``decay``, its learning rate falls by a factor of 0.8 every 12,000 steps."""
    if decay:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, DECAY_STEPS, DECAY_RATE, staircase=True
        )
    return keras.optimizers.Adam(learning_rate, epsilon=1e-8)


def unit_length(vectors):
    """Scale vectors (..., c) to length 1. Vectors shorter than 0.01 stay shorter than 1; zero vectors stay zero."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(square, _SMALLEST_SQUARE))


def feature_correlation(first, second):
    """Compute the inner products of all feature vectors of two maps: (b, h, w, c), (b, h, w, c) -> (b, h, w, h w).

    At each position of the first map, channel ``y * w + x`` of the result is the match with position (y, x) of the
    second map. Negative matches are set to zero, and the matches at each position are scaled to unit length. The
    feature vectors themselves are not normalised. This agrees with the published network but differs from the source.

    Source: Rocco et al., CVPR 2017 (arXiv 1703.05593), section 3.2.
    """
    height, width, channels = first.shape[1:]
    first, second = (ops.reshape(x, (-1, height * width, channels)) for x in (first, second))
    matches = ops.relu(ops.matmul(first, ops.transpose(second, (0, 2, 1))))  # (b, h w, h w)
    square = ops.sum(ops.square(matches), axis=-1, keepdims=True)
    matches = matches * ops.rsqrt(square + _SMALLEST_MATCH)
    return ops.reshape(matches, (-1, height, width, height * width))
