"""Encoders: Keras models that map images to features.

``"polar"`` (default)
    The image is resampled on circles around its origin and convolved along the angle only; the radii become channels. A
    rotation of the image is then a circular shift. The features are the angular harmonics 0 and 1, which change like
    the rows of R when the image rotates in-plane: the third row is constant, and the first two rotate. The network
    therefore only has to learn the viewing direction, two of the three angles. For symmetric particles, the features
    and their harmonics have a higher degree (see ``losses``). The displacement of the particle is a further harmonic 1,
    because it rotates with the image. Most layers operate on 16 angles, because the first convolution and a pooling
    after the first block reduce their number, which halves the time for training and costs no accuracy.

``"published"``
    The network of arXiv 2104.06237 (appendix on the architecture), which serves as the baseline. It has seven
    convolutions, each followed by ReLU and 2 x 2 max pooling, and a global average, whose channels are the features.
    With 512 features, it has 4,551,936 parameters. Images are not normalised, so their scale must match that of the
    training images. The network does not estimate shifts, but it can be trained on shifted images. Its features are
    non-negative, so use it with the feature distance ``"cosine"``: the inner products of ``"kernel"`` are negative at
    large distances.
"""

from __future__ import annotations

import numpy as np

from cryoem.distances.losses import highest_harmonic
from cryoem.training.backend import keras, layers, ops
from cryoem.training.compilation import device_precision
from cryoem.validation import whole_number

ARCHITECTURES = ("polar", "published")
N_ANGLES = 64
KERNEL_WIDTH = 5
FIRST_STRIDE = 2
PAIR_WIDTHS = (128, 64)
PAIR_ROWS = 64  # images compared with all others at a time
# filters and kernel width of all convolutions but the last, which has one filter per feature
PUBLISHED_CONVOLUTIONS = ((32, 7), (64, 5), (128, 3), (256, 3), (256, 3), (512, 3))
PUBLISHED_LAST_WIDTH = 3


@keras.saving.register_keras_serializable("cryoem")
class Standardize(layers.Layer):
    """Scale each (y, x) image to zero mean and unit variance."""

    def call(self, images):
        """(b, y, x) -> (b, y, x)"""
        mean = ops.mean(images, axis=(1, 2), keepdims=True)
        deviation = ops.std(images, axis=(1, 2), keepdims=True)
        return (images - mean) / ops.maximum(deviation, 1e-6)


