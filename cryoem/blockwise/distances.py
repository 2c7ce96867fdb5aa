"""Learned distances between the particles of a file, all pairs or to landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cryoem.blockwise.blocks import Callback, SomeParticles, made_of_blocks, without_signs
from cryoem.imaging import downsample, shift
from cryoem.particles import ParticleFile
from cryoem.recovery import FEWEST_LANDMARKS
from cryoem.recovery.landmarks import spread_landmarks

if TYPE_CHECKING:
    import keras
    from distributed import Client

    from cryoem.siamese import EncoderSettings, PortableEncoder

ROWS = 8192  # of distances to landmarks, decoded at a time


@dataclass(frozen=True)
class LearnedDistances:
    """``distances`` (n, n) float32 radians; ``shifts_px`` (n, 2) displacement (x, y) in pixels of the file's images,
    zero where the encoder finds none.  With ``landmarks``, (m,) numbers of images, distances are (n, m), to these.
    """

    distances: np.ndarray
    shifts_px: np.ndarray
    landmarks: np.ndarray | None = None


def learned_distances(
    particles: ParticleFile,
    encoder: keras.Model,
    settings: EncoderSettings,
    *,
    landmarks: int | None = None,
    rng: np.random.Generator | int | None = 0,
    client: Client | None = None,
    callback: Callback | None = None,
) -> LearnedDistances:
    """Distances between the orientations of all images of a file, by a trained encoder.

    Phases of the contrast transfer are flipped where the file knows it, images are made as small as the encoder's, and
    centred where it finds shifts.  The images must show as much around the particle as those it was trained on.

    Parameters
    ----------
    particles : at least 2 images, as large as the encoder's or larger.
    encoder, settings : as ``siamese.load_encoder`` returns them.
    landmarks : measure the distances to so many images only, which cover all orientations as
        ``recovery.landmarks.spread_landmarks`` finds them; for very many images.
    rng : generator or seed, of the landmarks.
    client : encodes on its workers, which must see the same files; see ``distributed.in_order``.
    callback : called with the number of images encoded, after each block.

    Raises
    ------
    ValueError : images are fewer or smaller; landmarks are fewer than 12 or more than the images; or as
        ``ParticleFile.read`` and ``ctf`` do.
    """
    from cryoem.siamese import PortableEncoder, distances_between, distances_of_all

    size = settings.image_size
    if particles.image_size < size:
        raise ValueError(
            f"{particles.path} must hold images of at least the encoder's {size} px, got {particles.image_size} px"
        )
    if len(particles) < 2:
        raise ValueError(f"{particles.path} must hold at least 2 images to have a distance, got 1")
    if landmarks is not None and not FEWEST_LANDMARKS <= landmarks <= len(particles):
        raise ValueError(
            f"landmarks must be from {FEWEST_LANDMARKS} to the {len(particles)} images, got {landmarks}"
        )
    encoded = made_of_blocks(
        partial(_encoded, encoder=PortableEncoder(encoder, settings)),
        particles,
        client=client,
        callback=callback,
    )
    features, shifts = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
    kind = {"feature_distance": settings.feature_distance, "symmetry": settings.symmetry}
    if landmarks is None:
        return LearnedDistances(distances_of_all(encoder, features, **kind), shifts)

    def distances_to(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                distances_between(encoder, features[start : start + ROWS], features[images], **kind)
                for start in range(0, len(features), ROWS)
            ]
        )

    numbers = spread_landmarks(
        lambda image: distances_to(np.array([image]))[:, 0],
        len(particles),
        landmarks,
        rng=np.random.default_rng(rng),
    )
    distances = distances_to(numbers)
    among = distances[numbers]
    distances[numbers] = (among + among.T) / 2
    distances[numbers, np.arange(landmarks)] = 0
    return LearnedDistances(distances, shifts, numbers)


def _encoded(some: SomeParticles, *, encoder: PortableEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Unit features of a block of particles, and (k, 2) shifts in pixels of the file's images."""
    from cryoem.siamese import encode, predict_shifts

    particles, size = some.particles, encoder.settings.image_size
    images = downsample(without_signs(particles), size)
    shifts = np.zeros((len(particles), 2))
    if encoder.settings.with_shifts:
        shifts = predict_shifts(encoder.model, images)
        images = shift(images, -shifts)
    return encode(encoder.model, images), shifts * (particles.image_size / size)
