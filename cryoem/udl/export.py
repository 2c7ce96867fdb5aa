"""A trained aligner as a stand-alone artefact: a TensorFlow SavedModel that carries its own computation, and JSON.

It runs without Keras and without the code that built or trained the network.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cryoem.checkpoints import first_line
from cryoem.udl.aligner import (
    FORMAT,
    REFERENCE_FILE,
    SETTINGS_FILE,
    Aligner,
    load_aligner,
    read_format,
    read_reference,
    read_settings,
)

EXPORTED_FORMAT = "cryoem exported aligner 1"
COMPUTATION = "computation"


def export_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Write an aligner as a SavedModel of spectra (n, n_angles, n_radii) -> unit vectors (n, 2), JSON and its
    reference.

    Raises
    ------
    ValueError : the folder holds something already, or the aligner's network is no Keras model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder {folder} must be new or empty")
    if not hasattr(aligner.network, "export"):
        raise ValueError(f"aligner must hold a Keras network, got {type(aligner.network).__name__}")
    folder.mkdir(parents=True, exist_ok=True)
    aligner.network.export(folder / COMPUTATION, verbose=False)
    if aligner.reference is not None:
        np.save(folder / REFERENCE_FILE, aligner.reference, allow_pickle=False)
    settings = {"format": EXPORTED_FORMAT, "method": aligner.method, "grid": asdict(aligner.grid)}
    aside = folder / f".partial-{SETTINGS_FILE}"
    aside.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    os.replace(aside, folder / SETTINGS_FILE)  # last: a folder with it is whole
    return folder


def load_exported(folder: str | os.PathLike) -> Aligner:
    """Read an aligner that ``export_aligner`` wrote; it runs as it is, and cannot be trained.

    Raises
    ------
    FileNotFoundError : there is no aligner in the folder.
    ValueError : what is there cannot be read as one.
    """
    import tensorflow as tf

    folder = Path(folder)
    grid, method = read_settings(folder, EXPORTED_FORMAT)
    try:
        computation = tf.saved_model.load(str(folder / COMPUTATION))
        reference = read_reference(folder, grid)
    except Exception as error:  # TensorFlow and NumPy raise their own kinds
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    return Aligner(_Exported(computation), grid, reference, method)


@dataclass(frozen=True)
class _Exported:
    """Keeps the loaded artefact alive: its functions do not hold on to its variables."""

    computation: object

    def __call__(self, spectra: np.ndarray):
        return self.computation.serve(np.asarray(spectra, np.float32))


def load_model(folder: str | os.PathLike) -> Aligner:
    """Read a saved or an exported aligner, whichever the folder holds; errors as for either."""
    folder = Path(folder)
    return load_aligner(folder) if read_format(folder) == FORMAT else load_exported(folder)
