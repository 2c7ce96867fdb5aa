"""Streams of image pairs to train pair networks on: crops of photographs, or two images of one stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import scipy.fft

from cryoem.checks import finite_array, square_images, whole_number
from cryoem.udl.natural import crop_mask, natural_pairs

_APART = 2**31  # an epoch that no training reaches

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


class PairStream(keras.utils.PyDataset):
    """Batches of fresh pairs; the same seed gives the same batches.

    Parameters
    ----------
    draw : of a number n and a generator, ``first`` and ``second`` (n, y, x) and the angles (n,) in radians from one
        to the other, or None where they are unknown; see ``natural_draw`` and ``stack_draw``.
    batch_size, steps : pairs of a batch, batches of an epoch.
    seed : of all batches.

    Raises
    ------
    ValueError : a batch or an epoch is empty.
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
        """(n, y, x) images that are in no batch."""
        return self._draw(n, self.rng(_APART, 0))[0]

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for every key."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def natural_draw(photographs: Sequence[np.ndarray], **options) -> Draw:
    """Pairs of crops of photographs for a ``PairStream``, each crop brought to zero mean and unit variance.

    Arguments as in ``natural.natural_pairs``, but for the number and the generator.
    """

    def draw(n, rng):
        pairs = natural_pairs(photographs, n, rng=rng, **options)
        return standardised(pairs.first), standardised(pairs.second), pairs.angles_rad

    return draw


def stack_draw(images: np.ndarray, angles_rad: np.ndarray | None = None) -> Draw:
    """Random pairs of two images of one stack for a ``PairStream``, such as the spectra of ``power_spectra``.

    ``images`` (n, y, x) are used as they are; ``angles_rad`` (n,) how far each is turned, where this is known.
    ValueError: there are fewer than 2 images, they are not square, or the angles are not one for each.
    """
    images = square_images(images, at_least=2)
    if angles_rad is not None:
        angles_rad = finite_array(angles_rad, name="angles_rad", ndim=1, dtype=float)
        if len(angles_rad) != len(images):
            raise ValueError(
                f"angles_rad must be one for each of the {len(images)} images, got {len(angles_rad)}"
            )

    def draw(n, rng):
        first = rng.integers(len(images), size=n)
        second = (first + rng.integers(1, len(images), size=n)) % len(images)
        angles = None if angles_rad is None else angles_rad[second] - angles_rad[first]
        return images[first], images[second], angles

    return draw


def standardised(images: np.ndarray) -> np.ndarray:
    """(n, y, x) images at zero mean and unit variance; constant ones at zero."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    return images / np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-6)


def power_spectra(images: np.ndarray) -> np.ndarray:
    """Centred log(1 + |FFT|) of (n, y, x) images, each scaled to [0, 1] and flat outside the largest circle.

    Returns (n, y, x) float32, the zero frequency at pixel n // 2.  They turn as their images do, modulo 180 degrees.
    ValueError: images are not (n, y, y), not finite, or below 8 px.
    """
    images = square_images(images, smallest_px=8)
    magnitude = np.abs(scipy.fft.fftshift(scipy.fft.fft2(images, workers=-1), axes=(1, 2)))
    spectra = np.log1p(magnitude).astype(np.float32)
    mask = crop_mask(images.shape[1])
    mean = np.einsum("nyx,yx->n", spectra, mask)[:, None, None] / mask.sum()
    spectra = (spectra - mean) * mask
    low = spectra.min(axis=(1, 2), keepdims=True)
    return (spectra - low) / np.maximum(np.ptp(spectra, axis=(1, 2), keepdims=True), 1e-6)
