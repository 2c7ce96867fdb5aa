"""Training of an encoder on simulated projections, so that distances between features match those of orientations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace

import keras
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
from cryoem.particles.simulation import ImagingConditions, clean_deviation
from cryoem.particles.stack import ParticleStack
from cryoem.projection import fourier
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
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

SHIFT_WEIGHT = 0.02  # of the squared error of shifts, px^2, relative to the loss of the features
LARGEST_VALIDATION_BATCH = 128


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


def train(
    encoder: TrainedEncoder,
    stream: ProjectionStream,
    *,
    validation: ParticleStack | tuple[np.ndarray, ...],
    schedule: TrainingSchedule,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train an encoder on all pairs of images of each batch.

    An encoder that was built in the scope of a ``tf.distribute.MirroredStrategy`` is trained on its devices, with the
    same result as on one.

    Parameters
    ----------
    encoder : TrainedEncoder
        Trained in place, with the feature distance and symmetry of its settings.
    stream : ProjectionStream
    validation : ParticleStack or tuple of arrays
        Particles with known poses that the stream does not contain; they are phase-flipped and Fourier-cropped. Or
        (images (n, y, x) of the encoder's size, quaternions (n, 4)); and shifts (n, 2) in pixels of these images if
        the encoder estimates shifts.
    schedule : TrainingSchedule
    checkpoints, callbacks, verbose
        See ``training.fit``.

    Returns
    -------
    dict of str to list of float
        One value for each epoch, as ``training.fit``. The metrics are ``distance_error_rad`` and
        ``val_distance_error_rad``: the mean absolute error of the distances of a batch.

    Raises
    ------
    ValueError
        If the encoder, the stream and the validation set do not fit each other, replicas cannot share the images
        equally, or the checkpoints belong to a different training.
    OSError
        If the checkpoints cannot be written.
    """
    model, settings = encoder.model, encoder.settings
    if stream.with_shifts != settings.with_shifts:
        raise ValueError(
            f"stream and encoder must have the same with_shifts, got {stream.with_shifts} and {settings.with_shifts}"
        )
    images, labels = _validation_data(validation, settings)
    check_divisible(len(images), model, name="validation images")
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
    """Losses and metrics as ``model.compile`` takes them."""
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
    """Largest batch that replicas share equally and that leaves no last batch of one image, which has no pair."""
    sizes = range(min(LARGEST_VALIDATION_BATCH, n) // replicas * replicas, 1, -replicas)
    return next(size for size in sizes if n % size != 1)


def _validation_data(validation: ParticleStack | tuple[np.ndarray, ...], settings: EncoderSettings):
    """Images and labels as ``model.fit`` takes them."""
    if not isinstance(validation, tuple):
        if validation.poses is None:
            raise ValueError("validation must be particles with known poses, got particles without poses")
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
        raise ValueError(f"validation images must be {expected} for this encoder, got {images.shape[1:]}")
    quaternions = np.asarray(validation[1])
    if quaternions.shape != (len(images), 4) or not np.allclose(
        np.linalg.norm(quaternions, axis=1), 1, atol=1e-3
    ):
        raise ValueError(
            f"validation must contain {len(images)} unit quaternions (n, 4), got shape {quaternions.shape}"
        )
    quaternions = quaternions.astype(np.float32)
    if not settings.with_shifts:
        return images, quaternions
    shifts = shifts_of(validation[2], count=len(images), name="validation shifts")
    return images, {"features": quaternions, "shifts_px": shifts.astype(np.float32)}
