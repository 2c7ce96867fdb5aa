"""Alignment of a file of particle images into a folder with the aligned stack and its tables, block by block."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cryoem.files.writing import new_folder
from cryoem.images import image_blocks
from cryoem.particles.files import ParticleFile, open_particles
from cryoem.particles.mrc import StackWriter, write_stack
from cryoem.particles.relion import relion_tables
from cryoem.particles.star import write_star, write_xmd
from cryoem.particles.writing import names_for_table
from cryoem.particles.xmipp import xmipp_table
from cryoem.reconstruction.resolution import fourier_ring_correlation
from cryoem.udl.aligner import (
    IMAGES_FOR_POWER,
    Aligner,
    align_block,
    export_aligner,
    load_aligner,
    prepare_reference,
    save_aligner,
)
from cryoem.udl.classical import template_aligner
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    constant_images,
    image_deviation,
    particle_mask,
)
from cryoem.udl.spectra import cyclic_order
from cryoem.validation import positive_number, whole_number

METHODS = ("template", "udl", "judl")
FEWEST_IMAGES = 4
MOST_TRAINING_IMAGES = 10_000
SAMPLE_BYTES, MOST_SAMPLE_BYTES = 400_000_000, 4_000_000_000
FEWEST_OF_LARGE_IMAGES = 1_000
BLOCK_BYTES = 512 * 4 * 128**2  # 512 images of 128 px
HALF_SET_THRESHOLD = 0.143
STACK_FILE, AVERAGES_FILE = "aligned.mrcs", "averages.mrcs"
STAR_FILE, XMD_FILE = "aligned.star", "aligned.xmd"


@dataclass(frozen=True)
class AlignerTraining:
    """Training options of ``align_file``; a ValueError if a value is out of range or excluded by ``"template"``.

    Parameters
    ----------
    method : str
        ``"judl"``, ``"udl"``, or ``"template"``, which needs no training.
    symmetry : str
        In-plane symmetry of the class, ``"C1"``, ``"C2"``, ...
    epochs : int, optional
        5 by default.
    seconds : float, optional
        Stop after the epoch in which this time has passed.
    export : bool
        Also write the aligner as a stand-alone TensorFlow model.
    """

    method: str = "judl"
    symmetry: str = "C1"
    epochs: int | None = None
    seconds: float | None = None
    export: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        given = [name for name in ("epochs", "seconds", "export") if getattr(self, name) not in (None, False)]
        if self.method == "template" and given:
            raise ValueError(f"method 'template' needs no training; omit {', '.join(given)}")
        cyclic_order(self.symmetry)
        if self.epochs is not None:
            whole_number(self.epochs, name="epochs", at_least=1)
        if self.seconds is not None:
            positive_number(self.seconds, name="seconds")


@dataclass(frozen=True)
class AlignedFiles:
    """Result of ``align_file``: the numbers of its ``summary.json``.

    Parameters
    ----------
    folder : Path
    images : int
    pixel_size_angstrom : float
    method : str
        Method of the aligner.
    mean_correlation : float
        Of the aligned images with the reference.
    resolution_angstrom : float or None
        Resolution at which the Fourier ring correlation of the averages of two halves falls below 0.143; None for a
        single image. Both halves were aligned to one reference, so it is too optimistic for few or very noisy images.
    seconds : float
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
    training: AlignerTraining | None = None,
    pixel_size_angstrom: float | None = None,
    datadir: str | os.PathLike | None = None,
    max_training_images: int = MOST_TRAINING_IMAGES,
    rng: np.random.Generator | int | None = 0,
    progress: bool = False,
) -> AlignedFiles:
    """Align the particle images of a file. The input is not modified; the output appears complete or not at all.

    Images of a table keep their names. Images of a stack are named relative to the working folder, in which RELION and
    XMIPP must then be started, or by their full path if the stack is outside the working folder.

    Parameters
    ----------
    path : path-like
        Particle stack or table, as for ``particles.open_particles``.
    out : path-like
        New folder: ``aligned.mrcs``, the aligned images; ``aligned.star`` and ``aligned.xmd``, the alignment of the
        original images for RELION and XMIPP; ``averages.mrcs``, before and after; ``model/``, the trained aligner
        (and ``exported/``); ``summary.json``.
    model : path-like, optional
        Folder of a saved or exported aligner, used unchanged; by default an aligner is trained.
    training : AlignerTraining, optional
        Options of the training.
    pixel_size_angstrom, datadir
        As for ``particles.open_particles``.
    max_training_images : int
        Largest number of images, chosen at random, that are read at once for training and the first average. With a
        model it is at most 3,000. It is also limited to 400 MB (6,100 images of 128 px), or for larger images to 1,000
        images and 4 GB.
    rng : numpy.random.Generator or int
        For the choice of images and the training.
    progress : bool
        Show the progress on stderr.

    Raises
    ------
    ValueError
        If both ``model`` and ``training`` are given, a number is out of range, there are too few images, one is
        constant, the model is for another size, a name cannot be written into tables, or ``out`` is not empty; and as
        ``open_particles``, ``train`` and ``load_aligner`` do.
    OSError
        If a file cannot be read or written.
    """
    began = time.monotonic()
    if model is not None and training is not None:
        raise ValueError(f"model {model} is not trained further; omit training")
    training = training or AlignerTraining()
    most = whole_number(max_training_images, name="max_training_images", at_least=FEWEST_IMAGES)
    with new_folder(out) as folder:
        particles = open_particles(path, pixel_size_angstrom=pixel_size_angstrom, datadir=datadir)
        names = names_for_table(particles, folder / STAR_FILE, new_stacks=(STACK_FILE, AVERAGES_FILE))
        aligner = None if model is None else load_aligner(model)
        if aligner is not None and aligner.grid.image_size != particles.image_size:
            raise ValueError(
                f"model {model} is for images of {aligner.grid.image_size} px, "
                f"got {particles.image_size} px in {particles.path}"
            )
        rng = np.random.default_rng(rng)
        # the aligner and the reference come from a sample that fits into memory
        most = most if model is None else min(most, IMAGES_FOR_POWER)
        sample = _sample(particles, aligner, most, rng, progress)
        if aligner is None:
            aligner = obtain_aligner(sample, training, rng, progress)
        say("making the reference", progress)
        reference = prepare_reference(sample, aligner)
        del sample
        numbers = _align_blocks(particles, names, aligner, reference, folder, progress)
        if model is None and training.method != "template":
            save_aligner(aligner, folder / "model")
            if training.export:
                export_aligner(aligner, folder / "exported")
        summary = {
            "images": len(particles),
            "pixel_size_angstrom": particles.pixel_size_angstrom,
            "method": aligner.method,
            **numbers,
            "seconds": time.monotonic() - began,
        }
        text = json.dumps(summary, indent=2, allow_nan=False)
        (folder / "summary.json").write_text(text, encoding="utf-8")
    return AlignedFiles(Path(out), **summary)


