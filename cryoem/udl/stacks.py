"""From a file of particle images to a folder with the aligned stack and its tables, block by block."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cryoem.checks import whole_number
from cryoem.particles import (
    ParticleFile,
    StackWriter,
    open_particles,
    relion_tables,
    write_stack,
    write_star,
    write_xmd,
    xmipp_table,
)
from cryoem.resolution import fourier_ring_correlation
from cryoem.udl.align import METHODS, align_block, prepare_reference, template_aligner
from cryoem.udl.aligner import Aligner, save_aligner
from cryoem.udl.export import export_aligner, load_model
from cryoem.udl.joint import FEWEST_IMAGES
from cryoem.udl.registration import circular_mask
from cryoem.udl.training import train

MOST_TRAINING_IMAGES = 10_000
BLOCK = 512
HALF_SET_THRESHOLD = 0.143


@dataclass(frozen=True)
class AlignedFiles:
    """What ``align_file`` wrote: its ``folder``, and the numbers of ``summary.json`` in it.

    ``resolution_angstrom`` is where the averages of two halves of the aligned images stop agreeing (0.143).
    Both halves were aligned to one reference, so that for few or very noisy images it is too good.
    """

    folder: Path
    images: int
    pixel_size_angstrom: float
    method: str
    mean_correlation: float
    resolution_angstrom: float
    seconds: float


def align_file(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    method: str = "judl",
    symmetry: str = "C1",
    pixel_size_angstrom: float | None = None,
    max_training_images: int = MOST_TRAINING_IMAGES,
    epochs: int = 5,
    seconds: float | None = None,
    block: int = BLOCK,
    rng: np.random.Generator | int | None = 0,
    progress: bool = False,
    export: bool = False,
) -> AlignedFiles:
    """Align the particle images of a file; the file is only read, and the result appears whole or not at all.

    Parameters
    ----------
    path : as for ``particles.open_particles``.
    out : folder to be made: ``aligned.mrcs``, the aligned images; ``aligned.star`` and ``aligned.xmd``, the
        alignment of the original images for RELION and XMIPP; ``averages.mrcs``, before and after; ``model/``,
        the aligner that was trained (``exported/`` too where asked); ``summary.json``.
    model : folder of a saved or exported aligner; by default one is trained.
    method : ``"judl"``, ``"udl"``, or ``"template"``, which trains nothing.
    symmetry : of the class in its plane, ``"C1"``, ``"C2"``, ...
    pixel_size_angstrom : where the file does not say it, or says it wrongly.
    max_training_images : so many at most, chosen at random, are read at once: for training and for the first average.
    epochs, seconds : of training, as in ``training.train``.
    block : images in memory at a time while aligning.
    rng : of the choice and of the training.
    progress : show a progress bar on stderr.
    export : also write the aligner as a stand-alone artefact.

    Raises
    ------
    ValueError : as ``open_particles``, ``train`` and ``load_model`` do; the method is unknown, there are too
        few images, one is constant or not finite, the model is for another size, or ``out`` holds something.
    OSError : a file cannot be read or written.
    """
    began = time.monotonic()
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    max_training_images = whole_number(
        max_training_images, name="max_training_images", at_least=FEWEST_IMAGES
    )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out must be a new or an empty folder, got {out}, which holds something")
    particles = open_particles(path, pixel_size_angstrom=pixel_size_angstrom)
    aligner = None if model is None else load_model(model)
    if aligner is not None and aligner.grid.image_size != particles.image_size:
        raise ValueError(
            f"model {model} is for images of {aligner.grid.image_size} px, "
            f"got {particles.image_size} px in {path}"
        )
    if len(particles) < (1 if aligner is not None and aligner.reference is not None else FEWEST_IMAGES):
        raise ValueError(
            f"{path} must hold at least {FEWEST_IMAGES} images to train on, got {len(particles)}"
        )
    rng = np.random.default_rng(rng)
    sample = _sample(particles, max_training_images, rng)
    is_new = aligner is None
    if is_new and method == "template":
        aligner = template_aligner(sample, symmetry=symmetry)
    elif is_new:
        aligner = train(
            sample, method=method, symmetry=symmetry, epochs=epochs, seconds=seconds, rng=rng, verbose=0
        ).aligner
    reference = prepare_reference(sample, aligner)
    with _folder_aside(out) as folder:
        numbers = _align_blocks(particles, aligner, reference, folder, out, block, progress)
        if is_new and method != "template":
            save_aligner(aligner, folder / "model")
            if export:
                export_aligner(aligner, folder / "exported")
        numbers = {
            "images": len(particles),
            "pixel_size_angstrom": particles.pixel_size_angstrom,
            "method": aligner.method,
            **numbers,
            "seconds": time.monotonic() - began,
        }
        (folder / "summary.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    return AlignedFiles(out, **numbers)


def _sample(particles: ParticleFile, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many images, chosen at random, in the file's order."""
    n = len(particles)
    chosen = np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))
    images = particles.read(chosen)
    _no_constant_image(particles, images, chosen)
    return images


