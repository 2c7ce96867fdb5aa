"""Steps of the pipeline on particle files, block by block, as a file may be larger than memory.

Distances from a trained encoder, the gauge, a map: each reads what it needs of a ``particles.ParticleFile`` and takes
the contrast transfer, shifts and orientations that the file knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, many_rotations, shifts_of, whole_number
from cryoem.gauge import Gauge, fix_gauge
from cryoem.imaging import downsample, flip_phases, shift
from cryoem.particles import ParticleFile
from cryoem.reconstruction import SliceSums, reconstruct, slice_sums
from cryoem.recovery import FEWEST_LANDMARKS
from cryoem.recovery.landmarks import spread_landmarks
from cryoem.volumes import DensityMap

if TYPE_CHECKING:
    import keras

    from cryoem.siamese import EncoderSettings

BLOCK_BYTES = 32_000_000  # of images in memory at a time
GAUGE_IMAGES = 2_000
ROWS = 8192  # of distances to landmarks, decoded at a time
RANDOM_SUBSET = "rlnRandomSubset"

Callback = Callable[[int], None]


@dataclass(frozen=True)
class LearnedDistances:
    """``distances`` (n, n) float32 radians; ``shifts_px`` (n, 2) displacement (x, y) in pixels of the file's images,
    zero where the encoder finds none.  With ``landmarks``, (m,) numbers of images, distances are (n, m), to these.
    """

    distances: np.ndarray
    shifts_px: np.ndarray
    landmarks: np.ndarray | None = None


@dataclass(frozen=True)
class Reconstruction:
    """``map`` of all images, and ``half_maps`` of two halves of them, None for a method that knows no sums.

    ``refined_apart``: whether the halves are random subsets that the table tells, or every other image.
    """

    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap] | None
    refined_apart: bool = False


def learned_distances(
    particles: ParticleFile,
    encoder: keras.Model,
    settings: EncoderSettings,
    *,
    landmarks: int | None = None,
    rng: np.random.Generator | int | None = 0,
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
    callback : called with the number of images encoded, after each block.

    Raises
    ------
    ValueError : images are fewer or smaller; landmarks are fewer than 12 or more than the images; or as
        ``ParticleFile.read`` and ``ctf`` do.
    """
    from cryoem.siamese import distances_between, distances_of_all, encode, predict_shifts

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
    shifts, features = np.zeros((len(particles), 2)), []
    for block, seen in _blocks(particles, callback):
        images = downsample(_without_signs(particles, seen, block), size)
        if settings.with_shifts:
            shifts[block] = predict_shifts(encoder, images)
            images = shift(images, -shifts[block])
        features.append(encode(encoder, images))
    features = np.concatenate(features)
    kind = {"feature_distance": settings.feature_distance, "symmetry": settings.symmetry}
    shifts *= particles.image_size / size
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


def fix_gauge_of(
    particles: ParticleFile,
    rotations: Rotation,
    *,
    shifts_px: np.ndarray | None = None,
    symmetry: str = "C1",
    most_images: int = GAUGE_IMAGES,
    rng: np.random.Generator | int | None = None,
) -> Gauge:
    """The gauge of orientations from the images of a file; of randomly chosen ones where there are many.

    Parameters
    ----------
    particles : n images.
    rotations : n orientations as recovered, see ``gauge.fix_gauge``.
    shifts_px : (n, 2) displacement (x, y), which is taken off; none by default.
    symmetry : point group of the particle.
    most_images : so many are looked at, at the most.
    rng : generator or seed.

    Returns
    -------
    Gauge of all n orientations.

    Raises
    ------
    ValueError : rotations or shifts are not one for each image, or as ``fix_gauge``.
    """
    many_rotations(rotations, count=len(particles))
    most_images = whole_number(most_images, name="most_images", at_least=3)
    rng = np.random.default_rng(rng)
    n = len(particles)
    chosen = np.arange(n) if n <= most_images else np.sort(rng.choice(n, most_images, replace=False))
    images = _without_signs(particles, particles.read(chosen), chosen)
    if shifts_px is not None:
        images = shift(images, -shifts_of(shifts_px, count=n)[chosen])
    gauge = fix_gauge(images, rotations[chosen], symmetry=symmetry, rng=rng)
    oriented = rotations.inv() if gauge.inverted else rotations
    return replace(gauge, rotations=gauge.turn * oriented)