@keras.saving.register_keras_serializable("cryoem")
class PolarSampling(layers.Layer):
    """Sample (b, y, x) images bilinearly on circles around pixel n // 2: (b, angle, radius).

    The outermost ``border_px`` pixels of the largest circle in the image are not sampled.
    """

    def __init__(self, n_angles: int, n_radii: int, border_px: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.n_angles, self.n_radii, self.border_px = n_angles, n_radii, border_px

    def build(self, input_shape):
        """Compute the four pixels of every sample and their weights."""
        n = input_shape[-1]
        angle = 2 * np.pi * np.arange(self.n_angles) / self.n_angles
        outer = (n - 1) // 2 - 0.5 - self.border_px
        radius = (np.arange(self.n_radii) + 0.5) * outer / self.n_radii
        x = n // 2 + np.cos(angle)[:, None] * radius
        y = n // 2 + np.sin(angle)[:, None] * radius
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        tx, ty = x - x0, y - y0
        self._pixels = [((y0 + j) * n + x0 + i).ravel().astype("int32") for j in (0, 1) for i in (0, 1)]
        weights = [(ty if j else 1 - ty) * (tx if i else 1 - tx) for j in (0, 1) for i in (0, 1)]
        self._weights = [w.ravel().astype("float32") for w in weights]

    def call(self, images):
        """(b, y, x) -> (b, angle, radius)"""
        flat = ops.reshape(images, (-1, images.shape[1] * images.shape[2]))
        samples = sum(ops.take(flat, p, axis=1) * w for p, w in zip(self._pixels, self._weights, strict=True))
        return ops.reshape(samples, (-1, self.n_angles, self.n_radii))


@keras.saving.register_keras_serializable("cryoem")
class CircularPad(layers.Layer):
    """Pad (b, angle, c) periodically along the angle by ``width`` on both sides."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def call(self, x):
        """(b, a, c) -> (b, a + 2 width, c)"""
        return ops.concatenate([x[:, -self.width :], x, x[:, : self.width]], axis=1)


@keras.saving.register_keras_serializable("cryoem")
class AngularHarmonics(layers.Layer):
    """Compute harmonics 0 to ``highest`` of (b, angle, (1 + 2 highest) c): (b, (1 + 2 highest) c).

    Harmonic 0 is the mean over the angle of the first c channels. For each harmonic m >= 1, 2 c channels are the real
    and imaginary parts of a complex signal. Its m-th harmonic rotates by m psi when the signal is shifted by psi.
    """

    def __init__(self, highest: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.highest = highest

    def call(self, x):
        """(b, a, (1 + 2 h) c) -> (b, (1 + 2 h) c)"""
        n_angles, c = x.shape[1], x.shape[2] // (1 + 2 * self.highest)
        angle = 2 * np.pi * np.arange(n_angles) / n_angles
        parts = [ops.mean(x[..., :c], axis=1)]
        for harmonic in range(1, self.highest + 1):
            cosine, sine = (f(harmonic * angle).astype("float32")[:, None] for f in (np.cos, np.sin))
            real = x[..., (2 * harmonic - 1) * c : 2 * harmonic * c]
            imaginary = x[..., 2 * harmonic * c : (2 * harmonic + 1) * c]
            parts.append(ops.mean(real * cosine - imaginary * sine, axis=1))
            parts.append(ops.mean(real * sine + imaginary * cosine, axis=1))
        return ops.concatenate(parts, axis=-1)


@keras.saving.register_keras_serializable("cryoem")
class PairHead(layers.Layer):
    """Last layer of an encoder, which returns features unchanged and contains the network that compares pairs of them.

    The weights are trained, saved and restored with the encoder. The published network (arXiv 2104.06237, ablation of
    the feature distance) concatenates two feature vectors and has six dense layers with SELU activations. This one is
    narrower, because it is applied to all pairs of a batch, and it gives the same distance for (i, j) as for (j, i).
    """

    def __init__(self, widths: tuple[int, ...] = PAIR_WIDTHS, **kwargs):
        super().__init__(**kwargs)
        self.widths = tuple(widths)
        self._first = layers.Dense(self.widths[0], dtype=self.dtype_policy)
        self._second = layers.Dense(self.widths[0], use_bias=False, dtype=self.dtype_policy)
        self._hidden = [
            layers.Dense(width, activation="selu", dtype=self.dtype_policy) for width in self.widths[1:]
        ]
        self._last = layers.Dense(1, dtype=self.dtype_policy)

    def build(self, input_shape):
        for layer in (self._first, self._second):
            layer.build((None, input_shape[-1]))
        for layer, width in zip([*self._hidden, self._last], self.widths, strict=True):
            layer.build((None, None, width))

    def call(self, features):
        """(b, f) -> (b, f)"""
        return features

    def distances(self, features, others):
        """Compute distances between two sets of unit features: (n, f), (m, f) -> (n, m) in [0, pi]."""
        # a dense layer on a concatenated pair equals the sum of one layer for each half, so pairs are never formed
        one_way = self._first(features)[:, None] + self._second(others)[None]  # (n, m, width)
        other_way = self._second(features)[:, None] + self._first(others)[None]
        return np.pi * (self._fraction(one_way) + self._fraction(other_way)) / 2

    def _fraction(self, x):
        """Compute the distance as a fraction of pi: (n, m, width) -> (n, m)."""
        x = ops.selu(x)
        for layer in self._hidden:
            x = layer(x)
        return ops.sigmoid(self._last(x)[..., 0])

    def predict_distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Apply ``distances`` to arrays, some rows at a time: (n, m) float32, in radians."""
        others = np.asarray(others, np.float32)
        starts = range(0, len(features), PAIR_ROWS)
        blocks = (features[start : start + PAIR_ROWS].astype(np.float32) for start in starts)
        return np.concatenate([ops.convert_to_numpy(self.distances(block, others)) for block in blocks])


@device_precision()
def build_encoder(
    image_size: int,
    *,
    architecture: str = "polar",
    n_features: int | None = None,
    channels: int = 128,
    blocks: int = 4,
    symmetry: str = "C1",
    pair_head: bool = False,
    with_shifts: bool = False,
) -> keras.Model:
    """Build an encoder for square images.

    Parameters
    ----------
    image_size : int
        Image size in pixels, at least 8.
    architecture : {"polar", "published"}
        Architecture of the network; see the module docstring. Default: ``"polar"``.
    n_features : int, optional
        Number of features. For ``"polar"``, it must be a multiple of 1 + 2 p, where p is the highest harmonic (see
        ``losses``). Default: 512 for ``"published"``; for ``"polar"``, the smallest multiple of 1 + 2 p that is at
        least 96.
    channels, blocks : int
        Width and number of the residual blocks in the ``"polar"`` network. Default: 128 and 4.
    symmetry : str
        Point group of the particle, which determines the harmonics in the ``"polar"`` network. Default: ``"C1"``.
    pair_head : bool
        Whether to append a network that compares features, for the feature distance ``"mlp"``. Default: False.
    with_shifts : bool
        Whether ``"polar"`` also estimates the displacement of the particle from the image origin. Default: False.

    Returns
    -------
    keras.Model
        Model that maps images (b, y, x) to features (b, n_features), float32 and not normalised. If ``with_shifts`` is
        True, the model returns a dictionary with ``features`` and ``shifts_px``, the (b, 2) displacements (x, y).

    Raises
    ------
    ValueError
        If the architecture or the point group is unknown; if ``image_size`` is too small; if a count is not a positive
        integer; if ``n_features`` for ``"polar"`` is not a multiple of 1 + 2 p; or if ``"published"`` is combined with
        ``with_shifts``.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    image_size = whole_number(image_size, name="image_size", at_least=8)
    harmonics = 1 + 2 * highest_harmonic(symmetry)
    if n_features is None:
        n_features = 512 if architecture == "published" else harmonics * -(-96 // harmonics)
    n_features = whole_number(n_features, name="n_features", at_least=1)
    if architecture == "published":
        if with_shifts:
            raise ValueError("with_shifts must be False for the published encoder, got True")
        encoder = _published(image_size, n_features)
    else:
        channels = whole_number(channels, name="channels", at_least=1)
        blocks = whole_number(blocks, name="blocks", at_least=1)
        if n_features % harmonics:
            raise ValueError(
                f"n_features of the polar encoder must be a multiple of {harmonics}, got {n_features}"
            )
        encoder = _polar(image_size, n_features, channels, blocks, harmonics // 2, with_shifts)
    if not pair_head:
        return encoder
    head, output = PairHead(dtype="float32"), encoder.output
    output = {**output, "features": head(output["features"])} if with_shifts else head(output)
    return keras.Model(encoder.input, output, name=encoder.name)


def _polar(
    image_size: int, n_features: int, channels: int, blocks: int, highest: int, with_shifts: bool
) -> keras.Model:
    images = keras.Input((image_size, image_size), name="images")
    x = Standardize(dtype="float32")(images)
    x = PolarSampling(N_ANGLES, max(4, image_size // 2 - 1), dtype="float32")(x)
    x = _circular_convolution(x, channels, stride=FIRST_STRIDE)
    for block in range(blocks):
        y = layers.LayerNormalization()(x)
        y = layers.Activation("gelu")(_circular_convolution(y, channels))
        x = layers.Add()([x, _circular_convolution(y, channels)])
        if block == 0:
            x = layers.AveragePooling1D(2)(x)
    x = layers.LayerNormalization()(x)
    features = AngularHarmonics(highest, dtype="float32")(layers.Dense(n_features)(x))
    if not with_shifts:
        return keras.Model(images, features, name="polar_encoder")
    shifts = AngularHarmonics(dtype="float32")(layers.Dense(3, name="displacement")(x))[:, 1:]
    return keras.Model(images, {"features": features, "shifts_px": shifts}, name="polar_encoder")


def _circular_convolution(x, channels: int, stride: int = 1):
    padded = CircularPad(KERNEL_WIDTH // 2)(x)
    return layers.Conv1D(channels, KERNEL_WIDTH, strides=stride, use_bias=False)(padded)


def _published(image_size: int, n_features: int) -> keras.Model:
    images = keras.Input((image_size, image_size), name="images")
    # float32 on all devices: nothing keeps the sums of images of any scale within the range of float16
    x = layers.Reshape((image_size, image_size, 1), dtype="float32")(images)
    for filters, width in (*PUBLISHED_CONVOLUTIONS, (n_features, PUBLISHED_LAST_WIDTH)):
        x = layers.Conv2D(filters, width, padding="same", activation="relu", dtype="float32")(x)
        x = layers.MaxPooling2D(2, padding="same", dtype="float32")(x)
    features = layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, features, name="published_encoder")


def head_of(encoder: keras.Model, feature_distance: str) -> PairHead | None:
    """Return the encoder's pair head if the feature distance is ``"mlp"``, otherwise None."""
    if feature_distance != "mlp":
        return None
    heads = [layer for layer in encoder.layers if isinstance(layer, PairHead)]
    if not heads:
        raise ValueError("encoder must be built with pair_head=True for the feature distance 'mlp'")
    return heads[0]
