"""Streams of image pairs for the training of pair networks: crops of photographs, or two images of one stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

from cryoem.udl.natural import natural_pairs
from cryoem.validation import one_each, square_images, whole_number

_APART = 2**31  # an epoch that no training reaches

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


class PairStream(keras.utils.PyDataset):
    """Batches of new pairs (first, second, angles); the same seed gives the same batches.

    Parameters
    ----------
    draw : callable
        Takes a number n and a generator; returns ``first`` and ``second`` (n, y, x), and the angles (n,) in radians
        from one to the other, or None if unknown. See ``natural_draw`` and ``stack_draw``.
    batch_size, steps : int
        Pairs of a batch and batches of an epoch.
    seed : int
    """

    def __init__(self, draw: Draw, *, batch_size: int, steps: int, seed: int = 0):
        super().__init__()
        self.epoch = 0
        self.batch_size = whole_number(batch_size, name="batch_size", at_least=1)
        self._steps = whole_number(steps, name="steps", at_least=1)
        self._draw, self.seed = draw, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Batch ``index`` of the current epoch: first, second (b, y, x) float32, angles (b,) or None."""
        return self._draw(self.batch_size, self.rng(self.epoch, index))

    def some_images(self, n: int) -> np.ndarray:
        """Draw (n, y, x) images that are in no batch."""
        return self._draw(n, self.rng(_APART, 0))[0]

    def rng(self, *key: int) -> np.random.Generator:
        """Return an independent generator for every key."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def natural_draw(photographs: Sequence[np.ndarray], **options) -> Draw:
    """Draw pairs of crops of photographs for a ``PairStream``, each crop standardised.

    Parameters are those of ``natural.natural_pairs``, except for the number and the generator.
    """

    def draw(n, rng):
        pairs = natural_pairs(photographs, n, rng=rng, **options)
        return standardise(pairs.first), standardise(pairs.second), pairs.angles_rad

    return draw


def stack_draw(images: np.ndarray, angles_rad: np.ndarray | None = None) -> Draw:
    """Draw pairs of different images of one stack for a ``PairStream``.

    Parameters
    ----------
    images : (n, y, x) array
        At least two square images, such as those of ``power_spectra``; used unchanged.
    angles_rad : (n,) array, optional
        True angle of each image.
    """
    images = square_images(images, at_least=2)
    if angles_rad is not None:
        angles_rad = one_each(angles_rad, count=len(images), name="angles_rad")

    def draw(n, rng):
        first = rng.integers(len(images), size=n)
        second = (first + rng.integers(1, len(images), size=n)) % len(images)
        angles = None if angles_rad is None else angles_rad[second] - angles_rad[first]
        return images[first], images[second], angles

    return draw


def standardise(images: np.ndarray) -> np.ndarray:
    """Scale (n, y, x) images to zero mean and unit variance; constant images become zero."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    return images / np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-6)
