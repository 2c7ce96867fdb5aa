"""Aligners, which estimate the in-plane angles of particle images; alignment to a reference; storage of aligners.

An aligner estimates angles modulo half a turn. Registration with a reference image then chooses between the two
possible angles, estimates the shift and refines the angle.

A saved aligner stores the weights of its network, which can be trained further. An exported aligner is a TensorFlow
SavedModel, which runs without Keras and without the code that built the network. Both include a JSON file of settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cryoem.devices import gpus_of_tensorflow, quiet_import
from cryoem.files.reading import canonical_json, first_line, read_json, sha256_of
from cryoem.files.writing import new_folder
from cryoem.udl.inference import read_polar_network
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    align_images,
    average_aligned,
    class_average,
    constant_images,
    filter_reference,
    image_deviation,
    image_mask,
    mean_power,
    register,
)
from cryoem.udl.spectra import PolarGrid, polar_spectra
from cryoem.validation import finite_array, square_images

BATCH = 512
CORRENTROPY_WIDTH = 1.0  # in standard deviations of the images
IMAGES_FOR_POWER = 3000
IMAGES_FOR_AMPLITUDE = 256
LOWEST_AMPLITUDE = 0.03  # of the particle, relative to the standard deviation of the noisy images
SETTINGS_FILE = "aligner.json"
WEIGHTS_FILE = "aligner.weights.h5"
REFERENCE_FILE = "reference.npy"
COMPUTATION = "computation"
SAVED, EXPORTED = "cryoem polar aligner 2", "cryoem exported aligner 2"


@dataclass(frozen=True)
class Aligner:
    """Estimator of the in-plane angles of particle images.

    Parameters
    ----------
    network : callable
        Network that maps (b, n_angles, n_radii) spectra to (b, 2) unit vectors: a Keras model or any other callable.
    grid : PolarGrid
        Sampling points of the spectra.
    reference : (y, x) array, optional
        Class average at angle 0. Without a reference, only differences between angles are meaningful.
    method : str
        Method by which the aligner was obtained: ``"udl"``, ``"judl"`` or ``"template"``. Default: ``"judl"``.
    """

    network: object
    grid: PolarGrid
    reference: np.ndarray | None = None
    method: str = "judl"

    @property
    def image_size(self) -> int:
        """Side length of the images in pixels."""
        return self.grid.image_size

    def angles(self, images: np.ndarray) -> np.ndarray:
        """Estimate the angles of (n, y, x) images relative to the reference: (n,) in [0, ``grid.period_rad``)."""
        images = square_images(images)
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return np.concatenate([self.angles_of_spectra(polar_spectra(batch, self.grid)) for batch in batches])

    def angles_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """Estimate the angles of (n, n_angles, n_radii) polar spectra: (n,) in [0, ``grid.period_rad``)."""
        vectors = self.vectors_of_spectra(spectra)
        phases = np.arctan2(vectors[:, 1].astype(float), vectors[:, 0])
        return np.mod(phases / self.grid.periods, self.grid.period_rad)

    def vectors_of_spectra(self, spectra: np.ndarray) -> np.ndarray:
        """Apply the network to (n, n_angles, n_radii) polar spectra: (n, 2)."""
        # predict_on_batch runs a Keras model as a compiled graph, which is twice as fast as calling it
        evaluate = getattr(self.network, "predict_on_batch", self.network)
        batches = (spectra[start : start + BATCH] for start in range(0, len(spectra), BATCH))
        return np.concatenate([np.asarray(evaluate(batch)) for batch in batches])

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimate the angle from the first to the second image of each pair: (n,) in [0, ``grid.period_rad``)."""
        return np.mod(self.angles(second) - self.angles(first), self.grid.period_rad)


@dataclass(frozen=True)
class InPlaneAlignment:
    """Result of an in-plane alignment.

    In each image, the particle is the reference rotated anticlockwise by ``angles_rad`` and then displaced by
    ``shifts_px``.

    Parameters
    ----------
    angles_rad : (n,) array
        Angles in [0, 2 pi).
    shifts_px : (n, 2) array
        Shifts (x, y) after the rotation.
    correlation, correntropy : (n,) array
        Correlation in [-1, 1] and correntropy in (0, 1] between each aligned image and the reference.
    average, average_before : (y, x) array
        Average of the aligned images and average of the original images.
    reference : (y, x) array
        Reference image after scaling and masking.
    """

    angles_rad: np.ndarray
    shifts_px: np.ndarray
    correlation: np.ndarray
    correntropy: np.ndarray
    average: np.ndarray
    average_before: np.ndarray
    reference: np.ndarray

    def aligned_images(self, images: np.ndarray) -> np.ndarray:
        """Transform (n, y, x) images to the pose of the reference: (n, y, x) float32."""
        return align_images(square_images(images), self.angles_rad, self.shifts_px)