def _no_constant_image(particles: ParticleFile, images: np.ndarray, numbers: np.ndarray) -> None:
    constant = np.ptp(images.reshape(len(images), -1), axis=1) == 0
    if constant.any():
        raise ValueError(
            f"{particles.path} must hold images with structure, image {numbers[constant][0] + 1} is constant"
        )


def _align_blocks(
    particles: ParticleFile, aligner: Aligner, reference, folder: Path, out: Path, block: int, progress: bool
) -> dict[str, float]:
    """Write the aligned stack, the tables and the averages; the mean correlation and the half-sets' resolution."""
    n, size, pixel = len(particles), particles.image_size, particles.pixel_size_angstrom
    before, halves = np.zeros((size, size)), np.zeros((2, size, size))
    found, correntropy = [], []
    with (
        StackWriter(folder / "aligned.mrcs", n, size, pixel) as writer,
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
    angles, shifts, correlation = (np.concatenate(values) for values in zip(*found, strict=True))
    _write_tables(particles, angles, shifts, correlation, np.concatenate(correntropy), folder, out)
    averages = np.stack([before, halves.sum(axis=0)]) / n
    write_stack(folder / "averages.mrcs", averages, pixel_size_angstrom=pixel)
    masked = (halves - halves.mean(axis=(1, 2), keepdims=True)) * circular_mask(size)
    agreement = fourier_ring_correlation(*masked, pixel_size_angstrom=pixel) if n > 1 else None
    return {
        "mean_correlation": float(correlation.mean()),
        "resolution_angstrom": float("nan")
        if agreement is None
        else agreement.resolution_angstrom(HALF_SET_THRESHOLD),
    }


def _write_tables(particles, angles, shifts, correlation, correntropy, folder: Path, out: Path) -> None:
    """The alignment of the original images, named as they are found from the folder that it will be in."""
    names = _names_from(particles, out)
    has_relion_table = particles.table is not None and particles.path.suffix.lower() == ".star"
    table, optics = relion_tables(
        names,
        angles,
        shifts,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        image_size=particles.image_size,
        scores={"cryoemCorrelation": correlation, "cryoemCorrentropy": correntropy},
        table=particles.table if has_relion_table else None,
        optics=particles.optics if has_relion_table else None,
    )
    write_star(folder / "aligned.star", table, optics=optics)
    write_xmd(folder / "aligned.xmd", xmipp_table(names, angles, shifts, max_cc=correlation))


def _names_from(particles: ParticleFile, out: Path) -> list[str]:
    """``number@stack`` of each image, stacks relative to the folder ``out``."""
    images = particles.images
    paths = [os.path.relpath(Path(stack.path).absolute(), out.absolute()) for stack in images.stacks]
    return [
        f"{number + 1:06d}@{paths[stack]}"
        for stack, number in zip(images.stack_of, images.number_of, strict=True)
    ]


@contextmanager
def _folder_aside(out: Path) -> Iterator[Path]:
    """A folder to write in that becomes ``out`` at the end, or vanishes with whatever went wrong."""
    aside = out.parent / f".partial-{out.name}-{os.getpid()}"
    aside.mkdir(parents=True)
    try:
        yield aside
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
