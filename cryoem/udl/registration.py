"""Registration of particle images with a reference: 180-degree ambiguity, sub-pixel shifts and refined angles.

An image is modelled as the rotated and displaced reference plus stationary noise. Each frequency of the reference is
divided by the noise power, so that the inner product of the reference with an aligned image is the pose-dependent part
of the log-likelihood, to which frequencies that contain only noise do not contribute. A network or a classical method
first estimates the angle modulo half a turn. Then

1. the image and its 180-degree twin, both rotated back by this angle, are cross-correlated with the filtered reference;
   the higher peak determines the angle and the shift;
2. a few Gauss-Newton steps refine the angle and shift. The gradients are inner products with three derivative images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft

from cryoem.images import circular_mask, hermitian_weights
from cryoem.udl.rotation import rotate_images, rotate_vectors

BLOCK = 256
STEPS = 3
LONGEST_STEP_RAD = np.deg2rad(3.0)
LONGEST_STEP_PX = 1.0
SEARCHED_FRACTION = 0.2  # largest shift in the search, as a fraction of the image's side
# number of images and of Gauss-Newton steps in each round of class_average
AVERAGE_ROUNDS = ((1000, 0), (1000, 0), (3000, 2))
SMALLEST_DEVIATION, LARGEST_DEVIATION = 1e-28, 1e28  # of images, so that products fit single precision


# --- images and references


def image_mask(size: int) -> np.ndarray:
    """Return a mask of the largest circle about pixel n // 2, with a soft edge of 4 px: (size, size) float32."""
    return circular_mask(size, edge_px=4.0)


def mean_power(images: np.ndarray) -> np.ndarray:
    """Return the mean squared Fourier magnitude of masked (n, y, x) images: (y, x // 2 + 1)."""
    mask = image_mask(images.shape[1])
    total = np.zeros((images.shape[1], images.shape[1] // 2 + 1))
    for block in _blocks(images):
        block = (block - block.mean(axis=(1, 2), keepdims=True)) * mask
        magnitude = np.abs(scipy.fft.rfft2(block, workers=-1))
        total += np.square(magnitude, dtype=np.float64).sum(axis=0)
    return total / len(images)


def constant_images(images: np.ndarray) -> np.ndarray:
    """Return which of (n, y, x) images are constant inside the inscribed circle: (n,) bool."""
    inside = image_mask(images.shape[1]) > 0
    return np.concatenate([np.ptp(block[:, inside], axis=1) == 0 for block in _blocks(images)])


def image_deviation(images: np.ndarray) -> float:
    """Return the root of the mean variance of (n, y, x) images; raise a ValueError if their products would overflow."""
    total = sum(block.var(axis=(1, 2), dtype=np.float64).sum() for block in _blocks(images))
    deviation = float(np.sqrt(total / len(images)))
    if not SMALLEST_DEVIATION < deviation < LARGEST_DEVIATION:
        raise ValueError(
            f"images must have a standard deviation between {SMALLEST_DEVIATION:g} and {LARGEST_DEVIATION:g}, "
            f"got {deviation:.3g}"
        )
    return deviation


@dataclass(frozen=True)
class FilteredReference:
    """Reference image with precomputed data for registration. Images are (y, x) float32."""

    image: np.ndarray  # masked
    derivatives: (
        np.ndarray
    )  # (4, y, x): noise-filtered image; its derivatives by angle (1 / rad), x and y (1 / px)
    curvature: np.ndarray  # (3, 3): inner products of unfiltered and filtered derivatives
    power: float  # inner product of the reference with the filtered reference
    whitening: np.ndarray  # (y, x // 2 + 1): inverse amplitude of the noise at each frequency


def filter_reference(reference: np.ndarray, image_power: np.ndarray) -> FilteredReference:
    """Prepare a (y, x) reference for ``register``, given the ``mean_power`` of images in the same units."""
    size = len(reference)
    reference = np.asarray(reference, np.float64)
    image = (reference - reference.mean()) * image_mask(size)
    spectrum = scipy.fft.rfft2(image)
    # noise is the power of the images that the reference does not explain
    total = _ring_means(image_power)
    noise = np.maximum(total - _ring_means(np.abs(spectrum) ** 2), 0.02 * total + 1e-9 * total.max())
    axis = np.arange(size) - size // 2
    ky = 2j * np.pi * scipy.fft.fftfreq(size)[:, None]
    kx = 2j * np.pi * scipy.fft.rfftfreq(size)[None]

    def real(half_plane):
        return scipy.fft.irfft2(half_plane, s=(size, size))

    def derivatives(half_plane):
        """Return the derivatives with respect to the angle, which is x d/dy - y d/dx, and to x and y."""
        dx, dy = real(half_plane * kx), real(half_plane * ky)
        return [axis * dy - axis[:, None] * dx, dx, dy]

    filtered, sharp = real(spectrum / noise), derivatives(spectrum / noise)
    curvature = np.array([[np.sum(p * s) for s in sharp] for p in derivatives(spectrum)])
    return FilteredReference(
        image=image.astype(np.float32),
        # minus sign, because the content moves
        derivatives=np.stack([filtered, *(-d for d in sharp)]).astype(np.float32),
        curvature=(curvature + curvature.T) / 2,
        power=float(np.sum(image * filtered)),
        whitening=(1 / np.sqrt(noise)).astype(np.float32),
    )


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))


def _ring_means(power: np.ndarray) -> np.ndarray:
    """Replace the (y, x // 2 + 1) values in each frequency ring by their mean."""
    size = power.shape[0]
    frequency = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)[None]) * size
    ring = np.rint(frequency).astype(int)
    count = np.bincount(ring.ravel())
    return (np.bincount(ring.ravel(), weights=power.ravel()) / count)[ring]


# --- registration


