"""Orientations and a first map from images alone, by expectation-maximisation over all poses.

No map and no training are needed. Starting from random orientations, each round computes the posterior of the pose of
each image given the current map (E step), and a new map from the images at all probable poses (M step). Because a
particle is denser than the solvent, negative density is treated as noise and removed, and so is positive density that
is just as weak, unless held-out images are more likely without this, as for a particle with dark surroundings. An image
may also be pure noise. It counts with the probability that it is not, so junk fades from the map. The noise variance of
each Fourier ring is estimated in each round. At first it is the total power of the images, so that all poses are
probable; it falls as the map improves. The numbers of rings and viewing directions grow from round to round, and each
round rotates the grid of directions at random. Each of several starts uses a few hundred images. The start with the
highest likelihood on held-out images then continues with random samples of all images, and the poses of all images are
found with the last map: the most probable ones of the grid, from which Gauss-Newton steps lead to those between its
points. With the map at these poses, this is repeated, and each image keeps its better pose. Of more than
``MOST_SEARCHED`` images, a random selection is searched in this way. The poses of the others are found with the last
map, block by block; they do not contribute to it.

References: Scheres, J. Mol. Biol. 415 (2012) 406 (likelihood marginalised over poses); Punjani et al., Nat. Methods 14
(2017) 290 (maps from random starts). The products over circular harmonics are described in ``expectation``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.orientations.evaluation import align_frame
from cryoem.orientations.expectation import expect
from cryoem.orientations.pose_search import SMALLEST_PX, PoseSearch, SearchState
from cryoem.orientations.projection_matching import locate_all
from cryoem.orientations.symmetry_axes import symmetry_frame
from cryoem.rotations import Poses, point_group, viewing_directions
from cryoem.validation import not_negative, unread_images, whole_number
from cryoem.volumes.density import DensityMap

FEWEST_IMAGES = 20
MOST_SEARCHED = 10_000
IDENTICAL = 1e-5  # largest difference between identical images, relative to their largest Fourier component
START_IMAGES, START_ROUNDS = 400, 24
LAST_IMAGES, LAST_ROUNDS = 2000, 8
AGREEMENT_RAD = 0.3
LEAST_CORRELATION = 0.6  # of a map with its symmetric copies
LEAST_EVIDENCE = 1.0  # median over the images
MOST_IN_ONE_VIEW = 0.9  # largest fraction of images within AGREEMENT_RAD of one direction
COMPARED_VIEWS = 1000
LEAST_EXPLAINED = 0.9  # of the signal
MEASURED_IMAGES = 500  # largest number of images in which the explained signal is measured
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
        Maps from alternate images among those searched. Both use poses found with the same map, so their FSC
        overestimates the resolution.
    likelihoods : (starts,) array
        Mean log-likelihood of held-out images for each start.
    agreement : (n,) array
        Fraction of the other starts that place the image within ``AGREEMENT_RAD`` of its orientation in the best start,
        after alignment of the frames. NaN with a single start.
    evidence : (n,) array
        Logarithm of how much more likely each image is given the map, in any pose, than as pure noise. It is low, and
        often negative, for images that do not show the particle.
    explained : float
        Fraction of the signal that the map of the last round explains on low-resolution Fourier rings, in at most
        ``MEASURED_IMAGES`` images that are not junk. The signal is the power of the images minus that of the noise
        around the particles. It is about 0.93 to 1 for a single particle (an error of the noise estimate can raise it
        above 1), and lower for a mixture of unlike particles. Mixtures of similar particles do not lower it, and
        particles or CTF fringes that reach the edge of the images raise it. NaN if it cannot be measured, as in images
        without noise.
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
    explained: float
    symmetry_correlation: float = np.nan


@dataclass(frozen=True)
class Round:
    """A round of the search, for the callback of ``ab_initio``.

    Attributes
    ----------
    stage : str
        ``"start 1"``, ``"start 2"``, ..., ``"all images"``, or, with more than ``MOST_SEARCHED`` images,
        ``"other images"``, which are located block by block without changing the map. If the starts are repeated with
        the solvent, their stages occur again.
    number : int
        Number of the round within its stage, from 1, or number of other images located so far.
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
        """Return the posterior probability of each of d viewing directions for an image, given the map: (d,).

        ``image`` is the index among the images that are searched: all of them, or ``MOST_SEARCHED``.
        """
        search, state = self._search, self._state
        one = search.images[[image]]
        references = search.maps.slices(state.volume, rotations.as_matrix(), state.rings)
        centres = state.centres[[image]]
        found = expect(one, references, state.noise, rings=state.rings, angles=72, centres_px=centres)
        squared = one.transfers[0, : state.rings] ** 2
        return found.weights[:, squared.argmax()] / squared.max()


