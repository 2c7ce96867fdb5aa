"""A trained aligner: its network, the grid of its spectra, its reference; on disk as weights and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cryoem.checks import square_images
from cryoem.errors import first_line
from cryoem.udl.spectra import PolarGrid, polar_spectra

SETTINGS_FILE = "aligner.json"
WEIGHTS_FILE = "aligner.weights.h5"
REFERENCE_FILE = "reference.npy"
FORMAT = "cryoem polar aligner 1"
BATCH = 512


@dataclass(frozen=True)
class Aligner:
    """From particle images to their in-plane angles.

    ``network``: (b, n_angles, n_radii) spectra -> (b, 2) unit vectors, Keras or anything that is called like it;
    ``grid``: of the spectra; ``reference``: (y, x) class average at angle 0, or None where only differences of
    angles mean anything; ``method`` that trained it, ``"udl"`` or ``"judl"``.
    """

    network: object
    grid: PolarGrid
    reference: np.ndarray | None = None
    method: str = "judl"

    def angles(self, images: np.ndarray) -> np.ndarray:
        """Angles of (n, y, x) images against the common reference: (n,) in [0, ``grid.period_rad``).

        Raises
        ------
        ValueError : the images are of another size than the model's, not finite, or constant.
        """
        images = square_images(images)
        parts = [
            self.angles_of_spectra(polar_spectra(images[start : start + BATCH], self.grid))
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def angles_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """Angles of (n, n_angles, n_radii) polar spectra: (n,) in [0, ``grid.period_rad``)."""
        # predict_on_batch runs a Keras model as a compiled graph, twice as fast as calling it
        evaluate = getattr(self.network, "predict_on_batch", self.network)
        batches = (spectra[start : start + BATCH] for start in range(0, len(spectra), BATCH))
        vectors = np.concatenate([np.asarray(evaluate(batch)) for batch in batches])
        turns = np.arctan2(vectors[:, 1].astype(float), vectors[:, 0])
        return np.mod(turns / self.grid.periods, self.grid.period_rad)

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """By how much the second of each pair of images is turned against the first: (n,) in [0, period_rad)."""
        return np.mod(self.angles(second) - self.angles(first), self.grid.period_rad)


def save_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Write an aligner as weights, JSON and its reference into a new or empty folder.

    Raises
    ------
    ValueError : the folder holds something already.
    """
    return write_folder(
        aligner, folder, FORMAT, lambda place: aligner.network.save_weights(place / WEIGHTS_FILE)
    )


def write_folder(
    aligner: Aligner, folder: str | os.PathLike, form: str, write_network: Callable[[Path], object]
) -> Path:
    """Write the network by ``write_network``, the reference, and last the JSON: a folder that holds it is whole."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder {folder} must be new or empty")
    folder.mkdir(parents=True, exist_ok=True)
    write_network(folder)
    if aligner.reference is not None:
        np.save(folder / REFERENCE_FILE, aligner.reference, allow_pickle=False)
    settings = {"format": form, "method": aligner.method, "grid": asdict(aligner.grid)}
    aside = folder / f".partial-{SETTINGS_FILE}"
    aside.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    os.replace(aside, folder / SETTINGS_FILE)
    return folder


def load_aligner(folder: str | os.PathLike) -> Aligner:
    """Read an aligner that ``save_aligner`` wrote.

    Raises
    ------
    FileNotFoundError : there is no aligner in the folder.
    ValueError : what is there cannot be read as one.
    """
    from cryoem.udl.network import build_polar_network  # imports Keras

    folder = Path(folder)
    grid, method = read_settings(folder, FORMAT)
    try:
        network = build_polar_network(grid)
        network.load_weights(folder / WEIGHTS_FILE)
        reference = read_reference(folder, grid)
    except Exception as error:  # Keras, h5py and NumPy each raise their own kinds
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    return Aligner(network, grid, reference, method)


def read_format(folder: Path) -> str:
    """The format of the aligner in a folder; errors as ``load_aligner``."""
    return _settings(folder)["format"]


def read_settings(folder: Path, expected_format: str) -> tuple[PolarGrid, str]:
    """Grid and method of the aligner in a folder; errors as ``load_aligner``."""
    settings = _settings(folder)
    try:
        if settings["format"] != expected_format:
            raise ValueError(f"its format is {settings['format']!r}, not {expected_format!r}")
        return PolarGrid(**settings["grid"]), settings["method"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None


def _settings(folder: Path) -> dict:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"model {folder} is not there: no {SETTINGS_FILE} in it")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or "format" not in settings:
            raise ValueError("it does not say its format")
        return settings
    except ValueError as error:
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None


def read_reference(folder: Path, grid: PolarGrid) -> np.ndarray | None:
    """The reference image of the aligner in a folder, None where it has none."""
    if not (folder / REFERENCE_FILE).is_file():
        return None
    reference = np.load(folder / REFERENCE_FILE, allow_pickle=False)
    if reference.shape != (grid.image_size, grid.image_size):
        raise ValueError(f"its reference is {reference.shape}, not {grid.image_size} px a side")
    return reference
