"""Block-by-block alignment of the particle images in a file, with the aligned stack and its tables in a new folder."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cryoem.files.writing import new_folder
from cryoem.images import image_blocks
from cryoem.particles.files import ParticleFile
from cryoem.particles.mrc import StackWriter, write_stack
from cryoem.particles.opening import open_particles
from cryoem.particles.outliers import usable_images
from cryoem.particles.relion import relion_tables
from cryoem.particles.star import write_star, write_xmd
from cryoem.particles.writing import names_or_copies
from cryoem.particles.xmipp import write_emaf, xmipp_table
from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD, fourier_ring_correlation
from cryoem.udl.aligner import (
    IMAGES_FOR_POWER,
    Aligner,
    align_block,
    export_aligner,
    prepare_reference,
    save_aligner,
)
from cryoem.udl.registration import (
    FilteredReference,
    Registration,
    constant_images,
    image_deviation,
    image_mask,
)
from cryoem.udl.rotation import joint_error_deg, pair_error_deg
from cryoem.udl.stack_training import AlignerTraining, load_for, obtain_aligner, say
from cryoem.udl.synthetic import read_reference
from cryoem.validation import whole_number

FEWEST_IMAGES = 4
MOST_TRAINING_IMAGES = 10_000
SAMPLE_BYTES, MOST_SAMPLE_BYTES = 400_000_000, 4_000_000_000
FEWEST_OF_LARGE_IMAGES = 1_000
BLOCK_BYTES = 512 * 4 * 128**2  # 512 images of 128 px
STACK_FILE, AVERAGES_FILE = "aligned.mrcs", "averages.mrcs"
STAR_FILE, XMD_FILE, EMAF_FILE = "aligned.star", "aligned.xmd", "aligned-emaf.xmd"


@dataclass(frozen=True)
class AlignedFiles:
    """Result of ``align_file``, as stored in ``summary.json``.

    Parameters
    ----------
    folder : Path
        Output folder.
    images : int
        Number of images.
    pixel_size_angstrom : float
        Pixel size of the images.
    method : str
        Method by which the aligner was obtained.
    mean_correlation : float
        Mean correlation between the aligned images and the reference.
    resolution_angstrom : float or None
        Resolution at which the Fourier ring correlation between the averages of two half-sets falls below 0.143; None
        for a single image, or if the averages do not agree. Both half-sets are aligned to the same reference, so the
        value is too optimistic for few or very noisy images.
    seconds : float
        Elapsed time.
    error_deg, pair_error_deg : float or None
        Mean error of the angles, ignoring a common offset, and mean error of the angles between consecutive images.
        Both are modulo the period of the spectra. They are None unless the true angles are known, from the
        ``parameters.txt`` of a training folder.
    """

    folder: Path
    images: int
    pixel_size_angstrom: float
    method: str
    mean_correlation: float
    resolution_angstrom: float | None
    seconds: float
    error_deg: float | None = None
    pair_error_deg: float | None = None


def align_file(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    training: AlignerTraining | None = None,
    reference: str | os.PathLike | None = None,
    emaf: bool = False,
    max_training_images: int = MOST_TRAINING_IMAGES,
    rng: np.random.Generator | int | None = 0,
    progress: bool = False,
    **opening,
) -> AlignedFiles:
    """Align the particle images in a file and write the results to a new folder.

    The input is not modified, and the output folder appears only when it is complete. All images are checked first. The
    output tables refer to the input stacks as described in ``particles.names_for_table``. Images to which tables cannot
    refer, such as PNG files, and rescaled images are copied to ``particles.mrcs``, with the table ``particles.star``.

    Parameters
    ----------
    path : path-like
        Particle stack or table that ``particles.open_particles`` can read.
    out : path-like
        New folder. It will contain the aligned images (``aligned.mrcs``), the alignment of the original images for
        RELION and XMIPP (``aligned.star`` and ``aligned.xmd``), the averages before and after alignment
        (``averages.mrcs``), the trained aligner (``model/`` and, if requested, ``exported/``) and ``summary.json``.
    model : path-like, optional
        Folder of a saved or exported aligner, which is used without further training. Default: a new aligner is
        trained.
    training : AlignerTraining, optional
        Training options. Default: ``AlignerTraining()``.
    reference : path-like, optional
        File that contains the image at angle 0 and that ``read_reference`` can read. The image must have the same size
        and contrast as the particle images. Default: an average of the images.
    emaf : bool
        Whether to also write ``aligned-emaf.xmd``; see ``particles.write_emaf``. Default: False.
    max_training_images : int
        Maximum number of randomly chosen images that are held in memory at once, for training and for the first
        average. If ``model`` is given, the maximum is at most 3,000. The images are also limited to 400 MB (6,100
        images of 128 px) or 1,000 images, whichever is larger, and never exceed 4 GB. Default: 10,000.
    rng : numpy.random.Generator or int
        Random number generator or seed for the choice of images and for training. Default: 0.
    progress : bool
        Whether to show progress on stderr. Default: False.
    **opening
        Options for ``particles.open_particles``, such as ``pixel_size_angstrom`` and ``datadir``, and
        ``leave_out_outliers`` of ``particles.usable_images``.

    Returns
    -------
    AlignedFiles
        Contents of ``summary.json``.

    Raises
    ------
    ValueError
        If both ``model`` and ``training`` are given; if a number is out of range; if there are too few images, or any
        of them is constant; if the model or the reference is for images of a different size; if an image name cannot be
        written to a table; or if ``out`` is not empty. Also raises the same errors as ``open_particles``, ``train``,
        ``load_aligner`` and ``read_reference``.
    OSError
        If a file cannot be read or written.
    """
    began = time.monotonic()
    if model is not None and training is not None:
        raise ValueError(f"model {model} is used unchanged; omit training")
    training = training or AlignerTraining()
    most = whole_number(max_training_images, name="max_training_images", at_least=FEWEST_IMAGES)
    with new_folder(out) as folder:
        leave_out = opening.pop("leave_out_outliers", False)
        particles = open_particles(path, **opening)
        image = None if reference is None else read_reference(reference)
        if image is not None and image.shape != particles.shape[1:]:
            raise ValueError(
                f"reference {reference} is {image.shape[1]} x {image.shape[0]} px, "
                f"but the images in {particles.path} are {particles.image_size} px wide"
            )
        aligner = None if model is None else load_for("model", model, particles)
        start = None
        if training.initial_model is not None:
            start = load_for("initial_model", training.initial_model, particles, symmetry=training.symmetry)
        say("checking the images", progress)
        particles = particles[usable_images(particles, leave_out_outliers=leave_out)]
        if not particles.as_stored:
            say("copying the images", progress)
        names = names_or_copies(particles, folder / STAR_FILE, new_stacks=(STACK_FILE, AVERAGES_FILE))
        rng = np.random.default_rng(rng)
        # the aligner and the reference come from a sample that fits into memory
        most = most if model is None else min(most, IMAGES_FOR_POWER)
        has_reference = image is not None or (aligner is not None and aligner.reference is not None)
        sample = _sample(particles, aligner, has_reference, most, rng, progress)
        if aligner is None:
            aligner = obtain_aligner(sample, training, start, rng, progress)
        say("computing the reference", progress)
        filtered = prepare_reference(sample, aligner, image)
        zero = 0.0 if image is None else aligner.angles(image[None])[0]
        del sample
        found, correntropy, numbers = _align_blocks(particles, aligner, filtered, zero, folder, progress)
        _write_tables(particles, names, found, correntropy, folder, emaf)
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
            **_errors(particles, found.angles_rad, aligner.grid.period_rad),
        }
        text = json.dumps(summary, indent=2, allow_nan=False)
        (folder / "summary.json").write_text(text, encoding="utf-8")
    return AlignedFiles(Path(out), **summary)


def _sample(
    particles: ParticleFile,
    aligner: Aligner | None,
    has_reference: bool,
    most: int,
    rng: np.random.Generator,
    progress: bool,
) -> np.ndarray:
    """Read random images for the aligner or the reference, in the order of the file."""
    n, image_bytes = len(particles), 4 * particles.image_size**2
    if (aligner is None or not has_reference) and n < FEWEST_IMAGES:
        purpose = "training" if aligner is None else "a model without a reference"
        raise ValueError(f"{purpose} needs at least {FEWEST_IMAGES} images, but {particles.path} has {n}")
    fitting = min(max(SAMPLE_BYTES // image_bytes, FEWEST_OF_LARGE_IMAGES), MOST_SAMPLE_BYTES // image_bytes)
    most = max(FEWEST_IMAGES, min(most, fitting))
    chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
    say(f"reading {len(chosen):,} images", progress)
    images = np.asarray(particles[chosen])
    _refuse_constant_images(particles, images, chosen)
    image_deviation(images)  # raise before training if products of the images would overflow
    return images


def _refuse_constant_images(particles: ParticleFile, images: np.ndarray, indices: np.ndarray) -> None:
    constant = constant_images(images)
    if constant.any():
        raise ValueError(
            f"image {indices[constant][0] + 1} of {particles.path} is constant inside its inscribed circle; remove it"
        )


def _align_blocks(
    particles: ParticleFile,
    aligner: Aligner,
    reference: FilteredReference,
    zero_rad: float,
    folder: Path,
    progress: bool,
) -> tuple[Registration, np.ndarray, dict[str, float | None]]:
    """Write the aligned stack and the averages; return the poses, correntropies, mean correlation and resolution."""
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
            registration, aligned, score = align_block(images, aligner, reference, zero_rad=zero_rad)
            writer.write(aligned)
            before += images.sum(axis=0)
            for half in (0, 1):
                halves[half] += aligned[indices % 2 == half].sum(axis=0)
            found.append((*registration, score))
            bar.update(len(images))
    *poses, correntropy = (np.concatenate(values) for values in zip(*found, strict=True))
    averages = np.stack([before, halves.sum(axis=0)]) / n
    write_stack(folder / AVERAGES_FILE, averages, pixel_size_angstrom=pixel)
    resolution = None
    if n > 1:
        masked = (halves - halves.mean(axis=(1, 2), keepdims=True)) * image_mask(size)
        agreement = fourier_ring_correlation(*masked, pixel_size_angstrom=pixel)
        resolution = agreement.resolution_or_none(HALF_MAP_THRESHOLD)
    registration = Registration(*poses)
    numbers = {"mean_correlation": float(registration.correlation.mean()), "resolution_angstrom": resolution}
    return registration, correntropy, numbers


def _errors(particles: ParticleFile, angles_rad: np.ndarray, period_rad: float) -> dict[str, float]:
    """Return the errors relative to the true angles of a training folder, which other files do not contain."""
    if particles.program != "training folder" or particles.rotations is None or len(particles) < 2:
        return {}
    truth = particles.rotations.as_euler("zyx")[:, 0]
    return {
        "error_deg": joint_error_deg(angles_rad, truth, period_rad=period_rad),
        "pair_error_deg": pair_error_deg(angles_rad, truth, period_rad=period_rad),
    }


def _write_tables(
    particles: ParticleFile,
    names: list[str],
    found: Registration,
    correntropy: np.ndarray,
    folder: Path,
    emaf: bool,
) -> None:
    """Write the alignment of the original images for RELION and XMIPP, and for EMAF."""
    known, known_groups = particles.relion_tables
    table, optics_groups = relion_tables(
        names,
        found.angles_rad,
        found.shifts_px,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        image_size=particles.image_size,
        scores={"cryoemCorrelation": found.correlation, "cryoemCorrentropy": correntropy},
        table=known,
        optics_groups=known_groups,
    )
    write_star(folder / STAR_FILE, table, optics=optics_groups)
    table = xmipp_table(names, found.angles_rad, found.shifts_px, max_cc=found.correlation)
    write_xmd(folder / XMD_FILE, table)
    if emaf:
        write_emaf(folder / EMAF_FILE, table)
