"""Two-dimensional classification: averages of unlike views, by expectation-maximisation with independent references.

The steps are those of ``orientations.ab_initio``, with K class averages on rings in Fourier space instead of the slices
of one map. The E step computes the posterior of the class, the in-plane angle and the shift of each image; the M step
divides the weighted sums on each ring by the weights. The noise variance of each ring starts at the total power of the
images and is estimated in each round, so that all classes are probable at first; the number of rings grows. Every class
has the same prior probability, and a class that loses most of its images is replaced by splitting one that explains
much of the signal, so classes do not collapse into a few.

In the last rounds, two halves of the images have their own averages. The averages of one half score the images of the
other half: noise has no positive expected log-likelihood under averages that it did not contribute to.

References: Scheres et al., J. Mol. Biol. 348 (2005) 139 (maximum-likelihood classification); Scheres, J. Mol. Biol. 415
(2012) 406 (CTF and regularisation). The products over circular harmonics are described in ``orientations.expectation``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.images import SHIFT_DEVIATION
from cryoem.orientations.expectation import Expectation, expect
from cryoem.orientations.pose_search import OFFSET_STEP, SURVEY, between
from cryoem.orientations.rings import RingGrid, disc_of_displacements, ring_images
from cryoem.udl.class_averages import average_classes
from cryoem.validation import not_negative, square_images, whole_number

SMALLEST_PX = 16
ROUNDS = 30
ANGLES_PER_RING = 64  # on half a ring
FIRST_RINGS, LAST_RINGS = 4, 20
FIRST_ANGLES, LAST_ANGLES = 36, 120  # in the plane, even numbers
SAMPLE_PER_CLASS = 40  # images per class in the first rounds
WIDE_UNTIL, SAMPLE_UNTIL, RESTART_UNTIL = 0.4, 0.5, 0.85  # shares of the rounds
APART_ROUNDS = 4  # rounds with separate averages for the two halves
SPLIT = 0.3  # relative difference of the two halves of a split class from their mean
LEAST_RINGS = 6  # that an average must resolve
LARGEST_EDGE_POWER = 1 / 3
SMALLEST_CLASS = 0.2  # relative to the mean count, below which a class restarts
MOST_OFFSETS = 30  # displacements that are tried before those of an image are known


@dataclass(frozen=True)
class Classification:
    """Classes of n images. Classes are in order of descending count.

    Attributes
    ----------
    averages : (k, y, x) float32 array
        CTF-corrected averages, filtered by the Fourier ring correlation (FRC) of their halves.
    classes : (n,) int array
        Class of each image, from 0.
    angles_rad, shifts_px : (n,) and (n, 2) arrays
        Pose of each image: the particle is the average rotated anticlockwise by the angle and then displaced by the
        shift (x, y).
    log_likelihoods : (n,) array
        Log-likelihood of each image, relative to pure noise and marginalised over class, angle and shift, given the
        averages of the half of the images to which the image does not belong.
    counts : (k,) int array
        Number of images in each class.
    resolutions_angstrom : (k,) array
        Resolution at which the FRC between the averages of two halves, aligned separately, falls below 0.143. Infinite
        if it starts below.
    edge_powers : (k,) array
        Power per pixel of an average in the outer quarter of the radius, relative to the sum of that and the power
        within; products of the two halves, so that noise does not contribute. NaN without two halves.
    faults : tuple of str
        Reason why a class is junk, or ``""``. ``"empty"``: it has no images. ``"noise"``: the mean log-likelihood of
        its images is at most zero, the largest value expected for pure noise (by Jensen's inequality).
        ``"unresolved"``: its average resolves fewer than 6 Fourier rings. ``"at the edge"``: its edge power exceeds
        1/3.
    """

    averages: np.ndarray
    classes: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray
    log_likelihoods: np.ndarray
    counts: np.ndarray
    resolutions_angstrom: np.ndarray
    edge_powers: np.ndarray
    faults: tuple[str, ...]

    @property
    def junk(self) -> np.ndarray:
        """Whether each class is junk: (k,) bool."""
        return np.array([fault != "" for fault in self.faults])


def classify(
    images,
    k: int,
    *,
    optics: Optics | None = None,
    pixel_size_angstrom: float | None = None,
    shift_deviation_px: float | None = None,
    rounds: int = ROUNDS,
    rng: np.random.Generator | int | None = 0,
    callback: Callable[[int], None] | None = None,
) -> Classification:
    """Sort particle images into classes of similar views, and average each class.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least four images per class.
    k : int
        Number of classes, at least 1.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available.
    pixel_size_angstrom : float, optional
        Pixel size in angstrom, for images without a CTF if ``optics`` is not given.
    shift_deviation_px : float
        Standard deviation of the displacements of the particles along x and y in pixels, for a Gaussian prior. Larger
        displacements than 2.5 standard deviations are not tried. Default: 3 % of the image size.
    rounds : int
        Number of rounds, at least 10. Default: 30.
    rng : Generator or int
        Random number generator or seed. Default: 0.
    callback : callable, optional
        Function called with the number of completed rounds after each round.

    Returns
    -------
    Classification

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y), are too few or too small, or contain NaN or infinity; or if a
        parameter is out of range; or if all pixels have the same value.
    """
    k = whole_number(k, name="k", at_least=1)
    rounds = whole_number(rounds, name="rounds", at_least=10)
    if shift_deviation_px is not None:
        not_negative(shift_deviation_px, name="shift_deviation_px")
    optics = known_optics(images, optics)
    images = square_images(images, smallest_px=SMALLEST_PX)
    n = len(images)
    if n < 4 * k:
        raise ValueError(f"k must be at most a quarter of the number of images ({n}), got {k}")
    if images.min() == images.max():
        raise ValueError(f"images must not be constant, got only the value {images[0, 0, 0]:g}")
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    if shift_deviation_px is None:
        shift_deviation_px = SHIFT_DEVIATION * images.shape[1]
    search = _Search(images, optics, k, shift_deviation_px, np.random.default_rng(rng))
    for number in range(1, rounds + 1):
        search.round((number - 1) / (rounds - 1), apart=number > rounds - APART_ROUNDS)
        if callback is not None:
            callback(number)
    classes, angles, shifts, log_likelihoods = search.assign()
    order = np.argsort(-np.bincount(classes, minlength=k), kind="stable")
    classes = np.argsort(order)[classes]
    found = average_classes(images, classes, angles, shifts, k=k, optics=optics)
    coarsest = images.shape[1] * optics.pixel_size_angstrom / LEAST_RINGS
    return Classification(
        found.averages,
        classes,
        angles,
        shifts,
        log_likelihoods,
        found.counts,
        found.resolutions_angstrom,
        found.edge_powers,
        tuple(
            _fault(
                log_likelihoods[classes == c], found.edge_powers[c], found.resolutions_angstrom[c] < coarsest
            )
            for c in range(k)
        ),
    )


def _fault(log_likelihoods: np.ndarray, edge_power: float, resolved: bool) -> str:
    """Return why a class with images of these log-likelihoods is junk, or an empty string."""
    if not len(log_likelihoods):
        return "empty"
    if log_likelihoods.mean() <= 0:
        return "noise"
    if not resolved:
        return "unresolved"
    return "at the edge" if edge_power > LARGEST_EDGE_POWER else ""


class _Search:
    """The images on rings, the references of the two halves of the images, and the steps of the search."""

    def __init__(
        self,
        images: np.ndarray,
        optics: Optics,
        k: int,
        shift_deviation_px: float,
        rng: np.random.Generator,
    ):
        self.k, self.shift_deviation_px, self.rng = k, shift_deviation_px, rng
        self.rings = min(LAST_RINGS, images.shape[1] // 2 - 2)
        grid = RingGrid(self.rings, ANGLES_PER_RING)
        self.images = ring_images(images / float(images.std(dtype=float)), grid, optics=optics)
        n = len(images)
        self.order = rng.permutation(n)
        self.half = np.arange(n) % 2
        self.centres = np.zeros((n, 2))
        self.noise = np.mean(np.abs(self.images.values) ** 2, axis=(0, 2))
        first = self.images[self.order[:k]]
        self.references = np.stack(
            [first.values * first.transfers[..., None]] * 2
        )  # (halves, k, rings, angles)
        self.references[:, :, FIRST_RINGS + 2 :] = 0
        self.used, self.surveyed = self.order[: min(n, SAMPLE_PER_CLASS * k)], False

    def round(self, done: float, *, apart: bool) -> None:
        """Update the references; ``done`` is the completed fraction of the rounds."""
        rings = between(FIRST_RINGS, self.rings, min(1.0, done / 0.8))
        angles = 2 * between(FIRST_ANGLES // 2, LAST_ANGLES // 2, done)
        if done >= SAMPLE_UNTIL and not self.surveyed:
            self._survey()
        wide = done < WIDE_UNTIL
        for index, halves in self._parts(apart):
            found = self._expect(index, self.references[halves[0]], rings, angles, wide=wide)
            on_rings = len(found.noise)
            share = len(index) / len(self.used)
            self.noise[:on_rings] += share / 2 * (found.noise - self.noise[:on_rings])
            self.centres[index] = found.displacements_px if wide else found.centres_px
            references = self._maximise(found)
            if done < RESTART_UNTIL:
                self._restart(references, found, index)
            self.references[halves] = 0
            self.references[halves, :, :on_rings] = references

    def _parts(self, apart: bool) -> list[tuple[np.ndarray, list[int]]]:
        """Return the images of each half, or all of them, with the halves whose references they determine."""
        if not apart:
            return [(self.used, [0, 1])]
        return [(self.used[self.half[self.used] == half], [half]) for half in (0, 1)]

    def _survey(self) -> None:
        """Find the displacements of the images that no round has used."""
        rest = np.setdiff1d(self.order, self.used)
        if len(rest) and self.shift_deviation_px:
            found = self._expect(rest, self.references[0], min(10, self.rings), 48, wide=True)
            self.centres[rest] = found.displacements_px
        self.used, self.surveyed = self.order, True

    def assign(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the class, angle, displacement and log-likelihood of each image."""
        n = len(self.order)
        classes, angles, shifts, scores = np.empty(n, int), np.empty(n), np.empty((n, 2)), np.empty(n)
        for half in (0, 1):
            index = np.flatnonzero(self.half == half)
            own = self._expect(index, self.references[half], self.rings, LAST_ANGLES, wide=False)
            other = self._expect(index, self.references[1 - half], self.rings, LAST_ANGLES, wide=False)
            classes[index], angles[index], shifts[index] = own.reference, own.angles_rad, own.displacements_px
            scores[index] = other.evidence
        return classes, angles, shifts, scores

    def _expect(
        self, index: np.ndarray, references: np.ndarray, rings: int, angles: int, *, wide: bool
    ) -> Expectation:
        """Compute the posterior at all displacements, or at those next to the centre of each image."""
        moves = {}
        if self.shift_deviation_px:
            step, limit = (
                OFFSET_STEP * self.images.image_size / rings,
                SURVEY.largest * self.shift_deviation_px,
            )
            moves["shift_deviation_px"] = self.shift_deviation_px
            if wide:
                step = max(step, limit * np.sqrt(np.pi / MOST_OFFSETS))
                # the grid moves from round to round
                moves["offsets_px"] = disc_of_displacements(step, limit) + self.rng.uniform(
                    -step / 2, step / 2, 2
                )
            else:
                moves |= {"offsets_px": disc_of_displacements(step, step), "centres_px": self.centres[index]}
        references = references[:, : min(rings + 2, self.rings)]
        return expect(self.images[index], references, self.noise, rings=rings, angles=angles, **moves)

    def _maximise(self, found: Expectation) -> np.ndarray:
        """Return the next references (k, rings, angles) by Wiener division with the signal of each class and ring."""
        weights = found.weights + np.finfo(np.float32).tiny
        noise = self.noise[: weights.shape[1]] / weights
        raw = found.sums / weights[..., None].astype(np.float32)
        signal = np.maximum(np.mean(np.abs(raw) ** 2, axis=2) - noise, 0)
        return raw * (signal / (signal + noise))[..., None].astype(np.float32)

    def _restart(self, references: np.ndarray, found: Expectation, index: np.ndarray) -> None:
        """Replace the references of small classes by splitting classes whose references explain much of the images."""
        on_rings = found.weights.shape[1]
        squared = np.square(self.images.transfers[index, :on_rings]).mean(axis=0)
        counts = found.weights.sum(axis=1) / squared.sum()
        precision = np.arange(1, on_rings + 1) / self.noise[:on_rings]
        explained = counts * ((np.abs(references) ** 2).mean(axis=2) @ (precision * squared))
        # weak references share the posterior of noise, so images are counted where they are most probable
        most_probable = np.bincount(found.reference, minlength=self.k)
        for small in np.flatnonzero(most_probable < SMALLEST_CLASS * len(index) / self.k):
            large = int(np.argmax(explained))
            spread = SPLIT * np.sqrt(np.mean(np.abs(references[large]) ** 2, axis=1, keepdims=True) / 2)
            noise = self.rng.standard_normal((2, *references[large].shape), np.float32)
            step = spread * (noise[0] + 1j * noise[1])
            references[small] = references[large] + step
            references[large] -= step
            explained[[small, large]] = explained[large] / 2