def obtain_aligner(
    sample: np.ndarray, training: AlignerTraining, rng: np.random.Generator, progress: bool
) -> Aligner:
    """Train an aligner on (n, y, x) images, with a progress bar, or build the classical one."""
    if training.method == "template":
        say("making the template", progress)
        return template_aligner(sample, symmetry=training.symmetry)
    import keras  # an exported model does without

    from cryoem.training.compilation import TrainingSchedule
    from cryoem.udl.training import DEFAULT_SCHEDULE, AlignerOptions, train

    epochs = training.epochs or DEFAULT_SCHEDULE.epochs
    # tqdm's own callback for Keras warns in notebooks without widgets
    with tqdm(desc="finding first angles", unit="step", disable=not progress) as bar:

        def begin(logs=None):
            bar.set_description("training", refresh=False)
            bar.reset(total=watch.params["epochs"] * watch.params["steps"])

        def end_epoch(epoch, logs=None):
            bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", val_loss=f"{logs['val_loss']:.4f}")

        watch = keras.callbacks.LambdaCallback(
            on_train_begin=begin,
            on_train_batch_end=lambda batch, logs=None: bar.update(),
            on_epoch_end=end_epoch,
        )
        return train(
            sample,
            method=training.method,
            options=AlignerOptions(symmetry=training.symmetry),
            schedule=TrainingSchedule(epochs, DEFAULT_SCHEDULE.learning_rate, seconds=training.seconds),
            callbacks=[watch],
            rng=rng,
        ).aligner


