"""Orientations of images of a particle whose map is known: the expectation step alone, on blocks of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.images import image_blocks
from cryoem.orientations.expectation import best_turns
from cryoem.orientations.maximisation import asymmetric_unit
from cryoem.orientations.pose_search import (
    FIRST_DIRECTIONS,
    LAST_ANGLES,
    LAST_DIRECTIONS,
    SMALLEST_PX,
    PoseSearch,
    SearchState,
)
from cryoem.rotations import Poses, copies_of, even_orientations
from cryoem.validation import not_negative, unread_images
from cryoem.volumes.density import DensityMap, crop_or_pad, resample

CALIBRATION_IMAGES, CALIBRATION_ROUNDS = 400, 6
SAMPLING_LOSS = 0.1  # of the log-likelihood, by which samples may be worse than poses between them
COMPARED_SAMPLES = 100  # best ones of an image, among which alternatives are found


@dataclass(frozen=True)
class MapMatch:
    """Poses of n images in the frame of a known map.

    Attributes
    ----------
    poses : Poses
        Most probable pose of each image.
    evidence : (n,) array
        Logarithm of how much more likely each image is given the map, in any pose, than as pure noise. It is low, and
        often negative, for images that do not show the particle.
    """

    poses: Poses
    evidence: np.ndarray


def match_to_map(
    images,
    density_map: DensityMap,
    *,
    optics: Optics | None = None,
    shift_deviation_px: float = 0.0,
    rng: np.random.Generator | int | None = 0,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> MapMatch:
    """Find the most probable pose of each image, given a map, by comparison with its projections in all poses.

    The rings, viewing directions and in-plane angles are those of the last round of ``ab_initio``; Gauss-Newton steps
    lead from the best of these poses to the pose between them. The scale of the map and the noise of each ring are
    estimated from at most ``CALIBRATION_IMAGES`` random images. The time is proportional to the number of images, and
    the memory does not depend on it.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        Images, bright on a dark background. Particle stacks in files are read block by block.
    density_map : DensityMap
        Map of the particle in arbitrary units, such as the map of ``ab_initio``. Its voxel size may differ from the
        pixel size. Density outside the field of view of the images is ignored.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available. Otherwise, no CTF is assumed, and the pixel size
        is the voxel size of the map.
    shift_deviation_px : float
        Standard deviation of the displacements, as in ``ab_initio``. Default: 0, for centred particles.
    rng : Generator or int
        Random number generator or seed. Default: 0.
    map_blocks : callable
        Function that is used like the built-in ``map`` to process blocks of images. It must preserve their order.
        Default: ``map``.
    callback : callable, optional
        Function called after each block with the number of images matched so far.

    Returns
    -------
    MapMatch

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too small or blank, or contain NaN or infinity; if ``optics``
        describes a different number of images; if the map is empty; or if the standard deviation is negative.

    References
    ----------
    Penczek et al., Ultramicroscopy 53 (1994) 251 (projection matching); Scheres, J. Mol. Biol. 415 (2012) 406
    (likelihoods of poses).
    """
    optics = known_optics(images, optics)
    images = unread_images(images, smallest_px=SMALLEST_PX)
    n = len(images)
    optics = optics_of(optics, density_map.voxel_size_angstrom if optics is None else None, count=n)
    not_negative(shift_deviation_px, name="shift_deviation_px")
    rng = np.random.default_rng(rng)
    search, state = _calibrated(images, density_map, optics, shift_deviation_px, rng)
    options = {"search": search, "rng": rng, "map_blocks": map_blocks, "callback": callback}
    evidence, poses, _ = locate_all(images, optics, np.arange(n), [state], **options)
    return MapMatch(poses, evidence)


def plausible_orientations(
    images,
    density_map: DensityMap,
    *,
    optics: Optics,
    group: np.ndarray,
    within: float,
    apart_rad: float,
    most: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Rotation]:
    """Find the orientations of centred images that are hardly less likely than the best one, given a map.

    Parameters
    ----------
    images, density_map, optics
        As for ``match_to_map``.
    group : (k, 3, 3) array
        Rotations of the point group of the map.
    within : float
        Largest difference of log-likelihood from the best orientation.
    apart_rad : float
        Radius in radians around each sample on a grid, up to the point group, within which it is the best one.
    most : int
        Largest number of orientations of an image.
    rng : Generator

    Returns
    -------
    index : (m,) array
        Image to which each orientation belongs.
    rotations : Rotation
        The m orientations.
    """
    search, state = _calibrated(images, density_map, optics, 0.0, rng)
    state = replace(state, group=group)
    index, found = [], []
    for block in image_blocks(images):
        some = PoseSearch(images[block], optics[block], 0.0, deviation=search.deviation)
        rows, rotations = _plausible(some, state, rng, within=within, apart_rad=apart_rad, most=most)
        index.append(block.start + rows)
        found.append(rotations)
    return np.concatenate(index), Rotation.concatenate(found)


def _plausible(
    search: PoseSearch,
    state: SearchState,
    rng: np.random.Generator,
    *,
    within: float,
    apart_rad: float,
    most: int,
) -> tuple[np.ndarray, Rotation]:
    """Find the orientations of centred images that are hardly less likely than the best one.

    Their log-likelihood on all rings, with the contrast of each image fitted, is lower by at most ``within``. There
    are at most ``most`` per image. They are samples on a grid that are the best ones within ``apart_rad``, up to
    the point group, and then move between the samples. Returns the image of each of them, and the orientations.
    """
    index, samples = _best_samples(search, state, rng, within=within, apart_rad=apart_rad, most=most)
    poses, correlations = search.between_samples(state, Poses(samples, np.zeros((len(index), 2))), index)
    pixels = search.images.coverage * np.pi * np.arange(1, search.rings + 1)
    power = np.mean(np.abs(search.images.values) ** 2, axis=2) @ (pixels / state.noise)
    scores = power[index] * correlations * np.abs(correlations)
    best = np.full(len(search.images), -np.inf)
    np.maximum.at(best, index, scores)
    plausible = scores >= best[index] - within
    return index[plausible], poses.rotations[plausible]


def _best_samples(
    search: PoseSearch,
    state: SearchState,
    rng: np.random.Generator,
    *,
    within: float,
    apart_rad: float,
    most: int,
) -> tuple[np.ndarray, Rotation]:
    """Find the samples of centred images near which poses may be plausible.

    Samples within ``apart_rad`` of a better one, up to the point group, are left out. Returns the image of each
    sample, and the orientations.
    """
    directions = even_orientations(LAST_DIRECTIONS) * Rotation.random(rng=rng)
    directions = asymmetric_unit(directions, state.group, rng)
    references = search.maps.slices(state.volume, directions.as_matrix(), search.rings)
    scores, angles = best_turns(search.images, references, state.noise, angles=LAST_ANGLES)
    order = np.argsort(-scores, axis=1)[:, :COMPARED_SAMPLES]
    compared = np.take_along_axis(scores, order, axis=1)
    best = compared[:, :1]
    index, rank = np.nonzero(compared >= best - within - SAMPLING_LOSS * np.abs(best))
    samples = order[index, rank]
    turns = Rotation.from_rotvec(angles[index, samples][:, None] * [0, 0, 1])
    rotations = turns * directions[samples]
    group, quaternions = Rotation.from_matrix(state.group), rotations.as_quat()
    kept = []
    for rows in np.split(np.arange(len(index)), np.flatnonzero(np.diff(index)) + 1):
        copies = copies_of(rotations[rows], group)
        overlaps = np.abs(quaternions[rows] @ copies.transpose(1, 2, 0)).max(axis=0)
        shadowed = np.tril(overlaps > np.cos(apart_rad / 2), -1).any(axis=1)
        kept.append(rows[~shadowed][:most])
    kept = np.concatenate(kept)
    return index[kept], rotations[kept]


def _calibrated(
    images, density_map: DensityMap, optics: Optics, shift_deviation_px: float, rng: np.random.Generator
) -> tuple[PoseSearch, SearchState]:
    """Return a search among some of the images, and the map with its scale and the noise of each ring."""
    some = np.sort(rng.permutation(len(images))[:CALIBRATION_IMAGES])
    search = PoseSearch(images[some], optics[some], shift_deviation_px)
    state = _state_of(search, density_map)
    for _ in range(CALIBRATION_ROUNDS):
        search.calibrate(state, rng)
    return search, state


def _state_of(search: PoseSearch, density_map: DensityMap) -> SearchState:
    """Return a map of the particle, scaled to the power of the images, which is also the noise variance."""
    size = search.maps.size
    voxel = search.pixel_size_angstrom * search.image_size / size
    volume = crop_or_pad(resample(density_map, voxel), size).data
    rotations = even_orientations(FIRST_DIRECTIONS) * Rotation.random(rng=0)
    slices = search.maps.slices(volume, rotations.as_matrix(), search.rings)
    if not volume.any():
        raise ValueError("density_map must have density within the field of view of the images, got none")
    if not search.power.all():
        raise ValueError("the images are blank or smoothed: they have no power at some spatial frequencies")
    transferred = np.mean(np.abs(slices) ** 2, axis=(0, 2)) * np.mean(search.images.transfers**2, axis=0)
    volume = volume * np.float32(np.sqrt(search.power.sum() / transferred.sum()))
    return SearchState(volume, search.power.copy(), np.zeros((len(search.images), 2)))


def locate_all(
    images,
    optics: Optics,
    rows: np.ndarray,
    states: Sequence[SearchState],
    *,
    search: PoseSearch,
    rng: np.random.Generator,
    map_blocks: Callable = map,
    callback: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, Poses, list[Poses]]:
    """Find the poses of the images ``rows``, block by block, with known maps.

    Returns the evidence and the poses of the images according to the last state, and their poses according to each of
    the other states, which are surveyed on fewer rings.
    """
    count = next(image_blocks(images)).stop
    blocks = [rows[start : start + count] for start in range(0, len(rows), count)]
    items = (
        (images[block], optics[block], generator)
        for block, generator in zip(blocks, rng.spawn(len(blocks)), strict=True)
    )
    plain = [replace(state, centres=np.zeros((0, 2))) for state in states]
    locate_block = partial(
        _locate_block,
        states=plain,
        shift_deviation_px=search.shift_deviation_px,
        deviation=search.deviation,
    )
    found, done = [], 0
    for block, result in zip(blocks, map_blocks(locate_block, items), strict=True):
        found.append(result)
        done += len(block)
        if callback is not None:
            callback(done)
    evidence, *poses = zip(*found, strict=True)
    *others, last = map(Poses.concatenate, poses)
    return np.concatenate(evidence), last, others


def _locate_block(
    item: tuple, *, states: Sequence[SearchState], shift_deviation_px: float, deviation: float
) -> tuple:
    """Return the evidence of a block of images, and their poses according to each state."""
    images, optics, rng = item
    search = PoseSearch(images, optics, shift_deviation_px, deviation=deviation)
    *others, last = (replace(state, centres=np.zeros((len(images), 2))) for state in states)
    surveyed = [search.survey(state, np.arange(len(images)), rng)[1] for state in others]
    evidence, poses = search.locate(last, rng, with_centres=False)
    return evidence, *surveyed, poses
