"""From a file of particle images to a folder with the aligned stack and its tables, block by block."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from numbers import Number
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cryoem.checks import positive_number, whole_number
from cryoem.particles import ParticleFile, StackWriter, names_for_table, open_particles, write_stack
from cryoem.resolution import fourier_ring_correlation
from cryoem.udl.align import IMAGES_FOR_POWER, METHODS, align_block, prepare_reference, template_aligner
from cryoem.udl.aligner import Aligner, save_aligner
from cryoem.udl.export import export_aligner, load_model
from cryoem.udl.joint import FEWEST_IMAGES
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    circular_mask,
    flat_images,
    image_deviation,
)
from cryoem.udl.spectra import cyclic_order
from cryoem.udl.tables import STAR_FILE, write_tables
from cryoem.whole_files import whole_folder

MOST_TRAINING_IMAGES = 10_000
SAMPLE_BYTES, MOST_SAMPLE_BYTES = 400_000_000, 4_000_000_000
FEWEST_OF_LARGE_IMAGES = 1_000
BLOCK, MOST_BLOCK_BYTES = 512, 256_000_000
HALF_SET_THRESHOLD = 0.143
STACK_FILE, AVERAGES_FILE = "aligned.mrcs", "averages.mrcs"


@dataclass(frozen=True)
class AlignedFiles:
    """What ``align_file`` wrote: its ``folder``, and the numbers of ``summary.json`` in it.

    ``resolution_angstrom`` is where the averages of two halves of the aligned images stop agreeing (0.143), None for a
    single image.  Both halves were aligned to one reference, so that for few or very noisy images it is too good.
    """

    folder: Path
    images: int
    pixel_size_angstrom: float
    method: str
    mean_correlation: float
    resolution_angstrom: float | None
    seconds: float


def align_file(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    method: str | None = None,
    symmetry: str | None = None,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    max_training_images: int = MOST_TRAINING_IMAGES,
    epochs: int | None = None,
    seconds: float | None = None,
    block: int | None = None,
    rng: np.random.Generator | int | None = 0,
    progress: bool = False,
    export: bool = False,
) -> AlignedFiles:
    """Align the particle images of a file; the file is only read, and the result appears whole or not at all.

    The images of a table keep the names that the table gives them.  Those of a bare stack are named from the current
    working folder, which RELION and XMIPP are then to be started in, or with the whole path where the stack lies
    elsewhere.

    Parameters
    ----------
    path : as for ``particles.open_particles``.
    out : folder to be made: ``aligned.mrcs``, the aligned images; ``aligned.star`` and ``aligned.xmd``, the
        alignment of the original images for RELION and XMIPP; ``averages.mrcs``, before and after; ``model/``,
        the aligner that was trained (``exported/`` too where asked); ``summary.json``.
    model : folder of a saved or exported aligner, used as it is; by default one is trained.
    method : ``"judl"`` (by default), ``"udl"``, or ``"template"``, which trains nothing.
    symmetry : of the class in its plane, ``"C1"`` (by default), ``"C2"``, ...
    pixel_size_angstrom : where the file does not say it, or says it wrongly.
    datadir : where the names of stacks in a table start from, as for ``open_particles``.
    max_training_images : so many at most, chosen at random, are read at once: for training and for the first average.
        With a model 3,000 at most, and never more than 400 MB (6,100 images of 128 px), or than 1,000 images where
        these are larger, up to 4 GB.
    epochs, seconds : of training, as in ``training.train``; 5 epochs by default.
    block : images in memory at a time while aligning; by default 512, or fewer that take 256 MB.
    rng : of the choice and of the training.
    progress : show on stderr how far it is.
    export : also write the aligner as a stand-alone artefact.

    Raises
    ------
    ValueError : as ``open_particles``, ``train`` and ``load_model`` do; the method is unknown, an option is given that
        the model or the method has no use for, a number is out of its range, there are too few images, one is constant
        (inside the largest circle) or not finite, the model is for another size, a name is one that tables cannot hold,
        or ``out`` holds something.
    OSError : a file cannot be read or written, or ``out`` cannot be made.
    """
    began = time.monotonic()
    plan = _plan(model, method, symmetry, epochs, seconds, export or None)
    max_training_images = whole_number(
        max_training_images, name="max_training_images", at_least=FEWEST_IMAGES
    )
    if block is not None:
        block = whole_number(block, name="block", at_least=1)
    if isinstance(rng, Number):
        rng = whole_number(rng, name="rng", at_least=0)
    with whole_folder(out) as folder:
        particles = open_particles(path, pixel_size_angstrom=pixel_size_angstrom, datadir=datadir)
        names = names_for_table(particles, folder / STAR_FILE, beside=(STACK_FILE, AVERAGES_FILE))
        aligner = None if model is None else _model_for(particles, model)
        rng = np.random.default_rng(rng)
        most = max_training_images if aligner is None else min(max_training_images, IMAGES_FOR_POWER)
        sample = _sample(particles, aligner, most, rng, progress)
        if plan is not None:
            aligner = _made(sample, plan, rng, progress)
        _say("making the reference", progress)
        reference = prepare_reference(sample, aligner)
        del sample
        if block is None:
            block = max(1, min(BLOCK, MOST_BLOCK_BYTES // _image_bytes(particles)))
        summary = _align_blocks(particles, names, aligner, reference, folder, block, progress)
        if plan is not None and plan.method != "template":
            save_aligner(aligner, folder / "model")
            if plan.export:
                export_aligner(aligner, folder / "exported")
        summary = {
            "images": len(particles),
            "pixel_size_angstrom": particles.pixel_size_angstrom,
            "method": aligner.method,
            **summary,
            "seconds": time.monotonic() - began,
        }
        text = json.dumps(summary, indent=2, allow_nan=False)
        (folder / "summary.json").write_text(text, encoding="utf-8")
    return AlignedFiles(Path(out), **summary)


@dataclass(frozen=True)
class _Plan:
    """How an aligner is made of the images: options of ``align_file``."""

    method: str
    symmetry: str
    epochs: int
    seconds: float | None
    export: bool


def _plan(model, method, symmetry, epochs, seconds, export) -> _Plan | None:
    """The options that are None where they were not given, checked and with their defaults; None with a model."""
    training = {"epochs": epochs, "seconds": seconds, "export": export}
    if model is not None:
        _refuse_options(f"model {model} is used as it is", method=method, symmetry=symmetry, **training)
        return None
    method = "judl" if method is None else method
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "template":
        _refuse_options("method 'template' trains nothing", **training)
    symmetry = "C1" if symmetry is None else symmetry
    cyclic_order(symmetry)
    epochs = whole_number(5 if epochs is None else epochs, name="epochs", at_least=1)
    if seconds is not None:
        seconds = positive_number(seconds, name="seconds")
    return _Plan(method, symmetry, epochs, seconds, bool(export))


def _refuse_options(because: str, **options) -> None:
    """Refuse options that would be ignored; None is what was not given."""
    given = [f"{name} ({value})" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{because}: leave out {', '.join(given)}")


def _model_for(particles: ParticleFile, model: str | os.PathLike) -> Aligner:
    aligner = load_model(model)
    if aligner.grid.image_size != particles.image_size:
        raise ValueError(
            f"model {model} is for images of {aligner.grid.image_size} px, "
            f"got {particles.image_size} px in {particles.path}"
        )
    return aligner


def _sample(
    particles: ParticleFile, aligner: Aligner | None, most: int, rng: np.random.Generator, progress: bool
) -> np.ndarray:
    """Images to make the aligner or the reference of, chosen at random, in the file's order."""
    n = len(particles)
    if (aligner is None or aligner.reference is None) and n < FEWEST_IMAGES:
        purpose = "to train on" if aligner is None else "for this model, which has no reference"
        raise ValueError(f"{particles.path} must hold at least {FEWEST_IMAGES} images {purpose}, got {n}")
    held = max(SAMPLE_BYTES // _image_bytes(particles), FEWEST_OF_LARGE_IMAGES)
    most = max(FEWEST_IMAGES, min(most, held, MOST_SAMPLE_BYTES // _image_bytes(particles)))
    chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
    _say(f"reading {len(chosen):,} images", progress)
    images = particles.read(chosen)
    _no_constant_image(particles, images, chosen)
    image_deviation(images)  # refuses what single precision cannot hold, before any training
    return images


def _image_bytes(particles: ParticleFile) -> int:
    return 4 * particles.image_size**2


def _made(sample: np.ndarray, plan: _Plan, rng: np.random.Generator, progress: bool) -> Aligner:
    """The aligner of a plan."""
    if plan.method == "template":
        _say("making the template", progress)
        return template_aligner(sample, symmetry=plan.symmetry)
    from cryoem.udl.progress import StepsOnBar  # these import Keras, which a model may do without
    from cryoem.udl.training import train

    with tqdm(desc="finding first angles", unit="step", disable=not progress) as bar:
        return train(
            sample,
            method=plan.method,
            symmetry=plan.symmetry,
            epochs=plan.epochs,
            seconds=plan.seconds,
            callbacks=[StepsOnBar(bar)],
            rng=rng,
        ).aligner


def _no_constant_image(particles: ParticleFile, images: np.ndarray, numbers: np.ndarray) -> None:
    constant = flat_images(images)
    if constant.any():
        raise ValueError(
            f"{particles.path} must hold images with structure, image {numbers[constant][0] + 1} is constant "
            "inside the largest circle"
        )


def _align_blocks(
    particles: ParticleFile,
    names: list[str],
    aligner: Aligner,
    reference: FilteredReference,
    folder: Path,
    block: int,
    progress: bool,
) -> dict[str, float | None]:
    """Write the aligned stack, the tables and the averages; the mean correlation and the half-sets' resolution."""
    n, size, pixel = len(particles), particles.image_size, particles.pixel_size_angstrom
    before, halves = np.zeros((size, size)), np.zeros((2, size, size))
    found, correntropy = [], []
    with (
        StackWriter(folder / STACK_FILE, n, size, pixel) as writer,
        tqdm(total=n, desc="aligning", unit="image", disable=not progress) as bar,
    ):
        for start, images in particles.blocks(block):
            numbers = np.arange(start, start + len(images))
            _no_constant_image(particles, images, numbers)
            registration, aligned, score = align_block(images, aligner, reference)
            writer.write(aligned)
            before += images.sum(axis=0)
            for half in (0, 1):
                halves[half] += aligned[numbers % 2 == half].sum(axis=0)
            found.append((registration.angles_rad, registration.shifts_px, registration.correlation))
            correntropy.append(score)
            bar.update(len(images))
    registration = Registration(*(np.concatenate(values) for values in zip(*found, strict=True)))
    write_tables(particles, names, registration, np.concatenate(correntropy), folder)
    averages = np.stack([before, halves.sum(axis=0)]) / n
    write_stack(folder / AVERAGES_FILE, averages, pixel_size_angstrom=pixel)
    return {
        "mean_correlation": float(registration.correlation.mean()),
        "resolution_angstrom": _half_set_resolution(halves, pixel) if n > 1 else None,
    }


def _half_set_resolution(halves: np.ndarray, pixel_size_angstrom: float) -> float:
    """Where the averages (2, y, x) of two halves, masked, stop agreeing."""
    masked = (halves - halves.mean(axis=(1, 2), keepdims=True)) * circular_mask(halves.shape[1])
    agreement = fourier_ring_correlation(*masked, pixel_size_angstrom=pixel_size_angstrom)
    return agreement.resolution_angstrom(HALF_SET_THRESHOLD)


def _say(what: str, progress: bool) -> None:
    if progress:
        tqdm.write(what, file=sys.stderr)
