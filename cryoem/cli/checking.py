"""The command that checks a particle file before it is used."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command


@command(afterwards=NOTHING_WRITTEN)
def check(
    particles: options.Particles,
    *,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Output page (.html) with images, spectrum, directions and the quick map."
        ),
    ] = None,
    seed: options.Seed = 0,
    opening: options.Opening,
    as_stack: options.AsStack = False,
    force: options.Force = False,
) -> Answer:
    """Check a particle file: what was read, outliers, and whether the poses and the CTF are interpreted correctly.

    If there are poses, a few hundred images are compared with quick maps of the others: as read, and under the usual
    misreadings (inverse rotations, signs of angles and shifts, wrong units and scales, a constant in-plane rotation or
    displacement, mirrored images, sign of the CTF, inverted contrast). The handedness of the map cannot be checked,
    because projections do not determine it. Images on two scales, repeated images and unusable half-sets are also
    reported.

    \b
    Example:
      cryoem check job.star --html check.html
    """
    from cryoem.files.writing import write_text
    from cryoem.particles.columns import DoubtfulValue
    from cryoem.particles.pixel_sizes import UnknownPixelSize
    from cryoem.runs.checking import inspect_particles, readings_table, render_inspection

    if html is not None:
        shared.new_file(html, ".html", force=force, inputs=(particles,), option="--html")
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            opened = opening.open(particles, as_stack=as_stack)
        except UnknownPixelSize as error:
            size, source = (
                (error.header_angstrom, ", as in the stacks") if error.header_angstrom else (1.0, "")
            )
            notes.append(f"{error}; this check uses {size:.6g} Å{source}")
            opened = replace(opening, pixel_size=size).open(particles, as_stack=as_stack)
            if not source and opened.contrast is not None:
                notes.append("The CTF cannot be checked, because it depends on the pixel size.")
        with (
            shared.progress("checking", len(opened)) as read,
            shared.progress("comparing readings", 1, unit="reading") as bar,
        ):
            found = inspect_particles(
                opened,
                figures=html is not None,
                rng=seed,
                read=read,
                compared=lambda done, known: bar(done / known),
            )
    texts = {" ".join(str(each.message).split()): issubclass(each.category, DoubtfulValue) for each in caught}
    found.remarks[:0] = notes + [text for text, doubtful in texts.items() if not doubtful]
    found.findings[:0] = [text for text, doubtful in texts.items() if doubtful]
    if html is not None:
        about = f"{len(opened):,} images, checked with cryoem"
        write_text(html, render_inspection(found, title=particles.name, about=about))
    width = max(map(len, found.facts))
    lines = [f"{name:<{width}}  {text}" for name, text in found.facts.items()]
    if found.poses is not None:
        lines += ["", "readings, the best first (log-likelihood per image, difference, half-map resolution)"]
        rows = readings_table(found.poses)
        lines += [
            f"  {name:<28} {score:>9}  {difference:<20} {angstrom}".rstrip()
            for name, score, difference, angstrom in rows
        ]
    lines += ["", *(f"Note: {remark}" for remark in found.remarks)] if found.remarks else []
    lines += ["", *(f"Finding: {finding}" for finding in found.findings)] if found.findings else []
    lines += ["", found.verdict]
    lines += ["", f"Page: {html}"] if html is not None else []
    poses = found.poses
    values = {
        "all_is_well": not found.findings,
        "findings": found.findings,
        "remarks": found.remarks,
        "facts": found.facts,
        "unusable": found.unusable,
        "outliers": found.outliers,
        "poses_confirmed": None if poses is None else poses.confirmed,
        "right_readings": None if poses is None else [each.name for each in poses.right],
        "dark_particles": None if poses is None else poses.dark,
        "log_likelihoods": None
        if poses is None
        else {each.name: each.log_likelihood for each in poses.readings},
        "page": html,
    }
    return Answer("\n".join(lines), values)