def _sample(
    particles: ParticleFile, aligner: Aligner | None, most: int, rng: np.random.Generator, progress: bool
) -> np.ndarray:
    """Read random images for the aligner or the reference, in the file's order."""
    n, image_bytes = len(particles), 4 * particles.image_size**2
    if (aligner is None or aligner.reference is None) and n < FEWEST_IMAGES:
        purpose = "to train on" if aligner is None else "for this model, which has no reference"
        raise ValueError(f"{particles.path} must have at least {FEWEST_IMAGES} images {purpose}, got {n}")
    fitting = min(max(SAMPLE_BYTES // image_bytes, FEWEST_OF_LARGE_IMAGES), MOST_SAMPLE_BYTES // image_bytes)
    most = max(FEWEST_IMAGES, min(most, fitting))
    chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
    say(f"reading {len(chosen):,} images", progress)
    images = np.asarray(particles[chosen])
    _refuse_constant_images(particles, images, chosen)
    image_deviation(images)  # raises before the training if the images overflow single precision
    return images


def _refuse_constant_images(particles: ParticleFile, images: np.ndarray, indices: np.ndarray) -> None:
    constant = constant_images(images)
    if constant.any():
        raise ValueError(
            f"image {indices[constant][0] + 1} of {particles.path} is constant inside the largest circle; remove it"
        )


def _align_blocks(
    particles: ParticleFile,
    names: list[str],
    aligner: Aligner,
    reference: FilteredReference,
    folder: Path,
    progress: bool,
) -> dict[str, float | None]:
    """Write the aligned stack, the tables and the averages; return the mean correlation and the resolution."""
    n, size, pixel = len(particles), particles.image_size, particles.pixel_size_angstrom
    before, halves = np.zeros((size, size)), np.zeros((2, size, size))
    found = []
    with (
        StackWriter(folder / STACK_FILE, n, size, pixel) as writer,
        tqdm(total=n, desc="aligning", unit="image", disable=not progress) as bar,
    ):
        for block in image_blocks(particles, block_bytes=BLOCK_BYTES):
            indices = np.arange(block.start, block.stop)
            images = np.asarray(particles[block])
            _refuse_constant_images(particles, images, indices)
            registration, aligned, score = align_block(images, aligner, reference)
            writer.write(aligned)
            before += images.sum(axis=0)
            for half in (0, 1):
                halves[half] += aligned[indices % 2 == half].sum(axis=0)
            found.append((*registration, score))
            bar.update(len(images))
    *poses, correntropy = (np.concatenate(values) for values in zip(*found, strict=True))
    _write_tables(particles, names, Registration(*poses), correntropy, folder)
    averages = np.stack([before, halves.sum(axis=0)]) / n
    write_stack(folder / AVERAGES_FILE, averages, pixel_size_angstrom=pixel)
    resolution = None
    if n > 1:
        masked = (halves - halves.mean(axis=(1, 2), keepdims=True)) * particle_mask(size)
        agreement = fourier_ring_correlation(*masked, pixel_size_angstrom=pixel)
        resolution = agreement.resolution_angstrom(HALF_SET_THRESHOLD)
    return {
        "mean_correlation": float(Registration(*poses).correlation.mean()),
        "resolution_angstrom": resolution,
    }


def _write_tables(
    particles: ParticleFile, names: list[str], found: Registration, correntropy: np.ndarray, folder: Path
) -> None:
    """Write the alignment of the original images for RELION and XMIPP."""
    has_relion_table = particles.table is not None and particles.path.suffix.lower() == ".star"
    table, optics_groups = relion_tables(
        names,
        found.angles_rad,
        found.shifts_px,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        image_size=particles.image_size,
        scores={"cryoemCorrelation": found.correlation, "cryoemCorrentropy": correntropy},
        table=particles.table if has_relion_table else None,
        optics_groups=particles.optics_groups if has_relion_table else None,
    )
    write_star(folder / STAR_FILE, table, optics=optics_groups)
    write_xmd(
        folder / XMD_FILE, xmipp_table(names, found.angles_rad, found.shifts_px, max_cc=found.correlation)
    )


def say(text: str, progress: bool) -> None:
    """Print a line of progress on stderr, without breaking a progress bar."""
    if progress:
        tqdm.write(text, file=sys.stderr)