class Registration(NamedTuple):
    """Poses of n images: the particle is the reference rotated anticlockwise by the angle and then displaced."""

    angles_rad: np.ndarray  # (n,) in [0, 2 pi)
    shifts_px: np.ndarray  # (n, 2), (x, y)
    correlation: np.ndarray  # (n,) in [-1, 1], with the reference; both are whitened


def register(
    images: np.ndarray, reference: FilteredReference, angles_rad: np.ndarray, *, steps: int = STEPS
) -> Registration:
    """Find shifts and resolve the 180-degree ambiguity of (n, y, x) images, given (n,) angles modulo half a turn.

    The angles must be accurate to a few degrees. ``steps`` Gauss-Newton steps refine angles and shifts. With 0 steps,
    the angles are not refined and the shifts are whole pixels.
    """
    parts = [
        _register_block(images[s : s + BLOCK], reference, angles_rad[s : s + BLOCK], steps)
        for s in range(0, len(images), BLOCK)
    ]
    return Registration(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def align_images(images: np.ndarray, angles_rad: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Transform images to the pose of the reference by undoing their shifts and then their rotations.

    Parameters
    ----------
    images : (n, y, x) array
        Images to transform.
    angles_rad : (n,) array
        Anticlockwise rotation of each particle relative to the reference.
    shifts_px : (n, 2) array
        Shift (x, y) of each particle after the rotation.

    Returns
    -------
    (n, y, x) float32 array
        Aligned images.
    """
    angles_rad = -np.asarray(angles_rad)
    return rotate_images(images, angles_rad, -rotate_vectors(shifts_px, angles_rad), outside="edge-mean")


def average_aligned(images: np.ndarray, angles_rad: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Average the images that ``align_images`` returns, block by block: (y, x) float32."""
    total = np.zeros(images.shape[1:])
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        aligned = align_images(images[block], angles_rad[block], shifts_px[block])
        total += aligned.sum(axis=0, dtype=np.float64)
    return (total / len(images)).astype(np.float32)


def class_average(images: np.ndarray, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average images whose angles are known modulo half a turn: the (y, x) average, and the images' ``mean_power``.

    The average starts from a single image. Each round registers more images with the previous average, which resolves
    their 180-degree ambiguity and finds their shifts.
    """
    power = mean_power(images[: AVERAGE_ROUNDS[-1][0]])
    average = align_images(images[:1], angles_rad[:1], np.zeros((1, 2)))[0]
    for count, steps in AVERAGE_ROUNDS:
        found = register(images[:count], filter_reference(average, power), angles_rad[:count], steps=steps)
        # particles are centred on average, but the image from which the average started may be off-centre
        offset = rotate_vectors(found.shifts_px, -found.angles_rad).mean(axis=0)
        offsets = rotate_vectors(np.broadcast_to(offset, found.shifts_px.shape), found.angles_rad)
        average = average_aligned(images[:count], found.angles_rad, found.shifts_px - offsets)
    return average, power


def _register_block(images, reference, angles, steps):
    size = images.shape[1]
    mask = image_mask(size)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    # choose between twins and find whole-pixel shifts; shifts are kept in the frame of the reference
    angles, moved = _search(rotate_images(images, -angles) * mask, reference, angles)
    templates = reference.derivatives.reshape(4, -1).T * mask.reshape(-1, 1)  # (y x, 4)
    for step in range(steps + 1):
        aligned = rotate_images(images, -angles, -moved)  # (b, y, x)
        products = aligned.reshape(len(images), -1) @ templates
        if step == steps:
            break
        # Gauss-Newton step of limited length
        scale = np.maximum(products[:, 0] / reference.power, 0.1)
        update = np.linalg.solve(reference.curvature, products[:, 1:].T).T / scale[:, None]
        angles = angles + np.clip(update[:, 0], -LONGEST_STEP_RAD, LONGEST_STEP_RAD)
        moved = moved + np.clip(update[:, 1:], -LONGEST_STEP_PX, LONGEST_STEP_PX)
    # correlation of the whitened images with the whitened reference
    white = scipy.fft.rfft2(aligned * mask, workers=-1) * reference.whitening
    norm = np.sqrt((np.abs(white) ** 2 * hermitian_weights(size)).sum(axis=(1, 2)))
    correlation = products[:, 0] * size / (norm * np.sqrt(reference.power))
    return np.mod(angles, 2 * np.pi), rotate_vectors(moved, angles), np.clip(correlation, -1, 1)


def _search(masked, reference, angles):
    """Choose between each masked, back-rotated image and its 180-degree twin, and find its whole-pixel shift (x, y)."""
    size = masked.shape[1]
    template = np.conj(scipy.fft.rfft2(scipy.fft.ifftshift(reference.derivatives[0])))
    spectra = scipy.fft.rfft2(scipy.fft.ifftshift(masked, axes=(1, 2)), workers=-1)
    reach = max(1, int(SEARCHED_FRACTION * size))
    (best, where), (best_twin, where_twin) = (
        _peaks(products * template, size, reach) for products in (spectra, np.conj(spectra))
    )
    is_twin = best_twin > best
    where = np.where(is_twin[:, None], where_twin, where)
    return angles + np.pi * is_twin, where.astype(float)


def _peaks(products, size, reach):
    """Return the height and position (x, y) of the highest cross-correlation within ``reach`` of the origin."""
    correlation = scipy.fft.irfft2(products, s=(size, size), workers=-1)
    near = np.r_[0 : reach + 1, -reach:0]
    correlation = correlation[:, near][:, :, near].reshape(len(products), -1)
    highest = correlation.argmax(axis=1)
    y, x = np.unravel_index(highest, (len(near), len(near)))
    return correlation[np.arange(len(correlation)), highest], np.stack([near[x], near[y]], axis=1)