def align(stack: np.ndarray, model: Aligner, *, reference: np.ndarray | None = None) -> InPlaneAlignment:
    """Align particle images to a common reference.

    Parameters
    ----------
    stack : (n, y, x) array
        Images of one class, as an array or a particle stack.
    model : Aligner
        Aligner from ``train``, ``template_aligner`` or ``load_aligner``.
    reference : (y, x) array, optional
        Image at angle 0, on any intensity scale. Default: the reference stored in the model. If the model has none
        (``"udl"``), the default is the average of the images, aligned by the angles that the model estimates.

    Returns
    -------
    InPlaneAlignment
        Angles, shifts, scores and averages.

    Raises
    ------
    ValueError
        If the images or the reference do not have the size that the model expects, are constant, or contain NaN or
        infinity.
    """
    images = square_images(stack)
    filtered = prepare_reference(images, model, reference)
    # the model measures the angle of the given reference from its own zero
    zero = 0.0 if reference is None else model.angles(np.asarray(reference)[None])[0]
    found, aligned, correntropy = align_block(images, model, filtered, zero_rad=zero)
    return InPlaneAlignment(*found, correntropy, aligned.mean(axis=0), images.mean(axis=0), filtered.image)


def prepare_reference(
    images: np.ndarray, model: Aligner, reference: np.ndarray | None = None
) -> FilteredReference:
    """Filter a reference for ``align_block``, with the amplitude and noise measured on (n, y, x) images."""
    if images.shape[1] != model.image_size:
        raise ValueError(f"images must be {model.image_size} px wide for this model, got {images.shape[1]}")
    deviation = image_deviation(images)
    power = mean_power(images[:IMAGES_FOR_POWER])
    if reference is None and model.reference is None:
        return filter_reference(class_average(images, model.angles(images))[0], power)
    given = finite_array(
        model.reference if reference is None else reference, name="reference", ndim=2, dtype=np.float64
    )
    if given.shape != images.shape[1:]:
        raise ValueError(
            f"reference must have the shape of the images, {images.shape[1:]}, got {given.shape}"
        )
    if constant_images(given[None])[0]:
        raise ValueError("reference must not be constant inside its inscribed circle")
    zero = 0.0 if reference is None else model.angles(given[None])[0]
    # scale the reference to the noise-free particles by a least-squares fit to the average of aligned images
    given = given * (deviation / given.std())
    some = images[:IMAGES_FOR_AMPLITUDE]
    filtered = filter_reference(given, power)
    found = register(some, filtered, model.angles(some) - zero, steps=0)
    average = average_aligned(some, found.angles_rad, found.shifts_px).astype(np.float64)
    masked = filtered.image.astype(np.float64)
    amplitude = np.sum((average - average.mean()) * masked) / np.sum(masked**2)
    return filter_reference(given * max(amplitude, LOWEST_AMPLITUDE), power)


def align_block(
    images: np.ndarray, model: Aligner, reference: FilteredReference, *, zero_rad: float = 0.0
) -> tuple[Registration, np.ndarray, np.ndarray]:
    """Align (n, y, x) images independently of each other.

    ``zero_rad`` is the angle that the model assigns to the reference. Returns the poses, the aligned (n, y, x) images
    and their (n,) correntropies with the reference.
    """
    found = register(images, reference, model.angles(images) - zero_rad)
    aligned = align_images(images, found.angles_rad, found.shifts_px)
    return found, aligned, _correntropy(aligned, reference.image)


