"""Alignment of particle images with a trained aligner: rotations, twins, sub-pixel shifts, scores, averages.

The angle comes from the aligner, the rest from the comparison with a reference (``registration``): which of
the two ways up, the shift, and the last digits of the angle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoem.checks import finite_array, square_images
from cryoem.particles import ParticleStack
from cryoem.udl.aligner import Aligner
from cryoem.udl.classical import pair_angles
from cryoem.udl.joint import class_average, start_together
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    align_images,
    average_aligned,
    circular_mask,
    filter_reference,
    flat_images,
    image_deviation,
    mean_power,
    register,
)
from cryoem.udl.spectra import PolarGrid, polar_grid, polar_spectra

METHODS = ("udl", "judl", "template")
CORRENTROPY_WIDTH = 1.0  # in standard deviations of the images
IMAGES_FOR_POWER = 3000
IMAGES_FOR_AMPLITUDE = 256
WEAKEST_AMPLITUDE = 0.03  # of a reference as strong as the images, noise and all


@dataclass(frozen=True)
class Alignment:
    """What ``align`` found.

    ``angles_rad`` (n,) in [0, 2 pi) and ``shifts_px`` (n, 2) (x, y): the particle of image i is the reference turned
    anticlockwise by the angle, then displaced by the shift.  ``correlation`` (n,) in [-1, 1] and
    ``correntropy`` (n,) in (0, 1]: of each aligned image with the reference.  ``average`` and
    ``average_before`` (y, x): means of the aligned and of the given images.  ``reference`` (y, x).
    """

    angles_rad: np.ndarray
    shifts_px: np.ndarray
    correlation: np.ndarray
    correntropy: np.ndarray
    average: np.ndarray
    average_before: np.ndarray
    reference: np.ndarray

    def aligned_images(self, images: np.ndarray) -> np.ndarray:
        """The (n, y, x) images that were aligned, as the reference shows the particle: (n, y, x) float32."""
        return align_images(square_images(images), self.angles_rad, self.shifts_px)


def align(
    stack: ParticleStack | np.ndarray, model: Aligner, *, reference: np.ndarray | None = None
) -> Alignment:
    """Align particle images to one reference.

    Parameters
    ----------
    stack : particle stack, or (n, y, x) images.
    model : from ``training.train``, ``template_aligner`` or ``export.load_model``.
    reference : (y, x) image at angle 0, in any units; the model's by default, and where it has none (UDL) the average
        that the images themselves give under the model's angles.

    Raises
    ------
    ValueError : the images are of another size than the model's, not finite or constant, or the reference is of another
        size or constant.
    """
    images = square_images(stack.images if isinstance(stack, ParticleStack) else stack)
    filtered = prepare_reference(images, model, reference)
    # how a reference of one's own stands against the model's zero, the model says itself
    zero = 0.0 if reference is None else model.angles(np.asarray(reference)[None])[0]
    found, aligned, correntropy = align_block(images, model, filtered, zero_rad=zero)
    return Alignment(
        found.angles_rad,
        found.shifts_px,
        found.correlation,
        correntropy,
        aligned.mean(axis=0),
        images.mean(axis=0),
        filtered.image,
    )


def template_aligner(images: np.ndarray, *, symmetry: str = "C1") -> Aligner:
    """The classical aligner: an iterated template of the images' spectra, and the average that it gives.

    Raises
    ------
    ValueError : images are not (n, y, y), n >= 2, not finite or constant, or the symmetry is no cyclic group.
    """
    images = square_images(images, at_least=2, smallest_px=16)
    grid = polar_grid(images.shape[1], symmetry=symmetry)
    angles, template = start_together(polar_spectra(images, grid), grid)
    return Aligner(TemplateMatcher(template, grid), grid, class_average(images, angles)[0], "template")


@dataclass(frozen=True)
class TemplateMatcher:
    """A template of spectra that is called like a network: (b, n_angles, n_radii) -> (b, 2) unit vectors."""

    template: np.ndarray
    grid: PolarGrid

    def __call__(self, spectra: np.ndarray) -> np.ndarray:
        turns = self.grid.periods * pair_angles(self.template[None], spectra, period_rad=self.grid.period_rad)
        return np.stack([np.cos(turns), np.sin(turns)], axis=1)


def prepare_reference(
    images: np.ndarray, model: Aligner, reference: np.ndarray | None = None
) -> FilteredReference:
    """The reference that ``align_block`` takes, its strength and its noise measured on the first of (n, y, x) images.

    Arguments and errors as for ``align``.
    """
    if images.shape[1] != model.grid.image_size:
        raise ValueError(
            f"images must be {model.grid.image_size} px a side for this model, got {images.shape[1]}"
        )
    deviation = image_deviation(images)
    power = mean_power(images[:IMAGES_FOR_POWER])
    if reference is None and model.reference is None:
        return filter_reference(class_average(images, model.angles(images))[0], power)
    given = finite_array(
        model.reference if reference is None else reference, name="reference", ndim=2, dtype=np.float64
    )
    if given.shape != images.shape[1:]:
        raise ValueError(f"reference must be {images.shape[1:]} as the images, got {given.shape}")
    if flat_images(given[None])[0]:
        raise ValueError("reference must have structure, got a constant image")
    zero = 0.0 if reference is None else model.angles(given[None])[0]
    some, reference = images[:IMAGES_FOR_AMPLITUDE], given * (deviation / given.std())
    return filter_reference(_at_amplitude_of(some, model.angles(some) - zero, reference, power), power)


def _at_amplitude_of(
    images: np.ndarray, angles_rad: np.ndarray, reference: np.ndarray, power: np.ndarray
) -> np.ndarray:
    """A (y, x) reference as strong as the particles of some images, which the images' noise does not tell.

    What it is multiplied by is the least-squares fit of the images' average, aligned to the reference.
    """
    filtered = filter_reference(reference, power)
    found = register(images, filtered, angles_rad, steps=0)
    average = average_aligned(images, found.angles_rad, found.shifts_px).astype(np.float64)
    shown = filtered.image.astype(np.float64)
    amplitude = np.sum((average - average.mean()) * shown) / np.sum(shown**2)
    return reference * max(amplitude, WEAKEST_AMPLITUDE)


def align_block(
    images: np.ndarray, model: Aligner, reference: FilteredReference, *, zero_rad: float = 0.0
) -> tuple[Registration, np.ndarray, np.ndarray]:
    """Some images, each by itself: where they stand, the aligned (n, y, x) images, and their correntropy (n,).

    ``zero_rad`` is the reference's own angle by the model.
    """
    found = register(images, reference, model.angles(images) - zero_rad)
    aligned = align_images(images, found.angles_rad, found.shifts_px)
    return found, aligned, _correntropy(aligned, reference.image)


def _correntropy(aligned: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean of exp(-(u - v)^2 / (2 w^2)) over the pixels of the circle, u and v standardised: (n,).

    Source: Liu, Pokharel and Principe, IEEE Trans. Signal Process. 55 (2007) 5286.
    """
    inside = circular_mask(len(reference)) > 0.5

    def standardised(values):
        centred = values - values.mean(axis=-1, keepdims=True, dtype=np.float64)  # squares of any scale
        return centred / np.maximum(centred.std(axis=-1, keepdims=True), np.finfo(np.float64).tiny)

    difference = standardised(aligned[:, inside]) - standardised(reference[inside])
    return np.exp(-(difference**2) / (2 * CORRENTROPY_WIDTH**2)).mean(axis=1)
