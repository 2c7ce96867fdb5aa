"""Training data: simulated projections of a map, new for every step or from a finite set."""

from __future__ import annotations

from dataclasses import asdict, replace

import keras
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.images import (
    add_noise,
    downsample,
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
    shift_phases,
)
from cryoem.particles.simulation import ImagingConditions, clean_deviation
from cryoem.projection import fourier
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
from cryoem.training.checkpoints import digest
from cryoem.validation import whole_number
from cryoem.volumes.density import DensityMap


class ProjectionStream(keras.utils.PyDataset):
    """Batches of (images, quaternions) that are simulated on demand; the same seed gives the same batches.

    Images are simulated at the size of the network: only the low frequencies of each slice are read, which equals
    projection at full size and Fourier cropping. With a contrast transfer, a defocus is drawn for each image, and the
    phases are flipped as by ``images.flip_phases``.

    Parameters
    ----------
    density_map : DensityMap
    imaging : ImagingConditions
        Size, noise, shifts, coverage and contrast transfer of the full images.
    network_image_size : int
        Side of the images of the network, at most that of the full images.
    batch_size, steps : int
        Images of a batch (at least 2) and batches of an epoch.
    distinct : int, optional
        Number of distinct images, each with its own noise and shift, from which all batches are drawn: a finite
        training set. By default images never repeat.
    with_shifts : bool
        Whether batches also contain the shifts, for an encoder ``with_shifts``.
    seed : int

    Attributes
    ----------
    epoch : int
        Current epoch. A batch depends on the seed, the epoch and its index alone.
    fingerprint : dict
        Everything that determines the batches, for checkpoints.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self,
        density_map: DensityMap,
        imaging: ImagingConditions,
        *,
        network_image_size: int,
        batch_size: int,
        steps: int,
        distinct: int | None = None,
        with_shifts: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if imaging.image_size is None:
            imaging = replace(imaging, image_size=max(density_map.data.shape))
        full, size = imaging.image_size, network_image_size
        if not 2 <= size <= full:
            raise ValueError(f"network_image_size must be between 2 and image_size {full}, got {size}")
        self.batch_size = whole_number(batch_size, name="batch_size", at_least=2)
        self._steps = whole_number(steps, name="steps", at_least=1)
        self.epoch, self.with_shifts = 0, with_shifts
        self._map, self._imaging, self._size, self._seed = density_map, imaging, size, seed
        self._shrink = size / full
        self._reads_slices = full >= max(density_map.data.shape)
        self._spectrum = fourier.transform(density_map.data)
        self._frequencies = plane_frequencies(size)  # cycles per pixel of the network's images
        self._deviation = clean_deviation(density_map, imaging)
        if distinct is not None:
            distinct = whole_number(distinct, name="distinct", at_least=self.batch_size)
        self.fingerprint = {
            "map": f"{density_map.data.shape} voxels of {density_map.voxel_size_angstrom:.4g} angstrom, "
            f"checksum {digest(density_map.data)}",
            **asdict(imaging),
            "ctf": None if imaging.ctf is None else repr(imaging.ctf),
            "network_image_size": size,
            "batch_size": self.batch_size,
            "distinct": distinct,
            "with_shifts": with_shifts,
            "seed": seed,
        }
        self._pool = None if distinct is None else self._draw_pool(distinct)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | dict[str, np.ndarray]]:
        """Return batch ``index`` of the current epoch.

        Returns
        -------
        images : (b, y, x) float32 array
        quaternions : (b, 4) float32 array, xyzw
            With shifts, a dictionary of these as ``features`` and of ``shifts_px`` (b, 2), in pixels of these images.
        """
        # a spawn key, so that no batch shares its random numbers with data drawn from the seed itself
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self.epoch, index)))
        if self._pool is None:
            drawn = self._draw(self.batch_size, rng)
        else:
            chosen = rng.choice(len(self._pool[0]), self.batch_size, replace=False)
            drawn = (array[chosen] for array in self._pool)
        images, quaternions, shifts = drawn
        return images, {"features": quaternions, "shifts_px": shifts} if self.with_shifts else quaternions

    def _draw_pool(self, distinct: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All images of a finite set as ``_draw`` returns them, drawn batch by batch to bound memory use."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0,)))
        sizes = [min(self.batch_size, distinct - start) for start in range(0, distinct, self.batch_size)]
        drawn = [self._draw(size, rng) for size in sizes]
        return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (n, y, x), quaternions (n, 4) and shifts (n, 2) in pixels of these images, all float32."""
        imaging = self._imaging
        # clean projections with the variance of the full images
        rotations = random_rotations(n, coverage=imaging.coverage, rng=rng)
        planes = self._slices(rotations) / np.float32(self._deviation)
        # shifts, in pixels of the network's images
        shifts = np.zeros((n, 2))
        if imaging.shift_limit_px:
            limit = imaging.shift_limit_px * self._shrink
            shifts = rng.triangular(-limit, 0, limit, shifts.shape)
            planes = planes * shift_phases(shifts, self._frequencies)
        # contrast transfer with flipped phases: its magnitude
        if imaging.ctf is not None:
            defocus = rng.uniform(*imaging.ctf.defocus_range_angstrom, n)
            pixel_size = self._map.voxel_size_angstrom / self._shrink
            transfer = np.abs(imaging.ctf.at(self._frequencies / pixel_size, defocus))
            planes = planes * transfer.astype(np.float32)
        # noise of the full images after Fourier cropping
        variance = imaging.noise_variance * self._shrink**2
        images = add_noise(images_from_half_planes(planes, self._size), variance, rng=rng)
        return images, rotations.as_quat().astype(np.float32), shifts.astype(np.float32)

    def _slices(self, rotations: Rotation) -> np.ndarray:
        """Half-planes (n, m) of clean images at the size of the network.

        Images smaller than the map are cropped at full size first.
        """
        if not self._reads_slices:
            full = project(self._map.data, rotations, image_size=self._imaging.image_size, backend="fourier")
            return half_planes_from_images(downsample(full, self._size))
        frequencies = self._frequencies * self._shrink
        slices = fourier.read_slices(self._spectrum, rotations.as_matrix(), frequencies)
        return slices * np.float32(self._shrink**2)
