"""The published method for learning distances: a Siamese network, trained on pairs of projections (arXiv:2104.06237).

The method uses 2,512 training and 838 validation projections, and 1 % of all ordered pairs of each, resampled so that
the true distances are uniform. The network passes both images of a pair through the same encoder, and estimates their
distance as 2 arccos of the cosine similarity of the features. It is trained with RMSprop at a constant learning rate of
1e-3, for 150 epochs of 247 batches of 256 pairs.

The equation in the paper squares the distance error, but its code trains on the mean absolute error, and the published
losses are in radians. This module also trains on the mean absolute error, and records the mean squared error as a
metric.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.distances.losses import cosine_distance, pair_loss, unit
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.experiments.trials import Trial
from cryoem.images import correct_images
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import simulate_lazily
from cryoem.rotations import geodesic_distance
from cryoem.training.backend import keras, ops
from cryoem.training.compilation import TrainingSchedule, jit_compile
from cryoem.training.fitting import digest, fit
from cryoem.validation import positive_number, whole_number
from cryoem.volumes.density import DensityMap

PROJECTIONS = (2512, 838)  # for training and for validation
PAIR_FRACTION = 0.01
BATCH_SIZE = 256
LEARNING_RATE = 1e-3
BIN_RAD = 0.1
BINS = 32


class ShuffledStream(keras.utils.PyDataset):
    """Batches of ``count`` items, shuffled in every epoch in an order that depends only on the seed and the epoch.

    ``read`` takes an array of item indices and returns the batch (inputs, targets). The last batch may be smaller.
    """

    def __init__(self, read: Callable[[np.ndarray], tuple], count: int, *, batch_size: int, seed: int = 0):
        super().__init__()
        self.epoch = 0
        self.batch_size = whole_number(batch_size, name="batch_size", at_least=2)
        self._read, self._count, self._seed = read, count, seed

    def __len__(self) -> int:
        return -(-self._count // self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self.epoch,)))
        order = rng.permutation(self._count)
        return self._read(order[index * self.batch_size : (index + 1) * self.batch_size])


def sample_pairs(
    rotations: Rotation, *, fraction: float = PAIR_FRACTION, rng: np.random.Generator | int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ordered pairs of different orientations, with equal numbers in ``BINS`` distance bins of width ``BIN_RAD``.

    Pairs are repeated only in bins with too few pairs. Empty bins are skipped.

    Parameters
    ----------
    rotations : Rotation
        n orientations.
    fraction : float
        Number of pairs to draw, divided by n^2.
    rng : Generator or int, optional

    Returns
    -------
    pairs : (p, 2) int array
        Indices of the orientations, in random order.
    distances : (p,) float32 array
        Distances in radians.

    Raises
    ------
    ValueError
        If the fraction is not positive, or too small to draw a pair.
    """
    fraction, n = positive_number(fraction, name="fraction"), len(rotations)
    count = int(fraction * n**2)
    if count < 1 or n < 2:
        raise ValueError(f"fraction is too small to draw a single pair from {n} projections, got {fraction}")
    rng = np.random.default_rng(rng)
    distances = geodesic_distance(rotations, rotations)
    bins = np.minimum((distances / BIN_RAD).astype(np.int8), BINS - 1)
    np.fill_diagonal(bins, -1)  # exclude pairs of an image with itself
    members = [some for b in range(BINS) if len(some := np.flatnonzero(bins == b))]
    shares = np.diff(np.linspace(0, count, len(members) + 1).round().astype(int))
    chosen = [
        rng.choice(some, share, replace=share > len(some))
        for some, share in zip(members, shares, strict=True)
    ]
    drawn = rng.permutation(np.concatenate(chosen))
    return np.stack(np.divmod(drawn, n), axis=1), distances.ravel()[drawn].astype(np.float32)


def siamese_network(encoder: keras.Model) -> keras.Model:
    """Return a model that maps two batches of images (b, y, x) to their cosine distances (b,) in radians."""
    first, second = (keras.Input(encoder.input_shape[1:], name=name) for name in ("first", "second"))
    similarity = ops.sum(unit(encoder(first)) * unit(encoder(second)), axis=-1)
    return keras.Model([first, second], cosine_distance(similarity), name="siamese")


def pair_stream(
    images: np.ndarray, pairs: np.ndarray, distances: np.ndarray, *, batch_size: int, seed: int = 0
) -> ShuffledStream:
    """Return batches ((first, second), distances) of two (b, y, x) image arrays and (b,) distances in radians."""

    def read(chosen: np.ndarray) -> tuple:
        first, second = pairs[chosen].T
        return (images[first], images[second]), distances[chosen]

    return ShuffledStream(read, len(pairs), batch_size=batch_size, seed=seed)


