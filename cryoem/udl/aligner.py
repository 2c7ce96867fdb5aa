"""A trained aligner: its network, the grid of its spectra, its reference; on disk as weights and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cryoem.checks import square_images
from cryoem.devices import gpus_of_tensorflow
from cryoem.errors import first_line
from cryoem.plain_files import check_hdf5, read_json, read_npy, sha256_of
from cryoem.udl.spectra import PolarGrid, polar_spectra

SETTINGS_FILE = "aligner.json"
WEIGHTS_FILE = "aligner.weights.h5"
REFERENCE_FILE = "reference.npy"
FORMAT = "cryoem polar aligner 2"
TRAINED_BY = ("template", "udl", "judl")
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
        vectors = self.vectors_of_spectra(spectra)
        turns = np.arctan2(vectors[:, 1].astype(float), vectors[:, 0])
        return np.mod(turns / self.grid.periods, self.grid.period_rad)

    def vectors_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """What the network says of (n, n_angles, n_radii) polar spectra: (n, 2)."""
        # predict_on_batch runs a Keras model as a compiled graph, twice as fast as calling it
        evaluate = getattr(self.network, "predict_on_batch", self.network)
        batches = (spectra[start : start + BATCH] for start in range(0, len(spectra), BATCH))
        return np.concatenate([np.asarray(evaluate(batch)) for batch in batches])

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
    """Write the network by ``write_network``, the reference, and last the JSON: a folder that holds it is whole.

    The JSON lists the checksums of the other files and has one of its own.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder {folder} must be new or empty")
    folder.mkdir(parents=True, exist_ok=True)
    write_network(folder)
    if aligner.reference is not None:
        np.save(folder / REFERENCE_FILE, aligner.reference, allow_pickle=False)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    settings = {
        "format": form,
        "method": aligner.method,
        "grid": asdict(aligner.grid),
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in written},
    }
    settings["sha256"] = _sha256_of_settings(settings)
    aside = folder / f".partial-{SETTINGS_FILE}"
    aside.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    os.replace(aside, folder / SETTINGS_FILE)
    return folder


def load_aligner(folder: str | os.PathLike) -> Aligner:
    """Read an aligner that ``save_aligner`` wrote.

    Raises
    ------
    FileNotFoundError : there is no aligner in the folder.
    ValueError : what is there cannot be read as one, or is not as it was written.
    """
    return read_folder(folder, FORMAT, _read_weights)


def read_folder(
    folder: str | os.PathLike, form: str, read_network: Callable[[Path, PolarGrid], object]
) -> Aligner:
    """Read what ``write_folder`` wrote, the network by ``read_network``; errors as ``load_aligner``."""
    folder = Path(folder)
    settings = _settings(folder)
    gpus_of_tensorflow()  # what is wrong with the device is not wrong with the file
    try:
        if settings["format"] != form:
            raise ValueError(f"its format is {settings['format']!r}, not {form!r}")
        _check_sums(folder, settings)
        grid = _grid(folder, settings)
        reference = None
        if REFERENCE_FILE in settings["files"]:
            reference = read_npy(folder / REFERENCE_FILE, shape=(grid.image_size, grid.image_size))
        aligner = Aligner(read_network(folder, grid), grid, reference, _method(settings))
        _check_answer(aligner)
    except Exception as error:  # Keras, h5py, TensorFlow and NumPy each raise their own kinds
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    return aligner


def read_format(folder: Path) -> str:
    """The format of the aligner in a folder; errors as ``load_aligner``."""
    return _settings(folder)["format"]


def _settings(folder: Path) -> dict:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"model {folder} is not there: no {SETTINGS_FILE} in it")
    try:
        settings = read_json(path)
    except ValueError as error:
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    for name, kind in (("format", str), ("method", str), ("grid", dict), ("files", dict)):
        if not isinstance(settings.get(name), kind):
            raise ValueError(
                f"model {folder} cannot be read: its {SETTINGS_FILE} must have {name!r}, a {kind.__name__}, "
                f"got {settings.get(name)!r:.80}"
            )
    return settings


def _grid(folder: Path, settings: dict) -> PolarGrid:
    """The grid of the settings, where the files are long enough for a template on it."""
    try:
        grid = PolarGrid(**settings["grid"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the grid in its {SETTINGS_FILE} is none: {first_line(error)}") from None
    n_bytes = sum((folder / name).stat().st_size for name in settings["files"])
    if 4 * grid.n_angles * grid.n_radii > n_bytes:
        raise ValueError(
            f"the grid in its {SETTINGS_FILE} must suit its files, got {grid.n_angles} angles of {grid.n_radii} "
            f"radii and {n_bytes} bytes"
        )
    return grid


def _method(settings: dict) -> str:
    if settings["method"] not in TRAINED_BY:
        raise ValueError(
            f"the method in its {SETTINGS_FILE} must be one of {', '.join(TRAINED_BY)}, got {settings['method']!r}"
        )
    return settings["method"]


def _check_sums(folder: Path, settings: dict) -> None:
    """Hold the files of a folder against the checksums of its settings, and these against their own."""
    if settings.get("sha256") != _sha256_of_settings(settings):
        raise ValueError(f"its {SETTINGS_FILE} is not as it was written")
    for name, expected in settings["files"].items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name:
            raise ValueError(f"its {SETTINGS_FILE} must name files in the folder, got {name!r}")
        path = folder / name
        if not path.is_file():
            raise ValueError(f"its {name} is missing")
        if sha256_of(path) != expected:
            raise ValueError(f"its {name} is not as it was written")


def _sha256_of_settings(settings: dict) -> str:
    others = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _read_weights(folder: Path, grid: PolarGrid):
    from cryoem.udl.network import build_polar_network  # imports Keras

    check_hdf5(folder / WEIGHTS_FILE)
    network = build_polar_network(grid)
    network.load_weights(folder / WEIGHTS_FILE)
    return network


def _check_answer(aligner: Aligner) -> None:
    """Ask the network about two flat spectra: a damaged one, or one of another grid, shows."""
    answer = aligner.vectors_of_spectra(np.ones((2, aligner.grid.n_angles, aligner.grid.n_radii), np.float32))
    if answer.shape != (2, 2) or not np.isfinite(answer).all():
        raise ValueError(f"its network must answer with finite (n, 2) vectors, got {answer.tolist()}")
