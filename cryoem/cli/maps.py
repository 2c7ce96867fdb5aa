"""Commands from particles with poses to a map: reconstruction and refinement."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command
from cryoem.memory import check_memory

if TYPE_CHECKING:
    from cryoem.particles.files import ParticleFile

PROGRAM_BYTES = 300_000_000  # memory of the program and of one block of images


@command(afterwards=NOTHING_WRITTEN, on_device=True)
def reconstruct(
    particles: options.Particles,
    out: options.Out,
    *,
    symmetry: options.Symmetry = "C1",
    method: Annotated[
        str, typer.Option(help="Reconstruction method: fourier, or cgls, which reads all images into memory.")
    ] = "fourier",
    half_maps: Annotated[
        bool, typer.Option("--half-maps", help="Also write two half-maps and estimate the resolution.")
    ] = False,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    force: options.Force = False,
) -> Answer:
    """Reconstruct a map from particle images with known orientations.

    Shifts and the CTF are corrected if the file contains them. Half-maps are reconstructed from RELION's random subsets
    (rlnRandomSubset) if the table contains them, and otherwise from alternate images. The resolution is an overestimate
    if the halves were not refined independently, as with alternate images or with poses from `cryoem refine`; for the
    latter, use the half-maps of `cryoem refine --half-maps`.

    \b
    Example:
      cryoem reconstruct orientations.star --half-maps --out map.mrc
    """
    from cryoem import plots
    from cryoem.cli.handoff import how_to_view
    from cryoem.files.writing import atomic_write_many
    from cryoem.reconstruction import maps
    from cryoem.reconstruction.accumulation import accumulate_blocks
    from cryoem.reconstruction.masks import masked_half_map_fsc, particle_mask
    from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD
    from cryoem.reconstruction.rounds import FOLDS
    from cryoem.volumes.density import DensityMap
    from cryoem.volumes.maps import chimerax_script_path, write_chimerax_script, write_map

    in_memory = method != "fourier"
    if in_memory and half_maps:
        raise typer.BadParameter(f"requires --method fourier, got {method}", param_hint="--half-maps")
    if in_memory and (workers > 1 or scheduler):
        raise typer.BadParameter(
            f"require --method fourier, got {method}", param_hint="--workers and --scheduler"
        )
    paths = [out, *(_half_path(out, number) for number in (1, 2) if half_maps)]
    for path in paths:
        shared.new_file(path, *shared.MAP_SUFFIXES, force=force, inputs=(particles,))
    shared.new_file(chimerax_script_path(out), ".cxc", force=force)
    opened = opening.open(particles)
    for path in paths:
        shared.refuse_input(path, opened.paths)
    if opened.poses is None:
        raise ValueError(f"{particles} has no orientations; a map cannot be reconstructed without them")
    check_memory(
        f"reconstructing a map {opened.image_size} px wide",
        _needed_bytes(opened, symmetry, in_memory=in_memory, half_maps=half_maps, workers=workers),
    )
    opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    subset = opened.random_subset if half_maps else None
    if half_maps:
        shared.warn_of_repeats(opened)
    if subset is not None:
        maps.checked_subset(subset, count=len(opened), at_least=FOLDS)
    known = {"optics": opened.optics, "symmetry": symmetry}
    if in_memory:
        outputs = [maps.reconstruct(opened, opened.poses, method=method, **known)]
    else:
        sharing = {"workers": workers, "scheduler": scheduler, "ahead": 1}  # the sums use much memory
        with (
            shared.shared_work("reconstructing", len(opened), **sharing) as (map_blocks, done),
            tempfile.TemporaryFile() as scratch,
        ):
            known |= {"map_blocks": map_blocks, "callback": done}
            if half_maps:
                found = maps.reconstruct_halves(opened, opened.poses, subset=subset, scratch=scratch, **known)
                outputs = [found.map, *found.half_maps]
            else:
                volume = accumulate_blocks(opened, opened.poses, **known).invert(overwrite=True)
                outputs = [DensityMap(volume, opened.pixel_size_angstrom)]
    with atomic_write_many(*paths) as partials:
        for path, density_map in zip(partials, outputs, strict=True):
            write_map(path, density_map)
        level = plots.automatic_level(outputs[0].data)
        if half_maps:
            del found, outputs[0]  # the comparison takes the memory of several maps
            first, second = (half.data for half in outputs)
            mask, voxel = particle_mask(first, second), opened.pixel_size_angstrom
            curve = masked_half_map_fsc(first, second, mask, voxel_size_angstrom=voxel, rng=0)
            resolution = curve.resolution_or_none(HALF_MAP_THRESHOLD)
    script = write_chimerax_script(out, outputs[0], level=level)
    values = {
        "map": out,
        "chimerax_script": script,
        "images": len(opened),
        "box_px": opened.image_size,
        "voxel_size_angstrom": opened.pixel_size_angstrom,
        "symmetry": symmetry,
    }
    text = f"{len(opened):,} images: {out}"
    if half_maps:
        values |= {
            "half_maps": paths[1:],
            "half_map_resolution_angstrom": resolution,
            "halves_from_table": subset is not None,
        }
        text += f"\nhalf-maps {paths[1]} and {paths[2]} "
        text += (
            f"have no resolution: their masked FSC starts below {HALF_MAP_THRESHOLD:g}"
            if resolution is None
            else f"agree to {resolution:.2f} Å (masked, FSC {HALF_MAP_THRESHOLD:g})"
        )
        if subset is None:
            text += "; this is an overestimate, because the halves (alternate images) were not refined independently"
    return Answer(f"{text}\n{how_to_view(out, script)}", values)


@command(afterwards=NOTHING_WRITTEN)
def refine(
    particles: options.Particles,
    out: options.Out,
    poses: Annotated[
        Path, typer.Option("--poses", help="Output file for the orientations and shifts (.star, .cs).")
    ],
    symmetry: options.Symmetry = "C1",
    half_maps: Annotated[bool, typer.Option("--half-maps", help="Also write the two half-maps.")] = False,
    refine_shifts: Annotated[
        bool | None,
        typer.Option(
            "--refine-shifts/--keep-shifts",
            help="Whether to refine the shifts; by default, if PARTICLES contains any shift other than 0.",
        ),
    ] = None,
    refine_ctf: Annotated[
        bool,
        typer.Option(
            "--refine-ctf",
            help="Also refine the contrast of each image and, if details finer than about 12 Å (at 300 kV) are "
            "compared, its defocus.",
        ),
    ] = False,
    search_rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of rounds of random search around the poses; 0 if the poses are already accurate.",
        ),
    ] = 2,
    gradient_rounds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Maximum number of rounds of Gauss-Newton steps in each half; at most 2 rounds with all images "
            "follow.",
        ),
    ] = 4,
    *,
    seed: options.Seed = 0,
    opening: options.Opening,
    leave_out_outliers: options.LeaveOutOutliers = False,
    force: options.Force = False,
) -> Answer:
    """Refine the poses of particle images, and reconstruct a map and its resolution.

    No map is needed: each image is compared with a map of the other images at their current poses. The poses must be
    right to within about 10 degrees. First, two halves of the images are refined separately; the resolution is that at
    which their maps agree. Then all images are refined together, which gives the poses and the map in the output. The
    halves are the half-sets in the table (such as rlnRandomSubset) if it has any, and otherwise random; the output
    table contains them. Use the half-maps of this command: those that `cryoem reconstruct --half-maps` makes with the
    new poses share information, so their resolution is an overestimate.

    \b
    Example:
      cryoem refine orientations.star --half-maps --out refined.mrc --poses refined.star
    """
    import numpy as np

    from cryoem import plots
    from cryoem.cli.handoff import how_to_view
    from cryoem.files.writing import atomic_write_many
    from cryoem.particles.writing import write_poses
    from cryoem.reconstruction import refinement
    from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD
    from cryoem.reconstruction.rounds import RefinementSchedule
    from cryoem.volumes.maps import chimerax_script_path, write_chimerax_script, write_map

    paths = [out, *(_half_path(out, number) for number in (1, 2) if half_maps)]
    for path in paths:
        shared.new_file(path, *shared.MAP_SUFFIXES, force=force, inputs=(particles,))
    shared.new_file(chimerax_script_path(out), ".cxc", force=force)
    shared.new_file(poses, ".star", ".cs", force=force, inputs=(particles,), option="--poses")
    opened = opening.open(particles)
    for path in paths:
        shared.refuse_input(path, opened.paths)
    if opened.poses is None:
        raise ValueError(
            f"{particles} has no orientations to refine; `cryoem abinitio` finds them from the images alone"
        )
    if refine_ctf and opened.ctf is None:
        raise ValueError(f"{particles} has no CTF parameters; leave out --refine-ctf")
    if refine_ctf and gradient_rounds == 0:
        raise typer.BadParameter("requires --gradient-rounds of at least 1, got 0", param_hint="--refine-ctf")
    shared.check_pose_table(poses, opened, force=force, option="--poses")
    check_memory(
        f"refining a map {opened.image_size} px wide",
        PROGRAM_BYTES + refinement.memory_bytes(len(opened), opened.image_size, refine_ctf=refine_ctf),
    )
    opened, _ = shared.check_images(opened, leave_out_outliers=leave_out_outliers)
    shared.warn_of_repeats(opened)
    schedule = RefinementSchedule(search_rounds=search_rounds, gradient_rounds=gradient_rounds)
    rounds = search_rounds + gradient_rounds + min(gradient_rounds, refinement.JOINT_ROUNDS)
    finished = itertools.count(1)
    with shared.progress("refining", rounds, unit="round") as done:
        found = refinement.refine(
            opened,
            opened.poses,
            symmetry=symmetry,
            refine_shifts=refine_shifts,
            refine_ctf=refine_ctf,
            schedule=schedule,
            rng=seed,
            callback=lambda *_: done(next(finished)),
        )
    with atomic_write_many(*paths) as partials:
        for path, density_map in zip(partials, (found.map, *found.half_maps), strict=False):
            write_map(path, density_map)
        optics = found.optics if refine_ctf else None
        write_poses(poses, opened, found.poses, subset=found.subset, optics=optics)
    script = write_chimerax_script(out, found.map, level=plots.automatic_level(found.map.data * found.mask))
    moved_rad = float((found.rotations * opened.rotations.inv()).magnitude().mean())
    shifted_px = float(np.linalg.norm(found.shifts_px - opened.poses.shifts_px, axis=1).mean())
    resolution = found.fsc.resolution_or_none(HALF_MAP_THRESHOLD)
    values = {
        "map": out,
        "chimerax_script": script,
        "half_maps": paths[1:],
        "orientations": poses,
        "images": len(opened),
        "symmetry": symmetry,
        "rounds": len(found.history),
        "orientations_moved_rad": moved_rad,
        "shifts_moved_px": shifted_px,
        "half_map_resolution_angstrom": resolution,
        "seed": seed,
    }
    text = f"{len(opened):,} images, {len(found.history)} rounds: {' and '.join(map(str, (*paths, poses)))}\n"
    text += (
        f"mean change of the orientations {np.rad2deg(moved_rad):.2f}°, of the shifts {shifted_px:.2f} px\n"
    )
    if refine_ctf:
        fitted, stated = (each.isotropic().defocus_angstrom for each in (found.optics, opened.optics))
        changed = float(np.sqrt(np.mean((fitted - stated) ** 2)))
        values |= {"defocus_changed_angstrom": changed, "contrast_spread": float(found.optics.scale.std())}
        text += (
            f"root-mean-square change of the defocus {changed:.0f} Å"
            if changed
            else "the defocus was not refined, because only coarse details were compared"
        )
        text += f"; the contrast varies by {100 * values['contrast_spread']:.1f} % (standard deviation)\n"
    text += (
        f"the half-maps have no resolution: their masked FSC starts below {HALF_MAP_THRESHOLD:g}"
        if resolution is None
        else f"half-maps, refined separately, agree to {resolution:.2f} Å (masked, FSC {HALF_MAP_THRESHOLD:g})"
    )
    return Answer(f"{text}\n{how_to_view(out, script)}", values)


def _needed_bytes(
    opened: ParticleFile, symmetry: str, *, in_memory: bool, half_maps: bool, workers: int
) -> float:
    """Return about how much memory ``reconstruct`` takes."""
    from cryoem.reconstruction.accumulation import memory_bytes
    from cryoem.rotations import point_group

    size = opened.image_size
    if in_memory:
        # images, residuals and projections, copied for each equivalent orientation, and the projector's transform
        return PROGRAM_BYTES + 3 * 4 * len(opened) * len(point_group(symmetry)) * size**2 + 60 * size**3
    return PROGRAM_BYTES + memory_bytes(size, half_maps=half_maps, workers=workers)


def _half_path(path: Path, number: int) -> Path:
    """Return ``map-half-1.mrc.gz`` for ``map.mrc.gz``."""
    stem, suffix, compression = re.fullmatch(r"(.*?)(\.\w+)(\.gz)?", path.name, re.IGNORECASE).groups("")
    return path.with_name(f"{stem}-half-{number}{suffix}{compression}")
