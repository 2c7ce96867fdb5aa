"""Orientations and a first map from images alone, by expectation-maximisation over all poses.

No map and no training are needed. Starting from random orientations, each round computes the posterior of the pose of
each image given the current map (E step), and a new map from the images at all probable poses (M step). An image may
also be pure noise. It counts with the probability that it is not, so junk fades from the map. The noise variance of
each Fourier ring is estimated in each round. At first it is the total power of the images, so that all poses are
probable; it falls as the map improves. The numbers of rings and viewing directions grow from round to round, and each
round rotates the grid of directions at random. Each of several starts uses a few hundred images. The start with the
highest likelihood on held-out images then continues with random samples of all images, and the poses of all images are
found with the last map.

References: Scheres, J. Mol. Biol. 415 (2012) 406 (likelihood marginalised over poses); Punjani et al., Nat. Methods 14
(2017) 290 (maps from random starts). The products over circular harmonics are described in ``expectation``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.orientations.evaluation import align_frame
from cryoem.orientations.expectation import expect
from cryoem.orientations.pose_search import SMALLEST_PX, PoseSearch, SearchState
from cryoem.orientations.symmetry_axes import symmetry_frame
from cryoem.rotations import Poses, point_group, viewing_directions
from cryoem.validation import not_negative, square_images, whole_number
from cryoem.volumes.density import DensityMap

FEWEST_IMAGES = 20
START_IMAGES, START_ROUNDS = 400, 24
LAST_IMAGES, LAST_ROUNDS = 2000, 8
AGREEMENT_RAD = 0.3
LEAST_CORRELATION = 0.6  # of a map with its symmetric copies
LEAST_EVIDENCE = 1.0  # median over the images
MOST_IN_ONE_VIEW = 0.9  # largest fraction of images within AGREEMENT_RAD of one direction
COMPARED_VIEWS = 1000
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
    evidence : (n,) array
        Logarithm of how much more likely each image is given the map, in any pose, than as pure noise. It is low, and
        often negative, for images that do not show the particle.
    symmetry_correlation : float
        Correlation of the map with its symmetric copies before the symmetry was imposed, averaged over low-resolution
        Fourier rings. NaN without symmetry.
    """

    poses: Poses
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    likelihoods: np.ndarray
    agreement: np.ndarray
    evidence: np.ndarray
    symmetry_correlation: float = np.nan


@dataclass(frozen=True)
class Round:
    """A round of the search, for the callback of ``ab_initio``.

    Attributes
    ----------
    stage : str
        ``"start 1"``, ``"start 2"``, ..., or ``"all images"``.
    number : int
        Number of the round within its stage, from 1.
    """

    stage: str
    number: int
    _search: PoseSearch
    _state: SearchState

    @property
    def rings(self) -> int:
        """Number of Fourier rings that determined the poses."""
        return self._state.rings

    @property
    def map(self) -> DensityMap:
        """Map after the round, in arbitrary units, with the field of view of the images."""
        search = self._search
        voxel = search.pixel_size_angstrom * search.image_size / search.maps.size
        return DensityMap(self._state.volume, voxel)

    def posterior(self, image: int, rotations: Rotation) -> np.ndarray:
        """Return the posterior probability of each of d viewing directions for an image, given the map: (d,)."""
        search, state = self._search, self._state
        one = search.images[[image]]
        references = search.maps.slices(state.volume, rotations.as_matrix(), state.rings)
        centres = state.centres[[image]]
        found = expect(one, references, state.noise, rings=state.rings, angles=72, centres_px=centres)
        squared = one.transfers[0, : state.rings] ** 2
        return found.weights[:, squared.argmax()] / squared.max()


