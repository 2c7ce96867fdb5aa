"""Estimate features, shifts and distances of images with an encoder, for all pairs or relative to landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.distances.encoders import head_of
from cryoem.distances.exact import BYTES_PER_PAIR, FEWEST_LANDMARKS, spread_landmarks
from cryoem.distances.losses import distances_from_features, unit_features
from cryoem.distances.trained import TrainedEncoder
from cryoem.images import correct_images, image_blocks, shift
from cryoem.memory import check_memory
from cryoem.training.backend import keras
from cryoem.validation import finite_array

ROWS = 8192  # images whose distances to landmarks are decoded at a time
BATCH_SIZE = 128
SHIFT_PASSES = 2  # after each pass, images are centred by the estimate


@dataclass(frozen=True)
class DistanceEstimate:
    """Estimated distances and shifts of n images.

    Parameters
    ----------
    distances : (n, n) or (n, m) float32 array
        Geodesic distances in radians, between all pairs or to the m landmarks.
    shifts_px : (n, 2) array
        Displacement (x, y) of each particle, in pixels of the original images. Zero if the encoder does not estimate
        shifts.
    landmarks : (m,) array, optional
        Indices of the landmarks. None if ``distances`` contains all pairs.
    """

    distances: np.ndarray
    shifts_px: np.ndarray
    landmarks: np.ndarray | None = None


def estimate_distances(
    images,
    encoder: TrainedEncoder,
    *,
    optics: Optics | None = None,
    landmarks: int | None = None,
    rng: np.random.Generator | int | None = 0,
    both_views: bool = True,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> DistanceEstimate:
    """Estimate the geodesic distances between the orientations of images.

    The images are phase-flipped, Fourier-cropped to the image size of the encoder, centred if the encoder estimates
    shifts, and then encoded. They must have the same field of view as the training images.

    Parameters
    ----------
    images : (n, y, x) array-like
        At least 2 images, none smaller than the image size of the encoder. Particle stacks in files are read block by
        block.
    encoder : TrainedEncoder
        Encoder that was trained for this particle.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available, otherwise no CTF.
    landmarks : int, optional
        Number of landmarks, from 12 to n. Landmarks are images selected so that their orientations are well spread.
        Only the distances to the landmarks are estimated, which is suitable for large data sets. Default: estimate the
        distances between all pairs.
    rng : Generator or int
        Random number generator or seed, which chooses the first landmark. Default: 0.
    both_views : bool
        Whether to encode mirror images too, as in ``encode``. Default: True.
    map_blocks : callable
        Function that is used like the built-in ``map`` to process blocks of images. It must preserve their order.
        Default: ``map``.
    callback : callable, optional
        Function called after each block with the number of images encoded so far.

    Returns
    -------
    DistanceEstimate

    Raises
    ------
    ValueError
        If there are fewer than 2 images; if the images are too small, or contain NaN or infinity; if the number of
        landmarks is out of range; or if ``optics`` describes a different number of images.
    MemoryError
        If the distances between all pairs do not fit into memory.
    """
    size, n = encoder.settings.image_size, images.shape[0]
    if len(images.shape) != 3 or min(images.shape[1:]) < size:
        raise ValueError(
            f"images must be at least {size} px wide, the image size of the encoder, got shape {images.shape}"
        )
    if n < 2:
        raise ValueError(f"at least 2 images are required, got {n}")
    if landmarks is not None and not FEWEST_LANDMARKS <= landmarks <= n:
        raise ValueError(
            f"landmarks must be between {FEWEST_LANDMARKS} and {n}, the number of images, got {landmarks}"
        )
    if landmarks is None:
        what = f"estimating the distances between all pairs of {n:,} images"
        check_memory(what, BYTES_PER_PAIR * n**2, remedy="use landmarks (--landmarks)")
    optics = known_optics(images, optics)
    if optics is not None:
        optics_of(optics, None, count=n)
    # encode the images block by block
    blocks = list(image_blocks(images))
    items = ((images[block], None if optics is None else optics[block]) for block in blocks)
    encode_block = partial(_encode_block, encoder=encoder, both_views=both_views)
    encoded = []
    for block, result in zip(blocks, map_blocks(encode_block, items), strict=True):
        encoded.append(result)
        if callback is not None:
            callback(block.stop)
    features, shifts = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
    kind = encoder.settings.feature_distance, encoder.settings.symmetry, both_views
    if landmarks is None:
        return DistanceEstimate(_all_distances(encoder.model, features, *kind), shifts)

    def distances_to(indices):  # (n, k)
        rows = (features[start : start + ROWS] for start in range(0, n, ROWS))
        return np.concatenate([_distances(encoder.model, some, features[indices], *kind) for some in rows])

    chosen = spread_landmarks(
        lambda index: distances_to([index])[:, 0], n, landmarks, rng=np.random.default_rng(rng)
    )
    distances = distances_to(chosen)
    # make the distances between landmarks symmetric, with a zero diagonal
    among = distances[chosen]
    distances[chosen] = (among + among.T) / 2
    distances[chosen, np.arange(landmarks)] = 0
    return DistanceEstimate(distances, shifts, chosen)


def encode(encoder: keras.Model, images: np.ndarray, *, both_views: bool = True) -> np.ndarray:
    """Compute the features of images, scaled to unit length.

    Parameters
    ----------
    encoder : keras.Model
        Trained encoder.
    images : (n, y, x) array
        Images of the size that the encoder takes.
    both_views : bool
        Whether to also encode the mirror image (in x) of each image. A mirror image is the projection from the opposite
        direction, so its orientation follows from the orientation of the original. Distances are then decoded from the
        mean of both kernels. Default: True.

    Returns
    -------
    (n, f) float32 array, or (n, 2 f) with both views

    Raises
    ------
    ValueError
        If the images have the wrong size, or contain NaN or infinity.
    """
    images = _checked_images(encoder, images)
    views = [images, _mirror(images)] if both_views else [images]
    features = [unit_features(_predict(encoder, view)["features"]) for view in views]
    return np.concatenate(features, axis=1) / np.float32(np.sqrt(len(views)))


def predict_shifts(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Estimate the displacement of each particle from the image origin.

    The result is the average of the estimates from each image and from its mirror image.

    Parameters
    ----------
    encoder : keras.Model
        Encoder that was built and trained with ``with_shifts=True``.
    images : (n, y, x) array
        Images of the size that the encoder takes.

    Returns
    -------
    (n, 2) float64 array
        Displacement (x, y) towards larger coordinates, in pixels of these images.

    Raises
    ------
    ValueError
        If the encoder does not estimate shifts, or if the images have the wrong size or contain NaN or infinity.
    """
    images = _checked_images(encoder, images)
    if not isinstance(encoder.output, dict):
        raise ValueError(
            f"encoder must be built with with_shifts=True to estimate shifts, but {encoder.name} was not"
        )
    shifts = np.zeros((len(images), 2))
    for _ in range(SHIFT_PASSES):
        centred = shift(images, -shifts)
        direct, mirrored = (_predict(encoder, view)["shifts_px"] for view in (centred, _mirror(centred)))
        shifts = shifts + (direct + mirrored * [-1, 1]) / 2
    return shifts


