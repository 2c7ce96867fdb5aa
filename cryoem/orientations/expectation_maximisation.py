"""Orientations and a first map from images alone, by expectation-maximisation over all poses.

No map and no training are needed. Starting from random orientations, each round computes the posterior of the pose of
each image given the current map (E step), and a new map from the images at all probable poses (M step). The noise
variance of each Fourier ring is estimated in each round. At first it is the total power of the images, so that all
poses are probable; it falls as the map improves. The numbers of rings and viewing directions grow from round to round,
and each round rotates the grid of directions at random. Each of several starts uses a few hundred images. The start
with the highest likelihood on held-out images then continues with all images.

References: Scheres, J. Mol. Biol. 415 (2012) 406 (likelihood marginalised over poses); Punjani et al., Nat. Methods 14
(2017) 290 (maps from random starts). The products over circular harmonics are described in ``rings``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.orientations.evaluation import align_frame
from cryoem.orientations.rings import Expectation, RingGrid, expect, ring_images
from cryoem.projection import fourier
from cryoem.rotations import Poses
from cryoem.validation import not_negative, square_images, whole_number
from cryoem.volumes.density import DensityMap, soft_sphere

FEWEST_IMAGES = 20
FIRST_RINGS, LAST_RINGS = 4, 20
ANGLES_PER_RING = 48  # on half a ring
FIRST_DIRECTIONS, LAST_DIRECTIONS = 150, 600
START_IMAGES, START_ROUNDS = 400, 36
LAST_ROUNDS = 4
AGREEMENT_RAD = 0.3
RADIUS, EDGE = (
    0.35,
    0.06,
)  # of the sphere that contains the particle, and of its soft edge, relative to the box
DAMPING = 0.05  # added to the sampling density before the signal is known, relative to its mean
OFFSET_STEP = 0.8 / (
    2 * np.pi
)  # spacing of displacements on n rings, relative to the image width divided by n
WIDE_UNTIL, CENTRED_FROM = 0.3, 0.2  # shares of the rounds of a start
INVERTED_SKEWNESS = -0.3  # skewness of the density below which its contrast appears to be inverted


@dataclass(frozen=True)
class AbInitio:
    """Poses and a map found without a reference.

    Attributes
    ----------
    poses : Poses
        Pose of each of the n images in the frame of ``map``. Images determine them only up to a rotation of this frame,
        the handedness of the map and, if the images are shifted, the position of the origin in the particle.
    map : DensityMap
        Cubic map with the field of view of the images, and a voxel size that just resolves the rings that were used.
    half_maps : (DensityMap, DensityMap)
        Maps from the images with even and with odd indices. Both use poses found with the same map, so their FSC
        overestimates the resolution.
    likelihoods : (starts,) array
        Mean log-likelihood of held-out images for each start.
    agreement : (n,) array
        Fraction of the other starts that place the image within ``AGREEMENT_RAD`` of its orientation in the best start,
        after alignment of the frames. NaN with a single start.
    """

    poses: Poses
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    likelihoods: np.ndarray
    agreement: np.ndarray


def ab_initio(
    images,
    *,
    optics: Optics | None = None,
    pixel_size_angstrom: float | None = None,
    shift_limit_px: float = 0.0,
    starts: int = 4,
    rng: np.random.Generator | int | None = 0,
    callback: Callable[[str, int], None] | None = None,
) -> AbInitio:
    """Find the poses of images of an unknown particle, and reconstruct a first map.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least ``FEWEST_IMAGES`` images of the same particle, which is bright on a dark background.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available.
    pixel_size_angstrom : float, optional
        Pixel size in angstrom, for images without a CTF if ``optics`` is not given.
    shift_limit_px : float
        Expected displacement of the particles along x and y in pixels, used as the standard deviation of a Gaussian
        prior. Default: 0, for centred particles.
    starts : int
        Number of random starts. Default: 4.
    rng : Generator or int
        Random number generator or seed. Default: 0.
    callback : callable, optional
        Function called after each round with the name of the stage (``"start 1"``, ..., ``"all images"``) and the
        number of the round.

    Returns
    -------
    AbInitio

    Warns
    -----
    UserWarning
        If the contrast of the images appears to be inverted, or the starts disagree on most orientations.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too few or too small, or contain NaN or infinity; or if a
        parameter is out of range.
    """
    optics = known_optics(images, optics)
    images = square_images(images, smallest_px=2 * FIRST_RINGS + 8)
    n = len(images)
    if n < FEWEST_IMAGES:
        raise ValueError(f"at least {FEWEST_IMAGES} images are required, got {n}")
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    not_negative(shift_limit_px, name="shift_limit_px")
    starts = whole_number(starts, name="starts", at_least=1)
    rng = np.random.default_rng(rng)

    search = _Search(images, optics, shift_limit_px)
    order = rng.permutation(n)
    used = order[: max(FEWEST_IMAGES, min(START_IMAGES, 4 * n // 5))]
    finished, likelihoods, found = [], [], []
    for start in range(1, starts + 1):
        state = search.random_state(used, rng)
        for done in range(START_ROUNDS):
            search.round(state, used, done / (START_ROUNDS - 1), rng)
            if callback is not None:
                callback(f"start {start}", done + 1)
        result, poses = search.locate(state, rng)
        likelihoods.append(search.likelihood(state, result, np.setdiff1d(order, used)))
        finished.append(state)
        found.append(poses)
    best = int(np.argmax(likelihoods))
    state = finished[best]
    for done in range(LAST_ROUNDS):
        search.round(state, np.arange(n), 1.0, rng)
        if callback is not None:
            callback("all images", done + 1)
    _, poses = search.locate(state, rng)
    agreement = np.full(n, np.nan)
    if starts > 1:
        near = [
            align_frame(poses.rotations, other.rotations).errors < AGREEMENT_RAD
            for index, other in enumerate(found)
            if index != best
        ]
        agreement = np.mean(near, axis=0)
    halves = tuple(search.map_at(poses, np.arange(n) % 2 == half, state.noise) for half in (0, 1))
    result = AbInitio(
        poses, search.map_at(poses, np.full(n, True), state.noise), halves, np.array(likelihoods), agreement
    )
    _warn_of_doubts(result)
    return result


def _warn_of_doubts(result: AbInitio) -> None:
    """Warn if the map is negative or the starts disagree."""
    density = result.map.data[result.map.data != 0]
    skewness = np.mean((density - density.mean()) ** 3) / density.std() ** 3
    if skewness < INVERTED_SKEWNESS:
        warnings.warn(
            f"the strongest density of the map is negative (skewness {skewness:.2f}): the contrast of the images is "
            "probably inverted; multiply them by -1",
            stacklevel=3,
        )
    if len(result.likelihoods) > 1 and np.median(result.agreement) < 0.5:
        warnings.warn(
            f"the starts disagree on the orientations of most images (median agreement "
            f"{np.median(result.agreement):.2f}), so the map is not reliable",
            stacklevel=3,
        )


@dataclass
class _State:
    """What changes from round to round: map (z, y, x), noise variance of each ring, and centre of each image (px)."""

    volume: np.ndarray
    noise: np.ndarray
    centres: np.ndarray


class _Search:
    """The images on rings, and the steps of the search with a coarse map, ``size`` voxels wide."""

    def __init__(self, images: np.ndarray, optics: Optics, shift_limit_px: float):
        self.image_size, self.shift_limit_px = images.shape[1], shift_limit_px
        self.pixel_size_angstrom = optics.pixel_size_angstrom
        self.rings = min(LAST_RINGS, self.image_size // 2 - 2)
        self.grid = RingGrid(self.rings, ANGLES_PER_RING)
        self.deviation = float(images.std())
        self.images = ring_images(images / np.float32(self.deviation), self.grid, optics=optics)
        self.power = np.mean(np.abs(self.images.values) ** 2, axis=(0, 2))
        self.size = 2 * (self.rings + 2)
        self.shape = fourier.GridShape((self.size,) * 3)
        self.frequencies = self.grid.frequencies / self.size
        self.mask = soft_sphere(self.shape.volume, RADIUS * self.size, EDGE * self.size)
        nz, ny, nx = self.shape.full
        z, y, x = (np.arange(m) / m for m in (nz, ny, nx))
        self.radius = self.size * np.sqrt(
            (z[:, None, None] - 0.5) ** 2 + (y[:, None] - 0.5) ** 2 + x[: nx // 2 + 1] ** 2
        ).astype(np.float32)

    # --- rounds

    def random_state(self, used: np.ndarray, rng: np.random.Generator) -> _State:
        """Return a map from random orientations, the power of the images as noise variance, and zero centres."""
        some = self.images[used]
        matrices = Rotation.random(len(used), rng=rng).as_matrix()
        volume = self._volume(
            some.values * some.transfers[..., None], some.transfers**2, self.power, matrices
        )
        return _State(volume, self.power.copy(), np.zeros((len(self.images), 2)))

    def round(self, state: _State, index: np.ndarray, done: float, rng: np.random.Generator) -> None:
        """Improve the state with some of the images; ``done`` is the completed fraction of the rounds."""
        growth = min(1.0, done / 0.8)
        found, rotations = self._expect(
            state,
            index,
            rng,
            rings=int(FIRST_RINGS + (self.rings - FIRST_RINGS) * growth),
            directions=int(FIRST_DIRECTIONS + (LAST_DIRECTIONS - FIRST_DIRECTIONS) * done**2),
            angles=36 + 2 * int(18 * done),
            wide=done < WIDE_UNTIL,
        )
        state.noise = (state.noise + found.noise) / 2
        if done > CENTRED_FROM:
            state.centres[index] = found.centres_px
        state.volume = self._volume(found.sums, found.weights, state.noise, rotations.as_matrix())

    def locate(self, state: _State, rng: np.random.Generator) -> tuple[Expectation, Poses]:
        """Find the most probable pose of every image."""
        found, rotations = self._expect(
            state,
            np.arange(len(self.images)),
            rng,
            rings=self.rings,
            directions=LAST_DIRECTIONS,
            angles=72,
            wide=False,
        )
        turns = Rotation.from_rotvec(np.outer(found.angles_rad, [0, 0, 1]))
        return found, Poses(turns * rotations[found.reference], found.displacements_px)

    def likelihood(self, state: _State, found: Expectation, held_out: np.ndarray) -> float:
        """Return the mean log-likelihood of the given images."""
        held_out = held_out if len(held_out) else np.arange(len(self.images))
        pixels = self.images.coverage * np.pi * np.arange(1, self.rings + 1)
        power = np.mean(np.abs(self.images.values[held_out]) ** 2, axis=2)
        of_noise = -(pixels * (np.log(state.noise) + power / state.noise)).sum(axis=1)
        return float((found.evidence[held_out] + of_noise).mean())

    def _expect(
        self, state: _State, index: np.ndarray, rng: np.random.Generator, *, wide: bool, **sampling
    ) -> tuple[Expectation, Rotation]:
        """Compute the posterior over a random grid of directions; return it with the rotations of the directions."""
        rotations = _directions(sampling.pop("directions"), rng)
        offsets, deviation = None, np.inf
        if self.shift_limit_px:
            step = OFFSET_STEP * self.image_size / sampling["rings"]
            offsets = _disc(step, 1.2 * self.shift_limit_px if wide else step)
            deviation = self.shift_limit_px
        found = expect(
            self.images[index],
            self._slices(state.volume, rotations.as_matrix()),
            state.noise,
            offsets_px=offsets,
            centres_px=state.centres[index],
            shift_deviation_px=deviation,
            **sampling,
        )
        return found, rotations

    # --- maps

    def _slices(self, volume: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        values = fourier.read_slices(fourier.transform(volume), matrices, self.frequencies)
        return values.reshape(len(matrices), self.grid.rings, self.grid.angles)

    def _volume(self, sums, weights, noise: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """Reconstruct a map from sums (d, rings, angles) of slices with weights (d, rings), by Wiener division.

        The signal power is measured on a first map with little regularisation.
        """
        precision = (self.images.coverage * self.grid.areas / noise).astype(np.float32)
        values = (sums * precision[:, None]).reshape(len(sums), -1)
        ones = np.repeat(weights * precision, self.grid.angles, axis=1)
        total = fourier.spread_slices(values, matrices, self.frequencies, self.shape)
        density = fourier.spread_slices(ones, matrices, self.frequencies, self.shape).real
        density = np.maximum(density, 0)
        first = self._real(total / (density + DAMPING * density[density > 0].mean()))
        some = matrices[:: max(1, len(matrices) // 100)]
        signal = np.mean(np.abs(self._slices(first, some)) ** 2, axis=(0, 2)) + np.finfo(np.float32).tiny
        # the grid has several points per Fourier voxel, and the weights of a spread sample sum to ``roll_off.max()``
        voxel = self.shape.roll_off.max() / fourier.OVERSAMPLING**3
        penalty = voxel / np.interp(self.radius, np.arange(1, self.rings + 1), signal)
        return self._real(np.where(self.radius <= self.rings + 0.5, total / (density + penalty), 0))

    def _real(self, half: np.ndarray) -> np.ndarray:
        kernel = self.shape.roll_off.max()
        return fourier.untransform(half, self.shape) * (kernel / np.prod(self.shape.full)) * self.mask

    def map_at(self, poses: Poses, used: np.ndarray, noise: np.ndarray) -> DensityMap:
        """Reconstruct the map from the images ``used``, in the units of the images."""
        images, points = self.images[used], self.grid.frequencies / self.image_size
        phases = np.exp(2j * np.pi * (poses.shifts_px[used] @ points.T)).astype(np.complex64)
        values = images.values * phases.reshape(images.values.shape) * images.transfers[..., None]
        volume = self._volume(values, images.transfers**2, noise, poses.rotations[used].as_matrix())
        scale = (
            np.sqrt(self.images.coverage)
            * self.deviation
            * self.image_size
            * (self.size / self.image_size) ** 3
        )
        return DensityMap(volume * np.float32(scale), self.pixel_size_angstrom * self.image_size / self.size)


def _directions(count: int, rng: np.random.Generator) -> Rotation:
    """Return ``count`` orientations whose viewing directions cover the sphere evenly, in a random frame."""
    i = np.arange(count) + 0.5
    tilt, rot = np.arccos(1 - 2 * i / count), np.pi * (1 + np.sqrt(5)) * i
    return Rotation.from_euler("ZYZ", np.stack([0 * rot, -tilt, -rot], axis=1)) * Rotation.random(rng=rng)


def _disc(step: float, radius: float) -> np.ndarray:
    """Return the points (s, 2) of a square grid within a disc."""
    most = int(np.ceil(radius / step))
    axis = step * np.arange(-most, most + 1)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return points[np.hypot(*points.T) <= radius * 1.0001]
