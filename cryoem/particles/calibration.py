"""Calibration of measured images: the strength of signal and noise, given a map of the particle.

Programs scale images differently.  Here a noise-free image, as the microscope shows it, has variance 1 over the data
set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize

from cryoem.contrast import Optics, optics_of
from cryoem.images import (
    apply_ctf,
    flip_phases,
    half_planes_from_images,
    plane_frequencies,
    subtract_background,
)
from cryoem.particles.stack import ParticleStack
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
from cryoem.validation import square_images
from cryoem.volumes.density import DensityMap

MODEL_PROJECTIONS = 400


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
    frequency : (shells,) array
        Cycles per pixel.
    power, fitted : (shells,) array
        Mean power of the images, and the part that signal and noise explain, in the images' units.
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

    Returns
    -------
    Calibration

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
    """Mean power of images in shells of spatial frequency, without their mean.

    Returns
    -------
    frequency : (shells,) array
        Cycles per pixel.
    power : (shells,) array
        Power per pixel; that of white noise is its variance.
    """
    size = images.shape[1]
    radius = np.hypot(*plane_frequencies(size).T) * size
    shell = np.rint(radius).astype(int)
    kept = (shell >= 1) & (shell <= size // 2)
    power = np.mean(np.abs(half_planes_from_images(images)) ** 2, axis=0) / size**2
    counts = np.bincount(shell[kept])[1:]
    return np.arange(1, size // 2 + 1) / size, np.bincount(shell[kept], power[kept])[1:] / counts
