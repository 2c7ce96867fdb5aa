"""Train an encoder on simulated projections so that feature distances match distances between orientations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.distances.encoders import head_of
from cryoem.distances.losses import pair_error, pair_loss
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.images import (
    add_noise,
    correct_images,
    downsample,
    half_planes_from_images,
    images_from_half_planes,
    plane_frequencies,
    shift_phases,
)
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import check_simulation, clean_deviation
from cryoem.particles.stack import KnownParticles
from cryoem.projection import fourier
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
from cryoem.training.backend import keras
from cryoem.training.compilation import (
    TrainingSchedule,
    check_divisible,
    compile_network,
    global_batch_loss,
    replica_count,
)
from cryoem.training.fitting import digest, fit
from cryoem.validation import shifts_of, square_images, whole_number
from cryoem.volumes.density import DensityMap

SHIFT_WEIGHT = 0.04  # weight of the squared error of shifts (px^2) relative to the loss of the features
REMAINING_SHIFT_PX = 0.5  # standard deviation of shifts after centring, in pixels of the full-size images
LARGEST_VALIDATION_BATCH = 128


class ProjectionStream(keras.utils.PyDataset):
    """Batches of simulated (images, quaternions), generated on demand; the same seed gives the same batches.

    Images are simulated at the image size of the network. Only the low frequencies of each slice are computed, which is
    equivalent to projection at full size followed by Fourier cropping. If ``imaging`` includes a CTF, a defocus is
    drawn for each image, and the image is phase-flipped as in ``images.flip_phases``.

    Parameters
    ----------
    density_map : DensityMap
        Map to project.
    imaging : ImagingConditions
        Size, noise, shifts, coverage and CTF of the full-size images.
    network_image_size : int
        Image size of the network in pixels, at most the size of the full-size images.
    batch_size, steps : int
        Number of images per batch (at least 2) and number of batches per epoch.
    distinct : int, optional
        Number of images in a finite training set from which all batches are drawn. The noise and shift of an image do
        not change when it is drawn again. Default: every image is newly simulated.
    with_shifts : bool
        Whether batches also contain the shifts, as required to train an encoder that estimates shifts. In that case,
        half of the images in each batch are almost centred, like those from which distances are estimated. Default:
        False.
    seed : int
        Seed for all random numbers. Default: 0.

    Attributes
    ----------
    epoch : int
        Current epoch. A batch depends only on the seed, the epoch and its index.
    fingerprint : dict
        Everything that determines the batches, to be stored with checkpoints.

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
            raise ValueError(
                f"network_image_size must be between 2 and {full}, the full image size, got {size}"
            )
        self.batch_size = whole_number(batch_size, name="batch_size", at_least=2)
        self._steps = whole_number(steps, name="steps", at_least=1)
        check_simulation(self.batch_size, full)
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
        quaternions : (b, 4) float32 array
            Orientations in xyzw order. If ``with_shifts`` is True, a dictionary with the quaternions as ``features``
            and, as ``shifts_px``, the (b, 2) shifts in pixels of these images.
        """
        # use a spawn key, so that no batch shares random numbers with data drawn from the seed itself
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self.epoch, index)))
        if self._pool is None:
            drawn = self._draw(self.batch_size, rng)
        else:
            chosen = rng.choice(len(self._pool[0]), self.batch_size, replace=False)
            drawn = (array[chosen] for array in self._pool)
        images, quaternions, shifts = drawn
        return images, {"features": quaternions, "shifts_px": shifts} if self.with_shifts else quaternions

    def _draw_pool(self, distinct: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the images of a finite training set, as in ``_draw``, batch by batch to bound memory use."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0,)))
        sizes = [min(self.batch_size, distinct - start) for start in range(0, distinct, self.batch_size)]
        drawn = [self._draw(size, rng) for size in sizes]
        return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw images (n, y, x), quaternions (n, 4) and shifts (n, 2) in pixels of these images, all float32."""
        imaging = self._imaging
        # clean projections, normalised like the full-size images
        rotations = random_rotations(n, coverage=imaging.coverage, rng=rng)
        planes = self._slices(rotations) / np.float32(self._deviation)
        # shifts in pixels of the network's images
        shifts = np.zeros((n, 2))
        if imaging.shift_limit_px:
            limit = imaging.shift_limit_px * self._shrink
            shifts = rng.triangular(-limit, 0, limit, shifts.shape)
            if self.with_shifts:
                # distances are estimated after centring, so half of the images are almost centred
                remaining = min(limit / 4, REMAINING_SHIFT_PX * self._shrink)
                shifts[: n // 2] = rng.normal(0, remaining, (n // 2, 2))
            planes = planes * shift_phases(shifts, self._frequencies)
        # CTF with flipped phases, which is its magnitude
        if imaging.ctf is not None:
            defocus = rng.uniform(*imaging.ctf.defocus_range_angstrom, n)
            pixel_size = self._map.voxel_size_angstrom / self._shrink
            transfer = np.abs(imaging.ctf.at(self._frequencies / pixel_size, defocus))
            planes = planes * transfer.astype(np.float32)
        # noise of the full-size images after Fourier cropping
        variance = imaging.noise_variance * self._shrink**2
        images = add_noise(images_from_half_planes(planes, self._size), variance, rng=rng)
        return images, rotations.as_quat().astype(np.float32), shifts.astype(np.float32)

    def _slices(self, rotations: Rotation) -> np.ndarray:
        """Return half-planes (n, m) of clean images at the size that the network takes.

        If the full-size images are smaller than the map, the projections are cropped at full size first.
        """
        if not self._reads_slices:
            full = project(self._map.data, rotations, image_size=self._imaging.image_size, backend="fourier")
            return half_planes_from_images(downsample(full, self._size))
        frequencies = self._frequencies * self._shrink
        slices = fourier.read_slices(self._spectrum, rotations.as_matrix(), frequencies)
        return slices * np.float32(self._shrink**2)


def train(
    encoder: TrainedEncoder,
    stream: ProjectionStream,
    *,
    validation: KnownParticles | tuple[np.ndarray, ...],
    schedule: TrainingSchedule,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train an encoder on all pairs of images in each batch.

    If the encoder was built in the scope of a ``tf.distribute.MirroredStrategy``, training uses the devices of that
    strategy and produces the same result as on one device.

    Parameters
    ----------
    encoder : TrainedEncoder
        Encoder to train in place, with the feature distance and symmetry of its settings.
    stream : ProjectionStream
        Training images.
    validation : particles or tuple of arrays
        Validation set, which should not contain any training image. Either particles with known poses, whose images
        ``train`` phase-flips and Fourier-crops to the image size of the encoder; or a tuple of (n, y, x) images of that
        size, (n, 4) quaternions and, if the encoder estimates shifts, (n, 2) shifts in pixels of these images.
    schedule : TrainingSchedule
        Number of epochs, learning rate and stopping criteria.
    checkpoints, callbacks, verbose
        Same as for ``training.fit``.

    Returns
    -------
    dict of str to list of float
        One value per epoch for each loss and metric, as in ``training.fit``. The metrics ``distance_error_rad`` and
        ``val_distance_error_rad`` are the mean absolute errors of the distances between images in the same batch.

    Raises
    ------
    ValueError
        If the encoder, the stream and the validation set do not match; if the batch size or the number of validation
        images is not divisible by the number of replicas; or if the checkpoints belong to a different training run.
    OSError
        If the checkpoints cannot be written.
    """
    model, settings = encoder.model, encoder.settings
    if stream.with_shifts != settings.with_shifts:
        raise ValueError(
            f"with_shifts must be the same for the stream and the encoder, "
            f"got {stream.with_shifts} and {settings.with_shifts}"
        )
    images, labels = _validation_data(validation, settings)
    check_divisible(len(images), model, name="the number of validation images")
    check_divisible(stream.batch_size, model, name="batch_size")
    compile_network(model, schedule=schedule, steps_per_epoch=len(stream), **_losses(model, settings))
    return fit(
        model,
        stream,
        (images, labels),
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint={
            "feature_distance": settings.feature_distance,
            "symmetry": settings.symmetry,
            "validation_images": len(images),
            **stream.fingerprint,
        },
        callbacks=callbacks,
        verbose=verbose,
        validation_batch_size=_validation_batch_size(len(images), replica_count(model)),
    )


def _losses(model: keras.Model, settings: EncoderSettings) -> dict:
    """Return losses and metrics as arguments of ``model.compile``."""
    kind = (settings.feature_distance, settings.symmetry)
    head = head_of(model, settings.feature_distance)
    loss = global_batch_loss(pair_loss(*kind, head=head))
    metric = global_batch_loss(pair_error(*kind, head=head), is_metric=True)
    if not settings.with_shifts:
        return {"loss": loss, "metrics": [metric]}
    return {
        "loss": {"features": loss, "shifts_px": "mse"},
        "loss_weights": {"features": 1.0, "shifts_px": SHIFT_WEIGHT},
        "metrics": {"features": metric},
    }


def _validation_batch_size(n: int, replicas: int) -> int:
    """Return the largest batch size that replicas can share equally and that leaves no single image.

    A last batch with only one image would contain no pair.
    """
    sizes = range(min(LARGEST_VALIDATION_BATCH, n) // replicas * replicas, 1, -replicas)
    return next(size for size in sizes if n % size != 1)


def _validation_data(validation: KnownParticles | tuple[np.ndarray, ...], settings: EncoderSettings):
    """Return images and labels as arguments of ``model.fit``."""
    if not isinstance(validation, tuple):
        if validation.poses is None:
            raise ValueError("validation particles must have known poses, got particles without poses")
        scale = settings.image_size / validation.image_size
        images = correct_images(np.asarray(validation), optics=validation.optics, size=settings.image_size)
        arrays = (images, validation.poses.rotations.as_quat(), validation.poses.shifts_px * scale)
        validation = arrays[: 2 + settings.with_shifts]
    if len(validation) != 2 + settings.with_shifts:
        names = "images, quaternions and shifts" if settings.with_shifts else "images and quaternions"
        raise ValueError(f"validation must contain {names} for this encoder, got {len(validation)} arrays")
    images = square_images(validation[0], name="validation images", at_least=2)
    if images.shape[1] != settings.image_size:
        expected = (settings.image_size, settings.image_size)
        raise ValueError(
            f"validation images must have shape {expected} for this encoder, got {images.shape[1:]}"
        )
    quaternions = np.asarray(validation[1])
    if quaternions.shape != (len(images), 4) or not np.allclose(
        np.linalg.norm(quaternions, axis=1), 1, atol=1e-3
    ):
        raise ValueError(
            f"validation must contain {len(images)} unit quaternions, got an array of shape {quaternions.shape}"
        )
    quaternions = quaternions.astype(np.float32)
    if not settings.with_shifts:
        return images, quaternions
    shifts = shifts_of(validation[2], count=len(images), name="validation shifts")
    return images, {"features": quaternions, "shifts_px": shifts.astype(np.float32)}
