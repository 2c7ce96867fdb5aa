"""Particle images in memory, with their optics and poses, and the calibration of measured images.

Programs scale images differently. Here a noise-free image, as the microscope shows it, has variance 1 over the data
set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, optics_of
from cryoem.images import (
    apply_ctf,
    flip_phases,
    half_planes_from_images,
    plane_frequencies,
    subtract_background,
)
from cryoem.projection.projectors import project
from cryoem.rotations import Poses, as_poses, random_rotations
from cryoem.validation import square_images
from cryoem.volumes.density import DensityMap

MODEL_PROJECTIONS = 400


class KnownParticles:
    """Base of classes with ``optics`` and ``poses``: properties for the contents of both."""

    optics: Optics
    poses: Poses | None
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return self.shape[1]

    @property
    def pixel_size_angstrom(self) -> float:
        """Side of a pixel."""
        return self.optics.pixel_size_angstrom

    @property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the contrast transfer, None for images without one."""
        return self.optics.ctf

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """(n,) or (n, 3) defocus, None for images without a contrast transfer."""
        return self.optics.defocus_angstrom

    @property
    def rotations(self) -> Rotation | None:
        """Orientations, None if unknown."""
        return None if self.poses is None else self.poses.rotations

    @property
    def shifts_px(self) -> np.ndarray | None:
        """(n, 2) displacements (x, y), None if unknown."""
        return None if self.poses is None else self.poses.shifts_px


@dataclass(frozen=True, eq=False)
class ParticleStack(KnownParticles):
    """Particle images in memory; a stack can be passed wherever images are expected, and indexing selects images.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Kept as float32; the origin is pixel ``y // 2``.
    optics : Optics
        Pixel size, and the contrast transfer and defocus of each image if there is one.
    poses : Poses, optional
        Orientation and shift of each particle; None if unknown.
    symmetry : str
        Point group of the particle.

    Raises
    ------
    ValueError
        If images are not (n, y, y), empty or not finite, or something is not one for each image.
    """

    images: np.ndarray
    optics: Optics
    poses: Poses | None = None
    symmetry: str = "C1"

    def __post_init__(self):
        images = square_images(self.images)
        optics_of(self.optics, None, count=len(images))
        if self.poses is not None:
            object.__setattr__(self, "poses", as_poses(self.poses, count=len(images)))
        object.__setattr__(self, "images", images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x)"""
        return self.images.shape

    def __getitem__(self, index: slice | np.ndarray) -> ParticleStack:
        """Select some of the particles."""
        poses = None if self.poses is None else self.poses[index]
        return ParticleStack(self.images[index], self.optics[index], poses, self.symmetry)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.images, dtype=dtype, copy=copy)


# --- calibration, given a map of the particle


@dataclass(frozen=True)
class Calibration:
    """Measured images as ``background + signal * simulated``.

    Attributes
    ----------
    signal : float
        Standard deviation of the images without their noise, in their own units.
    noise_variance : float
        Variance of the white noise where noise-free images have 1: the inverse of the signal-to-noise ratio.
    agreement : float
        Correlation of the mean image with the map's mean image, both phase-flipped.
    frequency, power, fitted : (shells,) array
        Cycles per pixel, mean power of the images, and the part of it that signal and noise explain.
    """

    signal: float
    noise_variance: float
    agreement: float
    frequency: np.ndarray
    power: np.ndarray
    fitted: np.ndarray

    def scaled(self, stack: ParticleStack) -> ParticleStack:
        """Return the stack with its background subtracted and in units of the signal."""
        return replace(stack, images=subtract_background(stack.images) / np.float32(self.signal))


def calibrate(
    images: np.ndarray, density_map: DensityMap, *, optics: Optics | None = None, coverage: str = "so3"
) -> Calibration:
    """Measure signal and white noise of images from the power spectrum of a map's projections.

    Parameters
    ----------
    images : (n, y, y) array
        Images in any unit; a few hundred are enough.
    density_map : DensityMap
        The particle or a similar one, with the images' pixel size; only its shape matters.
    optics : Optics, optional
        Contrast transfer of the images; none by default.
    coverage : str
        Distribution of their orientations, see ``rotations.random_rotations``.

    Raises
    ------
    ValueError
        If images are not (n, y, y), finite and at least 8 px; there is not one defocus for each; the map projects to a
        constant; the images contain no signal of the map; or they have inverted contrast.

    Notes
    -----
    Least squares on shell averages of power, each shell weighted by its own spread.
    """
    images = subtract_background(square_images(images, smallest_px=8))
    pixel = density_map.voxel_size_angstrom
    optics = Optics(pixel) if optics is None else optics_of(optics, None, count=len(images))
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
        raise ValueError("images must have power at every spatial frequency, got blank or smooth images")
    _, signal_power = shell_power(model)
    parts = np.stack([signal_power, np.ones_like(power)], axis=1)
    (signal_variance, noise), _ = scipy.optimize.nnls(parts / power[:, None], np.ones_like(power))
    if signal_variance == 0:
        raise ValueError(
            "no signal of density_map was found in the images; check that they show this particle"
        )
    means = (flip_phases(*pair).mean(axis=0).ravel() for pair in ((images, optics), (model, model_optics)))
    agreement = float(np.corrcoef(*means)[0, 1])
    if agreement < 0:
        raise ValueError(
            "the images have inverted contrast: after phase flipping, their mean correlates with that of density_map "
            f"by {agreement:.2f}; invert the images"
        )
    return Calibration(
        signal=float(np.sqrt(signal_variance)),
        noise_variance=float(noise / signal_variance),
        agreement=agreement,
        frequency=frequency,
        power=power,
        fitted=parts @ [signal_variance, noise],
    )


def shell_power(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies (shells,) in cycles per pixel, and the images' mean power per pixel (shells,) at each.

    The images' mean does not count; the power of white noise is its variance.
    """
    size = images.shape[1]
    radius = np.hypot(*plane_frequencies(size).T) * size
    shell = np.rint(radius).astype(int)
    kept = (shell >= 1) & (shell <= size // 2)
    power = np.mean(np.abs(half_planes_from_images(images)) ** 2, axis=0) / size**2
    counts = np.bincount(shell[kept])[1:]
    return np.arange(1, size // 2 + 1) / size, np.bincount(shell[kept], power[kept])[1:] / counts