def reconstruct_particles(
    particles: ParticleFile,
    *,
    symmetry: str = "C1",
    method: str = "fourier",
    callback: Callback | None = None,
) -> Reconstruction:
    """A map of the images of a file, by the orientations, shifts and contrast transfer that the file knows.

    Halves are the two random subsets that RELION refined apart, where the table tells them; else every other image.

    Parameters
    ----------
    particles : at least 2 images with orientations.
    symmetry : point group of the particle, see ``reconstruction.reconstruct``.
    method : ``"fourier"``, in blocks, or ``"cgls"``, in memory and without half-maps.
    callback : called with the number of images done, after each block.

    Raises
    ------
    ValueError : the file knows no orientations, a half would have no images, or as ``reconstruct``.
    """
    if particles.rotations is None:
        raise ValueError(f"{particles.path} must give the orientations of its images, and gives none")
    known = {"pixel_size_angstrom": particles.pixel_size_angstrom, "symmetry": symmetry}
    if method != "fourier":
        stack = particles.to_stack()
        known |= {"shifts_px": stack.shifts_px, "ctf": stack.ctf, "defocus_angstrom": stack.defocus_angstrom}
        return Reconstruction(reconstruct(stack.images, stack.rotations, method=method, **known), None)
    half = _halves(particles)
    sums: dict[int, SliceSums] = {}
    for block, seen in _blocks(particles, callback):
        for number in (0, 1):
            members = block[half[block] == number]
            if len(members):
                part = slice_sums(
                    seen[members - block[0]],
                    particles.rotations[members],
                    shifts_px=None if particles.shifts_px is None else particles.shifts_px[members],
                    ctf=particles.ctf,
                    defocus_angstrom=_defoci(particles, members),
                    **known,
                )
                sums[number] = sums[number] + part if number in sums else part
    whole, first, second = (
        DensityMap(part.invert().astype(np.float32), particles.pixel_size_angstrom)
        for part in (sums[0] + sums[1], sums[0], sums[1])
    )
    return Reconstruction(whole, (first, second), _has_subsets(particles))


def _blocks(particles: ParticleFile, callback: Callback | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (k,) and images (k, y, x), block by block."""
    size = max(1, BLOCK_BYTES // (4 * particles.image_size**2))
    for start, images in particles.blocks(size):
        yield np.arange(start, start + len(images)), images
        if callback is not None:
            callback(start + len(images))


def _without_signs(particles: ParticleFile, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Images (k, y, x) of a file without the signs that the contrast transfer gave to frequencies."""
    return flip_phases(
        images,
        particles.ctf,
        _defoci(particles, indices),
        pixel_size_angstrom=particles.pixel_size_angstrom,
    )


def _defoci(particles: ParticleFile, indices: np.ndarray) -> np.ndarray | None:
    return None if particles.defocus_angstrom is None else particles.defocus_angstrom[indices]


def _has_subsets(particles: ParticleFile) -> bool:
    return particles.table is not None and RANDOM_SUBSET in particles.table


def _halves(particles: ParticleFile) -> np.ndarray:
    """Which half each image belongs to, 0 or 1."""
    if len(particles) < 2:
        raise ValueError(f"{particles.path} must hold at least 2 images to make a map, got 1")
    if not _has_subsets(particles):
        return np.arange(len(particles)) % 2
    subset = finite_array(
        particles.table[RANDOM_SUBSET].to_numpy(), name=f"{particles.path}: {RANDOM_SUBSET}", ndim=1
    )
    if set(subset.tolist()) != {1, 2}:
        raise ValueError(
            f"{particles.path} must have both 1 and 2, and nothing else, in {RANDOM_SUBSET}, "
            f"got {', '.join(f'{value:g}' for value in np.unique(subset)[:5])}"
        )
    return subset.astype(int) - 1
