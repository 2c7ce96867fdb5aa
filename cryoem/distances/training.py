"""Training of an encoder, so that distances between features match distances between orientations."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np

from cryoem.distances.losses import pair_error, pair_loss
from cryoem.distances.pair_head import head_of
from cryoem.distances.stream import ProjectionStream
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.images import correct_images
from cryoem.particles.stack import ParticleStack
from cryoem.training.compilation import (
    TrainingSchedule,
    check_divisible,
    compile_network,
    global_batch_loss,
    replica_count,
)
from cryoem.training.fitting import fit
from cryoem.validation import shifts_of, square_images

SHIFT_WEIGHT = 0.02  # of the squared error of shifts, px^2, relative to the loss of the features
LARGEST_VALIDATION_BATCH = 128


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
    if not isinstance(validation, tuple):
        validation = _validation_arrays(validation, settings)
    images, labels = _checked_validation(validation, settings)
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


def _validation_arrays(particles: ParticleStack, settings: EncoderSettings) -> tuple[np.ndarray, ...]:
    """Images of the encoder's size, quaternions and, if the encoder estimates them, shifts."""
    if particles.poses is None:
        raise ValueError("validation must be particles with known poses, got particles without poses")
    images = correct_images(np.asarray(particles), optics=particles.optics, size=settings.image_size)
    quaternions = particles.poses.rotations.as_quat()
    if not settings.with_shifts:
        return images, quaternions
    return images, quaternions, particles.poses.shifts_px * (settings.image_size / particles.image_size)


def _checked_validation(validation: tuple[np.ndarray, ...], settings: EncoderSettings):
    """Images and labels as ``model.fit`` takes them."""
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
