"""Distances between images from a trained encoder, and its storage."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from cryoem.checks import whole_number
from cryoem.devices import gpus_of_tensorflow
from cryoem.errors import first_line
from cryoem.imaging import shift
from cryoem.plain_files import check_hdf5, read_json
from cryoem.siamese.encoders import build_encoder, least_weights
from cryoem.siamese.losses import KINDS, distances_from_features, unit_features
from cryoem.siamese.pair_head import head_of
from cryoem.whole_files import written_aside

BLOCK_BYTES = 1_000_000


@dataclass(frozen=True)
class EncoderSettings:
    """The arguments that rebuild an encoder: those of ``build_encoder``, and the feature distance it was
    trained with.  ``symmetry`` is the point group of the particle; ``with_shifts``: whether it says where they stand.
    """

    image_size: int
    architecture: str = "polar"
    n_features: int | None = None
    channels: int = 128
    blocks: int = 4
    feature_distance: str = "kernel"
    symmetry: str = "C1"
    with_shifts: bool = False

    def __post_init__(self):
        if self.feature_distance not in KINDS:
            raise ValueError(
                f"feature_distance must be one of {', '.join(KINDS)}, got {self.feature_distance!r}"
            )

    def build(self) -> keras.Model:
        """A fresh encoder; raises as ``build_encoder``."""
        arguments = asdict(self)
        del arguments["image_size"], arguments["feature_distance"]
        return build_encoder(self.image_size, **arguments, pair_head=self.feature_distance == "mlp")

    def least_weights(self) -> int:
        """How many weights that encoder has, or more; nothing is built.  Raises as ``build_encoder``."""
        arguments = asdict(self)
        del arguments["feature_distance"], arguments["with_shifts"]
        return least_weights(**arguments)


def encode(
    encoder: keras.Model, images: np.ndarray, *, both_views: bool = True, batch_size: int = 128
) -> np.ndarray:
    """Unit features of images.

    Parameters
    ----------
    encoder : (b, y, x) -> (b, f).
    images : (n, y, x) of the encoder's size.
    both_views : also encode each image's mirror image in x, which is the projection from the opposite direction and so
        has a known orientation; distances then come from the mean of both kernels.
    batch_size : images of one pass.

    Returns
    -------
    (n, f) float32, or (n, 2 f) for both views.

    Raises
    ------
    ValueError : images are not of the encoder's size, or not finite.
    """
    images = _suiting(encoder, images)
    views = [images, _mirrored(images)] if both_views else [images]
    features = [unit_features(_outputs(encoder, view, batch_size)["features"]) for view in views]
    return np.concatenate(features, axis=1) / np.float32(np.sqrt(len(views)))


def predict_shifts(
    encoder: keras.Model, images: np.ndarray, *, passes: int = 2, batch_size: int = 128
) -> np.ndarray:
    """How far the particle of each image stands from the image's origin.

    Parameters
    ----------
    encoder : built and trained ``with_shifts``.
    images : (n, y, x) of the encoder's size.
    passes : how often images are centred by what was found and looked at again; each in both views, see ``encode``.
    batch_size : images of one pass.

    Returns
    -------
    (n, 2) float64 displacement (x, y) towards larger coordinates, pixels of these images.

    Raises
    ------
    ValueError : the encoder knows no shifts, images are not of its size, or not finite, or ``passes`` is below 1.
    """
    images = _suiting(encoder, images)
    if not isinstance(encoder.output, dict):
        raise ValueError(f"encoder must be built with_shifts to find them, got {encoder.name} without")
    shifts = np.zeros((len(images), 2))
    for _ in range(whole_number(passes, name="passes", at_least=1)):
        centred = shift(images, -shifts) if shifts.any() else images
        seen, seen_mirrored = (
            _outputs(encoder, view, batch_size)["shifts_px"] for view in (centred, _mirrored(centred))
        )
        shifts = shifts + (seen + seen_mirrored * [-1, 1]) / 2
    return shifts


def _outputs(encoder: keras.Model, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    found = encoder.predict(images, batch_size=batch_size, verbose=0)
    return found if isinstance(found, dict) else {"features": found}


def _suiting(encoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """Images as (n, y, x) float32 if they are finite and of the encoder's size."""
    images = np.asarray(images, np.float32)
    expected = tuple(encoder.input_shape[1:])
    if images.ndim != 3 or images.shape[1:] != expected:
        raise ValueError(
            f"images must be (n, {expected[0]}, {expected[1]}) for this encoder, got {images.shape}"
        )
    if not np.isfinite(images).all():
        raise ValueError(
            f"images must be finite, got {np.count_nonzero(~np.isfinite(images))} NaN or infinite values"
        )
    return images


