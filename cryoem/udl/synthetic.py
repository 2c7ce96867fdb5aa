"""Synthetic particle images of one class: rotated, shifted, multiplied by the absolute value of the CTF, and noisy.

There are three noise levels:

- ``"clean"``: no noise;
- ``"noise"``: white noise with 10 times the variance of the image;
- ``"ssnr"``: white noise as above, plus coloured noise at the frequencies within 10 angstrom / pixel size of the
  origin. The real and imaginary parts of the coloured noise have a standard deviation of 3 times the mean Fourier
  magnitude of the noisy image.

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
from cryoem.files.pictures import read_grey
from cryoem.images import hermitian_weights
from cryoem.particles.locating import IMAGE_NAME
from cryoem.particles.mrc import is_stack_name, open_stack
from cryoem.udl.rotation import rotate_images
from cryoem.validation import finite_array, positive_number, whole_number

NOISES = ("clean", "noise", "ssnr")
PUBLISHED_CTF = ContrastTransfer()  # 300 kV, 2.7 mm, 0.07, 50 angstrom^2, 0.5 to 2 um
WHITE_VARIANCE = 10.0
COLOURED_MAGNITUDE = 3.0
COLOURED_ANGSTROM = 10.0
BLOCK = 256
TABLES = (".star", ".xmd")


@dataclass(frozen=True)
class ClassAverage:
    """Noise-free image of one class.

    Parameters
    ----------
    image : (y, x) float32 array
        Image with unit variance and a background close to zero.
    pixel_size_angstrom : float
        Pixel size of the image.
    """

    image: np.ndarray
    pixel_size_angstrom: float


@dataclass(frozen=True)
class SyntheticSet:
    """Simulated images of one class, with their true poses.

    Parameters
    ----------
    images : (n, y, x) float32 array
        Particle images.
    angles_rad : (n,) array
        Anticlockwise rotations of the class average.
    shifts_px : (n, 2) array
        Displacements (x, y) after the rotation.
    defocus_angstrom : (n,) array
        Underfocus of each image; 0 if the images are simulated without a CTF.
    pixel_size_angstrom : float
        Pixel size of the images.
    """

    images: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray
    defocus_angstrom: np.ndarray
    pixel_size_angstrom: float


def class_average_from_array(
    picture: np.ndarray, *, pixel_size_angstrom: float, image_size: int = 128, name: str = "picture"
) -> ClassAverage:
    """Make a class average by resizing a picture and subtracting the median of its border.

    Parameters
    ----------
    picture : (y, y) array
        Picture of the particle, in arbitrary units.
    pixel_size_angstrom : float
        Pixel size of ``picture``. The pixel size of the result differs if the picture is resized.
    image_size : int
        Side length of the result in pixels. Default: 128.
    name : str
        Name of the picture in error messages.

    Returns
    -------
    ClassAverage
        Resized image with unit variance.

    Raises
    ------
    ValueError
        If the picture is not square, is constant, or contains NaN or infinity; or if a number is out of range.
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
    """Read a class average from a picture file or a particle stack, and resize it as in ``class_average_from_array``.

    Parameters
    ----------
    path : path-like
        A square PNG, JPEG or TIFF picture in greyscale or colour, or a particle stack or table that
        ``particles.open_particles`` can read. From a stack or table, only the first image is used.
    pixel_size_angstrom : float
        Pixel size of the image in the file.
    image_size : int
        Side length of the result in pixels. Default: 128.

    Returns
    -------
    ClassAverage
        Resized image with unit variance.

    Raises
    ------
    ValueError
        If the file is not a picture, a particle stack or a table, or if the image is constant or not square.
    FileNotFoundError
        If the file does not exist.
    """
    path = Path(path)
    if path.suffix.lower() in TABLES or is_stack_name(path):
        from cryoem.particles.opening import open_particles

        picture = np.asarray(open_particles(path, pixel_size_angstrom=pixel_size_angstrom)[:1])[0]
    else:
        picture = read_grey(path)
    return class_average_from_array(
        picture, pixel_size_angstrom=pixel_size_angstrom, image_size=image_size, name=f"class average {path}"
    )


