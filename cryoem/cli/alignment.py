"""The command that aligns the images of one class in their plane."""

from __future__ import annotations

from typing import Annotated

import typer

from cryoem.cli.endings import NOTHING_WRITTEN, Answer, ends_in_order
from cryoem.cli.options import Datadir, PixelSize, Seed


@ends_in_order(afterwards=NOTHING_WRITTEN, on_device=True)
def align2d(
    particles: Annotated[
        str,
        typer.Argument(
            metavar="PARTICLES", help="Stack (.mrcs, .mrc) or table (.star, .cs, .xmd) of particles."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder to be made for the result.")],
    model: Annotated[
        str | None, typer.Option(help="Folder of a saved or exported aligner; trained by default.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="judl, udl, or template, which trains nothing; judl by default.")
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="Of the class in its plane: C1, C2, ...; C1 by default.")
    ] = None,
    pixel_size: PixelSize = None,
    datadir: Datadir = None,
    epochs: Annotated[int | None, typer.Option(help="Of training; 5 by default.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Train no longer than this.")] = None,
    max_training_images: Annotated[int, typer.Option(help="So many at most are trained on.")] = 10_000,
    seed: Seed = 0,
    export: Annotated[bool, typer.Option("--export", help="Also write a stand-alone model.")] = False,
) -> Answer:
    """Align the particle images of one class in their plane.

    Writes the aligned stack, tables for RELION and XMIPP, the averages before and after, and the trained model; all
    of it at the end, or nothing.  Start it in the folder that RELION or XMIPP is started in, as the tables name a bare
    stack from there.

    \b
    Example:
      cryoem align2d particles.mrcs --out aligned/
    """
    from cryoem.udl.stacks import align_file

    result = align_file(
        particles,
        out,
        model=model,
        method=method,
        symmetry=symmetry,
        pixel_size_angstrom=pixel_size,
        datadir=datadir,
        max_training_images=max_training_images,
        epochs=epochs,
        seconds=seconds,
        rng=seed,
        progress=True,
        export=export,
    )
    agreement = "a single image has no halves to compare"
    if result.resolution_angstrom is not None:
        agreement = f"half-set averages agree to {result.resolution_angstrom:.1f} Å"
    images = "1 image" if result.images == 1 else f"{result.images:,} images"
    return Answer(
        f"{images} aligned in {result.seconds:.0f} s ({result.method}); {agreement}\n\nResult: {result.folder}",
        vars(result),
    )
