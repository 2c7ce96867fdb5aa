"""Score readings of poses and CTF by predicting each image from a map to which it did not contribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from cryoem.contrast import Optics
from cryoem.images import (
    cropped_frequencies,
    fourier_disc,
    half_planes_from_images,
    shift_phases,
    subtract_background,
)
from cryoem.projection import fourier
from cryoem.projection.gridding import volume_from_sums
from cryoem.reconstruction.accumulation import FourierAccumulator, grid_slices
from cryoem.reconstruction.misreadings import SHUFFLED, Misreading, displaced
from cryoem.rotations import Poses
from cryoem.volumes.density import DensityMap, low_pass, soft_sphere

SIZE = 48  # pixels across the Fourier-cropped images
FEW = 20  # images, below which there are several folds instead of two halves
FOLDS = 5
DAMPING = 0.1  # sampling density, relative to its mean, below which a frequency of a map is damped
LEAST_NOISE = 1e-2  # of the power of the images, in each shell
DECISIVE_Z = 4.0  # standard errors by which a reading is better than another
DECISIVE_SHARE_OF_FEW = 0.2  # the same for few images, as a share of what the map explains
DECISIVE_NATS = 20.0  # the same, as the total log-likelihood ratio
NO_DIFFERENCE = 1e-3  # of the log-likelihood
OFFSET_ROUNDS = 2  # a map of displaced images is blurred, but less so after a first correction
OFFSET_STEPS, OFFSET_STEPS_PX = 8, (0.5, 0.05)  # of the search for a common displacement
CONTROLS = 3  # ways to assign the orientations of other images
DECISIVE_SPREADS = 2.0  # difference between a reading of few images and its controls, by their range


@dataclass(frozen=True)
class Score:
    """Score of one reading of n images.

    Attributes
    ----------
    gain : (shells,) array
        Factor by which the predictions of all images in each shell fit best.
    cross, square : (n, shells) array
        Sums <x, p> and <p, p> of each image x and its prediction p in each shell.
    maps : list of (z, y, x) array
        For each fold, the map of the other images, with which its images are compared.
    total : FourierAccumulator
        Sums over all images.
    """

    gain: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    maps: list[np.ndarray]
    total: FourierAccumulator


class Comparison:
    """Images in Fourier space, and the scores of readings on them."""

    def __init__(
        self,
        images: np.ndarray,
        poses: Poses,
        optics: Optics,
        chosen: np.ndarray,
        callback: Callable[[int, int], None] | None,
    ):
        read = subtract_background(np.asarray(images[chosen]))
        full, n = read.shape[1], len(read)
        self.size = min(SIZE, full)
        ratio = self.ratio = full / self.size
        self.disc = fourier_disc(self.size)
        kept = cropped_frequencies(full, self.size)[self.disc.index]
        typical = np.float32(np.median(read.std(axis=(1, 2), dtype=np.float64)))
        if typical == 0:
            raise ValueError("images must not be constant, got images without variance")
        self.planes = half_planes_from_images(read / typical)[:, kept] / np.float32(ratio**2)
        self.optics = replace(optics[chosen], pixel_size_angstrom=optics.pixel_size_angstrom * ratio)
        self.rotations, self.shifts = poses.rotations[chosen], poses.shifts_px[chosen] / ratio
        # halves, or folds that are each left out of the map with which they are compared
        self.folds = np.arange(n) % (2 if n >= FEW else min(n, FOLDS))
        self.shell = np.rint(np.hypot(*self.disc.frequencies.T) * self.size).astype(int)
        self.power = self._in_shells(np.abs(self.planes) ** 2)
        self.scores: dict[Misreading, Score] = {}
        self._densities: dict[tuple, np.ndarray] = {}
        self._callback = callback

    def add(self, trials: list[Misreading]) -> None:
        """Score readings."""
        known = len(self.scores) + len(trials)
        for trial in trials:
            self.scores[trial] = self._compare(trial)
            if self._callback is not None:
                self._callback(len(self.scores), known)

    def displaced(self, reading: Misreading, best: Misreading) -> Misreading:
        """Return a reading with the common displacement of the images from their predictions by the best reading."""
        offset, trial, model = np.zeros(2), reading, best
        for _ in range(OFFSET_ROUNDS):
            offset = offset + self._offset(self._centred(trial), self._predict(model)[1])
            trial = displaced(reading, offset, shown_px=offset * self.ratio)
            model = trial.after(best) if trial.can_follow(best) else trial
        return trial

    def _offset(self, planes: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the displacement (x, y) of the images at which their correlation with the predictions is largest."""
        spectrum = np.sum(planes * predicted.conj(), axis=0) * self.disc.weights
        power = self.power.sum(axis=0)
        inside = (self.shell >= 1) & (self.shell <= len(power))
        spectrum, frequencies = (
            spectrum[inside] / power[self.shell[inside] - 1],
            self.disc.frequencies[inside],
        )
        found = np.zeros(2)
        for step in OFFSET_STEPS_PX:  # around the best one so far
            grid = np.stack(
                np.meshgrid(*2 * [step * np.arange(-OFFSET_STEPS, OFFSET_STEPS + 1)]), axis=-1
            ).reshape(-1, 2)
            phases = np.exp(2j * np.pi * frequencies @ (found + grid).T)
            found = found + grid[np.argmax((spectrum @ phases).real)]
        return found

    def _compare(self, trial: Misreading) -> Score:
        planes, predicted, maps, total = self._predict(trial)
        cross = self._in_shells((planes.conj() * predicted).real)
        square = self._in_shells(np.abs(predicted) ** 2)
        gain = np.clip(cross.sum(axis=0) / np.maximum(square.sum(axis=0), 1e-30), 0, None)
        return Score(gain, cross, square, maps, total)

    def _predict(self, trial: Misreading) -> tuple:
        """Return the centred images, their predictions by maps from other images, these maps, and the sums of all."""
        rotations = trial.rotations(self.rotations) if trial.rotations else self.rotations
        if trial.shuffle:
            order = np.random.default_rng(trial.shuffle).permutation(len(rotations))
            rotations = rotations[np.roll(order, 1)[np.argsort(order)]]  # no image keeps its own
        transfers = None
        if self.optics.ctf is not None:
            calculate = trial.transfers or Optics.transfers
            transfers = calculate(self.optics, self.disc.frequencies)
        matrices = rotations.as_matrix()
        planes = self._centred(trial)
        sums = {
            fold: grid_slices(
                planes[self.folds == fold],
                matrices[self.folds == fold],
                self.disc.frequencies,
                self.size,
                weights=self.disc.weights,
                group=np.eye(3)[None],
                transfers=None if transfers is None else transfers[self.folds == fold],
            )
            for fold in np.unique(self.folds)
        }
        total = reduce(add, sums.values())
        predicted, maps = np.empty_like(planes), []
        for fold, own in sums.items():
            members = self.folds == fold
            maps.append(_inverted(total - own if len(sums) > 2 else sums[1 - fold]))
            spectrum = fourier.transform(maps[-1])
            predicted[members] = fourier.read_slices(spectrum, matrices[members], self.disc.frequencies)
        if transfers is not None:
            predicted *= transfers
        return planes, predicted, maps, total

    def _centred(self, trial: Misreading) -> np.ndarray:
        """Return the images without their shifts."""
        shifts = trial.shifts(self.shifts) if trial.shifts else self.shifts
        return self.planes * shift_phases(-shifts, self.disc.frequencies) if shifts.any() else self.planes

    def _in_shells(self, values: np.ndarray) -> np.ndarray:
        """Sum (n, m) values over the shells of each image: (n, shells), without the zero frequency and Nyquist."""
        last = self.size // 2
        sums = [np.bincount(self.shell, row, minlength=last + 1) for row in values * self.disc.weights]
        return np.stack(sums)[:, 1:last]

    def log_likelihoods(self, trial: Misreading) -> np.ndarray:
        """Return the log-likelihood of each image, relative to no map, (n,)."""
        residual = np.min([self._residual(each) for each in self.scores], axis=0)
        power = self.power.sum(axis=0)
        counts = np.bincount(self.shell, self.disc.weights)[1 : self.size // 2]
        variance = np.maximum(residual, LEAST_NOISE * power) / (len(self.folds) * counts)
        score = self.scores[trial]
        return ((2 * score.gain * score.cross - score.gain**2 * score.square) / variance).sum(axis=1)

    def _residual(self, trial: Misreading) -> np.ndarray:
        score = self.scores[trial]
        return (self.power - 2 * score.gain * score.cross + score.gain**2 * score.square).sum(axis=0)

    def difference(self, trial: Misreading, other: Misreading) -> tuple[float, float]:
        """Return the mean difference of two log-likelihoods, and its number of standard errors."""
        difference = self.log_likelihoods(trial) - self.log_likelihoods(other)
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        return float(difference.mean()), float(difference.mean() / error) if error > 0 else 0.0

    @property
    def ranked(self) -> list[Misreading]:
        """Readings in the order of their likelihood, the best first."""
        scores = {each: self.log_likelihoods(each).mean() for each in self.scores if not each.shuffle}
        return sorted(scores, key=scores.get, reverse=True)

    @property
    def best(self) -> Misreading:
        return self.ranked[0]

    def better(self, trial: Misreading, other: Misreading) -> bool:
        """Return whether a reading is decisively better than another."""
        difference, errors = self.difference(trial, other)
        n = len(self.folds)
        if n >= FEW:
            return n * difference > DECISIVE_NATS and errors > DECISIVE_Z
        explained = self.difference(trial, SHUFFLED)[0]
        return n * difference > DECISIVE_NATS and difference > DECISIVE_SHARE_OF_FEW * explained

    def confirms(self, trial: Misreading) -> bool:
        """Return whether a reading is decisively better than its controls.

        The controls have the orientations of other images, but the same shifts and CTF, because wrong shifts alone make
        a reading worse. For few images, chance is judged from the differences between the controls.
        """
        controls = [trial.control(number) for number in range(1, CONTROLS + 1)]
        self.add([each for each in controls if each not in self.scores])
        n = len(self.folds)
        if n >= FEW:
            return all(self.better(trial, each) for each in controls)
        scores = [self.log_likelihoods(each).mean() for each in controls]
        margin = self.log_likelihoods(trial).mean() - max(scores)
        return n * margin > DECISIVE_NATS and margin > DECISIVE_SPREADS * np.ptp(scores)

    def equal(self, trial: Misreading, other: Misreading) -> bool:
        """Return whether two readings fit the images equally well."""
        if trial not in self.scores or self.better(other, trial):
            return False
        difference = abs(self.difference(trial, other)[0])
        return difference <= NO_DIFFERENCE * abs(self.log_likelihoods(other).mean())

    def density(self, trial: Misreading) -> tuple[np.ndarray, float]:
        """Return the map of a reading, and the skewness of its density inside the box, without that of the noise."""
        score = self.scores[trial]
        volume = _inverted(score.total)
        inside = soft_sphere(volume.shape, 0.4 * self.size, 0) > 0.5
        first, second = (low_pass(DensityMap(each, 1.0), 4.0).data[inside] for each in score.maps[:2])
        first, second = first - first.mean(), second - second.mean()
        # the noise of two halves is independent, so these mean products contain only the density
        third = np.mean(first * second * (first + second), dtype=float) / 2
        variance = np.mean(first * second, dtype=float)
        skewness = third / variance**1.5 if variance > 0 else 0.0
        return volume, float(skewness)


def _inverted(sums: FourierAccumulator) -> np.ndarray:
    """Reconstruct a volume, damped where there are few samples."""
    return volume_from_sums(sums.values, sums.density, damping=DAMPING, size=sums.size)
