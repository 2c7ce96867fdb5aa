"""A trained aligner as a stand-alone artefact: a TensorFlow SavedModel that carries its own computation, and JSON.

It runs without Keras and without the code that built or trained the network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.udl.aligner import FORMAT, Aligner, load_aligner, read_folder, read_format, write_folder
from cryoem.udl.saved_computation import check_computation
from cryoem.udl.spectra import PolarGrid

EXPORTED_FORMAT = "cryoem exported aligner 2"
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
    ValueError : what is there cannot be read as one, or is not as it was written.
    """
    return read_folder(folder, EXPORTED_FORMAT, _read_computation)


def _read_computation(folder: Path, _grid: PolarGrid):
    import tensorflow as tf

    check_computation(folder / COMPUTATION)
    return _Exported(tf.saved_model.load(str(folder / COMPUTATION)))


@dataclass(frozen=True)
class _Exported:
    """Keeps the loaded artefact alive: its functions do not hold on to its variables."""

    computation: object

    def __call__(self, spectra: np.ndarray):
        return self.computation.serve(np.asarray(spectra, np.float32))


def load_model(folder: str | os.PathLike) -> Aligner:
    """Read a saved or an exported aligner, whichever the folder holds; errors as for either."""
    folder = Path(folder)
    form = read_format(folder)
    if form not in (FORMAT, EXPORTED_FORMAT):
        raise ValueError(
            f"model {folder} cannot be read: its format must be {FORMAT!r} or {EXPORTED_FORMAT!r}, got {form!r}"
        )
    return load_aligner(folder) if form == FORMAT else load_exported(folder)