def read_reference(source: str | os.PathLike) -> np.ndarray:
    """Read a reference image for alignment, without flipping it or changing its grey levels: (y, x) float32.

    Parameters
    ----------
    source : path-like
        A PNG, JPEG or TIFF file; an MRC file with a single image; or ``"N@stack.mrcs"`` for image N of a stack, counted
        from 1.

    Returns
    -------
    (y, x) float32 array
        Reference image.

    Raises
    ------
    OSError
        If the file does not exist or cannot be read.
    ValueError
        If the file is of a different type, is damaged, or does not contain the requested image.
    """
    match = IMAGE_NAME.fullmatch(os.fspath(source))
    if match is None:
        raise ValueError(
            f"reference must be a file name, or N@FILE for image N of a stack, got {str(source)!r:.80}"
        )
    number, path = match[1], Path(match[2])
    if number is None and not (path.suffix.lower() in TABLES or is_stack_name(path)):
        return read_grey(path)
    stack = open_stack(path)
    if number is None and stack.n_images > 1:
        raise ValueError(f"reference {path} has {stack.n_images} images; choose one, for example 1@{path}")
    index = int(number or 1) - 1
    if not 0 <= index < stack.n_images:
        raise ValueError(f"{path} has no image {number}; its images are numbered 1 to {stack.n_images}")
    return stack.read(np.array([index]))[0]


def phantom_class_average(*, image_size: int = 128) -> ClassAverage:
    """Make a class average from one projection of the built-in phantom."""
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
    """Simulate particle images of one class.

    Each image is the class average, randomly rotated, shifted by a random whole number of pixels along each axis,
    multiplied in Fourier space by the absolute value of the CTF at a random defocus, and corrupted by noise.

    Parameters
    ----------
    average : ClassAverage
        Noise-free image of the class.
    n : int
        Number of images.
    noise : str
        Noise level: ``"clean"``, ``"noise"`` or ``"ssnr"``, as defined in the module docstring. The variance of the
        white noise is 10 times the variance of the image after the CTF has been applied. Default: ``"noise"``.
    shift_limit_px : int
        Largest shift in pixels along x and along y, at most half the image size. Default: 10.
    ctf : ContrastTransfer, optional
        CTF parameters and defocus range. Defocus values are drawn uniformly from this range. If None, no CTF is
        applied. Default: ``PUBLISHED_CTF``.
    rng : numpy.random.Generator or int
        Random number generator or seed.

    Returns
    -------
    SyntheticSet
        Images and true poses.

    Raises
    ------
    ValueError
        If ``noise`` is unknown or if a number is out of range.
    """
    n = whole_number(n, name="n", at_least=1)
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    limit = whole_number(shift_limit_px, name="shift_limit_px", at_least=0)
    size = len(average.image)
    if limit > size // 2:
        raise ValueError(f"shift_limit_px must be at most half the image size of {size} px, got {limit}")
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

    # one generator per block, so that the images do not depend on the number of threads
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(degrade, blocks, rng.spawn(len(blocks))))
    return SyntheticSet(images, angles, shifts, defocus, average.pixel_size_angstrom)


def _apply_ctf_magnitude(images, ctf, defocus_angstrom, pixel_size_angstrom):
    """Multiply the Fourier transforms of images by the absolute value of the CTF: (n, y, x) float32."""
    size = images.shape[1]
    frequency = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)) / pixel_size_angstrom
    transfer = np.abs(ctf.at(frequency.ravel(), defocus_angstrom)).astype(np.float32)
    return scipy.fft.irfft2(scipy.fft.rfft2(images) * transfer.reshape(-1, *frequency.shape), s=(size, size))


def _add_noise(images, noise, pixel_size_angstrom, rng):
    """Add white noise to images and, for ``"ssnr"``, coloured noise."""
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
    # columns that are their own mirror images must be Hermitian with undiminished power
    alone = [0, -1] if size % 2 == 0 else [0]
    mirrored = np.conj(spectra[:, -np.arange(size)][:, :, alone])
    spectra[:, :, alone] = (spectra[:, :, alone] + mirrored) / np.sqrt(2)
    return images + scipy.fft.irfft2(spectra, s=(size, size))
