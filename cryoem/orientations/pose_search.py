"""Rounds of the search for poses without a reference, on rings in Fourier space.

A round computes the posterior of the poses of some images given a coarse map (E step), and the next map (M step). If
the particles are displaced, the first rounds of a start try all displacements, and later ones only those next to the
last displacement of each image. All displacements are tried on a few rings first, on a coarse grid; the most probable
cells of the grid are then divided into quarters, which more rings resolve. At the end, displaced images that the map
does not explain as well as the others are surveyed once more, on more rings and a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.orientations.expectation import Expectation, expect
from cryoem.orientations.maximisation import IDENTITY, CoarseMaps
from cryoem.orientations.rings import (
    RingGrid,
    Survey,
    disc_of_displacements,
    power_around,
    ring_images,
    surroundings_vary,
    undo_displacements,
)
from cryoem.projection.fourier import transform
from cryoem.projection.matching import take_steps
from cryoem.rotations import Poses, even_orientations
from cryoem.volumes.density import DensityMap

SMALLEST_PX = 16  # side length of the images
ANGLES_PER_RING = 48  # on half a ring
FIRST_RINGS, START_RINGS, LAST_RINGS = 4, 14, 20
FIRST_DIRECTIONS, START_DIRECTIONS, LAST_DIRECTIONS = 150, 300, 600
FIRST_ANGLES, START_ANGLES, LAST_ANGLES = 36, 56, 72  # in the plane, even numbers
# spacing of displacements on n rings, relative to the image size divided by n
OFFSET_STEP = 0.8 / (2 * np.pi)
QUARTERS = np.array([[-0.25, -0.25], [-0.25, 0.25], [0.25, -0.25], [0.25, 0.25]])  # their centres in a cell
SURVEY = Survey((5, 8), directions=150, angles=36, largest=2.5, offsets=100, cells=3)
THOROUGH_SURVEY = Survey((7, 10), directions=300, angles=36, largest=3.5, offsets=400, cells=6)
# indices of the first ring on which the explained signal is measured and of the first that is too sensitive to small
# errors of the poses
SIGNAL_RINGS = (2, 8)
SIGNAL_ERROR = 0.02  # largest relative error of the signal
FINAL_STEPS = 2  # of each image between the sampled poses
LARGEST_STEP, LARGEST_DISPLACEMENT = 0.1, 1.0  # in each of them, in radians and voxels of the map
# an image is surveyed again if its correlation with the map, relative to the expected one, is low or among the lowest
LOW, LOWEST = 0.8, 0.05
WIDE_UNTIL = 0.5  # share of the rounds of a start that try all displacements
ROUNDS_WITH_SOLVENT = 4  # after those of a start, to compare likelihoods with and without solvent


@dataclass
class SearchState:
    """What changes from round to round.

    The map (z, y, x), the noise variance of each ring, the image centres in pixels, the number of rings that determined
    the poses, and the matrices of the point group that is imposed on the map.
    """

    volume: np.ndarray
    noise: np.ndarray
    centres: np.ndarray
    rings: int = FIRST_RINGS
    group: np.ndarray = field(default_factory=lambda: IDENTITY)
    clears: bool = True

    def replace_map(self, maps: CoarseMaps, volume: np.ndarray) -> None:
        """Replace the map and, if the state ``clears`` the solvent, remove this from it."""
        self.volume = maps.without_solvent(volume) if self.clears else volume


class PoseSearch:
    """The images on rings, and the steps of the search."""

    def __init__(self, images, optics: Optics, shift_deviation_px: float, *, deviation: float | None = None):
        self.image_size, self.shift_deviation_px = images.shape[1], shift_deviation_px
        self.pixel_size_angstrom = optics.pixel_size_angstrom
        self.rings = min(LAST_RINGS, self.image_size // 2 - 2)
        self.start_rings = min(START_RINGS, self.rings)
        grid = RingGrid(self.rings, ANGLES_PER_RING)
        self.images = ring_images(images, grid, optics=optics)
        # ring by ring, in float64, because float32 cannot store the squares of all its values
        rings = np.moveaxis(self.images.values, 1, 0)
        power = np.array([np.square(np.abs(ring), dtype=float).mean() for ring in rings])
        self.deviation = (float(np.sqrt(power.mean())) or 1.0) if deviation is None else deviation
        self.images.values[:] /= np.float32(self.deviation)
        self.power = power / self.deviation**2
        self.maps = CoarseMaps(grid, self.images.coverage)

    # --- rounds

    def random_state(self, used: np.ndarray, rng: np.random.Generator, *, clears: bool) -> SearchState:
        """Return a map from random orientations, the power of the images as noise variance, and zero centres."""
        some, rings = self.images[used], FIRST_RINGS + 2
        matrices = Rotation.random(len(used), rng=rng).as_matrix()
        transfers = some.transfers[:, :rings]
        volume = self.maps.volume(
            some.values[:, :rings] * transfers[..., None], transfers**2, self.power, matrices
        )
        return SearchState(volume, self.power.copy(), np.zeros((len(self.images), 2)), clears=clears)

    def calibrate(self, state: SearchState, rng: np.random.Generator) -> None:
        """Fit the scale of the map and the noise variance of each ring to the images."""
        every = np.arange(len(self.images))
        tried = self._everywhere(state, every, rng, self.rings, SURVEY)
        sampling = {"rings": self.rings, "directions": START_DIRECTIONS, "angles": START_ANGLES}
        # the scale is not yet known, so no image is taken for junk
        found, rotations = self._expect(state, every, tried, rng, junk=False, **sampling)
        slices = self.maps.slices(state.volume, rotations.as_matrix(), self.rings)
        precision = self.maps.grid.areas / state.noise
        product = np.mean((found.sums.conj() * slices).real, axis=2) @ precision
        power = (found.weights * np.mean(np.abs(slices) ** 2, axis=2)) @ precision
        state.volume = state.volume * np.float32(product.sum() / power.sum())
        state.noise = found.noise

    def start_round(
        self, state: SearchState, used: np.ndarray, done: float, rng: np.random.Generator
    ) -> None:
        """Improve a start; ``done`` is the completed fraction of its rounds."""
        sampling = {
            "rings": between(FIRST_RINGS, self.start_rings, min(1.0, done / 0.8)),
            "directions": between(FIRST_DIRECTIONS, START_DIRECTIONS, done**2),
            "angles": 2 * between(FIRST_ANGLES // 2, START_ANGLES // 2, done),
        }
        self._round(state, used, rng, wide=done < WIDE_UNTIL, **sampling)

    def last_round(self, state: SearchState, used: np.ndarray, done: float, rng: np.random.Generator) -> None:
        """Improve the best start; ``done`` is the completed fraction of the rounds."""
        sampling = {
            "rings": between(self.start_rings, self.rings, min(1.0, done / 0.8)),
            "directions": between(START_DIRECTIONS, LAST_DIRECTIONS, done),
            "angles": 2 * between(START_ANGLES // 2, LAST_ANGLES // 2, done),
        }
        self._round(state, used, rng, wide=False, **sampling)

    def _round(
        self, state: SearchState, index: np.ndarray, rng: np.random.Generator, *, wide: bool, **sampling
    ) -> None:
        rings = sampling["rings"]
        tried = (
            self._everywhere(state, index, rng, rings, SURVEY)
            if wide
            else self._near(state.centres[index], rings)
        )
        found, rotations = self._expect(state, index, tried, rng, **sampling)
        state.rings, known = rings, len(found.noise)
        # new arrays, because callbacks may keep the former state
        state.noise, state.centres = state.noise.copy(), state.centres.copy()
        state.noise[:known] = (state.noise[:known] + found.noise) / 2
        state.centres[index] = found.displacements_px if wide else found.centres_px
        volume = self.maps.volume(found.sums, found.weights, state.noise, rotations.as_matrix(), state.group)
        state.replace_map(self.maps, volume)

    def survey(
        self, state: SearchState, index: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, Poses]:
        """Find images with the map of a start, at all displacements; return their evidence and poses."""
        rings = self.start_rings
        tried = self._everywhere(state, index, rng, rings, SURVEY)
        sampling = {"rings": rings, "directions": START_DIRECTIONS, "angles": START_ANGLES}
        found, poses = self._locate(state, index, tried, rng, **sampling)
        return found.evidence, poses

    def solvent_matters(
        self, state: SearchState, used: np.ndarray, held_out: np.ndarray, rng: np.random.Generator
    ) -> bool:
        """Return whether more rounds of a start make held-out images more likely if the map keeps its solvent."""
        likelihoods = []
        for clears in (True, False):
            longer = replace(state, clears=clears)
            for _ in range(ROUNDS_WITH_SOLVENT):
                self.start_round(longer, used, 1.0, rng)
            evidence, _ = self.survey(longer, held_out, rng)
            likelihoods.append(self.likelihood(longer, held_out, evidence))
        return likelihoods[1] > likelihoods[0]

    def locate(
        self, state: SearchState, rng: np.random.Generator, *, with_centres: bool = True
    ) -> tuple[np.ndarray, Poses]:
        """Find all images at all displacements and, if they have centres, near these; return evidence and poses.

        If they are displaced, those that correlate too little with the map are surveyed again.
        """
        every = np.arange(len(self.images))
        tried = self._everywhere(state, every, rng, self.rings, SURVEY)
        if self.shift_deviation_px and with_centres:
            tried = np.concatenate([self._near(state.centres, self.rings), tried], axis=1)
        evidence, poses, correlations = self._locate_at(state, every, tried, rng)
        return self._reconsidered(state, evidence, poses, correlations, rng)

    def _reconsidered(
        self,
        state: SearchState,
        evidence: np.ndarray,
        poses: Poses,
        correlations: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Poses]:
        """Survey displaced images again that correlate too little with the map; return evidence and poses."""
        if not self.shift_deviation_px:
            return evidence, poses
        relative = correlations / self._expected_correlations(state)
        doubtful = np.flatnonzero(relative < max(LOW, np.quantile(relative, LOWEST)))
        if not len(doubtful):
            return evidence, poses
        tried = self._everywhere(state, doubtful, rng, self.rings, THOROUGH_SURVEY)
        found, others, of_others = self._locate_at(state, doubtful, tried, rng)
        better = np.flatnonzero(of_others > correlations[doubtful])
        evidence, order = evidence.copy(), np.arange(len(poses))
        evidence[doubtful[better]], order[doubtful[better]] = found[better], len(order) + better
        return evidence, Poses.concatenate([poses, others])[order]

    def _expected_correlations(self, state: SearchState) -> np.ndarray:
        """Return the correlation of each image with the map at the right pose, if its view is an average one: (n,)."""
        slices = self.maps.slices(state.volume, even_orientations(START_DIRECTIONS).as_matrix(), self.rings)
        areas, power = self.maps.grid.areas, np.mean(np.abs(slices) ** 2, axis=(0, 2))
        signal = self.images.transfers**2 @ (areas / state.noise * power)
        return np.sqrt(np.maximum(signal, 1e-12) / (signal + areas.sum()))

    def improved(
        self, state: SearchState, evidence: np.ndarray, poses: Poses, rng: np.random.Generator
    ) -> tuple[np.ndarray, Poses]:
        """Replace the map by that of the images with positive evidence, and improve the poses of all images.

        Each image is also compared with the new map at all orientations, and its better pose is kept. Displaced images
        that still correlate too little are surveyed again. Returns the evidence, which changes only for images that
        this survey finds elsewhere, and the poses.
        """
        used = np.flatnonzero(evidence > 0)
        state.replace_map(self.maps, self._reconstruct(state, poses, used, self.rings))
        poses, correlations = self.between_samples(state, poses)
        near = self._near(poses.shifts_px, self.rings)
        _, others, of_others = self._locate_at(state, np.arange(len(poses)), near, rng)
        poses = poses.replaced(of_others > correlations, others)
        return self._reconsidered(state, evidence, poses, np.maximum(correlations, of_others), rng)

    def _locate_at(
        self, state: SearchState, index: np.ndarray, tried: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, Poses, np.ndarray]:
        """Find images at displacements (k, s, 2); return their evidence, poses, and correlations with the map."""
        sampling = {"rings": self.rings, "directions": LAST_DIRECTIONS, "angles": LAST_ANGLES}
        found, poses = self._locate(state, index, tried, rng, **sampling)
        return found.evidence, *self.between_samples(state, poses, index)

    def between_samples(
        self, state: SearchState, poses: Poses, index: np.ndarray | None = None
    ) -> tuple[Poses, np.ndarray]:
        """Improve the poses of all images, or of the images ``index``, by Gauss-Newton steps on all rings.

        The poses are those of samples. A step is kept only where the correlation with the map increases. Returns the
        poses and their correlations.
        """
        images = self.images if index is None else self.images[index]
        grid, voxel_px = self.maps.grid, self.image_size / self.maps.size
        poses, correlations, _ = take_steps(
            transform(state.volume),
            images.values.reshape(len(images), -1),
            Poses(poses.rotations, poses.shifts_px / voxel_px),
            self.maps.frequencies,
            np.repeat(grid.areas / state.noise, grid.angles),
            np.repeat(images.transfers, grid.angles, axis=1),
            steps=FINAL_STEPS,
            with_shifts=bool(self.shift_deviation_px),
            largest_step=LARGEST_STEP,
            largest_shift=LARGEST_DISPLACEMENT,
        )
        return Poses(poses.rotations, voxel_px * poses.shifts_px), correlations

    def _near(self, centres: np.ndarray, rings: int) -> np.ndarray:
        """Return displacements (k, s, 2) at and next to the centres (k, 2) of images."""
        step = OFFSET_STEP * self.image_size / rings
        return centres[:, None] + (disc_of_displacements(step, step) if self.shift_deviation_px else 0)

    def _everywhere(
        self, state: SearchState, index: np.ndarray, rng: np.random.Generator, rings: int, survey: Survey
    ) -> np.ndarray:
        """Return displacements (k, s, 2) that cover all that are probable for each image, on the given rings."""
        if not self.shift_deviation_px:
            return np.zeros((len(index), 1, 2))
        limit, resolved = survey.largest * self.shift_deviation_px, OFFSET_STEP * self.image_size
        fewest, most = np.minimum(survey.rings, rings)
        side = max(resolved / most, limit * np.sqrt(np.pi / survey.offsets))
        used = int(np.clip(resolved / side, fewest, most))
        # the grid moves from round to round
        reach = min(side / 2, limit)
        tried = disc_of_displacements(side, limit) + rng.uniform(-reach, reach, 2)
        tried = np.broadcast_to(tried, (len(index), *tried.shape))
        while side > resolved / rings:
            sampling = {"rings": used, "directions": survey.directions, "angles": survey.angles}
            found, _ = self._expect(state, index, tried, rng, **sampling)
            kept = np.argsort(-found.shares, axis=1)[:, : survey.cells]
            cells = np.take_along_axis(tried, kept[..., None], axis=1)
            tried = (cells[:, :, None] + side * QUARTERS).reshape(len(index), -1, 2)
            side, used = side / 2, min(2 * used, rings)
        return tried

    def _locate(
        self, state: SearchState, index: np.ndarray, tried: np.ndarray, rng: np.random.Generator, **sampling
    ) -> tuple[Expectation, Poses]:
        """Find the most probable poses of images."""
        found, rotations = self._expect(state, index, tried, rng, **sampling)
        turns = Rotation.from_rotvec(np.outer(found.angles_rad, [0, 0, 1]))
        return found, Poses(turns * rotations[found.reference], found.displacements_px)

    def likelihood(self, state: SearchState, index: np.ndarray, evidence: np.ndarray) -> float:
        """Return the mean log-likelihood of images with a given evidence, on the rings of a start.

        It is minus infinity, so that other starts are better, if the numbers have overflowed.
        """
        rings = self.start_rings
        pixels = self.images.coverage * np.pi * np.arange(1, rings + 1)
        power = np.mean(np.abs(self.images.values[index, :rings]) ** 2, axis=2)
        of_noise = -(pixels * (np.log(state.noise[:rings]) + power / state.noise[:rings])).sum(axis=1)
        mean = float((evidence + of_noise).mean())
        return -np.inf if np.isnan(mean) else mean

    def explained(
        self, state: SearchState, images, shifts_px: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> float:
        """Return the fraction of the signal in some images that the map explains on low-resolution rings.

        The signal is the power of the images minus that of the noise around the particles. ``chosen`` (k,) are indices
        of images of the search with displacements ``shifts_px`` (k, 2), and ``images`` (k, y, x) are these images. The
        innermost rings are left out, because the mean around the particle is subtracted from each image. The result is
        NaN if the error of the signal exceeds ``SIGNAL_ERROR``, or if the images are constant around the particles.
        """
        varied = surroundings_vary(images)
        if np.count_nonzero(varied) < 2:
            return np.nan
        images, chosen, shifts_px = images[varied], chosen[varied], shifts_px[varied]
        sampling = {"rings": self.rings, "directions": LAST_DIRECTIONS, "angles": LAST_ANGLES}
        found, _ = self._expect(state, chosen, shifts_px[:, None], rng, junk=False, **sampling)
        rings = slice(*SIGNAL_RINGS)
        areas = self.maps.grid.areas[rings]
        background = power_around(images, self.maps.grid)[:, rings] @ areas / self.deviation**2
        power = np.mean(np.abs(self.images.values[chosen, rings]) ** 2, axis=(0, 2)) @ areas
        signal = power - background.mean()
        if SIGNAL_ERROR * signal < background.std() / np.sqrt(len(images)):
            return np.nan
        return 1 - float((found.noise[rings] @ areas - background.mean()) / signal)

    def _expect(
        self,
        state: SearchState,
        index: np.ndarray,
        tried: np.ndarray,
        rng: np.random.Generator,
        *,
        rings: int,
        directions: int,
        angles: int,
        junk: bool = True,
    ) -> tuple[Expectation, Rotation]:
        """Compute the posterior over a random grid of directions; return it with the rotations of the directions."""
        rotations = even_orientations(directions) * Rotation.random(rng=rng)
        references = self.maps.slices(state.volume, rotations.as_matrix(), min(rings + 2, self.rings))
        found = expect(
            self.images[index],
            references,
            state.noise,
            rings=rings,
            angles=angles,
            offsets_px=tried,
            shift_deviation_px=self.shift_deviation_px or np.inf,
            junk=junk,
        )
        return found, rotations

    def impose(self, state: SearchState, poses: Poses, group: Rotation) -> None:
        """Replace the map by one that has the symmetry of a group, from poses in the frame of the group."""
        state.group = group.as_matrix()
        state.volume = self._reconstruct(state, poses, np.arange(len(self.images)), self.start_rings)

    def map_at(self, state: SearchState, poses: Poses, used: np.ndarray) -> DensityMap:
        """Reconstruct the map from the images ``used``, in the units of the images."""
        size = self.maps.size
        scale = (
            np.sqrt(self.images.coverage) * self.deviation * self.image_size * (size / self.image_size) ** 3
        )
        volume = self._reconstruct(state, poses, used, self.rings) * np.float32(scale)
        return DensityMap(volume, self.pixel_size_angstrom * self.image_size / size)

    def _reconstruct(self, state: SearchState, poses: Poses, used: np.ndarray, rings: int) -> np.ndarray:
        values, transfers = self.images.values[used, :rings], self.images.transfers[used, :rings]
        shifts = poses.shifts_px[used][:, None]
        values = (
            undo_displacements(values, shifts, self.images.grid, self.image_size)[:, 0] * transfers[..., None]
        )
        return self.maps.volume(
            values, transfers**2, state.noise, poses.rotations[used].as_matrix(), state.group
        )


def between(first: int, last: int, share: float) -> int:
    """Return the integer at a fraction of the way from ``first`` to ``last``, rounded towards zero."""
    return int(first + (last - first) * share)
