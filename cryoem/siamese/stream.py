"""Training data: fresh projections of a map, with fresh noise and shifts, for every step, or a set that repeats."""

from __future__ import annotations

import keras
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checkpoints import digest
from cryoem.checks import not_negative, whole_number
from cryoem.contrast import ContrastTransfer
from cryoem.imaging import add_noise, clean_deviation, downsample
from cryoem.projectors import (
    fourier,
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
    project,
)
from cryoem.projectors.matching import displaced
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap


class ProjectionStream(keras.utils.PyDataset):
    """Batches of (images, quaternions) simulated on the fly; the same seed gives the same batches.

    Images are made at the network's size straight away: only the low frequencies of each slice are read, which equals
    projecting at ``image_size`` and Fourier-cropping.

    Parameters
    ----------
    density_map : the particle.
    image_size : side of the full images, pixels of one voxel, that the noise and the shifts are meant for.
    network_image_size : side of the images given to the network, at most ``image_size``.
    batch_size, steps : images of a batch, batches of an epoch.
    noise_variance, shift_limit_px, coverage : as in ``imaging.simulate``.
    distinct : train on so many images only, each with its own noise and shift, drawn again and again: what a finite
        training set costs.  None, the default: images never repeat.
    ctf : contrast transfer that images are seen through, with a defocus drawn for each, their phases flipped as
        ``imaging.flip_phases`` does; none by default.
    with_shifts : whether batches also hold the shifts, for an encoder that learns them.
    seed : of all batches.

    Its ``made_from`` says all of this in numbers and words, for ``checkpoints.restore``.

    Raises
    ------
    ValueError : the network's images are larger than the full ones, a batch has fewer than 2 images, an epoch
        no batch, noise or shifts are negative, or there are fewer distinct images than a batch has.
    """

    def __init__(
        self,
        density_map: DensityMap,
        *,
        image_size: int,
        network_image_size: int,
        batch_size: int,
        steps: int,
        noise_variance: float = 0.0,
        shift_limit_px: float = 0.0,
        coverage: str = "so3",
        distinct: int | None = None,
        ctf: ContrastTransfer | None = None,
        with_shifts: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if not 2 <= network_image_size <= image_size:
            raise ValueError(
                f"network_image_size must be between 2 and image_size {image_size}, got {network_image_size}"
            )
        batch_size = whole_number(batch_size, name="batch_size", at_least=2)
        steps = whole_number(steps, name="steps", at_least=1)
        not_negative(noise_variance, name="noise_variance")
        not_negative(shift_limit_px, name="shift_limit_px")
        self.epoch = 0
        self.made_from = {
            "map": f"{density_map.data.shape} voxels of {density_map.voxel_size_angstrom:.4g} angstrom, "
            f"checksum {digest(density_map.data)}",
            "image_size": image_size,
            "network_image_size": network_image_size,
            "batch_size": batch_size,
            "noise_variance": noise_variance,
            "shift_limit_px": shift_limit_px,
            "coverage": coverage,
            "ctf": None if ctf is None else repr(ctf),
            "with_shifts": with_shifts,
            "seed": seed,
        }
        self._batch_size, self._steps, self._seed, self._coverage = batch_size, steps, seed, coverage
        self._image_size, self._size = image_size, network_image_size
        self._ctf, self._with_shifts = ctf, with_shifts
        shrink = network_image_size / image_size
        self._noise_variance = noise_variance * shrink**2
        self._shift_limit_px = shift_limit_px * shrink
        self._map = density_map
        self._reads_slices = image_size >= max(density_map.data.shape)
        self._spectrum = fourier.transform(density_map.data)
        self._shrink = shrink
        self._frequencies = plane_frequencies(network_image_size)  # cycles per pixel of the network's images
        self._frequencies_per_angstrom = self._frequencies * (shrink / density_map.voxel_size_angstrom)
        self._deviation = clean_deviation(density_map, image_size=image_size, coverage=coverage, ctf=ctf)
        self._pool = None
        if distinct is not None:
            distinct = whole_number(distinct, name="distinct", at_least=batch_size)
            self.made_from["distinct"] = distinct
            self._pool = self._draw_pool(distinct)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | dict[str, np.ndarray]]:
        """Batch ``index`` of the current epoch: images (b, y, x) float32 and quaternions (b, 4) float32 xyzw;
        with shifts, a dict of these as ``features`` and of ``shifts_px`` (b, 2) in pixels of the network's images.
        """
        # a spawn key, so that no batch shares its random numbers with data drawn from the seed itself
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self.epoch, index)))
        if self._pool is None:
            return self._labelled(*self._draw(self._batch_size, rng))
        chosen = rng.choice(len(self._pool[0]), self._batch_size, replace=False)
        return self._labelled(*(array[chosen] for array in self._pool))

    def _draw_pool(self, distinct: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All of a finite set as ``_draw`` has it, batch by batch: projecting takes memory."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0,)))
        sizes = [min(self._batch_size, distinct - at) for at in range(0, distinct, self._batch_size)]
        drawn = [self._draw(size, rng) for size in sizes]
        return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))

    def _labelled(self, images: np.ndarray, quaternions: np.ndarray, shifts: np.ndarray):
        return images, {"features": quaternions, "shifts_px": shifts} if self._with_shifts else quaternions

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (n, y, x), quaternions (n, 4) and shifts (n, 2) in pixels of these images, all float32."""
        rotations = random_rotations(n, coverage=self._coverage, rng=rng)
        planes = self._slices(rotations) / np.float32(self._deviation)
        shifts = np.zeros((n, 2))
        if self._shift_limit_px:
            limit = self._shift_limit_px
            shifts = rng.triangular(-limit, 0, limit, shifts.shape)
            planes = displaced(planes, self._frequencies, shifts)
        if self._ctf is not None:
            defoci = rng.uniform(*self._ctf.defocus_angstrom, n)
            transfer = np.abs(self._ctf.at(self._frequencies_per_angstrom, defoci))
            planes = planes * transfer.astype(np.float32)
        images = add_noise(images_from_half_planes(planes, self._size), self._noise_variance, rng=rng)
        return images, rotations.as_quat().astype(np.float32), shifts.astype(np.float32)

    def _slices(self, rotations: Rotation) -> np.ndarray:
        """Transforms of clean images at the network's size, as half-planes; images smaller than the map are cropped
        before they are coarsened.
        """
        if not self._reads_slices:
            full = project(self._map.data, rotations, image_size=self._image_size, backend="fourier")
            return half_planes_from_images(downsample(full, self._size))
        frequencies = self._frequencies * self._shrink
        slices = fourier.read_slices(self._spectrum, rotations.as_matrix(), frequencies)
        return slices * np.float32(self._shrink**2)
