"""The command for in-plane alignment of the images of one class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli.options import Datadir, Particles, PixelSize, Seed
from cryoem.cli.wrapper import NOTHING_WRITTEN, Answer, command


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def align2d(
    particles: Particles,
    out: Annotated[Path, typer.Option(help="New folder for the result.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved or exported aligner; by default a new one is trained."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="judl, udl, or template (no training); judl by default.")
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="In-plane symmetry of the class: C1, C2, ...; C1 by default.")
    ] = None,
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    epochs: Annotated[int | None, typer.Option(help="Number of training epochs; 5 by default.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Training time in seconds after which no new epoch starts.")
    ] = None,
    max_training_images: Annotated[
        int, typer.Option(help="Maximum number of training images, chosen at random.")
    ] = 10_000,
    seed: Seed = 0,
    export: Annotated[
        bool, typer.Option("--export", help="Also write the aligner as a stand-alone TensorFlow model.")
    ] = False,
) -> Answer:
    """Align the particle images of one class in-plane.

    Writes the aligned stack, tables for RELION and XMIPP, the averages before and after alignment, and the trained
    model. The folder appears only when all of them are complete. Run this command in the folder from which you start
    RELION or XMIPP, because stack names in the tables are relative to it.

    \b
    Example:
      cryoem align2d particles.mrcs --out aligned/
    """
    from cryoem.udl.aligner_training import AlignerTraining
    from cryoem.udl.stacks import align_file

    options = {
        "method": method,
        "symmetry": symmetry,
        "epochs": epochs,
        "seconds": seconds,
        "export": export or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if model is not None and given:
        raise ValueError(f"--model is not trained further; omit {', '.join(f'--{name}' for name in given)}")
    result = align_file(
        particles,
        out,
        model=model,
        training=None if model is not None else AlignerTraining(**given),
        pixel_size_angstrom=pixel_size,
        datadir=datadir,
        max_training_images=max_training_images,
        rng=seed,
        progress=True,
    )
    agreement = "a single image has no halves to compare"
    if result.resolution_angstrom is not None:
        agreement = f"the averages of two halves agree to {result.resolution_angstrom:.1f} Å"
    images = "1 image" if result.images == 1 else f"{result.images:,} images"
    return Answer(
        f"{images} aligned in {result.seconds:.0f} s ({result.method}); {agreement}\n\nResult: {result.folder}",
        vars(result),
    )