def predict_distances(
    encoder: keras.Model,
    images: np.ndarray,
    *,
    feature_distance: str = "kernel",
    symmetry: str = "C1",
    both_views: bool = True,
) -> np.ndarray:
    """Estimated geodesic distances between the orientations of all pairs of images, with symmetry to the nearest copy.

    Parameters
    ----------
    encoder : trained with ``feature_distance`` and ``symmetry``.
    images : (n, y, x) of the encoder's size, n at least 2.
    both_views : as in ``encode``; for ``"mlp"``, the mean of the distances from either view.

    Returns
    -------
    (n, n) float32 radians in [0, pi], symmetric, zero on the diagonal.

    Raises
    ------
    ValueError : fewer than 2 images, no pair head for ``"mlp"``, or as ``encode``.
    """
    if len(images) < 2:
        raise ValueError(f"images must be at least 2 to have a distance, got {len(images)}")
    features = encode(encoder, images, both_views=both_views)
    return distances_of_all(
        encoder, features, feature_distance=feature_distance, symmetry=symmetry, both_views=both_views
    )


def distances_of_all(encoder: keras.Model, features: np.ndarray, **options) -> np.ndarray:
    """Distances between all of the (n, f) features of ``encode``: (n, n) float32 radians, symmetric, zero on the
    diagonal.

    Options, raises: as ``distances_between``.
    """
    distances = distances_between(encoder, features, features, **options)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return distances


def distances_between(
    encoder: keras.Model,
    features: np.ndarray,
    others: np.ndarray,
    *,
    feature_distance: str = "kernel",
    symmetry: str = "C1",
    both_views: bool = True,
) -> np.ndarray:
    """Distances from (n, f) to (m, f) features of ``encode``: (n, m) float32 radians.

    Options: as ``predict_distances``.  ValueError : no pair head for ``"mlp"``.
    """
    head = head_of(encoder, feature_distance)
    views = [(features, others)]
    if head is not None and both_views:
        views = zip(np.split(features, 2, axis=1), np.split(others, 2, axis=1), strict=True)
    return np.mean(
        [
            distances_from_features(a, b, kind=feature_distance, symmetry=symmetry, head=head)
            for a, b in views
        ],
        axis=0,
    )


def save_encoder(path: str | os.PathLike, encoder: keras.Model, settings: EncoderSettings) -> None:
    """Write ``path`` (``.weights.h5``), and beside it (``.json``) the settings and the sha256 of both.

    Each appears whole or not at all, and settings are only ever taken with the weights they were written with.

    Raises
    ------
    ValueError : ``path`` does not end in ``.weights.h5``.
    OSError : a file cannot be written.
    """
    path = _checked_path(path)
    with written_aside(path) as aside:
        encoder.save_weights(aside)
        description = {"settings": asdict(settings), "sha256": _sha256(aside, asdict(settings))}
    with written_aside(_settings_path(path)) as aside:
        aside.write_text(json.dumps(description, indent=2), encoding="utf-8")


def load_encoder(path: str | os.PathLike) -> tuple[keras.Model, EncoderSettings]:
    """The encoder that ``save_encoder`` wrote.

    Raises
    ------
    FileNotFoundError : the weights or the settings are not there.
    ValueError : ``path`` does not end in ``.weights.h5``, or a file is damaged or of another encoder.
    """
    path = _checked_path(path)
    for needed in (path, _settings_path(path)):
        if not needed.is_file():
            raise FileNotFoundError(f"no such file of an encoder: {needed}")
    description = read_json(_settings_path(path))
    try:
        settings, expected = EncoderSettings(**description["settings"]), description["sha256"]
        least = settings.least_weights()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{_settings_path(path)} does not hold the settings of an encoder: {first_line(error)}"
        ) from None
    found = _sha256(path, description["settings"])
    if found != expected:
        raise ValueError(
            f"{path} and its settings must have the sha256 {expected} written with them, got {found}"
        )
    if 4 * least > path.stat().st_size:  # before anything of that size is made
        raise ValueError(
            f"{path} must hold the {least} weights at least of its settings, got {path.stat().st_size} bytes"
        )
    check_hdf5(path)
    gpus_of_tensorflow()  # what is wrong with the device is not wrong with the file
    try:
        encoder = settings.build()
        encoder.load_weights(path)
    except Exception as error:  # Keras, h5py and TensorFlow each raise their own kinds
        raise ValueError(f"{path} does not hold the weights of this encoder: {first_line(error)}") from None
    return encoder, settings


def _sha256(path: Path, settings: dict) -> str:
    """Of the weights and the settings together: neither is taken with another's."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def _mirrored(images: np.ndarray) -> np.ndarray:
    """Images mirrored in x about pixel n // 2."""
    flipped = images[:, :, ::-1]
    return np.roll(flipped, 1, axis=2) if images.shape[2] % 2 == 0 else flipped


def _settings_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".weights.h5") + ".json")


def _checked_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"path must end in .weights.h5, got {path}")
    return path
