"""Operations on images: Fourier transforms, shifts, cropping, noise, background subtraction and the CTF.

The origin of an image is pixel ``n // 2`` along both axes. A half-plane is the flattened ``rfft2`` of an image whose
origin has been moved to index 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.special

from cryoem.contrast import Optics, optics_of
from cryoem.validation import finite_array, not_negative, one_each, shifts_of, square_images

BLOCK_BYTES = 32_000_000
# typical standard deviation of the displacements of picked particles along x and y, relative to the image width
SHIFT_DEVIATION = 0.03


# --- Fourier half-planes


def plane_frequencies(size: int) -> np.ndarray:
    """Return (f_x, f_y) in cycles per pixel of each half-plane element: (size * (size // 2 + 1), 2) float32."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    return np.stack([fx.ravel(), fy.ravel()], axis=1).astype(np.float32)


def half_planes_from_images(images: np.ndarray) -> np.ndarray:
    """Transform (n, y, y) images to half-planes: (n, y * (y // 2 + 1)) complex64."""
    shifted = scipy.fft.ifftshift(np.asarray(images, np.float32), axes=(1, 2))
    return scipy.fft.rfft2(shifted, workers=-1).reshape(len(images), -1)


def images_from_half_planes(planes: np.ndarray, size: int) -> np.ndarray:
    """Invert ``half_planes_from_images``: (n, size, size) float32."""
    spectra = planes.reshape(len(planes), size, size // 2 + 1)
    return scipy.fft.fftshift(scipy.fft.irfft2(spectra, s=(size, size), workers=-1), axes=(1, 2))


def hermitian_weights(size: int, *, ndim: int = 2) -> np.ndarray:
    """Return how many elements of the full transform each element of ``rfftn`` represents: 1 or 2."""
    weights = np.full((size,) * (ndim - 1) + (size // 2 + 1,), 2.0)
    weights[..., 0] = 1
    if size % 2 == 0:
        weights[..., -1] = 1
    return weights


@dataclass(frozen=True)
class FourierDisc:
    """Half-plane elements inside the Nyquist circle of an image ``size`` px wide.

    ``index`` (m,) selects these elements from a half-plane. ``frequencies`` (m, 2) are in cycles per pixel. ``weights``
    (m,) count every Hermitian pair once.
    """

    index: np.ndarray
    frequencies: np.ndarray
    weights: np.ndarray


def fourier_disc(size: int) -> FourierDisc:
    """Select the half-plane elements inside the Nyquist circle of an image ``size`` px wide."""
    frequencies = plane_frequencies(size)
    index = np.flatnonzero(np.hypot(*frequencies.T) < 0.5)
    weights = hermitian_weights(size).ravel()[index] / 2
    return FourierDisc(index, frequencies[index], weights.astype(np.float32))


def shift_phases(shifts_px: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Compute the phase factors that displace image content: (n, m) complex64.

    ``shifts_px`` is (n, 2), and ``frequencies`` (m, 2) are in cycles per pixel.
    """
    return np.exp(-2j * np.pi * (shifts_px @ frequencies.T.astype(float))).astype(np.complex64)


def cropped_frequencies(full: int, size: int) -> np.ndarray:
    """Return the indices of the half-plane elements kept by Fourier cropping from ``full`` to ``size`` px: (m,) int."""
    ky = np.rint(scipy.fft.fftfreq(size) * size).astype(int) % full
    kx = np.arange(size // 2 + 1)
    return (ky[:, None] * (full // 2 + 1) + kx).ravel()


# --- operations on images


def shift(images: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Shift image content by sub-pixel amounts, with periodic boundaries.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to shift.
    shifts_px : (n, 2) array
        Displacement (x, y) of each image, positive towards larger coordinates.

    Returns
    -------
    (n, y, x) float32 array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity, or if the shifts do not have shape (n, 2).
    """
    return correct_images(images, shifts_px=-np.asarray(shifts_px, float))


def downsample(images: np.ndarray, size: int) -> np.ndarray:
    """Fourier-crop images to a smaller size.

    Pixel values keep their scale, and the origin stays at the central pixel. The pixel size grows by a factor of y /
    size, and the variance of white noise falls by a factor of (size / y) ** 2.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to downsample.
    size : int
        New image size in pixels, between 2 and y.

    Returns
    -------
    (n, size, size) float32 array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity, or if ``size`` is out of range.
    """
    return correct_images(images, size=size)


def correct_images(
    images: np.ndarray,
    *,
    optics: Optics | None = None,
    shifts_px: np.ndarray | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Phase-flip, centre and Fourier-crop images in one pass.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to correct.
    optics : Optics, optional
        Optics of the images. At frequencies at which the CTF is negative, the sign of the transform is reversed.
        Default: no correction.
    shifts_px : (n, 2) array, optional
        Displacement (x, y) of each particle, which is undone. Default: no displacement.
    size : int, optional
        New image size in pixels, as in ``downsample``. Default: y.

    Returns
    -------
    (n, size, size) float32 array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity; if ``optics`` or ``shifts_px`` describes a
        different number of images; or if ``size`` is out of range.
    """
    images = square_images(images)
    full = images.shape[1]
    if size is not None and not 2 <= size <= full:
        raise ValueError(f"size must be between 2 and {full}, the image size in pixels, got {size}")
    size = full if size is None else size
    flips = optics is not None and optics.ctf is not None
    moves = shifts_px is not None and shifts_of(shifts_px, count=len(images)).any()
    if not flips and not moves and size == full:
        return images
    frequencies = plane_frequencies(full)
    planes = half_planes_from_images(images)
    if size < full:
        kept = cropped_frequencies(full, size)
        frequencies, planes = frequencies[kept], planes[:, kept] * np.float32((size / full) ** 2)
    if flips:
        negative = optics_of(optics, None, count=len(images)).transfers(frequencies) < 0
        planes = planes * np.where(negative, np.float32(-1), np.float32(1))
    if moves:
        planes = planes * shift_phases(-np.asarray(shifts_px), frequencies)
    return images_from_half_planes(planes, size)


def flip_phases(images: np.ndarray, optics: Optics) -> np.ndarray:
    """Correct the sign of the CTF at each frequency.

    The amplitude of the CTF is not corrected, and white noise stays white. Images without a CTF are returned unchanged.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to correct.
    optics : Optics
        Optics of the images.

    Returns
    -------
    (n, y, x) float32 array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity, or if ``optics`` describes a different
        number of images.
    """
    return correct_images(images, optics=optics)


def apply_ctf(images: np.ndarray, optics: Optics) -> np.ndarray:
    """Apply the microscope's CTF to images.

    Parameters, return value and errors are the same as for ``flip_phases``, except that optics without a CTF raise a
    ``ValueError``.
    """
    images = square_images(images)
    if optics.ctf is None:
        raise ValueError("optics must include a CTF, got ctf=None")
    size = images.shape[1]
    transfers = optics_of(optics, None, count=len(images)).transfers(plane_frequencies(size))
    return images_from_half_planes(half_planes_from_images(images) * transfers, size)


def shrink(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Shrink images about their origin by Fourier interpolation, each by its own factor, in a box of the same size.

    Frequencies above the Nyquist frequency of the shrunk image are removed. The area beyond the edges of the original
    image is filled with its mean outside the inscribed circle.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images to shrink.
    factors : (n,) array
        Factor of each image, in (0, 1].

    Returns
    -------
    (n, y, x) float32 array

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y) or contain NaN or infinity, or if a factor is out of range.
    """
    images = square_images(images)
    n, size = images.shape[:2]
    factors = one_each(factors, count=n, name="factors")
    if not (factors.min() > 0 and factors.max() <= 1):
        raise ValueError(f"factors must be above 0 and at most 1, got {factors.min():g} to {factors.max():g}")
    x = np.arange(size) - size // 2
    centred = subtract_background(images)
    background = images[:, 0, 0] - centred[:, 0, 0]
    shrunk = images.copy()
    for factor in np.unique(factors[factors < 1]):
        # interpolate along each axis with the band-limited (Dirichlet) kernel, within the original box
        terms = 2 * int(np.ceil(factor * size / 2)) - 1
        kernel = terms / size * scipy.special.diric(2 * np.pi * (x[:, None] / factor - x) / size, terms)
        kernel[np.abs(x) > factor * (size // 2)] = 0
        kernel = kernel.astype(np.float32)
        some = factors == factor
        shrunk[some] = kernel @ centred[some] @ kernel.T + background[some, None, None]
    return shrunk


def add_noise(
    images: np.ndarray, variance: float, *, rng: np.random.Generator | int | None = None
) -> np.ndarray:
    """Add white Gaussian noise with the given variance to images: (n, y, x) float32."""
    images = finite_array(images, name="images", ndim=3, dtype=np.float32)
    if not_negative(variance, name="variance") == 0:
        return images
    noise = np.random.default_rng(rng).standard_normal(images.shape, dtype=np.float32)
    return images + np.float32(np.sqrt(variance)) * noise


def subtract_background(images: np.ndarray) -> np.ndarray:
    """Subtract from each image its mean outside the inscribed circle: (n, y, x) float32."""
    images = square_images(images)
    outside = distance_from_origin(images.shape[1]) > 0.5 * images.shape[1] - 1
    return images - images[:, outside].mean(axis=1)[:, None, None]


def distance_from_origin(size: int) -> np.ndarray:
    """Return the distance in pixels from each pixel of a square image to its origin: (size, size) float64."""
    y, x = np.indices((size, size)) - size // 2
    return np.hypot(y, x)


def circular_mask(size: int, *, edge_px: float, profile: str = "linear") -> np.ndarray:
    """Create the largest soft circular mask around the origin of a square image: (size, size) float32.

    The soft edge falls from 1 to 0 over ``edge_px`` pixels inside the circle. Its ``profile`` is ``"linear"`` or
    ``"cosine"`` (a squared sine).
    """
    radius = (size - 1) // 2
    depth = np.clip((radius - distance_from_origin(size)) / edge_px, 0, 1)
    if profile == "cosine":
        depth = np.sin(np.pi / 2 * depth) ** 2
    return depth.astype(np.float32)


def image_blocks(images, *, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Return slices of consecutive blocks of (n, y, x) images, each about ``block_bytes`` in size as float32."""
    n, height, width = images.shape
    count = max(1, block_bytes // (4 * height * width))
    return (slice(start, min(start + count, n)) for start in range(0, n, count))
