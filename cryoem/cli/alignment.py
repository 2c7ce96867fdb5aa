"""The command that aligns the particle images of one class in their plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    from cryoem.udl.stacks import AlignedFiles


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def align2d(
    particles: options.Particles,
    out: Annotated[Path, typer.Option(help="New folder for the results.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved or exported aligner; by default a new aligner is trained."),
    ] = None,
    initial_model: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved aligner from whose weights training starts."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Reference image: PNG, MRC, or N@FILE for image N of a stack; by default an average.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Alignment method: judl (default), udl, or template (no training).")
    ] = None,
    symmetry: Annotated[
        str | None, typer.Option(help="In-plane symmetry of the class: C1 (default), C2, ....")
    ] = None,
    *,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    as_stack: options.AsStack = False,
    epochs: Annotated[int | None, typer.Option(help="Number of training epochs (default: 5).")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Training time in seconds after which no new epoch is started.")
    ] = None,
    max_training_images: Annotated[
        int, typer.Option(help="Maximum number of training images, which are chosen at random.")
    ] = 10_000,
    seed: options.Seed = 0,
    export: Annotated[
        bool, typer.Option("--export", help="Also write the aligner as a stand-alone TensorFlow model.")
    ] = False,
    extra_format: Annotated[
        Literal["emaf"] | None,
        typer.Option("--format", help="Also write the alignment in this format: emaf (aligned-emaf.xmd)."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Output page (.html) with the averages before and after alignment."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing page; the output folder must be new.")
    ] = False,
) -> Answer:
    """Align the particle images of one class by in-plane rotations and shifts.

    Writes the aligned stack, tables for RELION and XMIPP, the averages before and after alignment, and the aligner. The
    output folder is created only when all files are complete. Stack names in the tables are absolute, or relative to a
    folder above the output: the project of the input table, or the working folder. If they are relative, start RELION
    or XMIPP in that folder. If PARTICLES is a training folder with true angles (parameters.txt), angle errors are
    reported.

    \b
    Example:
      cryoem align2d particles.mrcs --out aligned/ --html averages.html
      cryoem align2d particles.star --reference 3@averages.mrcs --out aligned/
    """
    from cryoem.files.writing import write_text
    from cryoem.udl.stack_training import AlignerTraining
    from cryoem.udl.stacks import align_file

    if html is not None:
        shared.new_file(html, ".html", force=force, inputs=(particles,), option="--html")
    given = {
        "method": method,
        "symmetry": symmetry,
        "epochs": epochs,
        "seconds": seconds,
        "initial_model": initial_model,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if export:
        given["export"] = True
    if model is not None and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--model is used without training; omit {names}")
    result = align_file(
        particles,
        out,
        model=model,
        training=None if model is not None else AlignerTraining(**given),
        reference=reference,
        emaf=extra_format == "emaf",
        **opening.arguments(),
        leave_out_outliers=leave_out_outliers,
        as_stack=as_stack,
        max_training_images=max_training_images,
        rng=seed,
        progress=True,
    )
    agreement = "the averages of two halves do not agree"
    if result.images == 1:
        agreement = "a single image has no halves to compare"
    elif result.resolution_angstrom is not None:
        agreement = f"the averages of two halves agree to {result.resolution_angstrom:.1f} Å"
    images = "1 image" if result.images == 1 else f"{result.images:,} images"
    text = f"{images} aligned in {result.seconds:.0f} s ({result.method}); {agreement}"
    if result.error_deg is not None:
        text += f"\nmean angle error {result.error_deg:.2f}° "
        text += f"({result.pair_error_deg:.2f}° for angles between consecutive images)"
    values = {**vars(result), "page": html}
    if html is not None:
        write_text(html, _averages_page(result, title=particles.name, agreement=agreement))
        return Answer(f"{text}\n\nResult: {result.folder}\nPage: {html}", values)
    return Answer(f"{text}\n\nResult: {result.folder}", values)


def _averages_page(result: AlignedFiles, *, title: str, agreement: str) -> str:
    """Return a page with the averages of the images before and after alignment."""
    import numpy as np

    from cryoem import plots
    from cryoem.particles.opening import open_particles
    from cryoem.runs.report import render_figures
    from cryoem.udl.stacks import AVERAGES_FILE

    averages = np.asarray(open_particles(result.folder / AVERAGES_FILE))
    gallery = plots.projection_gallery(
        averages,
        pixel_size_angstrom=result.pixel_size_angstrom,
        titles=("before alignment", "after alignment"),
    )
    caption = f"Average of the images before and after alignment, each with its own grey scale; {agreement}."
    about = f"{result.images:,} images, aligned with cryoem ({result.method})"
    return render_figures(title=title, about=about, figures={caption: gallery})
