"""Synthetic particle images of one class, made on the fly: turned, shifted, seen through the microscope, and noisy.

Three kinds, from one class average:

- ``"clean"``: rotation, shift, |contrast transfer|;
- ``"noise"``: plus white noise of 10 times the image's variance;
- ``"ssnr"``: plus, below 10 angstrom / pixel size frequencies from the origin, complex noise of 3 times the
  mean Fourier magnitude of the noisy image.

Source: arXiv 2205.11829, section 4.1; J. Struct. Biol. 2023 107940.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import skimage.transform
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, positive_number, whole_number
from cryoem.contrast import ContrastTransfer
from cryoem.particles import open_particles
from cryoem.udl.pictures import read_grey
from cryoem.udl.rotation import rotate_images

NOISES = ("clean", "noise", "ssnr")
PUBLISHED_CTF = ContrastTransfer()  # 300 kV, 2.7 mm, 0.07, 50 angstrom^2, 0.5 to 2 um
WHITE_VARIANCE = 10.0
COLOURED_MAGNITUDE = 3.0
COLOURED_ANGSTROM = 10.0
BLOCK = 256
STACKS = (".mrc", ".mrcs", ".star", ".xmd")


@dataclass(frozen=True)
class ClassAverage:
    """``image`` (y, x) float32, zero around the particle, unit variance; ``pixel_size_angstrom``."""

    image: np.ndarray
    pixel_size_angstrom: float


@dataclass(frozen=True)
class SyntheticParticles:
    """Images of one class and the truth about them.

    ``images`` (n, y, x) float32; ``angles_rad`` (n,) anticlockwise and ``shifts_px`` (n, 2) (x, y), applied after
    it; ``defocus_angstrom`` (n,); ``pixel_size_angstrom``.
    """

    images: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray
    defocus_angstrom: np.ndarray
    pixel_size_angstrom: float


def read_class_average(
    path: str | os.PathLike, *, pixel_size_angstrom: float, image_size: int = 128
) -> ClassAverage:
    """Read a class average from a picture file or a stack of class averages, resized.

    Parameters
    ----------
    path : PNG, JPEG or TIFF, grey or coloured, square; or a stack as ``particles.open_particles`` reads it,
        whose first image is taken.
    pixel_size_angstrom : of the file; the result's grows by the change of size.
    image_size : of the result, pixels.

    Raises
    ------
    ValueError : the file is no picture and no stack, not square, or constant.
    FileNotFoundError : there is no such file.
    """
    path = Path(path)
    if path.suffix.lower() in STACKS:
        picture = open_particles(path, pixel_size_angstrom=pixel_size_angstrom).read([0])[0]
    else:
        picture = read_grey(path)
    return class_average(
        picture, pixel_size_angstrom=pixel_size_angstrom, image_size=image_size, name=f"class average {path}"
    )


def class_average(
    picture: np.ndarray, *, pixel_size_angstrom: float, image_size: int = 128, name: str = "picture"
) -> ClassAverage:
    """A class average from an array (y, y), resized, its border taken for the background.

    Parameters
    ----------
    picture : (y, y) grey values.
    pixel_size_angstrom : of the picture; the result's grows by the change of size.
    image_size : of the result, pixels.
    name : of the picture in errors.

    Raises
    ------
    ValueError : the picture is not (y, y), not finite or constant, or a number is out of its range.
    """
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
        raise ValueError(f"{name} must have structure, got a constant picture")
    image = (picture / picture.std()).astype(np.float32)
    return ClassAverage(image, pixel_size_angstrom * size / image_size)


def phantom_class_average(*, image_size: int = 128, seed: int = 1) -> ClassAverage:
    """A class average that needs no file: one projection of the embedded phantom."""
    from cryoem.projectors import project
    from cryoem.volumes import phantom

    density = phantom(symmetry="C1", size=64, rng=seed)
    picture = project(density.data, Rotation.from_euler("ZYZ", [[0.3, 1.1, 0.5]]))[0]
    return class_average(
        picture, pixel_size_angstrom=density.voxel_size_angstrom, image_size=image_size, name="phantom"
    )


def simulate_particles(
    average: ClassAverage,
    n: int,
    *,
    noise: str = "noise",
    shift_limit_px: int = 10,
    ctf: ContrastTransfer | None = PUBLISHED_CTF,
    rng: np.random.Generator | int | None = None,
) -> SyntheticParticles:
    """Particle images of a class: rotation U[0, 2 pi), whole-pixel shift, |CTF| at random defocus, noise.

    Parameters
    ----------
    n : number of images.
    noise : ``"clean"``, ``"noise"`` or ``"ssnr"``, see the module; variances are those of the image after the CTF.
    shift_limit_px : largest shift along x and along y.
    ctf : the microscope, its defocus drawn uniformly; None for none (then ``defocus_angstrom`` is 0).

    Raises
    ------
    ValueError : ``n`` is not a positive whole number, the noise is unknown, or the shift is no whole number of
        pixels from 0 to half of the image's side.
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
    defocus = np.zeros(n) if ctf is None else rng.uniform(*ctf.defocus_angstrom, n)
    images = np.empty((n, size, size), np.float32)
    blocks = [slice(start, min(n, start + BLOCK)) for start in range(0, n, BLOCK)]
    for block in blocks:
        copies = np.broadcast_to(average.image, images[block].shape)
        images[block] = rotate_images(copies, angles[block], shifts[block])

    def degrade(block, block_rng):
        seen = images[block]
        if ctf is not None:
            seen = _through_microscope(seen, ctf, defocus[block], average.pixel_size_angstrom)
        images[block] = (
            seen if noise == "clean" else _noisy(seen, noise, average.pixel_size_angstrom, block_rng)
        )

    # A generator of its own for each block: the images do not depend on the number of threads.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(degrade, blocks, rng.spawn(len(blocks))))
    return SyntheticParticles(images, angles, shifts, defocus, average.pixel_size_angstrom)


