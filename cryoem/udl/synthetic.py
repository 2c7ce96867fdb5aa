"""Synthetic particle images of one class: rotated, shifted, multiplied by the CTF magnitude, and noisy.

Three kinds of noise, for one class average:

- ``"clean"``: rotation, shift, absolute value of the contrast transfer;
- ``"noise"``: also white noise of 10 times the image's variance;
- ``"ssnr"``: also complex noise of 3 times the mean Fourier magnitude of the noisy image, at the frequencies within
  10 angstrom / pixel size of the origin.

Source: arXiv 2205.11829, section 4.1; J. Struct. Biol. 2023 107940.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer
from cryoem.images import hermitian_weights
from cryoem.udl.natural import read_grey
from cryoem.udl.rotation import rotate_images
from cryoem.validation import finite_array, positive_number, whole_number

NOISES = ("clean", "noise", "ssnr")
PUBLISHED_CTF = ContrastTransfer()  # 300 kV, 2.7 mm, 0.07, 50 angstrom^2, 0.5 to 2 um
WHITE_VARIANCE = 10.0
COLOURED_MAGNITUDE = 3.0
COLOURED_ANGSTROM = 10.0
BLOCK = 256
STACKS = (".mrc", ".mrcs", ".star", ".xmd")


@dataclass(frozen=True)
class ClassAverage:
    """A noise-free image of one class.

    Parameters
    ----------
    image : (y, x) float32 array
        Zero around the particle, unit variance.
    pixel_size_angstrom : float
    """

    image: np.ndarray
    pixel_size_angstrom: float


@dataclass(frozen=True)
class SyntheticSet:
    """Images of one class and their true poses.

    Parameters
    ----------
    images : (n, y, x) float32 array
    angles_rad : (n,) array
        Rotations, anticlockwise.
    shifts_px : (n, 2) array
        Displacements (x, y), after the rotation.
    defocus_angstrom : (n,) array
        Underfocus; 0 without contrast transfer.
    pixel_size_angstrom : float
    """

    images: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray
    defocus_angstrom: np.ndarray
    pixel_size_angstrom: float


def class_average_from_array(
    picture: np.ndarray, *, pixel_size_angstrom: float, image_size: int = 128, name: str = "picture"
) -> ClassAverage:
    """Make a class average from an array: resize it and subtract the median of its border.

    Parameters
    ----------
    picture : (y, y) array
    pixel_size_angstrom : float
        Pixel size of the picture; that of the result changes with the size.
    image_size : int
        Side of the result, pixels.
    name : str
        Name of the picture in error messages.

    Raises
    ------
    ValueError
        If the picture is not (y, y), not finite or constant, or a number is out of range.
    """
    import skimage.transform

    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    image_size = whole_number(image_size, name="image_size", at_least=16)
    picture = finite_array(picture, name=name, ndim=2, dtype=np.float32)
    if picture.shape[0] != picture.shape[1]:
        raise ValueError(f"{name} must be square, got shape {picture.shape}")
    size = len(picture)
    if size != image_size:
        picture = skimage.transform.resize(
            picture, (image_size, image_size), order=3, anti_aliasing=image_size < size
        )
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    picture = picture - np.median(border)
    if not picture.std() > 0:
        raise ValueError(f"{name} must not be constant")
    image = (picture / picture.std()).astype(np.float32)
    return ClassAverage(image, pixel_size_angstrom * size / image_size)


def read_class_average(
    path: str | os.PathLike, *, pixel_size_angstrom: float, image_size: int = 128
) -> ClassAverage:
    """Read a class average from a picture file or a stack, and resize it as ``class_average_from_array`` does.

    Parameters
    ----------
    path : path-like
        Square PNG, JPEG or TIFF file, grey or coloured; or a stack that ``particles.open_particles`` reads, of which
        the first image is used.
    pixel_size_angstrom : float
    image_size : int

    Raises
    ------
    ValueError
        If the file is neither a picture nor a stack, not square, or constant.
    FileNotFoundError
        If the file does not exist.
    """
    path = Path(path)
    if path.suffix.lower() in STACKS:
        from cryoem.particles.files import open_particles

        picture = np.asarray(open_particles(path, pixel_size_angstrom=pixel_size_angstrom)[:1])[0]
    else:
        picture = read_grey(path)
    return class_average_from_array(
        picture, pixel_size_angstrom=pixel_size_angstrom, image_size=image_size, name=f"class average {path}"
    )


def phantom_class_average(*, image_size: int = 128) -> ClassAverage:
    """Make a class average without a file: one projection of the embedded phantom."""
    from cryoem.projection.projectors import project
    from cryoem.volumes.phantoms import phantom

    density = phantom(symmetry="C1", size=64, rng=1)
    picture = project(density.data, Rotation.from_euler("ZYZ", [[0.3, 1.1, 0.5]]))[0]
    return class_average_from_array(
        picture, pixel_size_angstrom=density.voxel_size_angstrom, image_size=image_size, name="phantom"
    )


def synthetic_set(
    average: ClassAverage,
    n: int,
    *,
    noise: str = "noise",
    shift_limit_px: int = 10,
    ctf: ContrastTransfer | None = PUBLISHED_CTF,
    rng: np.random.Generator | int | None = None,
) -> SyntheticSet:
    """Simulate particle images of a class: random rotation, whole-pixel shift, absolute CTF, random defocus, noise.

    Parameters
    ----------
    average : ClassAverage
    n : int
    noise : str
        ``"clean"``, ``"noise"`` or ``"ssnr"``; relative to the variance of the image after the CTF.
    shift_limit_px : int
        Largest shift along x and along y, at most half of the image's side.
    ctf : ContrastTransfer, optional
        The microscope; the defocus is drawn uniformly from its range. None for no contrast transfer.
    rng : numpy.random.Generator or int

    Raises
    ------
    ValueError
        If the noise is unknown or a number is out of range.
    """
    n = whole_number(n, name="n", at_least=1)
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    limit = whole_number(shift_limit_px, name="shift_limit_px", at_least=0)
    size = len(average.image)
    if limit > size // 2:
        raise ValueError(f"shift_limit_px must be at most half of the image's {size} px, got {limit}")
    rng = np.random.default_rng(rng)
    angles = rng.uniform(0, 2 * np.pi, n)
    shifts = rng.integers(-limit, limit + 1, (n, 2)).astype(float)
    defocus = np.zeros(n) if ctf is None else rng.uniform(*ctf.defocus_range_angstrom, n)
    images = np.empty((n, size, size), np.float32)
    blocks = [slice(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK)]
    for block in blocks:
        copies = np.broadcast_to(average.image, images[block].shape)
        images[block] = rotate_images(copies, angles[block], shifts[block])

    def degrade(block, block_rng):
        seen = images[block]
        if ctf is not None:
            seen = _apply_ctf_magnitude(seen, ctf, defocus[block], average.pixel_size_angstrom)
        if noise != "clean":
            seen = _add_noise(seen, noise, average.pixel_size_angstrom, block_rng)
        images[block] = seen

    # one generator for each block: the images do not depend on the number of threads
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(degrade, blocks, rng.spawn(len(blocks))))
    return SyntheticSet(images, angles, shifts, defocus, average.pixel_size_angstrom)


def _apply_ctf_magnitude(images, ctf, defocus_angstrom, pixel_size_angstrom):
    """Multiply images by the magnitude of the contrast transfer: (n, y, x) float32."""
    size = images.shape[1]
    frequency = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)) / pixel_size_angstrom
    transfer = np.abs(ctf.at(frequency.ravel(), defocus_angstrom)).astype(np.float32)
    return scipy.fft.irfft2(scipy.fft.rfft2(images) * transfer.reshape(-1, *frequency.shape), s=(size, size))


def _add_noise(images, noise, pixel_size_angstrom, rng):
    """Add white noise to images, and for ``"ssnr"`` coloured noise."""
    deviation = np.sqrt(WHITE_VARIANCE * images.var(axis=(1, 2), keepdims=True))
    images = images + deviation * rng.standard_normal(images.shape, dtype=np.float32)
    if noise != "ssnr":
        return images
    size = images.shape[1]
    magnitude = np.abs(scipy.fft.rfft2(images))
    mean = (magnitude * hermitian_weights(size)).sum(axis=(1, 2)) / size**2
    distance = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)) * size
    ky, kx = np.nonzero(distance <= COLOURED_ANGSTROM / pixel_size_angstrom)
    values = rng.standard_normal((len(images), len(ky), 2), dtype=np.float32).view(np.complex64)[..., 0]
    spectra = np.zeros(magnitude.shape, np.complex64)
    spectra[:, ky, kx] = COLOURED_MAGNITUDE * mean[:, None] * values
    # columns that are their own mirror images must be Hermitian, at full power
    alone = [0, -1] if size % 2 == 0 else [0]
    mirrored = np.conj(spectra[:, -np.arange(size)][:, :, alone])
    spectra[:, :, alone] = (spectra[:, :, alone] + mirrored) / np.sqrt(2)
    return images + scipy.fft.irfft2(spectra, s=(size, size))
