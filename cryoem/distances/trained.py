"""A trained encoder: the network, the settings to rebuild it, and its files (HDF5 weights and JSON settings)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from cryoem.devices import gpus_of_tensorflow
from cryoem.distances.encoders import build_encoder
from cryoem.distances.losses import KINDS
from cryoem.files.reading import first_line, read_json
from cryoem.files.writing import atomic_write, write_text
from cryoem.training.backend import keras

SUFFIX = ".weights.h5"


@dataclass(frozen=True)
class EncoderSettings:
    """Arguments of ``build_encoder``, and the feature distance used in training.

    Parameters
    ----------
    image_size, architecture, n_features, channels, blocks, symmetry, with_shifts
        Same as for ``build_encoder``.
    feature_distance : {"kernel", "cosine", "euclidean", "mlp"}
        Way in which features represent distances (see ``losses``). Default: ``"kernel"``.

    Raises
    ------
    ValueError
        If the feature distance is unknown.
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
        """Build an encoder with random weights. Raises the same errors as ``build_encoder``."""
        arguments = asdict(self)
        return build_encoder(pair_head=arguments.pop("feature_distance") == "mlp", **arguments)


class TrainedEncoder:
    """An encoder together with its settings.

    A pickled encoder contains only the weights and the settings. After unpickling, the network is rebuilt on first use.

    Parameters
    ----------
    model : keras.Model
        Encoder from ``settings.build()``. ``train`` trains it in place.
    settings : EncoderSettings
        Settings with which the encoder was built.
    """

    def __init__(self, model: keras.Model, settings: EncoderSettings):
        self.settings, self.model = settings, model

    @cached_property
    def model(self) -> keras.Model:
        """The network, rebuilt after unpickling."""
        model = self.settings.build()
        model.set_weights(self._weights)
        return model

    def __getstate__(self) -> dict:
        return {"settings": self.settings, "_weights": self.model.get_weights()}


def save_encoder(path: str | os.PathLike, encoder: TrainedEncoder) -> None:
    """Write the weights of an encoder to a ``.weights.h5`` file and its settings to a ``.json`` file of the same name.

    Each file is written atomically. The ``.json`` file also contains a checksum of the weights and the
    settings, so that settings are never used with the wrong weights.

    Parameters
    ----------
    path : str or path-like
        Path of the weight file.
    encoder : TrainedEncoder
        Encoder to save.

    Raises
    ------
    ValueError
        If ``path`` does not end in ``.weights.h5``.
    OSError
        If a file cannot be written.
    """
    path, settings_path = _paths(path)
    settings = asdict(encoder.settings)
    with atomic_write(path) as partial:
        encoder.model.save_weights(partial)
        description = {"settings": settings, "sha256": _sha256(partial, settings)}
    write_text(settings_path, json.dumps(description, indent=2))


def load_encoder(path: str | os.PathLike) -> TrainedEncoder:
    """Load an encoder that ``save_encoder`` wrote.

    Parameters
    ----------
    path : str or path-like
        Path of the weight file. The settings are read from the ``.json`` file of the same name.

    Returns
    -------
    TrainedEncoder

    Raises
    ------
    FileNotFoundError
        If the weight file or the settings file does not exist.
    ValueError
        If ``path`` does not end in ``.weights.h5``, or a file is damaged or belongs to a different encoder.
    """
    path, settings_path = _paths(path)
    for needed in (path, settings_path):
        if not needed.is_file():
            raise FileNotFoundError(f"encoder file not found: {needed}")
    description = read_json(settings_path)
    try:
        settings, expected = EncoderSettings(**description["settings"]), description["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{settings_path} does not contain encoder settings: {first_line(error)}") from None
    found = _sha256(path, description["settings"])
    if found != expected:
        raise ValueError(
            f"{path} or its settings are damaged or belong to a different encoder: "
            f"expected sha256 {expected}, got {found}"
        )
    gpus_of_tensorflow()  # report an unusable device first, so that it is not blamed on the file
    try:
        model = settings.build()
        model.load_weights(path)
    except Exception as error:  # Keras, h5py and TensorFlow raise many types of errors
        raise ValueError(
            f"{path} does not contain weights for this encoder, which another version of cryoem may have trained; "
            f"train it again: {first_line(error)}"
        ) from None
    return TrainedEncoder(model, settings)


def _sha256(path: Path, settings: dict) -> str:
    """Compute one checksum of the weights and the settings."""
    checksum = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: checksum).hexdigest()


def _paths(path: str | os.PathLike) -> tuple[Path, Path]:
    """Return the paths of the weights and of the settings."""
    path = Path(path)
    if not path.name.endswith(SUFFIX):
        raise ValueError(f"path must end in {SUFFIX}, got {path}")
    return path, path.with_name(path.name.removesuffix(SUFFIX) + ".json")
