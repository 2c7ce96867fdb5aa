"""In-plane alignment of particle images: aligners, which estimate angles, and poses relative to a reference.

An aligner estimates the angle modulo half a turn. Registration with a reference image chooses between the two angles,
estimates the shift and refines the angle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoem.udl.classical import aligned_template, pair_angles
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    align_images,
    average_aligned,
    class_average,
    constant_images,
    filter_reference,
    image_deviation,
    mean_power,
    particle_mask,
    register,
)
from cryoem.udl.rotation import unit_vectors
from cryoem.udl.spectra import PolarGrid, polar_grid, polar_spectra
from cryoem.validation import finite_array, square_images

METHODS = ("template", "udl", "judl")
BATCH = 512
CORRENTROPY_WIDTH = 1.0  # in standard deviations of the images
IMAGES_FOR_POWER = 3000
IMAGES_FOR_AMPLITUDE = 256
LOWEST_AMPLITUDE = 0.03  # of the particle, relative to the deviation of images and noise together


@dataclass(frozen=True)
class Aligner:
    """Estimator of the in-plane angles of particle images.

    Parameters
    ----------
    network : callable
        (b, n_angles, n_radii) spectra -> (b, 2) unit vectors; a Keras model or any callable.
    grid : PolarGrid
    reference : (y, x) array, optional
        Class average at angle 0. Without one, only differences of angles are meaningful.
    method : str
        How the aligner was obtained: ``"udl"``, ``"judl"`` or ``"template"``.
    """

    network: object
    grid: PolarGrid
    reference: np.ndarray | None = None
    method: str = "judl"

    def angles(self, images: np.ndarray) -> np.ndarray:
        """Estimate the angles of (n, y, x) images to the common reference: (n,) in [0, ``grid.period_rad``)."""
        images = square_images(images)
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return np.concatenate([self.angles_of_spectra(polar_spectra(batch, self.grid)) for batch in batches])

    def angles_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """Estimate the angles of (n, n_angles, n_radii) polar spectra: (n,) in [0, ``grid.period_rad``)."""
        vectors = self.vectors_of_spectra(spectra)
        phases = np.arctan2(vectors[:, 1].astype(float), vectors[:, 0])
        return np.mod(phases / self.grid.periods, self.grid.period_rad)

    def vectors_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """Evaluate the network on (n, n_angles, n_radii) polar spectra: (n, 2)."""
        # predict_on_batch runs a Keras model as a compiled graph, twice as fast as a call
        evaluate = getattr(self.network, "predict_on_batch", self.network)
        batches = (spectra[start : start + BATCH] for start in range(0, len(spectra), BATCH))
        return np.concatenate([np.asarray(evaluate(batch)) for batch in batches])

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimate the angles from the first to the second image of each pair: (n,) in [0, ``grid.period_rad``)."""
        return np.mod(self.angles(second) - self.angles(first), self.grid.period_rad)


@dataclass(frozen=True)
class TemplateMatcher:
    """Template matching with the interface of a network: (b, n_angles, n_radii) spectra -> (b, 2)."""

    template: np.ndarray
    grid: PolarGrid

    def __call__(self, spectra: np.ndarray) -> np.ndarray:
        angles = pair_angles(self.template[None], spectra, period_rad=self.grid.period_rad)
        return unit_vectors(angles, periods=self.grid.periods)


def template_aligner(images: np.ndarray, *, symmetry: str = "C1") -> Aligner:
    """Build the classical aligner of images: an iterated template of their spectra, and their average.

    Parameters
    ----------
    images : (n, y, x) array
        At least two images of one class, or a particle stack.
    symmetry : str
        In-plane symmetry of the class, ``"C1"``, ``"C2"``, ...

    Raises
    ------
    ValueError
        If images are not (n, y, y), fewer than two, not finite or constant, or the symmetry is not a cyclic group.
    """
    images = square_images(images, at_least=2, smallest_px=16)
    grid = polar_grid(images.shape[1], symmetry=symmetry)
    angles, template = aligned_template(polar_spectra(images, grid), grid)
    return Aligner(TemplateMatcher(template, grid), grid, class_average(images, angles)[0], "template")


