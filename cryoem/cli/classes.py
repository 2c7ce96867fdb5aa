"""The command ``classify2d``: two-dimensional classes of particle images, and the images of chosen classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command
from cryoem.memory import check_memory

if TYPE_CHECKING:
    from cryoem.particles.files import ParticleFile
    from cryoem.udl.classification import Classification

AVERAGES_FILE, STAR_FILE, PAGE_FILE = "averages.mrcs", "classes.star", "classes.html"
RING_BYTES = 30_000  # memory per image for its values on rings
CLASS, SCORE = "rlnClassNumber", "cryoemLogLikelihood"


@command(afterwards=NOTHING_WRITTEN)
def classify2d(
    particles: options.Particles,
    out: Annotated[
        Path, typer.Option("--out", help="New folder for the results; with --keep, the new table (.star).")
    ],
    *,
    k: Annotated[
        int | None, typer.Option("--classes", "-k", min=1, help="Number of classes (default: 50).")
    ] = None,
    shift_deviation_px: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the displacements of the particles along x and y; by default 3 % of the width."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds (default: 30).")] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Write the particles of these classes, such as 1,4,7, from the table of an earlier run.",
        ),
    ] = None,
    seed: options.Seed = 0,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    as_stack: options.AsStack = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the table of --keep; the output folder must be new.")
    ] = False,
) -> Answer:
    """Sort particle images into two-dimensional classes and average each class.

    Writes averages.mrcs, classes.star with the class, angle, origin and log-likelihood of each particle, and the page
    classes.html, a gallery with the count and resolution of each class. Classes are numbered from 1 in order of
    descending count. Empty and unresolved classes, and classes of noise or of neighbouring particles at the edge, are
    marked as junk. The CTF is corrected if the file contains its parameters. Images must fit into memory. To align one
    class in detail, use its average as the reference of align2d, such as --reference 3@classes/averages.mrcs.

    \b
    Example:
      cryoem classify2d job.star -k 50 --out classes/
      cryoem classify2d classes/classes.star --keep 1,4,7 --out good.star
    """
    if keep is not None:
        given = {"--classes": k, "--shift-deviation-px": shift_deviation_px, "--rounds": rounds}
        if unused := [name for name, value in given.items() if value is not None]:
            raise typer.BadParameter(
                f"does not classify again; omit {', '.join(unused)}", param_hint="--keep"
            )
        return _keep(opening.open(particles, as_stack=as_stack), _numbers(keep), out, force=force)

    from cryoem.files.writing import new_folder, write_text
    from cryoem.particles.mrc import write_stack
    from cryoem.particles.naming import names_for_table
    from cryoem.particles.relion import relion_tables
    from cryoem.particles.star import write_star
    from cryoem.particles.writing import names_or_copies
    from cryoem.udl.classification import ROUNDS, classify

    given = {"shift_deviation_px": shift_deviation_px, "rounds": rounds}
    given = {name: value for name, value in given.items() if value is not None}
    with new_folder(out) as folder:
        opened = opening.open(particles, as_stack=as_stack)
        if opened.as_stored:
            with warnings.catch_warnings(action="ignore"):  # given below
                # raises an error, before the search
                names_for_table(opened, folder / STAR_FILE, new_stacks=(AVERAGES_FILE,))
        check_memory(
            f"classifying {len(opened):,} images of {opened.image_size} px",
            len(opened) * (16.0 * opened.image_size**2 + RING_BYTES),
        )
        opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
        names = names_or_copies(opened, folder / STAR_FILE, new_stacks=(AVERAGES_FILE,))
        with shared.progress("classifying", rounds or ROUNDS, unit="round") as done:
            found = classify(opened, 50 if k is None else k, rng=seed, callback=done, **given)
        write_stack(folder / AVERAGES_FILE, found.averages, pixel_size_angstrom=opened.pixel_size_angstrom)
        table, groups = opened.relion_tables
        table, groups = relion_tables(
            names,
            found.angles_rad,
            found.shifts_px,
            pixel_size_angstrom=opened.pixel_size_angstrom,
            image_size=opened.image_size,
            scores={SCORE: found.log_likelihoods},
            table=table,
            optics_groups=groups,
        )
        write_star(folder / STAR_FILE, table.assign(**{CLASS: found.classes + 1}), optics=groups)
        write_text(folder / PAGE_FILE, _page(found, opened))
    return _answer(found, out, opened)


def _answer(found: Classification, out: Path, opened: ParticleFile) -> Answer:
    """Return the numbers of each class, and the command that keeps the classes that are not junk."""
    import numpy as np

    good = np.flatnonzero(~found.junk)
    rows = [
        {
            "class": c + 1,
            "images": found.counts[c],
            "resolution_angstrom": found.resolutions_angstrom[c],
            "junk": found.faults[c] or None,
        }
        for c in range(len(found.counts))
    ]
    kept = int(found.counts[good].sum())
    classes = _classes(len(rows))
    text = f"{len(opened):,} images in {classes}, {len(good)} of them not junk, with {kept:,} images\n"
    if len(good):
        best = found.resolutions_angstrom[good]
        text += f"resolution of these classes: {best.min():.1f} to {best.max():.1f} Å, median {np.median(best):.1f} Å\n"
        numbers = ",".join(str(c + 1) for c in good)
        text += f"to keep them: cryoem classify2d {out / STAR_FILE} --keep {numbers} --out good.star\n"
    text += f"\nResult: {out}\nPage: {out / PAGE_FILE}"
    values = {
        "folder": out,
        "images": len(opened),
        "images_in_junk_classes": len(opened) - kept,
        "ctf_corrected": opened.ctf is not None,
        "classes": rows,
    }
    return Answer(text, values)


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _page(found: Classification, opened: ParticleFile) -> str:
    """Return the page with the gallery of the averages."""
    from cryoem import plots
    from cryoem.runs.report import render_figures

    gallery = plots.class_gallery(
        found.averages,
        counts=found.counts,
        resolutions_angstrom=found.resolutions_angstrom,
        faults=found.faults,
        pixel_size_angstrom=opened.pixel_size_angstrom,
    )
    caption = (
        "Class averages in order of descending count, each with its own grey scale. Above each: class number, count, "
        "and resolution (FRC 0.143 between two halves aligned separately). Frames mark junk classes."
    )
    chart = plots.class_quality(
        found.log_likelihoods,
        found.classes,
        resolutions_angstrom=found.resolutions_angstrom,
        faults=found.faults,
    )
    about_chart = (
        "Mean log-likelihood of the images in each class, relative to pure noise, given averages of the other half of "
        "the images. It is at most zero for noise. The area of a disc is proportional to the count."
    )
    return render_figures(
        title=f"Classes of {opened.path.name}",
        about=f"{len(opened):,} images in {_classes(len(found.counts))}; {int((~found.junk).sum())} are not junk",
        figures={caption: gallery, about_chart: chart},
    )


def _numbers(keep: str) -> list[int]:
    """Return the class numbers in a list such as 1,4,7."""
    parts = [part.strip() for part in keep.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"must be class numbers separated by commas, such as 1,4,7, got {keep}", param_hint="--keep"
        )
    return sorted({int(part) for part in parts})


def _keep(opened: ParticleFile, numbers: list[int], out: Path, *, force: bool) -> Answer:
    """Write the rows of a table that belong to the given classes."""
    from cryoem.particles.columns import Columns
    from cryoem.particles.naming import names_for_table
    from cryoem.particles.star import write_star

    shared.new_file(out, ".star", force=force, inputs=opened.paths)
    if opened.program != "relion" or CLASS not in opened.table:
        raise ValueError(
            f"{opened.path} has no column {CLASS}; --keep applies to the table that an earlier run wrote, {STAR_FILE}"
        )
    of_image = Columns(opened.path, opened.table).numbers(CLASS).astype(int)
    if missing := sorted(set(numbers) - set(of_image)):
        raise ValueError(
            f"--keep {', '.join(map(str, missing))}: no particle in {opened.path} is in this class"
        )
    rows = [number in numbers for number in of_image]
    kept = opened[[i for i, chosen in enumerate(rows) if chosen]]
    table = kept.table.assign(rlnImageName=names_for_table(kept, out))
    write_star(out, table, optics=kept.optics_groups)
    text = f"{len(kept):,} of {len(opened):,} particles, in {_classes(len(numbers))}: {out}"
    return Answer(text, {"table": out, "images": len(kept), "images_before": len(opened), "classes": numbers})
