"""Particle images with their optics and poses, in memory or read on demand, and the calibration of measured images.

Programs scale images differently. In this package, noise-free images, including the effect of the CTF, have variance 1
over the data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, known_optics, optics_of
from cryoem.images import (
    apply_ctf,
    flip_phases,
    half_planes_from_images,
    plane_frequencies,
    subtract_background,
)
from cryoem.projection.projectors import project
from cryoem.rotations import Poses, as_poses, random_rotations
from cryoem.validation import square_images, unread_images, whole_number
from cryoem.volumes.density import DensityMap

NOISE_FREQUENCY = 0.4  # in cycles per pixel, above which images without a map are taken as noise
LEAST_SIGNAL = 2e-3  # variance of the signal, relative to that of the noise, that can be found without a map
MODEL_PROJECTIONS = 400
MOST_CALIBRATED = 2000  # images
CALIBRATED_PIXELS = 2**26  # of all images of a calibration


class KnownParticles:
    """Base class for particles with ``optics`` and ``poses``, whose contents are available as properties."""

    optics: Optics
    poses: Poses | None
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def image_size(self) -> int:
        """Side length of the images in pixels."""
        return self.shape[1]

    @property
    def pixel_size_angstrom(self) -> float:
        """Side length of a pixel in angstrom."""
        return self.optics.pixel_size_angstrom

    @property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the CTF. None if the images have no CTF."""
        return self.optics.ctf

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """Defocus of each image in angstrom, (n,) or (n, 3). None if the images have no CTF."""
        return self.optics.defocus_angstrom

    @property
    def rotations(self) -> Rotation | None:
        """Orientations of the particles. None if unknown."""
        return None if self.poses is None else self.poses.rotations

    @property
    def shifts_px(self) -> np.ndarray | None:
        """Displacements (x, y) of the particles in pixels, (n, 2). None if unknown."""
        return None if self.poses is None else self.poses.shifts_px