def ab_initio(
    images,
    *,
    optics: Optics | None = None,
    pixel_size_angstrom: float | None = None,
    shift_deviation_px: float = 0.0,
    symmetry: str = "C1",
    starts: int = 4,
    rng: np.random.Generator | int | None = 0,
    callback: Callable[[Round], None] | None = None,
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
    shift_deviation_px : float
        Standard deviation of the displacements of the particles along x and y in pixels, for a Gaussian prior. Larger
        displacements than ``LARGEST_SHIFT`` (2.5) standard deviations are not tried. Default: 0, for centred particles.
    symmetry : str
        Point group of the particle; see ``cryoem.rotations.point_group``. The starts do not use it. Its axes are found
        in the map of the best start, and the symmetry is then imposed. Default: ``"C1"``.
    starts : int
        Number of random starts. Default: 4.
    rng : Generator or int
        Random number generator or seed. Default: 0.
    callback : callable, optional
        Function called with a ``Round`` after each round.

    Returns
    -------
    AbInitio

    Warns
    -----
    UserWarning
        If the contrast of the images appears to be inverted, most images could as well be noise, nearly all show the
        particle from one direction, the starts disagree on most orientations, or the map does not have the given
        symmetry.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too few, too small or identical, or contain NaN or infinity;
        or if a parameter is out of range or the point group is unknown.
    """
    optics = known_optics(images, optics)
    images = square_images(images, smallest_px=SMALLEST_PX)
    n = len(images)
    if n < FEWEST_IMAGES:
        raise ValueError(f"at least {FEWEST_IMAGES} images are required, got {n}")
    if all(np.array_equal(image, images[0]) for image in images[1:]):
        raise ValueError(f"all {n} images are identical; images of different views are required")
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    not_negative(shift_deviation_px, name="shift_deviation_px")
    starts = whole_number(starts, name="starts", at_least=1)
    group = point_group(symmetry)
    rng = np.random.default_rng(rng)

    search = PoseSearch(images, optics, shift_deviation_px)
    order = rng.permutation(n)
    used = order[: max(FEWEST_IMAGES, min(START_IMAGES, 4 * n // 5))]
    held_out = np.setdiff1d(order, used)
    states, likelihoods, found, correlations = [], [], [], []
    for start in range(1, starts + 1):
        state = search.random_state(used, rng)
        for done in range(START_ROUNDS):
            search.start_round(state, used, done / (START_ROUNDS - 1), rng)
            if callback is not None:
                callback(Round(f"start {start}", done + 1, search, replace(state)))
        surveyed, poses = search.survey(state, rng)
        likelihoods.append(search.likelihood(state, surveyed, held_out if len(held_out) else order))
        correlation = np.nan
        if len(group) > 1:
            frame, correlation = symmetry_frame(state.volume, group, rng=rng)
            poses = Poses(poses.rotations * frame.inv(), poses.shifts_px)
        states.append(state)
        found.append(poses)
        correlations.append(correlation)
    best = int(np.argmax(likelihoods))
    state = states[best]
    if len(group) > 1:
        search.impose(state, found[best], group)
    for done in range(LAST_ROUNDS):
        search.last_round(state, rng.permutation(n)[:LAST_IMAGES], (done + 1) / LAST_ROUNDS, rng)
        if callback is not None:
            callback(Round("all images", done + 1, search, replace(state)))
    evidence, poses = search.locate(state, rng)
    agreement = np.full(n, np.nan)
    if starts > 1:
        near = [
            align_frame(poses.rotations, other.rotations, symmetry=symmetry).errors < AGREEMENT_RAD
            for index, other in enumerate(found)
            if index != best
        ]
        agreement = np.mean(near, axis=0)
    halves = tuple(search.map_at(state, poses, np.arange(n) % 2 == half) for half in (0, 1))
    density_map = search.map_at(state, poses, np.full(n, True))
    result = AbInitio(
        poses, density_map, halves, np.array(likelihoods), agreement, evidence, correlations[best]
    )
    _warn_of_doubts(result, symmetry)
    return result


def _warn_of_doubts(result: AbInitio, symmetry: str) -> None:
    """Warn of anything that makes the map unreliable."""
    density = result.map.data[result.map.data != 0]
    skewness = np.mean((density - density.mean()) ** 3) / density.std() ** 3
    if skewness < INVERTED_SKEWNESS:
        warnings.warn(
            f"the strongest density of the map is negative (skewness {skewness:.2f}): the contrast of the images is "
            "probably inverted; multiply them by -1",
            stacklevel=3,
        )
    evidence = np.median(result.evidence)
    if evidence < LEAST_EVIDENCE:
        warnings.warn(
            "most images are about as likely to be pure noise as to show the particle "
            f"(median evidence {evidence:.1f}), so the map is not reliable; they are too noisy or too few, or show no "
            "common particle",
            stacklevel=3,
        )
    directions = viewing_directions(result.poses.rotations)[:COMPARED_VIEWS]
    nearby = np.mean(np.abs(directions @ directions.T) > np.cos(AGREEMENT_RAD), axis=1).max()
    if nearby > MOST_IN_ONE_VIEW:
        warnings.warn(
            f"{100 * nearby:.0f} % of the images show the particle from one direction, which does not determine a map; "
            "images of different views are required",
            stacklevel=3,
        )
    if result.symmetry_correlation < LEAST_CORRELATION:
        warnings.warn(
            f"the map without imposed symmetry has a correlation of only {result.symmetry_correlation:.2f} with its "
            f"copies under {symmetry}: the particle probably does not have this symmetry",
            stacklevel=3,
        )
    if len(result.likelihoods) > 1 and np.median(result.agreement) < 0.5:
        warnings.warn(
            f"the starts disagree on the orientations of most images (median agreement "
            f"{np.median(result.agreement):.2f}), so the map is not reliable; allow for shifts if the particles are "
            "off-centre, specify the point group if they are symmetric, or use more images",
            stacklevel=3,
        )