def predict_distances(
    encoder: keras.Model,
    images: np.ndarray,
    *,
    feature_distance: str = "kernel",
    symmetry: str = "C1",
    both_views: bool = True,
) -> np.ndarray:
    """Estimate the geodesic distances between the orientations of all pairs of images.

    Parameters
    ----------
    encoder : keras.Model
        Trained encoder.
    images : (n, y, x) array
        At least 2 images with the image size of the encoder.
    feature_distance, symmetry : str
        Feature distance and point group with which the encoder was trained (see ``losses``). Default: ``"kernel"`` and
        ``"C1"``.
    both_views : bool
        Whether to encode mirror images too, as in ``encode``. For ``"mlp"``, the distances of both views are averaged.
        Default: True.

    Returns
    -------
    (n, n) float32 array
        Symmetric matrix of distances in radians, in [0, pi], with a zero diagonal. For a symmetric particle, each
        distance is to the nearest symmetric copy.

    Raises
    ------
    ValueError
        If there are fewer than 2 images; if the images have the wrong size, or contain NaN or infinity; or if the
        feature distance is ``"mlp"`` and the encoder has no pair head.
    """
    if len(images) < 2:
        raise ValueError(f"at least 2 images are required, got {len(images)}")
    features = encode(encoder, images, both_views=both_views)
    return _all_distances(encoder, features, feature_distance, symmetry, both_views)


def _all_distances(encoder: keras.Model, features: np.ndarray, *kind) -> np.ndarray:
    """Decode the distances between all pairs of (n, f) features: (n, n), symmetric with a zero diagonal."""
    distances = _distances(encoder, features, features, *kind)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return distances


def _distances(encoder, features, others, feature_distance, symmetry, both_views) -> np.ndarray:
    """Decode the distances between (n, f) and (m, f) features from ``encode``: (n, m) float32, in radians."""
    head = head_of(encoder, feature_distance)
    views = [(features, others)]
    if head is not None and both_views:
        views = zip(np.split(features, 2, axis=1), np.split(others, 2, axis=1), strict=True)
    decoded = [
        distances_from_features(a, b, kind=feature_distance, symmetry=symmetry, head=head) for a, b in views
    ]
    return np.mean(decoded, axis=0)


def _encode_block(item: tuple, *, encoder: TrainedEncoder, both_views: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return unit features (k, f) of a block of images, and shifts (k, 2) in pixels of these images."""
    images, optics = item
    size = encoder.settings.image_size
    small = correct_images(images, optics=optics, size=size)
    shifts = np.zeros((len(small), 2))
    if encoder.settings.with_shifts:
        shifts = predict_shifts(encoder.model, small)
        small = shift(small, -shifts)
    return encode(encoder.model, small, both_views=both_views), shifts * (images.shape[1] / size)


def _predict(encoder: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    outputs = encoder.predict(images, batch_size=BATCH_SIZE, verbose=0)
    return outputs if isinstance(outputs, dict) else {"features": outputs}


def _checked_images(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return finite images of the encoder's size as (n, y, x) float32."""
    images = finite_array(images, name="images", ndim=3, dtype=np.float32)
    y, x = encoder.input_shape[1:]
    if images.shape[1:] != (y, x):
        raise ValueError(f"images must be (n, {y}, {x}) for this encoder, got {images.shape}")
    return images


def _mirror(images: np.ndarray) -> np.ndarray:
    """Mirror images in x about pixel n // 2."""
    flipped = images[:, :, ::-1]
    return np.roll(flipped, 1, axis=2) if images.shape[2] % 2 == 0 else flipped