@dataclass(frozen=True, eq=False)
class ParticleStack(KnownParticles):
    """Particle images in memory.

    A stack can be passed wherever images are expected. Indexing selects images.

    Parameters
    ----------
    images : array
        (n, y, x) images with y == x, stored as float32. The origin is at pixel ``y // 2`` along both axes.
    optics : Optics
        Pixel size and, if the images have a CTF, its constants and the defocus of each image.
    poses : Poses, optional
        Orientation and shift of each particle. Default: unknown.
    symmetry : str
        Point group of the particle. Default: C1.
    junk : (n,) bool array, optional
        Which images do not show the particle. Default: unknown.

    Raises
    ------
    ValueError
        The images are empty, not finite or not (n, y, y), or the number of defocus values or poses differs from the
        number of images.
    """

    images: np.ndarray
    optics: Optics
    poses: Poses | None = None
    symmetry: str = "C1"
    junk: np.ndarray | None = None

    def __post_init__(self):
        images = square_images(self.images)
        optics_of(self.optics, None, count=len(images))
        if self.poses is not None:
            object.__setattr__(self, "poses", as_poses(self.poses, count=len(images)))
        object.__setattr__(self, "images", images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images, (n, y, x)."""
        return self.images.shape

    def __getitem__(self, index: slice | np.ndarray) -> ParticleStack:
        """Select particles."""
        poses, junk = (None if each is None else each[index] for each in (self.poses, self.junk))
        return ParticleStack(self.images[index], self.optics[index], poses, self.symmetry, junk)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.images, dtype=dtype, copy=copy)


@dataclass(frozen=True, eq=False)
class StackOnDemand(KnownParticles):
    """Particle images that are read, and scaled, when they are used.

    It can be passed wherever images are expected. Indexing selects images without reading them, and ``numpy.asarray``
    reads them as (n, y, x) float32.

    Parameters
    ----------
    source : array-like
        Images (m, y, x), y == x: a ``ParticleFile``, or an array that is mapped from a file.
    rows : (n,) array
        Zero-based indices of the particles in ``source``.
    optics : Optics
        Optics of the n images.
    poses : Poses, optional
        Orientation and shift of each of the n particles. Default: unknown.
    symmetry : str
        Point group of the particle. Default: C1.
    signal : float, optional
        Number by which the images are divided, after the background of each is subtracted. Default: the images are not
        scaled.
    """

    source: object
    rows: np.ndarray
    optics: Optics
    poses: Poses | None = None
    symmetry: str = "C1"
    signal: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images, (n, y, x)."""
        return (len(self.rows), *self.source.shape[1:])

    def __getitem__(self, index: slice | np.ndarray) -> StackOnDemand:
        """Select particles without reading their images."""
        poses = None if self.poses is None else self.poses[index]
        return replace(self, rows=self.rows[index], optics=self.optics[index], poses=poses)

    def __getstate__(self) -> dict:
        """Return what is sent to another process: only the selected images."""
        return {**self.__dict__, "source": self.source[self.rows], "rows": np.arange(len(self))}

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        images = np.asarray(self.source[self.rows], np.float32)
        if self.signal is not None:
            images = subtract_background(images)
            images /= np.float32(self.signal)
        return images if dtype is None else images.astype(dtype, copy=False)


# --- calibration against a map of the particle


@dataclass(frozen=True)
class Calibration:
    """Model of measured images as ``background + signal * simulated``.

    Attributes
    ----------
    signal : float
        Standard deviation of the noise-free images, in the units of the measured images.
    noise_variance : float
        Variance of the white noise, relative to noise-free images of variance 1. This is the inverse of the
        signal-to-noise ratio.
    agreement : float
        Correlation between the mean image and the mean projection of the map, after phase flipping.
    frequency : array
        (shells,) spatial frequency of each shell in cycles per pixel.
    power : array
        (shells,) mean power of the images in each shell.
    fitted : array
        (shells,) power of the fitted signal and noise in each shell.
    """

    signal: float
    noise_variance: float
    agreement: float
    frequency: np.ndarray
    power: np.ndarray
    fitted: np.ndarray

    def scaled(self, stack: StackOnDemand) -> StackOnDemand:
        """Return the stack with the background of its images subtracted, and the images divided by ``signal``."""
        return replace(stack, signal=self.signal)


def calibrate(
    images,
    density_map: DensityMap | None = None,
    *,
    optics: Optics | None = None,
    coverage: str = "so3",
    rng: np.random.Generator | int | None = 0,
) -> Calibration:
    """Estimate the signal and the white noise in measured images, from a density map if there is one.

    The power spectrum of the images is fitted by the scaled power spectrum of projections of the map plus a constant
    for white noise. Without a map, the power at the highest frequencies is assumed to be noise alone.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        Images in any units. At most ``MOST_CALIBRATED`` of them, selected at random, are used, and fewer if they have
        more than ``CALIBRATED_PIXELS`` pixels; of images in files, only these are read.
    density_map : DensityMap, optional
        Map of the particle or of a similar particle, with the pixel size of the images. The scale of the density does
        not matter. Default: no map; the agreement is then NaN, and the fitted power is that of the noise.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available, otherwise no CTF.
    coverage : str
        Distribution of the orientations; see ``cryoem.rotations.random_rotations``. Default: so3.
    rng : Generator or int, optional
        Random number generator or seed for the selection. Default: 0.

    Returns
    -------
    Calibration
        Signal, noise and fitted power spectrum.

    Raises
    ------
    ValueError
        The images are not finite, not (n, y, y) or smaller than 8 px; they have no power at some spatial frequencies,
        because they are blank or smoothed; the number of defocus values differs from the number of images; the
        projections of the map are constant; no signal from the map is found in the images; or the images have inverted
        contrast.

    Notes
    -----
    The signal and the noise are fitted by non-negative least squares to the mean power of the images in each shell. The
    residual of each shell is divided by this mean power.
    """
    optics = known_optics(images, optics)
    images = unread_images(images, smallest_px=8)
    n = len(images)
    optics = None if optics is None else optics_of(optics, None, count=n)
    most = min(MOST_CALIBRATED, max(1, CALIBRATED_PIXELS // images.shape[1] ** 2))
    if n > most:
        chosen = np.sort(np.random.default_rng(rng).permutation(n)[:most])
        images, optics = images[chosen], None if optics is None else optics[chosen]
    images = subtract_background(square_images(images))
    if density_map is None:
        return _calibrate_without_map(images)
    optics = Optics(density_map.voxel_size_angstrom) if optics is None else optics
    size = images.shape[1]
    rotations = random_rotations(MODEL_PROJECTIONS, coverage=coverage, rng=0)
    model = project(density_map.data, rotations, image_size=size)
    model_optics = optics
    if optics.ctf is not None:
        model_optics = optics[np.arange(MODEL_PROJECTIONS) % len(images)]
        model = apply_ctf(model, model_optics)
    if model.std() == 0:
        raise ValueError("density_map must not be constant; its projections have no variance")
    model = subtract_background(model / model.std(dtype=float))
    frequency, power = shell_power(images)
    if power.min() <= 0:
        raise ValueError("the images are blank or smoothed: they have no power at some spatial frequencies")
    _, signal_power = shell_power(model)
    parts = np.stack([signal_power, np.ones_like(power)], axis=1)
    (signal_variance, noise), _ = scipy.optimize.nnls(parts / power[:, None], np.ones_like(power))
    if signal_variance == 0:
        raise ValueError("no signal from the map was found in the images; check that they show this particle")
    means = (flip_phases(*pair).mean(axis=0).ravel() for pair in ((images, optics), (model, model_optics)))
    agreement = float(np.corrcoef(*means)[0, 1])
    if agreement < 0:
        raise ValueError(
            "the images have inverted contrast: after phase flipping, the correlation between the mean image and the "
            f"mean projection of the map is {agreement:.2f}; invert the images"
        )
    return Calibration(
        signal=float(np.sqrt(signal_variance)),
        noise_variance=float(noise / signal_variance),
        agreement=agreement,
        frequency=frequency,
        power=power,
        fitted=parts @ [signal_variance, noise],
    )


def _calibrate_without_map(images: np.ndarray) -> Calibration:
    frequency, power = shell_power(images)
    noise = float(power[frequency > NOISE_FREQUENCY].mean())
    signal_variance = float(images.var(dtype=float)) - noise
    if noise <= 0:
        raise ValueError("the images are blank or smoothed: they have no power at high spatial frequencies")
    if signal_variance < LEAST_SIGNAL * noise:
        raise ValueError(
            "no signal was found in the images: their power is not higher at low than at high spatial frequencies"
        )
    signal, fitted = np.sqrt(signal_variance), np.full_like(power, noise)
    return Calibration(float(signal), noise / signal_variance, float("nan"), frequency, power, fitted)


def shell_power(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spatial frequency of each Fourier shell, and the mean power per pixel of the images in that shell.

    Both arrays have shape (shells,), and frequencies are in cycles per pixel. The zero frequency is excluded. For white
    noise, the power equals the variance.
    """
    size = images.shape[1]
    radius = np.hypot(*plane_frequencies(size).T) * size
    shell = np.rint(radius).astype(int)
    kept = (shell >= 1) & (shell <= size // 2)
    power = np.mean(np.square(np.abs(half_planes_from_images(images)), dtype=float), axis=0) / size**2
    counts = np.bincount(shell[kept])[1:]
    return np.arange(1, size // 2 + 1) / size, np.bincount(shell[kept], power[kept])[1:] / counts


def fit_ctf_power(
    images: np.ndarray, optics: Optics, *, max_images: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the power spectrum of images with their stated CTF, to show whether its zeros are where they should be.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        Images, in any units.
    optics : Optics
        Optics of the n images, with a CTF.
    max_images : int
        Maximum number of images to use: those whose defocus is nearest the median, because a mean over different
        defoci has no zeros. Of images in files, only these are read. Default: 60.

    Returns
    -------
    frequency, power, fitted : (shells,) array
        Spatial frequency of each shell in cycles per pixel, mean power of the images, and the fitted power: the mean
        squared CTF times a smooth, non-negative spectrum of the signal, plus a smooth, non-negative background.

    Raises
    ------
    ValueError
        The images are not (n, y, y) or not finite, ``optics`` describes a different number of images, there is no CTF,
        or ``max_images`` is below 1.
    """
    images = unread_images(images, smallest_px=8)
    optics = optics_of(optics, None, count=len(images))
    if optics.ctf is None:
        raise ValueError("optics must include a CTF, got ctf=None")
    max_images = whole_number(max_images, name="max_images", at_least=1)
    defocus = optics.isotropic().defocus_angstrom
    near = np.sort(np.argsort(np.abs(defocus - np.median(defocus)), kind="stable")[:max_images])
    images, optics = square_images(images[near]), optics[near]
    frequency, power = shell_power(subtract_background(images))
    along_x = np.stack([frequency, np.zeros_like(frequency)], axis=1)
    squared = np.mean(optics.isotropic().transfers(along_x) ** 2, axis=0)
    # Gaussians of several widths are a basis of smooth, falling spectra
    falling = np.exp(-((frequency / np.array([[0.04], [0.08], [0.16], [0.32], [10.0]])) ** 2))
    parts = np.concatenate([squared * falling, falling]).T
    scale = np.maximum(power, power.max() * 1e-12)
    weights, _ = scipy.optimize.nnls(parts / scale[:, None], power / scale)
    return frequency, power, parts @ weights
