"""Particle images against one reference image: the 180-degree twin, sub-pixel shifts, and angles to the last digit.

An image is modelled as the reference turned by an angle and displaced, plus stationary noise.  The reference is
filtered by the noise (each frequency divided by the noise power found there), which makes its inner product with
an aligned image the likelihood's own score: a frequency that holds only noise has no say.  From the angle that a
network or a classical method gives,

1. the image and its twin, turned back, are cross-correlated with the filtered reference; the higher peak decides;
2. a few Gauss-Newton steps on angle and shift, whose gradients are inner products with three derivative images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.checks import finite_array, square_images
from cryoem.udl.rotation import rotate_images

BLOCK = 256
STEPS = 3
LONGEST_STEP_RAD = np.deg2rad(3.0)
LONGEST_STEP_PX = 1.0
SMALLEST_DEVIATION, LARGEST_DEVIATION = 1e-28, 1e28  # of images, for products of them in single precision
SEARCHED_FRACTION = 0.2  # shifts are looked for up to this fraction of the image's side


@dataclass(frozen=True)
class Registration:
    """Where each image stands.

    ``angles_rad`` (n,) in [0, 2 pi) and ``shifts_px`` (n, 2) (x, y): the particle of image i is the reference turned
    anticlockwise by the angle, then displaced by the shift.  ``correlation`` (n,) in [-1, 1]: of the aligned image
    with the reference, frequencies weighted by signal over noise.
    """

    angles_rad: np.ndarray
    shifts_px: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True)
class FilteredReference:
    """A reference image and what registration needs of it; from ``filter_reference``.

    ``image`` (y, x) float32, masked; ``derivatives`` (4, y, x): the noise-filtered reference and its derivatives by
    angle (per radian), x and y (per pixel); ``curvature`` (3, 3): inner products of the reference's derivatives with
    the filtered ones; ``power``: inner product of the reference with the filtered one.
    ``whitening`` (y, x // 2 + 1) divides out the noise's amplitude.
    """

    image: np.ndarray
    derivatives: np.ndarray
    curvature: np.ndarray
    power: float
    whitening: np.ndarray


def circular_mask(size: int, *, edge_px: float = 4.0) -> np.ndarray:
    """(size, size) float32, 1 inside the largest circle, softened over its last ``edge_px``."""
    axis = np.arange(size) - size // 2
    distance = np.hypot(axis[:, None], axis)
    return np.clip(((size - 1) // 2 - distance) / edge_px, 0, 1).astype(np.float32)


def flat_images(images: np.ndarray) -> np.ndarray:
    """Which of (n, y, x) images are constant inside the largest circle, whatever lies outside it: (n,) bool."""
    inside = circular_mask(images.shape[1]) > 0
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return np.concatenate([np.ptp(block[:, inside], axis=1) == 0 for block in blocks])


def image_deviation(images: np.ndarray) -> float:
    """Root of the mean variance of (n, y, x) images.

    Raises
    ------
    ValueError : it is beyond 1e-28 to 1e28, where single precision ends.
    """
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    total = sum(block.var(axis=(1, 2), dtype=np.float64).sum() for block in blocks)
    deviation = float(np.sqrt(total / len(images)))
    if not SMALLEST_DEVIATION < deviation < LARGEST_DEVIATION:
        raise ValueError(
            f"images must have a standard deviation between {SMALLEST_DEVIATION:g} and {LARGEST_DEVIATION:g}, "
            f"got {deviation:.3g}"
        )
    return deviation


def filter_reference(reference: np.ndarray, image_power: np.ndarray) -> FilteredReference:
    """Prepare a reference for ``register``.

    Parameters
    ----------
    reference : (y, x) image, in the units of the images.
    image_power : (y, x // 2 + 1) mean squared Fourier magnitude of the masked images, see ``mean_power``.

    Raises
    ------
    ValueError : the reference is constant inside the largest circle.
    """
    size = len(reference)
    reference = np.asarray(reference, np.float64)
    if flat_images(reference[None])[0]:
        raise ValueError("reference must have structure, got a constant image")
    image = (reference - reference.mean()) * circular_mask(size)
    spectrum = scipy.fft.rfft2(image)
    signal = _by_ring(np.abs(spectrum) ** 2)
    total = _by_ring(image_power)
    noise = np.maximum(total - signal, 0.02 * total + 1e-9 * total.max())
    filtered_spectrum = spectrum / noise
    ky = 2j * np.pi * scipy.fft.fftfreq(size)[:, None]
    kx = 2j * np.pi * scipy.fft.rfftfreq(size)[None]

    def real(half_plane):
        return scipy.fft.irfft2(half_plane, s=(size, size))

    filtered = real(filtered_spectrum)
    axis = np.arange(size) - size // 2
    plain, sharp = (
        [axis * dy - axis[:, None] * dx, dx, dy]
        for dx, dy in (
            (real(spectrum * kx), real(spectrum * ky)),
            (real(filtered_spectrum * kx), real(filtered_spectrum * ky)),
        )
    )
    # d/da of the turned reference is -(x d/dy - y d/dx); so are those of a displacement.
    curvature = np.array([[np.sum(p * s) for s in sharp] for p in plain])
    return FilteredReference(
        image=image.astype(np.float32),
        derivatives=np.stack([filtered, *(-d for d in sharp)]).astype(np.float32),
        curvature=(curvature + curvature.T) / 2,
        power=float(np.sum(image * filtered)),
        whitening=(1 / np.sqrt(noise)).astype(np.float32),
    )


def mean_power(images: np.ndarray) -> np.ndarray:
    """Mean squared Fourier magnitude of masked (n, y, x) images: (y, x // 2 + 1)."""
    mask = circular_mask(images.shape[1])
    total = np.zeros((images.shape[1], images.shape[1] // 2 + 1))
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        block = (block - block.mean(axis=(1, 2), keepdims=True)) * mask
        magnitude = np.abs(scipy.fft.rfft2(block, workers=-1))
        total += np.square(magnitude, dtype=np.float64).sum(axis=0)
    return total / len(images)


def register(
    images: np.ndarray,
    reference: FilteredReference,
    angles_rad: np.ndarray,
    *,
    steps: int = STEPS,
    twins: bool = True,
) -> Registration:
    """Find shifts and twins of images whose angles are roughly known, and refine the angles.

    Parameters
    ----------
    images : (n, y, x), of the reference's size.
    reference : from ``filter_reference``.
    angles_rad : (n,), known to some degrees, modulo pi with ``twins``.
    steps : Gauss-Newton steps on angle and shift; 0 leaves the angles as they are and the shifts at whole pixels.
    twins : let the angle plus pi compete.

    Raises
    ------
    ValueError : images are not (n, y, y) of the reference's size, or angles are not one for each.
    """
    images = square_images(images)
    if images.shape[1:] != reference.image.shape:
        raise ValueError(f"images must be of the reference's {reference.image.shape}, got {images.shape[1:]}")
    angles_rad = finite_array(angles_rad, name="angles_rad", ndim=1, dtype=float)
    if len(angles_rad) != len(images):
        raise ValueError(f"angles_rad must be {len(images)}, one for each image, got {len(angles_rad)}")
    parts = [
        _register_block(images[s : s + BLOCK], reference, angles_rad[s : s + BLOCK], steps, twins)
        for s in range(0, len(images), BLOCK)
    ]
    return Registration(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def align_images(images: np.ndarray, angles_rad: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Undo each image's shift, then its rotation: (n, y, x) float32, particles as the reference shows them."""
    return rotate_images(images, -angles_rad, -turn(shifts_px, -np.asarray(angles_rad)), outside="edge-mean")


def average_aligned(images: np.ndarray, angles_rad: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """The average of ``align_images``, of which some are in memory at a time: (y, x) float32."""
    total = np.zeros(images.shape[1:])
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        total += align_images(images[block], angles_rad[block], shifts_px[block]).sum(
            axis=0, dtype=np.float64
        )
    return (total / len(images)).astype(np.float32)


def turn(vectors: np.ndarray, angles_rad: np.ndarray) -> np.ndarray:
    """(n, 2) vectors (x, y) turned anticlockwise by (n,) angles."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def _register_block(images, reference, angles, steps, twins):
    size = images.shape[1]
    mask = circular_mask(size)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    angles, moved = _search(rotate_images(images, -angles), reference, angles, twins)
    templates = reference.derivatives.reshape(4, -1).T * mask.reshape(-1, 1)  # (y x, 4)
    for step in range(steps + 1):
        aligned = rotate_images(images, -angles, -moved)  # (b, y, x)
        products = aligned.reshape(len(images), -1) @ templates
        if step == steps:
            break
        scale = np.maximum(products[:, 0] / reference.power, 0.1)
        update = np.linalg.solve(reference.curvature, products[:, 1:].T).T / scale[:, None]
        turned = np.clip(update[:, 0], -LONGEST_STEP_RAD, LONGEST_STEP_RAD)
        angles = angles + turned
        moved = moved + np.clip(update[:, 1:], -LONGEST_STEP_PX, LONGEST_STEP_PX)
    white = scipy.fft.rfft2(aligned * mask, workers=-1) * reference.whitening
    norm = np.sqrt(_half_plane_sum(np.abs(white) ** 2, size))
    correlation = products[:, 0] * size / (norm * np.sqrt(reference.power))
    return np.mod(angles, 2 * np.pi), turn(moved, angles), np.clip(correlation, -1, 1)


def _search(turned, reference, angles, twins):
    """The better of each turned-back image and its twin, and the whole-pixel displacement (x, y) it shows."""
    size = turned.shape[1]
    template = np.conj(scipy.fft.rfft2(scipy.fft.ifftshift(reference.derivatives[0])))
    spectra = scipy.fft.rfft2(scipy.fft.ifftshift(turned * circular_mask(size), axes=(1, 2)), workers=-1)
    reach = max(1, int(SEARCHED_FRACTION * size))
    best, where = _peaks(spectra * template, size, reach)
    if twins:
        best_twin, where_twin = _peaks(np.conj(spectra) * template, size, reach)
        is_twin = best_twin > best
        angles = angles + np.pi * is_twin
        where = np.where(is_twin[:, None], where_twin, where)
    return angles, where.astype(float)


def _peaks(products, size, reach):
    """Height and (x, y) of the highest value of cross-correlations within ``reach`` of the origin."""
    correlation = scipy.fft.irfft2(products, s=(size, size), workers=-1)
    near = np.r_[0 : reach + 1, -reach:0]
    correlation = correlation[:, near][:, :, near].reshape(len(products), -1)
    highest = correlation.argmax(axis=1)
    y, x = np.unravel_index(highest, (len(near), len(near)))
    return correlation[np.arange(len(correlation)), highest], np.stack([near[x], near[y]], axis=1)


def _half_plane_sum(values, size):
    """Sum over the whole plane of (n, y, x // 2 + 1) values of its half."""
    weight = np.full(values.shape[-1], 2.0)
    weight[0] = 1
    if size % 2 == 0:
        weight[-1] = 1
    return (values * weight).sum(axis=(1, 2))


def _by_ring(power):
    """(y, x // 2 + 1) values, each replaced by the mean over its ring of frequencies."""
    size = power.shape[0]
    ring = np.rint(np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)[None]) * size).astype(
        int
    )
    count = np.bincount(ring.ravel())
    return (np.bincount(ring.ravel(), weights=power.ravel()) / count)[ring]
