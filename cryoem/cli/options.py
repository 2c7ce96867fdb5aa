"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryoem.particles.files import ParticleFile

Particles = Annotated[
    Path,
    typer.Argument(
        metavar="PARTICLES",
        help="Particle stack (.mrcs, .mrc), table (.star, .cs, .xmd), projections (.h5, .mat) or training folder.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Output file; its folder must exist.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output files.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
PixelSize = Annotated[
    float | None, typer.Option(help="Pixel size in angstrom, if it is missing or wrong in the file.")
]
Datadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir",
        help="Folder to which the stack names in the table are relative (a RELION project), or that of the stacks.",
    ),
]
OpticsGroup = Annotated[
    int | None, typer.Option("--optics-group", help="Use only the particles of this optics group.")
]
LeaveOutOutliers = Annotated[
    bool,
    typer.Option(
        "--leave-out-outliers",
        help="Leave out blank images and outliers with unusual pixel values; a warning lists them.",
    ),
]
Passthrough = Annotated[
    Path | None,
    typer.Option(
        "--passthrough",
        help="Passthrough file (.cs) of the cryoSPARC job, with the fields that the particle file lacks.",
    ),
]
Microscope = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        "--microscope",
        metavar="KV CS CONTRAST",
        help="Voltage (kV), spherical aberration (mm) and amplitude contrast, if missing or wrong in the file.",
    ),
]
AsMap = Annotated[
    bool, typer.Option("--as-map", help="Read the map file as a map even if it looks like a stack of images.")
]
AsStack = Annotated[
    bool, typer.Option("--as-stack", help="Read a .mrc file as a stack even if it looks like a density map.")
]
Symmetry = Annotated[
    str,
    typer.Option(
        help="Point group of the particle (Cn, Dn, T, O or I), with axes as in the documentation on conventions."
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Number of worker processes on this machine; they share its cores.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler to use instead of --workers, such as tcp://host:8786."),
]


@dataclass(frozen=True)
class Opening:
    """Options of commands that open particle files.

    In the signature of a command, one parameter of this type stands for all these options.
    """

    pixel_size: PixelSize = None
    datadir: Datadir = None
    optics_group: OpticsGroup = None
    passthrough: Passthrough = None
    microscope: Microscope = None

    def open(self, particles: Path, *, as_stack: bool = False) -> ParticleFile:
        """Open a particle file. Raises the same errors as ``open_particles``."""
        from cryoem.particles.opening import open_particles

        return open_particles(particles, as_stack=as_stack, **self.arguments())

    def arguments(self) -> dict[str, object]:
        """Return the arguments of ``open_particles``."""
        given = dict(vars(self))
        return {"pixel_size_angstrom": given.pop("pixel_size"), **given}


@dataclass(frozen=True)
class RunSettings:
    """Options of commands that take the settings of a run."""

    profile: Annotated[str, typer.Option(help="Size of the run: quick, paper or toy.")] = "quick"
    particles: Annotated[
        Path | None,
        typer.Option(
            "--particles",
            help="Measured particles (.star, .cs, .xmd or .mrcs); by default particles are simulated.",
        ),
    ] = None
    noise_variance: Annotated[
        float | None, typer.Option(help="Noise variance, relative to noise-free images of variance 1.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None
    as_map: AsMap = False
    as_stack: AsStack = False
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one of the settings listed by `cryoem settings`; repeatable.",
        ),
    ] = None

    def overrides(self, opening: Opening, *, leave_out_outliers: bool) -> dict[str, object]:
        """Return the settings given by these options; raise a ValueError if one is given twice or unknown."""
        from cryoem.runs import profiles

        given = {
            "noise_variance": self.noise_variance,
            "seed": self.seed,
            "particles": self.particles and str(self.particles),
            "particles_folder": opening.datadir and str(opening.datadir),
            "optics_group": opening.optics_group,
            "passthrough": opening.passthrough and str(opening.passthrough),
            "microscope": opening.microscope and list(opening.microscope),
            "pixel_size_angstrom": opening.pixel_size,
            "leave_out_outliers": leave_out_outliers or None,
            "as_map": self.as_map or None,
            "as_stack": self.as_stack or None,
        }
        overrides = {name: value for name, value in given.items() if value is not None}
        for name, value in map(profiles.parse_setting, self.settings or []):
            if name in overrides:
                raise ValueError(f"{name} must be given only once, got {overrides[name]!r} and {value!r}")
            overrides[name] = value
        return overrides