@dataclass(frozen=True)
class InPlaneAlignment:
    """In-plane alignment of images.

    The particle of image i is the reference, rotated anticlockwise by the angle and then displaced by the shift.

    Parameters
    ----------
    angles_rad : (n,) array
        Angles in [0, 2 pi).
    shifts_px : (n, 2) array
        Shifts (x, y).
    correlation : (n,) array
        Correlation of each aligned image with the reference, in [-1, 1].
    correntropy : (n,) array
        Correntropy of each aligned image with the reference, in (0, 1].
    average, average_before : (y, x) array
        Mean of the aligned and of the original images.
    reference : (y, x) array
        The masked reference.
    """

    angles_rad: np.ndarray
    shifts_px: np.ndarray
    correlation: np.ndarray
    correntropy: np.ndarray
    average: np.ndarray
    average_before: np.ndarray
    reference: np.ndarray

    def aligned_images(self, images: np.ndarray) -> np.ndarray:
        """Transform the (n, y, x) images to the pose of the reference: (n, y, x) float32."""
        return align_images(square_images(images), self.angles_rad, self.shifts_px)


def align(stack: np.ndarray, model: Aligner, *, reference: np.ndarray | None = None) -> InPlaneAlignment:
    """Align particle images to one reference.

    Parameters
    ----------
    stack : (n, y, x) array
        Images of one class, or a particle stack.
    model : Aligner
        From ``train``, ``template_aligner`` or ``load_aligner``.
    reference : (y, x) array, optional
        Image at angle 0, in any units. By default the model's reference; a model without one (UDL) aligns the images
        to their average at its angles.

    Raises
    ------
    ValueError
        If the images or the reference are not of the model's size, not finite or constant.
    """
    images = square_images(stack)
    filtered = prepare_reference(images, model, reference)
    # the model measures the angle of the given reference relative to its own zero
    zero = 0.0 if reference is None else model.angles(np.asarray(reference)[None])[0]
    found, aligned, correntropy = align_block(images, model, filtered, zero_rad=zero)
    return InPlaneAlignment(*found, correntropy, aligned.mean(axis=0), images.mean(axis=0), filtered.image)


def prepare_reference(
    images: np.ndarray, model: Aligner, reference: np.ndarray | None = None
) -> FilteredReference:
    """Filter a reference for ``align_block``; its amplitude and the noise are measured on (n, y, x) images."""
    if images.shape[1] != model.grid.image_size:
        raise ValueError(
            f"images must have {model.grid.image_size} px a side for this model, got {images.shape[1]}"
        )
    deviation = image_deviation(images)
    power = mean_power(images[:IMAGES_FOR_POWER])
    if reference is None and model.reference is None:
        return filter_reference(class_average(images, model.angles(images))[0], power)
    given = finite_array(
        model.reference if reference is None else reference, name="reference", ndim=2, dtype=np.float64
    )
    if given.shape != images.shape[1:]:
        raise ValueError(f"reference must have the images' shape {images.shape[1:]}, got {given.shape}")
    if constant_images(given[None])[0]:
        raise ValueError("reference must not be constant inside the largest circle, got a constant image")
    zero = 0.0 if reference is None else model.angles(given[None])[0]
    # scale the reference to the particles under the noise, by its least-squares fit to the average of aligned images
    given = given * (deviation / given.std())
    some = images[:IMAGES_FOR_AMPLITUDE]
    filtered = filter_reference(given, power)
    found = register(some, filtered, model.angles(some) - zero, steps=0)
    average = average_aligned(some, found.angles_rad, found.shifts_px).astype(np.float64)
    masked = filtered.image.astype(np.float64)
    amplitude = np.sum((average - average.mean()) * masked) / np.sum(masked**2)
    return filter_reference(given * max(amplitude, LOWEST_AMPLITUDE), power)


def align_block(
    images: np.ndarray, model: Aligner, reference: FilteredReference, *, zero_rad: float = 0.0
) -> tuple[Registration, np.ndarray, np.ndarray]:
    """Align (n, y, x) images, each independently of the others; ``zero_rad`` is the model's angle of the reference.

    Returns the poses, the aligned (n, y, x) images and their (n,) correntropies with the reference.
    """
    found = register(images, reference, model.angles(images) - zero_rad)
    aligned = align_images(images, found.angles_rad, found.shifts_px)
    return found, aligned, _correntropy(aligned, reference.image)


def _correntropy(aligned: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean of exp(-(u - v)^2 / (2 w^2)) over the pixels of the circle, u and v standardised: (n,).

    Source: Liu, Pokharel and Principe, IEEE Trans. Signal Process. 55 (2007) 5286.
    """
    inside = particle_mask(len(reference)) > 0.5

    def standardised(values):  # in double precision: squares of values of any scale
        centred = values - values.mean(axis=-1, keepdims=True, dtype=np.float64)
        return centred / np.maximum(centred.std(axis=-1, keepdims=True), np.finfo(np.float64).tiny)

    difference = standardised(aligned[:, inside]) - standardised(reference[inside])
    return np.exp(-(difference**2) / (2 * CORRENTROPY_WIDTH**2)).mean(axis=1)
