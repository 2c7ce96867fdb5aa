"""Training of an encoder with ``model.fit``: schedule, checkpoints, early stop, resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from cryoem.checkpoints import Record, restore
from cryoem.checks import positive_number, shifts_of, square_images, whole_number
from cryoem.compilation import compile_network, precision_of
from cryoem.replicas import check_divisible, of_whole_batch, replicas_of
from cryoem.siamese.losses import loss_of, metric_of
from cryoem.siamese.pair_head import head_of
from cryoem.siamese.stream import ProjectionStream

SHIFT_WEIGHT = 0.02  # of a squared pixel, beside the squared error of the features' inner products


def train(
    encoder: keras.Model,
    stream: ProjectionStream,
    *,
    epochs: int,
    validation: tuple[np.ndarray, ...],
    feature_distance: str = "kernel",
    symmetry: str = "C1",
    learning_rate: float = 2e-3,
    patience: int | None = None,
    seconds: float | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> dict[str, list[float]]:
    """Train an encoder so that the distances of its features are those of the orientations.

    AdamW with a short linear warm-up and a cosine fall of the learning rate over all epochs.  An encoder that was built
    in the scope of a ``tf.distribute.MirroredStrategy`` is trained on its devices, to the same result as on one.

    Parameters
    ----------
    encoder : from ``build_encoder``; trained in place.
    stream : fresh batches; its length is the number of steps of an epoch.
    epochs : to train for.
    validation : (images (n, y, x), quaternions (n, 4)) that the stream does not hold; and shifts (n, 2), pixels of
        these images, where the encoder learns them.
    feature_distance : ``"kernel"``, ``"cosine"``, ``"euclidean"`` or ``"mlp"``, see ``losses``.
    symmetry : point group of the particle, as the encoder was built for.
    learning_rate : at its highest.
    patience : stop after so many epochs without a lower validation loss; never by default.
    seconds : stop after the epoch in which this time has passed; never by default.
    checkpoints : folder that is written after every epoch and from which an interrupted training goes on, with the same
        numbers as if it had not been interrupted; one that is damaged begins anew, with a warning; none by default.
    callbacks, verbose : passed to ``model.fit``.

    Returns
    -------
    History, one value an epoch: ``loss``, ``val_loss``, ``distance_error_rad`` and ``val_distance_error_rad`` (mean
    absolute error of the distances of a batch), ``learning_rate``, ``step``, ``seconds`` (since the start, all
    interrupted trainings counted).

    Raises
    ------
    ValueError : ``feature_distance`` or the point group is unknown, ``epochs`` is below 1, the learning rate is not
        positive, the encoder has no pair head for ``"mlp"``, the validation set does not suit the encoder, the
        images of a batch or of the validation set cannot be shared alike by the encoder's replicas, or
        ``checkpoints`` are of another training.
    OSError : ``checkpoints`` cannot be written.
    """
    head = head_of(encoder, feature_distance)
    loss, metric = (
        of_whole_batch(make(feature_distance, symmetry, head=head), shared=make is loss_of)
        for make in (loss_of, metric_of)
    )
    epochs = whole_number(epochs, name="epochs", at_least=1)
    positive_number(learning_rate, name="learning_rate")
    images, labels = _validation(validation, encoder)
    if stream.made_from["with_shifts"] != isinstance(encoder.output, dict):
        raise ValueError(
            f"stream must be made with_shifts as the encoder was, got {stream.made_from['with_shifts']}"
        )
    check_divisible(stream.made_from["batch_size"], encoder, name="batch_size")
    compiled = {"learning_rate": learning_rate, "steps": epochs * len(stream)}
    if isinstance(encoder.output, dict):
        losses, weights = {"features": loss, "shifts_px": "mse"}, {"features": 1.0, "shifts_px": SHIFT_WEIGHT}
        compile_network(encoder, **compiled, loss=losses, loss_weights=weights, metrics={"features": metric})
    else:
        compile_network(encoder, **compiled, loss=loss, metrics=[metric])
    folder = None if checkpoints is None else Path(checkpoints)
    made_from = {
        "epochs": epochs,
        "steps": len(stream),
        "learning_rate": learning_rate,
        "feature_distance": feature_distance,
        "symmetry": symmetry,
        "validation_images": len(images),
        **stream.made_from,
        **precision_of(encoder),
    }
    first_epoch, history = (0, {}) if folder is None else restore(encoder, folder, made_from)
    record = Record(stream, folder, history, patience=patience, seconds=seconds)
    if record.is_over():
        return history
    encoder.fit(
        stream,
        initial_epoch=first_epoch,
        epochs=epochs,
        validation_data=(images, labels),
        validation_batch_size=_validation_batch(len(images), replicas_of(encoder)),
        callbacks=[record, *callbacks],
        verbose=verbose,
        shuffle=False,
    )
    return record.history


def _validation_batch(n: int, replicas: int) -> int:
    """At most 128 images, alike for all replicas, such that the last batch of n is not a single one, without a pair."""
    sizes = range(min(128, n) // replicas * replicas, 1, -replicas)
    return next(size for size in sizes if n % size != 1)


def _validation(validation: tuple[np.ndarray, ...], encoder: keras.Model):
    """The images and labels to validate on, as ``model.fit`` takes them."""
    with_shifts = isinstance(encoder.output, dict)
    if len(validation) != 2 + with_shifts:
        wanted = "images, quaternions and shifts" if with_shifts else "images and quaternions"
        raise ValueError(f"validation must hold {wanted} for this encoder, got {len(validation)} arrays")
    images = square_images(validation[0], name="validation images", at_least=2)
    check_divisible(len(images), encoder, name="validation images")
    quaternions = np.asarray(validation[1])
    if images.shape[1:] != encoder.input_shape[1:]:
        raise ValueError(
            f"validation images must be {encoder.input_shape[1:]} for this encoder, got {images.shape[1:]}"
        )
    if quaternions.shape != (len(images), 4) or not np.allclose(
        np.linalg.norm(quaternions, axis=1), 1, atol=1e-3
    ):
        raise ValueError(
            f"validation must hold {len(images)} unit quaternions (n, 4), got shape {quaternions.shape}"
        )
    quaternions = quaternions.astype(np.float32)
    if not with_shifts:
        return images, quaternions
    shifts = shifts_of(validation[2], count=len(images), name="validation shifts")
    return images, {"features": quaternions, "shifts_px": shifts.astype(np.float32)}
