"""Measured images on the scale of simulated ones: how strong signal and noise are, by a map of the particle.

Programs scale images as they like.  Here a clean image, as the microscope shows it, has variance 1 over the data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize

from cryoem.checks import square_images
from cryoem.contrast import ContrastTransfer, defoci_of
from cryoem.imaging import apply_ctf, flip_phases, without_background
from cryoem.particles import ParticleStack
from cryoem.projectors import half_planes_from_images, plane_frequencies, project
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap

MODEL_PROJECTIONS = 400


@dataclass(frozen=True)
class Calibration:
    """What measured images are beside simulated ones: ``background + signal * simulated``.

    Attributes
    ----------
    signal : deviation of the images without their noise, in their own units.
    noise_variance : of their white noise, where clean images have 1: the signal-to-noise ratio is its inverse.
    agreement : correlation of the mean image with the map's mean image, the phases of the contrast transfer flipped.
    frequency : (shells,) cycles per pixel.
    power, fitted : (shells,) mean power of the images, and what signal and noise explain of it, in the images' units.
    """

    signal: float
    noise_variance: float
    agreement: float
    frequency: np.ndarray
    power: np.ndarray
    fitted: np.ndarray

    def scaled(self, stack: ParticleStack) -> ParticleStack:
        """The stack, its images without their background and in units of the signal."""
        return replace(stack, images=without_background(stack.images) / np.float32(self.signal))


def calibrate(
    images: np.ndarray,
    density_map: DensityMap,
    *,
    ctf: ContrastTransfer | None = None,
    defocus_angstrom: np.ndarray | None = None,
    coverage: str = "so3",
) -> Calibration:
    """Measure signal and white noise of images by the power spectrum that projections of a map have.

    Parameters
    ----------
    images : (n, y, y), in any unit; some hundred are enough.
    density_map : the particle or something like it, of the images' pixel size; only its shape matters.
    ctf, defocus_angstrom : contrast transfer of the images, as for ``imaging.apply_ctf``.
    coverage : of their orientations, see ``rotations.random_rotations``.

    Raises
    ------
    ValueError : images are not (n, y, y), finite and larger than 8 px; defoci are not one for each; the map projects
        to a constant; the images' power has nothing of the map's; or they show the particle as a negative of the map.

    Source: least squares on shell averages of power, each shell weighted by its own spread.
    """
    images = without_background(square_images(images, smallest_px=8))
    defoci = defoci_of(ctf, defocus_angstrom, count=len(images))
    size = images.shape[1]
    rotations = random_rotations(MODEL_PROJECTIONS, coverage=coverage, rng=0)
    model = project(density_map.data, rotations, image_size=size)
    pixel = density_map.voxel_size_angstrom
    of_model = None
    if ctf is not None:
        of_model = np.resize(defoci, (MODEL_PROJECTIONS, *defoci.shape[1:]))
        model = apply_ctf(model, ctf, of_model, pixel_size_angstrom=pixel)
    if model.std() == 0:
        raise ValueError("density_map must have structure, got one whose projections are constant")
    model = without_background(model / model.std(dtype=float))
    frequency, power = shell_power(images)
    if power.min() <= 0:
        raise ValueError("images must have power in every shell of frequency, got blank ones or smooth ones")
    _, signal_power = shell_power(model)
    parts = np.stack([signal_power, np.ones_like(power)], axis=1)
    (signal_variance, noise), _ = scipy.optimize.nnls(parts / power[:, None], np.ones_like(power))
    if signal_variance == 0:
        raise ValueError("images must show the particle of density_map, got none of its power in theirs")
    means = [
        flip_phases(stack, ctf, of_stack, pixel_size_angstrom=pixel).mean(axis=0).ravel()
        for stack, of_stack in ((images, defoci), (model, of_model))
    ]
    agreement = float(np.corrcoef(*means)[0, 1])
    if agreement < 0:
        raise ValueError(
            "images must show the particle as density_map does, bright where it is dense once the contrast transfer is "
            f"taken off, but their mean correlates with the map's by {agreement:.2f}: are they inverted?"
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
    """Mean power of images (n, y, y) in shells of frequency: (shells,) cycles per pixel, and (shells,) power per pixel,
    in which white noise has its variance; the mean of images is left out.
    """
    size = images.shape[1]
    radius = np.hypot(*plane_frequencies(size).T) * size
    shell = np.rint(radius).astype(int)
    kept = (shell >= 1) & (shell <= size // 2)
    power = np.mean(np.abs(half_planes_from_images(images)) ** 2, axis=0) / size**2
    counts = np.bincount(shell[kept])[1:]
    return np.arange(1, size // 2 + 1) / size, np.bincount(shell[kept], power[kept])[1:] / counts
