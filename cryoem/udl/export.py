"""A trained aligner as a stand-alone artefact: a TensorFlow SavedModel that carries its own computation, and JSON.

It runs without Keras and without the code that built or trained the network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.errors import first_line
from cryoem.udl.aligner import (
    FORMAT,
    Aligner,
    load_aligner,
    read_format,
    read_reference,
    read_settings,
    write_folder,
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
    if not hasattr(aligner.network, "export"):
        raise ValueError(f"aligner must hold a Keras network, got {type(aligner.network).__name__}")
    return write_folder(
        aligner,
        folder,
        EXPORTED_FORMAT,
        lambda place: aligner.network.export(place / COMPUTATION, verbose=False),
    )


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