def _through_microscope(images, ctf, defocus_angstrom, pixel_size_angstrom):
    """Images times the magnitude of the contrast transfer: (n, y, x) float32."""
    size = images.shape[1]
    frequency = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)) / pixel_size_angstrom
    transfer = (
        np.abs(ctf.at(frequency.ravel(), defocus_angstrom)).astype(np.float32).reshape(-1, *frequency.shape)
    )
    return scipy.fft.irfft2(scipy.fft.rfft2(images) * transfer, s=(size, size))


def _noisy(images, noise, pixel_size_angstrom, rng):
    deviation = np.sqrt(WHITE_VARIANCE * images.var(axis=(1, 2), keepdims=True))
    images = images + deviation * rng.standard_normal(images.shape, dtype=np.float32)
    if noise == "ssnr":
        size = images.shape[1]
        magnitude = np.abs(scipy.fft.rfft2(images))
        # The half-plane's columns stand for two, but for these, which are their own mirror images.
        alone = [0, -1] if size % 2 == 0 else [0]
        twice = np.full(magnitude.shape[-1], 2.0)
        twice[alone] = 1
        mean = (magnitude @ twice).sum(axis=1) / size**2
        distance = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)) * size
        ky, kx = np.nonzero(distance <= COLOURED_ANGSTROM / pixel_size_angstrom)
        values = rng.standard_normal((len(images), len(ky), 2), dtype=np.float32).view(np.complex64)[..., 0]
        spectra = np.zeros(magnitude.shape, np.complex64)
        spectra[:, ky, kx] = COLOURED_MAGNITUDE * mean[:, None] * values
        mirrored = np.conj(spectra[:, -np.arange(size)][:, :, alone])
        spectra[:, :, alone] = (spectra[:, :, alone] + mirrored) / np.sqrt(
            2
        )  # of a real image, at full power
        images = images + scipy.fft.irfft2(spectra, s=(size, size))
    return images
