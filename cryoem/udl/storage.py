"""Aligners on disk: saved as weights, or exported as a TensorFlow SavedModel; a JSON file describes either.

A saved aligner can be trained further. An exported aligner contains its own computation and runs without Keras and
without the code that built the network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cryoem.devices import gpus_of_tensorflow
from cryoem.files.reading import canonical_json, first_line, read_json, sha256_of
from cryoem.files.writing import new_folder
from cryoem.udl.aligner import Aligner
from cryoem.udl.spectra import PolarGrid

SETTINGS_FILE = "aligner.json"
WEIGHTS_FILE = "aligner.weights.h5"
REFERENCE_FILE = "reference.npy"
COMPUTATION = "computation"
SAVED, EXPORTED = "cryoem polar aligner 2", "cryoem exported aligner 2"


def save_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Write an aligner as weights, JSON and its reference into a new or empty folder.

    Raises
    ------
    ValueError
        If the folder is not empty.
    OSError
        If a file cannot be written.
    """
    return _write(aligner, folder, SAVED, lambda place: aligner.network.save_weights(place / WEIGHTS_FILE))


def export_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Write an aligner as a TensorFlow SavedModel, JSON and its reference into a new or empty folder.

    The SavedModel's ``serve`` maps spectra (n, n_angles, n_radii) to unit vectors (n, 2).

    Raises
    ------
    ValueError
        If the folder is not empty, or the aligner's network is not a Keras model.
    OSError
        If a file cannot be written.
    """
    if not hasattr(aligner.network, "export"):
        raise ValueError(f"aligner must have a Keras network, got {type(aligner.network).__name__}")
    return _write(
        aligner, folder, EXPORTED, lambda place: aligner.network.export(place / COMPUTATION, verbose=False)
    )


def load_aligner(folder: str | os.PathLike) -> Aligner:
    """Read an aligner that ``save_aligner`` or ``export_aligner`` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no aligner in the folder.
    ValueError
        If the aligner is damaged, or its files were changed.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"model {folder} does not exist: there is no {SETTINGS_FILE} in it")
    gpus_of_tensorflow()  # an error about the device is not an error about the files
    try:
        settings = read_json(folder / SETTINGS_FILE)
        _check_files(folder, settings)
        grid = PolarGrid(**settings["grid"])
        reference = None
        if REFERENCE_FILE in settings["files"]:
            reference = np.load(folder / REFERENCE_FILE, allow_pickle=False)
        if settings["format"] == SAVED:
            from cryoem.udl.network import build_polar_network  # imports Keras

            network = build_polar_network(grid)
            network.load_weights(folder / WEIGHTS_FILE)
        else:
            import tensorflow as tf

            computation = tf.saved_model.load(str(folder / COMPUTATION))

            def network(spectra):  # keeps the model, because its functions do not keep its variables
                return computation.serve(np.asarray(spectra, np.float32))

        aligner = Aligner(network, grid, reference, settings["method"])
        # two constant spectra: this fails for a network that is unusable or built for another grid
        output = aligner.vectors_of_spectra(np.ones((2, grid.n_angles, grid.n_radii), np.float32))
        if output.shape != (2, 2) or not np.isfinite(output).all():
            raise ValueError(f"its network must give finite (n, 2) vectors, got {output.tolist()}")
    except Exception as error:  # Keras, h5py, TensorFlow and NumPy raise exceptions of many kinds
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    return aligner


def _write(
    aligner: Aligner, folder: str | os.PathLike, form: str, write_network: Callable[[Path], object]
) -> Path:
    """Write the network, the reference, and JSON with the checksums of their files and one of itself."""
    with new_folder(folder) as partial:
        write_network(partial)
        if aligner.reference is not None:
            np.save(partial / REFERENCE_FILE, aligner.reference, allow_pickle=False)
        paths = sorted(path for path in partial.rglob("*") if path.is_file())
        settings = {
            "format": form,
            "method": aligner.method,
            "grid": asdict(aligner.grid),
            "files": {path.relative_to(partial).as_posix(): sha256_of(path) for path in paths},
        }
        settings["sha256"] = _settings_sha256(settings)
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return Path(folder)


def _check_files(folder: Path, settings: dict) -> None:
    """Compare the settings and all files with their checksums."""
    if settings.get("format") not in (SAVED, EXPORTED):
        raise ValueError(
            f"the format in {SETTINGS_FILE} must be {SAVED!r} or {EXPORTED!r}, got {settings.get('format')!r:.80}"
        )
    if settings.get("sha256") != _settings_sha256(settings):
        raise ValueError(f"{SETTINGS_FILE} was changed after it was written: its checksum does not match")
    for name, expected in settings["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if sha256_of(folder / name) != expected:
            raise ValueError(f"{name} was changed after it was written: its checksum does not match")


def _settings_sha256(settings: dict) -> str:
    others = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(others).encode()).hexdigest()