def _correntropy(aligned: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the mean of exp(-(u - v)^2 / (2 w^2)) over the pixels in the circle, with u and v standardised: (n,).

    Source: Liu, Pokharel and Principe, IEEE Trans. Signal Process. 55 (2007) 5286.
    """
    inside = image_mask(len(reference)) > 0.5

    def standardised(values):  # in double precision, so that squares do not overflow
        centred = values - values.mean(axis=-1, keepdims=True, dtype=np.float64)
        return centred / np.maximum(centred.std(axis=-1, keepdims=True), np.finfo(np.float64).tiny)

    difference = standardised(aligned[:, inside]) - standardised(reference[inside])
    return np.exp(-(difference**2) / (2 * CORRENTROPY_WIDTH**2)).mean(axis=1)


# --- files


def save_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Write the weights, settings and reference of an aligner to a new folder.

    Raises
    ------
    ValueError
        If the folder exists and is not empty.
    OSError
        If a file cannot be written.
    """
    return _write(aligner, folder, SAVED, lambda place: aligner.network.save_weights(place / WEIGHTS_FILE))


def export_aligner(aligner: Aligner, folder: str | os.PathLike) -> Path:
    """Export an aligner to a new folder as a TensorFlow SavedModel, together with its settings and reference.

    The SavedModel's ``serve`` endpoint maps (n, n_angles, n_radii) spectra to (n, 2) unit vectors.

    Raises
    ------
    ValueError
        If the folder exists and is not empty, or if the aligner's network is not a Keras model.
    OSError
        If a file cannot be written.
    """
    if not hasattr(aligner.network, "export"):
        raise ValueError(
            f"only Keras networks can be exported, got a network of type {type(aligner.network).__name__}"
        )

    def export(place: Path) -> None:
        log = logging.getLogger("tensorflow")  # it prints the name of the temporary folder
        level = log.level
        log.setLevel(logging.WARNING)
        try:
            aligner.network.export(place / COMPUTATION, verbose=False)
        finally:
            log.setLevel(level)

    return _write(aligner, folder, EXPORTED, export)


def load_aligner(folder: str | os.PathLike) -> Aligner:
    """Read an aligner written by ``save_aligner`` or ``export_aligner``.

    If Keras is not installed, the network of a saved aligner is evaluated with NumPy and cannot be trained further.

    Raises
    ------
    FileNotFoundError
        If the folder contains no aligner.
    ValueError
        If a file is damaged or has been changed.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: {SETTINGS_FILE} does not exist")
    has_keras = find_spec("keras") is not None
    if has_keras:
        gpus_of_tensorflow()  # raise errors about the device here, not as errors about the files
    try:
        settings = read_json(folder / SETTINGS_FILE)
        if settings.get("format") not in (SAVED, EXPORTED):
            raise ValueError(
                f"the format in {SETTINGS_FILE} is {settings.get('format')!r:.80} "
                f"instead of {SAVED!r} or {EXPORTED!r}"
            )
        if settings.get("sha256") != _settings_sha256(settings):
            raise ValueError(f"{SETTINGS_FILE} was changed after it was written: its checksum does not match")
        for name, expected in settings["files"].items():
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
            if sha256_of(folder / name) != expected:
                raise ValueError(f"{name} was changed after it was written: its checksum does not match")
        grid = PolarGrid(**settings["grid"])
        has_reference = REFERENCE_FILE in settings["files"]
        reference = np.load(folder / REFERENCE_FILE, allow_pickle=False) if has_reference else None
        if settings["format"] == SAVED and not has_keras:
            network = read_polar_network(folder / WEIGHTS_FILE, grid)
        elif settings["format"] == SAVED:
            from cryoem.udl.networks import build_polar_network  # imports Keras

            network = build_polar_network(grid)
            network.load_weights(folder / WEIGHTS_FILE)
        else:
            with quiet_import():
                import tensorflow as tf

            computation = tf.saved_model.load(str(folder / COMPUTATION))

            def network(spectra):  # keeps the model alive, because its functions do not keep its variables
                return computation.serve(np.asarray(spectra, np.float32))

        aligner = Aligner(network, grid, reference, settings["method"])
        # test with two constant spectra: fails if the network is unusable or was built for a different grid
        output = aligner.vectors_of_spectra(np.ones((2, grid.n_angles, grid.n_radii), np.float32))
        if output.shape != (2, 2) or not np.isfinite(output).all():
            raise ValueError(f"its network must return finite (n, 2) vectors, got {output.tolist()}")
    except Exception as error:  # Keras, h5py, TensorFlow and NumPy raise many kinds of exceptions
        raise ValueError(f"model {folder} cannot be read: {first_line(error)}") from None
    return aligner


def _write(
    aligner: Aligner, folder: str | os.PathLike, form: str, write_network: Callable[[Path], object]
) -> Path:
    """Write the network, the reference and a JSON file of settings, with checksums of all of them."""
    if not isinstance(aligner, Aligner):
        raise ValueError(
            f"aligner must be an Aligner to be written, got {type(aligner).__name__}; "
            "keep the checkpoints of its training instead"
        )
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


def _settings_sha256(settings: dict) -> str:
    others = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(others).encode()).hexdigest()
