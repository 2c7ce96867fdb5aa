"""Commands that need neither a map of the particle nor orientations of the images."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command


@command(afterwards=NOTHING_WRITTEN)
def abinitio(
    particles: options.Particles,
    out: Annotated[Path, typer.Option("--out", help="Output file for the map; its folder must exist.")],
    poses: Annotated[
        Path, typer.Option("--poses", help="Output file for the orientations and shifts (.star, .cs).")
    ],
    *,
    shift_deviation_px: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the displacements of the particles along x and y; 3 % of the image width by "
            "default. Use 0 for centred particles."
        ),
    ] = None,
    symmetry: options.Symmetry = "C1",
    starts: Annotated[int, typer.Option(min=1, help="Number of random starts.")] = 4,
    seed: options.Seed = 0,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    leave_out_junk: Annotated[
        bool,
        typer.Option(
            "--leave-out-junk",
            help="Leave images out of the table that are more likely to be noise than the particle.",
        ),
    ] = False,
    as_stack: options.AsStack = False,
    force: options.Force = False,
) -> Answer:
    """Find the orientations of images and a first map of the particle, from the images alone.

    The CTF is corrected if the file contains its parameters. Several random starts are compared on held-out images, and
    the start with the highest likelihood continues with all images. If there are more than 10,000 images, the search
    uses 10,000 random ones; the poses of the others are then found in the map. Do not trust the map if the starts
    disagree, or if it leaves more than a tenth of the signal unexplained. The handedness of the map is arbitrary. The
    resolution is measured between maps of alternate images. Their orientations were found with one common map, so it is
    an overestimate. The starts ignore the symmetry: its axes are found in the map of the best start, and the symmetry
    is then imposed.

    \b
    Example:
      cryoem abinitio particles.star --out initial.mrc --poses orientations.star
      cryoem abinitio centred.star --shift-deviation-px 0 --out initial.mrc --poses orientations.star
    """
    import numpy as np

    from cryoem import plots
    from cryoem.cli.handoff import how_to_view, new_map
    from cryoem.files.writing import atomic_write_many
    from cryoem.images import SHIFT_DEVIATION
    from cryoem.orientations import expectation_maximisation as em
    from cryoem.particles.writing import write_poses
    from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD, fourier_shell_correlation
    from cryoem.volumes.density import resample
    from cryoem.volumes.maps import write_chimerax_script, write_map

    new_map(out, force=force, inputs=(particles,))
    shared.new_file(poses, ".star", ".cs", force=force, inputs=(particles,), option="--poses")
    opened = opening.open(particles, as_stack=as_stack)
    shared.refuse_input(out, opened.paths)
    shared.check_pose_table(poses, opened, force=force, option="--poses")
    opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    if shift_deviation_px is None:
        shift_deviation_px = SHIFT_DEVIATION * opened.image_size
    counted = itertools.count(1)
    with contextlib.ExitStack() as bars:
        searched = bars.enter_context(
            shared.progress("searching for orientations", em.count_rounds(starts), unit="round")
        )
        located = None

        def show(state: em.Round) -> None:
            nonlocal located
            if state.stage != "other images":
                searched(next(counted))
                return
            if located is None:
                others = len(opened) - em.MOST_SEARCHED
                located = bars.enter_context(shared.progress("locating the other images", others))
            located(state.number)

        found = em.ab_initio(
            opened,
            shift_deviation_px=shift_deviation_px,
            symmetry=symmetry,
            starts=starts,
            rng=seed,
            callback=show,
        )
    halves = [half.data for half in found.half_maps]
    curve = fourier_shell_correlation(*halves, voxel_size_angstrom=found.map.voxel_size_angstrom)
    resolution = curve.resolution_or_none(HALF_MAP_THRESHOLD)
    best = int(np.argmax(found.likelihoods))
    agreeing = float(np.mean(found.agreement)) if starts > 1 else None
    junk = found.evidence < 0
    kept = np.flatnonzero(~junk) if leave_out_junk else np.arange(len(opened))
    if not len(kept):
        raise ValueError(
            f"all {len(opened)} images are more likely to be noise than the particle, so none would be left; "
            "the search found no particle in them"
        )
    with atomic_write_many(out) as (partial,):
        initial = resample(found.map, opened.pixel_size_angstrom)
        write_map(partial, initial)
        write_poses(poses, opened[kept], found.poses[kept])
    script = write_chimerax_script(out, initial, level=plots.automatic_level(initial.data))
    values = {
        "map": out,
        "chimerax_script": script,
        "orientations": poses,
        "images": len(opened),
        "junk": int(junk.sum()),
        "images_in_table": len(kept),
        "shift_deviation_px": shift_deviation_px,
        "symmetry": symmetry,
        "symmetry_correlation": None if np.isnan(found.symmetry_correlation) else found.symmetry_correlation,
        "agreement_of_starts": agreeing,
        "explained_signal": None if np.isnan(found.explained) else found.explained,
        "log_likelihoods_of_starts": found.likelihoods,
        "best_start": best + 1,
        "half_map_resolution_angstrom": resolution,
        "ctf_corrected": opened.ctf is not None,
        "seed": seed,
    }
    text = f"{len(opened):,} images: {out} and {poses}\n"
    if agreeing is not None:
        within = round(float(np.rad2deg(em.AGREEMENT_RAD)))
        placed = f"{100 * agreeing:.0f} % of the images within {within}°"
        text += f"agreement: the other starts place {placed} of the best start\n"
    if not np.isnan(found.explained):
        text += f"signal: the map explains {100 * found.explained:.0f} % of it at low resolution\n"
    if junk.any():
        text += f"junk: {junk.sum():,} images are more likely to be noise than the particle; "
        text += "they are left out of the table\n" if leave_out_junk else "--leave-out-junk leaves them out\n"
    if symmetry != "C1":
        text += f"correlation of the map with its copies under {symmetry}: {found.symmetry_correlation:.2f}\n"
    listed = ", ".join(f"{value:.1f}{' (best)' * (i == best)}" for i, value in enumerate(found.likelihoods))
    text += f"mean log-likelihood of held-out images in each start: {listed}\n"
    text += (
        f"the halves have no resolution: their FSC starts below {HALF_MAP_THRESHOLD:g}"
        if resolution is None
        else f"maps of alternate images agree to {resolution:.1f} Å (FSC {HALF_MAP_THRESHOLD:g})"
    )
    return Answer(f"{text}\n{how_to_view(out, script)}", values)