@dataclass(frozen=True)
class _Start:
    """State and poses after a start, its likelihood, and the frame of the point group in its map."""

    state: SearchState
    poses: Poses
    likelihood: float
    frame: Rotation
    symmetry_correlation: float

    def in_frame_of_group(self, poses: Poses) -> Poses:
        return Poses(poses.rotations * self.frame.inv(), poses.shifts_px)


def count_rounds(starts: int) -> int:
    """Return the number of rounds that ``ab_initio`` shows, without blocks of other images and repeated starts."""
    return starts * START_ROUNDS + LAST_ROUNDS


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
        At least ``FEWEST_IMAGES`` images of the same particle, which is bright on a dark background. Particle stacks in
        files are read block by block. The maps are reconstructed from at most ``MOST_SEARCHED`` of them.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available.
    pixel_size_angstrom : float, optional
        Pixel size in angstrom, for images without a CTF if ``optics`` is not given.
    shift_deviation_px : float
        Standard deviation of the displacements of the particles along x and y in pixels, for a Gaussian prior.
        Displacements of up to 2.5 standard deviations are tried, and up to 3.5 for images that correlate less with the
        map than 80 % of what is expected, or are among the lowest 5 %. Default: 0, for centred particles.
    symmetry : str
        Point group of the particle; see ``cryoem.rotations.point_group``. The starts do not use it. Its axes are found
        in the map of the best start, and the symmetry is then imposed. Default: ``"C1"``.
    starts : int
        Number of random starts, at least 1. If held-out images become more likely when further rounds of the best start
        keep the negative density, the starts are repeated in this way. Default: 4.
    rng : Generator or int
        Random number generator or seed. Default: 0.
    callback : callable, optional
        Function called with a ``Round`` after each round, and after each block of other images.

    Returns
    -------
    AbInitio

    Warns
    -----
    UserWarning
        If the contrast of the images appears to be inverted, most images could as well be noise, nearly all show the
        particle from one direction, the map does not have the given symmetry, the starts disagree on most orientations,
        or, if none of these applies, the map leaves more than a tenth of the signal unexplained.

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too few, too small or identical, or contain NaN or infinity;
        or if a parameter is out of range or the point group is unknown.
    """
    optics = known_optics(images, optics)
    images = unread_images(images, smallest_px=SMALLEST_PX)
    n = len(images)
    if n < FEWEST_IMAGES:
        raise ValueError(f"at least {FEWEST_IMAGES} images are required, got {n}")
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    not_negative(shift_deviation_px, name="shift_deviation_px")
    starts = whole_number(starts, name="starts", at_least=1)
    group = point_group(symmetry)
    rng = np.random.default_rng(rng)

    searched = slice(None) if n <= MOST_SEARCHED else np.sort(rng.permutation(n)[:MOST_SEARCHED])
    count = min(n, MOST_SEARCHED)
    search = PoseSearch(images[searched], optics[searched], shift_deviation_px)
    values = search.images.values
    if np.allclose(values, values[0], atol=IDENTICAL * np.abs(values).max()):
        raise ValueError(f"all {n} images are identical; images of different views are required")

    def show(stage: str, number: int, state: SearchState) -> None:
        if callback is not None:
            callback(Round(stage, number, search, replace(state)))

    tried = _run_starts(search, starts, group, rng, show)
    best = max(tried, key=attrgetter("likelihood"))
    others, state = [start for start in tried if start is not best], best.state
    if len(group) > 1:
        search.impose(state, best.in_frame_of_group(best.poses), group)
    for done in range(LAST_ROUNDS):
        search.last_round(state, rng.permutation(count)[:LAST_IMAGES], (done + 1) / LAST_ROUNDS, rng)
        show("all images", done + 1, state)
    evidence, poses = search.locate(state, rng)
    if 2 * np.count_nonzero(evidence > 0) > count:  # a map of few images would be worse
        evidence, poses = search.improved(state, evidence, poses, rng)
    good = np.flatnonzero(evidence > 0)
    halves = tuple(search.map_at(state, poses, np.arange(count) % 2 == half) for half in (0, 1))
    density_map = search.map_at(state, poses, np.full(count, True))
    shifts_px = poses.shifts_px
    of_others = [start.poses for start in others]
    if count < n:
        rest = np.setdiff1d(np.arange(n), searched)
        states = [start.state for start in others] + [state]
        more, last, by_others = locate_all(
            images,
            optics,
            rest,
            states,
            search=search,
            rng=rng,
            callback=lambda done: show("other images", done, state),
        )
        order = np.argsort(np.concatenate([searched, rest]))
        evidence = np.concatenate([evidence, more])[order]
        poses, *of_others = (
            Poses.concatenate(parts)[order]
            for parts in zip([poses, *of_others], [last, *by_others], strict=True)
        )
    some = np.sort(rng.permutation(good)[:MEASURED_IMAGES])
    explained = np.nan
    if len(some):
        measured = np.asarray(images[np.arange(n)[searched][some]])
        explained = search.explained(state, measured, shifts_px[some], some, rng)
    near = [
        align_frame(poses.rotations, start.in_frame_of_group(found).rotations, symmetry=symmetry).errors
        < AGREEMENT_RAD
        for start, found in zip(others, of_others, strict=True)
    ]
    agreement = np.mean(near, axis=0) if near else np.full(n, np.nan)
    likelihoods = np.array([start.likelihood for start in tried])
    result = AbInitio(
        poses,
        density_map,
        halves,
        likelihoods,
        agreement,
        evidence,
        explained,
        best.symmetry_correlation,
    )
    _warn_of_doubts(result, symmetry)
    return result


def _run_starts(search: PoseSearch, starts: int, group: Rotation, rng, show: Callable) -> list[_Start]:
    """Run random starts without negative density, and with it if held-out images become more likely."""
    count = len(search.images)
    order = rng.permutation(count)
    used = order[: max(FEWEST_IMAGES, min(START_IMAGES, 4 * count // 5))]
    held_out = np.setdiff1d(order, used) if count > len(used) else order

    def run(stage: str, *, clears: bool) -> _Start:
        state = search.random_state(used, rng, clears=clears)
        for done in range(START_ROUNDS):
            search.start_round(state, used, done / (START_ROUNDS - 1), rng)
            show(stage, done + 1, state)
        surveyed, poses = search.survey(state, np.arange(count), rng)
        state.centres = poses.shifts_px
        frame, correlation = Rotation.identity(), np.nan
        if len(group) > 1:
            frame, correlation = symmetry_frame(state.volume, group, rng=rng)
        likelihood = search.likelihood(state, held_out, surveyed[held_out])
        return _Start(state, poses, likelihood, frame, correlation)

    stages = [f"start {start}" for start in range(1, starts + 1)]
    cleared = [run(stage, clears=True) for stage in stages]
    likelihood = attrgetter("likelihood")
    compared = rng.permutation(held_out)[:START_IMAGES]
    if not search.solvent_matters(max(cleared, key=likelihood).state, used, compared, rng):
        return cleared
    with_solvent = [run(stage, clears=False) for stage in stages]
    return max(cleared, with_solvent, key=lambda tried: max(map(likelihood, tried)))


def _warn_of_doubts(result: AbInitio, symmetry: str) -> None:
    """Warn of anything that makes the map unreliable."""
    doubts = []
    density = result.map.data[result.map.data != 0]
    density = (density - density.mean()) / float(density.std(dtype=float))
    skewness = np.mean(density**3)
    if skewness < INVERTED_SKEWNESS:
        doubts.append(
            f"the strongest density of the map is negative (skewness {skewness:.2f}): the contrast of the images is "
            "probably inverted; multiply them by -1"
        )
    evidence = np.median(result.evidence)
    if evidence < LEAST_EVIDENCE:
        doubts.append(
            "most images are about as likely to be pure noise as to show the particle "
            f"(median evidence {evidence:.1f}), so the map is not reliable; they are too noisy or too few, or show no "
            "common particle"
        )
    directions = viewing_directions(result.poses.rotations)[:COMPARED_VIEWS]
    nearby = np.mean(np.abs(directions @ directions.T) > np.cos(AGREEMENT_RAD), axis=1).max()
    if nearby > MOST_IN_ONE_VIEW:
        doubts.append(
            f"{100 * nearby:.0f} % of the images show the particle from one direction, which does not determine a map; "
            "images of different views are required"
        )
    # poses can be right even if the symmetry axes were located inaccurately
    if result.symmetry_correlation < LEAST_CORRELATION and not result.explained >= LEAST_EXPLAINED:
        doubts.append(
            f"the map without imposed symmetry has a correlation of only {result.symmetry_correlation:.2f} with its "
            f"copies under {symmetry}: the particle probably does not have this symmetry"
        )
    if len(result.likelihoods) > 1 and np.median(result.agreement) < 0.5:
        doubts.append(
            f"the starts disagree on the orientations of most images (median agreement "
            f"{np.median(result.agreement):.2f}), so the map is not reliable; allow for larger shifts if the particles "
            "are off-centre, specify the point group if they are symmetric, keep the 2D classes of a single particle "
            "if the images show several, or use more images"
        )
    # the other doubts are more specific
    if not doubts and result.explained < LEAST_EXPLAINED:
        doubts.append(
            f"the map explains only {100 * result.explained:.0f} % of the signal in the images, so it may be wrong: if "
            "they show different particles, sort them with `cryoem classify2d` and keep the classes of one; if they "
            "cut off the particles, extract larger ones; if the particles are off-centre, allow for larger shifts; "
            "otherwise, use more starts"
        )
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=3)
