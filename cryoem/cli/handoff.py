"""Commands that prepare results for other programs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoem.cli import options, shared
from cryoem.cli.shared import NOTHING_WRITTEN, Answer, command

if TYPE_CHECKING:
    from cryoem.volumes.density import DensityMap


def new_map(out: Path, *, force: bool, inputs: Iterable[Path] = (), option: str = "--out") -> None:
    """Check that a map and its ChimeraX script can be written, as ``shared.new_file`` does."""
    from cryoem.volumes.maps import chimerax_script_path

    shared.new_file(out, *shared.MAP_SUFFIXES, force=force, inputs=inputs, option=option)
    shared.new_file(chimerax_script_path(out), ".cxc", force=force, option=f"the ChimeraX script of {option}")


def write_map_and_script(out: Path, density_map: DensityMap) -> Path:
    """Write a map, and a script that shows it in ChimeraX at an automatic level; return the path of the script."""
    from cryoem import plots
    from cryoem.volumes.maps import write_chimerax_script, write_map

    write_map(out, density_map)
    return write_chimerax_script(out, density_map, level=plots.automatic_level(density_map.data))


def how_to_view(map_path: Path, script: Path) -> str:
    """Return the commands that show a map, for the answer of a command."""
    return (
        f"view it: chimerax {shlex.quote(str(script))}\n"
        f"     or: napari {shlex.quote(str(map_path))} (with the plugin napari-mrcfile-reader)"
    )


@command(afterwards=NOTHING_WRITTEN)
def flip(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Map (.mrc, .map), or table of particles with poses.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Output file: a map if the input is one, otherwise a table (.star, .cs)."),
    ],
    opening: options.Opening,
    as_map: options.AsMap = False,
    force: options.Force = False,
) -> Answer:
    """Change the hand of a map, or of poses.

    Projections do not determine the hand of a map. If a known structure does not fit, or if alpha helices are
    left-handed, flip both the map and the poses. The map is mirrored along z, and the tilts of the poses are negated. A
    map reconstructed from the new poses is the mirrored map.

    \b
    Example:
      cryoem flip map.mrc --out flipped.mrc
      cryoem flip orientations.star --out flipped.star
    """
    from cryoem.particles.writing import write_poses
    from cryoem.volumes.density import mirror
    from cryoem.volumes.maps import read_map

    if source.name.lower().endswith(shared.MAP_SUFFIXES):
        for name, value in vars(opening).items():
            if value is not None:
                option = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(f"applies only to tables, got the map {source}", param_hint=option)
        new_map(out, force=force, inputs=(source,))
        flipped = mirror(read_map(source, as_map=as_map))
        script = write_map_and_script(out, flipped)
        values = {"map": out, "chimerax_script": script, "voxel_size_angstrom": flipped.voxel_size_angstrom}
        return Answer(f"mirrored map: {out}\n{how_to_view(out, script)}", values)
    shared.new_file(out, ".star", ".cs", force=force, inputs=(source,))
    opened = opening.open(source)
    if opened.poses is None:
        raise ValueError(f"{source} has no orientations to flip")
    shared.check_pose_table(out, opened, force=force)
    write_poses(out, opened, opened.poses.mirrored)
    return Answer(f"{len(opened):,} poses of the other hand: {out}", {"poses": out, "images": len(opened)})
