"""Storage of trained encoders: weights in HDF5, settings and a checksum in JSON."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from cryoem.devices import gpus_of_tensorflow
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.files.reading import first_line, read_json
from cryoem.files.writing import atomic_write, write_text

SUFFIX = ".weights.h5"


def save_encoder(path: str | os.PathLike, encoder: TrainedEncoder) -> None:
    """Write the weights of an encoder to a ``.weights.h5`` file, and its settings to a ``.json`` file of the same name.

    Each file is written atomically. The checksum covers both, so that settings are never used with other weights.

    Raises
    ------
    ValueError
        If ``path`` does not end in ``.weights.h5``.
    OSError
        If a file cannot be written.
    """
    path = _checked_path(path)
    settings = asdict(encoder.settings)
    with atomic_write(path) as partial:
        encoder.model.save_weights(partial)
        description = {"settings": settings, "sha256": _sha256(partial, settings)}
    write_text(_settings_path(path), json.dumps(description, indent=2))


def load_encoder(path: str | os.PathLike) -> TrainedEncoder:
    """Read an encoder that ``save_encoder`` wrote.

    Raises
    ------
    FileNotFoundError
        If the file of the weights or that of the settings does not exist.
    ValueError
        If ``path`` does not end in ``.weights.h5``, or a file is damaged or belongs to another encoder.
    """
    path = _checked_path(path)
    for needed in (path, _settings_path(path)):
        if not needed.is_file():
            raise FileNotFoundError(f"encoder file not found: {needed}")
    description = read_json(_settings_path(path))
    try:
        settings, expected = EncoderSettings(**description["settings"]), description["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{_settings_path(path)} does not contain the settings of an encoder: {first_line(error)}"
        ) from None
    found = _sha256(path, description["settings"])
    if found != expected:
        raise ValueError(
            f"{path} or its settings are damaged or belong to another encoder: "
            f"the sha256 must be {expected}, got {found}"
        )
    gpus_of_tensorflow()  # raises if the device is wrong, before errors are blamed on the file
    try:
        model = settings.build()
        model.load_weights(path)
    except Exception as error:  # Keras, h5py and TensorFlow raise many types
        raise ValueError(
            f"{path} does not contain the weights of this encoder: {first_line(error)}"
        ) from None
    return TrainedEncoder(model, settings)


def _sha256(path: Path, settings: dict) -> str:
    """Checksum of the weights and the settings together."""
    checksum = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: checksum).hexdigest()


def _settings_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + ".json")


def _checked_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.name.endswith(SUFFIX):
        raise ValueError(f"path must end in {SUFFIX}, got {path}")
    return path