def image_stream(
    images: np.ndarray, rotations: Rotation, *, batch_size: int, seed: int = 0
) -> ShuffledStream:
    """Return batches of images (b, y, x) and quaternions (b, 4), for a loss over all pairs in a batch."""
    quaternions = rotations.as_quat().astype(np.float32)
    return ShuffledStream(
        lambda chosen: (images[chosen], quaternions[chosen]), len(images), batch_size=batch_size, seed=seed
    )


def learn_as_published(
    density: DensityMap,
    imaging: ImagingConditions,
    settings: EncoderSettings,
    *,
    schedule: TrainingSchedule,
    projections: tuple[int, int] = PROJECTIONS,
    pairs: float | str = PAIR_FRACTION,
    batch_size: int = BATCH_SIZE,
    checkpoints: str | os.PathLike | None = None,
    seed: int = 0,
) -> Trial:
    """Train an encoder with the published method, on a fixed set of projections of a map.

    Parameters
    ----------
    density : DensityMap
    imaging : ImagingConditions
        Conditions for the full images, which have signal variance 1 and are Fourier-cropped to the input size of the
        encoder.
    settings : EncoderSettings
        Settings of the encoder. The architecture must be ``"published"``, the feature distance ``"cosine"``, and the
        symmetry C1.
    schedule : TrainingSchedule
        Training schedule, with a constant learning rate. The published learning rate is ``LEARNING_RATE``.
    projections : (int, int)
        Numbers of training and validation projections.
    pairs : float or "batch"
        Fraction of all ordered pairs to train and validate on (see ``sample_pairs``), or ``"batch"`` for all pairs in
        each batch of images. The latter passes each image through the encoder only once and is much faster, but the
        distances are not uniform.
    batch_size : int
        Number of pairs, or for ``"batch"`` of images, in each batch.
    checkpoints : path, optional
        Folder from which an interrupted training run resumes.
    seed : int

    Returns
    -------
    Trial
        Trained encoder. Its history contains, for each epoch, the mean absolute errors ``distance_error_rad`` and
        ``val_distance_error_rad``, which are the loss, and the mean squared errors ``squared_error_rad2`` and
        ``val_squared_error_rad2``.

    Raises
    ------
    ValueError
        If a number is out of range, ``pairs`` is an unknown string, the settings are not the published ones, or the
        checkpoints belong to a different training run.
    """
    for name, value in (("architecture", "published"), ("feature_distance", "cosine"), ("symmetry", "C1")):
        if getattr(settings, name) != value:
            raise ValueError(
                f"{name} must be {value!r} for the published method, got {getattr(settings, name)!r}"
            )
    if isinstance(pairs, str) and pairs != "batch":
        raise ValueError(f"pairs must be a fraction of all pairs or 'batch', got {pairs!r}")
    keras.utils.set_random_seed(seed)
    encoder = settings.build()
    streams = []
    for part, n in enumerate(projections):
        stack = simulate_lazily(density, n, imaging, rng=[seed, part])
        images = correct_images(np.asarray(stack), optics=stack.optics, size=settings.image_size)
        if pairs == "batch":
            streams.append(image_stream(images, stack.rotations, batch_size=batch_size, seed=seed))
        else:
            drawn = sample_pairs(stack.rotations, fraction=pairs, rng=[seed, part, 1])
            streams.append(pair_stream(images, *drawn, batch_size=batch_size, seed=seed))

    # use the same loss for given pairs and for all pairs in a batch
    if pairs == "batch":
        model, absolute, squared = encoder, pair_loss("cosine", absolute=True), pair_loss("cosine")
    else:
        model, absolute, squared = siamese_network(encoder), absolute_error, squared_error
    optimizer = keras.optimizers.RMSprop(schedule.learning_rate)
    metric = keras.metrics.MeanMetricWrapper(squared, name="squared_error_rad2")
    model.compile(optimizer, loss=absolute, metrics=[metric], jit_compile=jit_compile())
    history = fit(
        model,
        *streams,
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint={
            "recipe": "published",
            "pairs": pairs,
            "batch_size": batch_size,
            # not the images, whose last bits depend on the machine, so that another one can resume
            "map": digest(density.data),
            "pixel_size_angstrom": density.voxel_size_angstrom,
            "imaging": asdict(imaging),
            "projections": projections,
            "seed": seed,
        },
    )
    history |= {f"{part}distance_error_rad": history[f"{part}loss"] for part in ("", "val_")}
    return Trial(TrainedEncoder(encoder, settings), history, both_views=False)


def absolute_error(true, predicted):
    """Return the absolute error of each pair, (b,)."""
    return ops.abs(true - predicted)


def squared_error(true, predicted):
    """Return the squared error of each pair, (b,)."""
    return ops.square(true - predicted)
