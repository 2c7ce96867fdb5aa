"""The phases of a run, with their notebooks, folders and inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cryoem
from cryoem.contrast import ContrastTransfer
from cryoem.files.reading import data_folder, read_json, sha256_of
from cryoem.files.writing import check_writable
from cryoem.memory import check_memory
from cryoem.particles.files import ParticleFile
from cryoem.particles.opening import open_particles
from cryoem.particles.simulation import check_simulation
from cryoem.particles.writing import stack_of_poses
from cryoem.reconstruction.refinement import memory_bytes
from cryoem.runs.jobs import NotebookJob, read_record, why_not_current, write_json
from cryoem.runs.profiles import PROFILES, DataSettings, Profile, get_profile, settings_of_phase
from cryoem.volumes.loading import is_path

COPIES_OF_IMAGES = 3  # in memory at the same time, for methods that read all images at once
FIGURES = "figures"
PARTICLES_FILE = "particles.h5"  # of the first phase
POSES_FILE = "particles.star"  # of the last phase
INPUT_FILE = "run.json"


class OtherInputError(ValueError):
    """The folder of a run has results for a different map or different particles."""


@dataclass(frozen=True)
class PhaseInfo:
    """A phase of the pipeline.

    ``name`` is also the name of its folder, and ``notebook`` is a path relative to the folder of notebooks.
    """

    name: str
    title: str
    notebook: str
    description: str

    @property
    def number(self) -> int:
        """Number of the phase, 0 to 3."""
        return int(self.name[0])


PHASES = {
    info.name: info
    for info in (
        PhaseInfo(
            "0-data-preparation",
            "Data preparation",
            "0-data-preparation/0-density-and-projections.ipynb",
            "Prepare a density map, and simulated or measured particle images.",
        ),
        PhaseInfo(
            "1-distance-estimation",
            "Distance estimation",
            "1-distance-estimation/1-learn-distances.ipynb",
            "Train a network to estimate the distance between the orientations of two projections.",
        ),
        PhaseInfo(
            "2-orientation-recovery",
            "Orientation recovery",
            "2-orientation-recovery/2-recover-orientations.ipynb",
            "Recover the orientations from the distances, and determine their gauge from the images.",
        ),
        PhaseInfo(
            "3-reconstruction",
            "Reconstruction",
            "3-reconstruction/3-reconstruct-and-refine.ipynb",
            "Reconstruct a map, refine the map and the orientations, and measure the resolution.",
        ),
    )
}


WITHOUT_MAP = PhaseInfo(  # takes the place of phases 1 and 2
    "2.1-orientations-without-a-map",
    "Orientations without a map",
    "2-orientation-recovery/2.1-orientations-without-a-map.ipynb",
    "Find the orientations and a first map from the images alone.",
)


def phase_info(name: str) -> PhaseInfo:
    """Return the phase called ``name``; raise ValueError if there is none."""
    known = PHASES | {WITHOUT_MAP.name: WITHOUT_MAP}
    if name not in known:
        raise ValueError(f"phase must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def run_name(profile: Profile) -> str:
    """Return the default name of a run, such as ``"5j0n-quick"``."""
    source = Path(profile.particles or profile.map_name).name
    if profile.particles is not None or is_path(profile.map_name):
        source = source.removesuffix(".gz").rpartition(".")[0] or source
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', source).lstrip('.')}-{profile.name}"


@dataclass(frozen=True)
class Run:
    """A profile and the folder in which it is run; ``checksums`` are those of the input files."""

    profile: Profile
    folder: Path
    checksums: Mapping[str, object]

    @property
    def phases(self) -> dict[str, PhaseInfo]:
        """The phases of the run, by name, in order."""
        if self.profile.orientation_method == "distances":
            return PHASES
        first, _, _, last = PHASES.values()
        return {info.name: info for info in (first, WITHOUT_MAP, last)}

    @property
    def command(self) -> str:
        """The shell command that starts this run, with each setting that differs from those of the profile."""
        profile, usual = self.profile, PROFILES[self.profile.name]
        words = ["cryoem", "run", "--profile", profile.name]
        if profile.particles is not None:
            words += ["--particles", profile.particles]
            words += [] if profile.map_name is None else ["--model-map", profile.map_name]
        elif profile.map_name != usual.map_name:
            words += ["--map", profile.map_name]
        if self.folder.name != run_name(profile):
            words += ["--run", self.folder.name]
        implied = {"orientation_method"} if profile.map_name is None else set()
        for name, value in profile.model_dump(exclude={"name", "map_name", "particles"} | implied).items():
            if value == getattr(usual, name):
                continue
            if name == "microscope":
                words += ["--microscope", *map(str, value)]
            else:
                words += ["--set", f"{name}={'none' if value is None else value}"]
        return shlex.join(words)

    def claim(self, *, force: bool = False) -> None:
        """Record the map and the particles of the run, or raise OtherInputError if the folder has different ones.

        If ``force`` is true, the record is overwritten. A file counts as the same input if its content or its path is
        the same as before.
        """

        def described(inputs: Mapping) -> str:
            named = {kind: inputs.get(kind) for kind in ("map", "particles")}
            return " and ".join(f"the {kind} {name}" for kind, name in named.items() if name)

        inputs = {"map": self.profile.map_name, "particles": self.profile.particles, **self.checksums}
        try:
            before = read_json(self.folder / INPUT_FILE)
        except (FileNotFoundError, ValueError):
            before = inputs
        for kind in ("map", "particles"):
            sha256 = f"{kind}_sha256"
            has_moved = sha256 in inputs and inputs[sha256] == before.get(sha256)
            if not (force or has_moved or inputs[kind] == before.get(kind)):
                raise OtherInputError(
                    f"run {self.folder.name} in {self.folder.parent} was started with {described(before)}, "
                    f"not {described(inputs)}; choose a different --run, or use --force to overwrite it"
                )
        write_json(self.folder / INPUT_FILE, inputs)

    def made_from(self, info: PhaseInfo) -> dict:
        """Return everything that determines the results of a phase: the package version, settings and inputs.

        The settings are those of this phase and earlier ones, except those that only determine whether a file is
        accepted. Input files are identified by name and sha256, so that moving them does not invalidate any phase.
        """
        profile = self.profile
        without = {"name", "particles_folder", "as_map", "as_stack"}
        settings = settings_of_phase(profile, info.number).model_dump(exclude=without)
        for name in ("map_name", "particles", "passthrough"):
            settings[name] = settings[name] and Path(settings[name]).name
        if profile.particles is None:  # the default of simulated particles is zero
            settings["shift_limit_px"] = profile.shift_limit_of(1)
        made_from = {"phase": info.name, "cryoem_version": cryoem.__version__, **settings, **self.checksums}
        if profile.ctf:
            made_from["contrast_transfer"] = dataclasses.asdict(ContrastTransfer())
        return made_from

    def earlier_ids(self, info: PhaseInfo) -> dict[str, str]:
        """Return the record ``id`` of each complete earlier phase, by name of the phase."""
        earlier = (name for name, each in self.phases.items() if each.number < info.number)
        records = {name: read_record(self.folder / name) for name in earlier}
        return {name: record["id"] for name, record in records.items() if record is not None}

    def why_not_current(self, info: PhaseInfo) -> str | None:
        """Return why the results of a phase cannot be used, as the end of a sentence, or None if they can."""
        return why_not_current(self.folder / info.name, self.made_from(info), self.earlier_ids(info))

    def job(self, info: PhaseInfo, *, notebooks: Path, overrides: Mapping[str, object]) -> NotebookJob:
        """Return the job that executes the notebook of a phase with the given ``overrides``."""
        # use the absolute paths of the profile, because the kernel runs in a different folder
        replaced = {key: getattr(self.profile, key) for key in overrides if key != "map_name"}
        return NotebookJob(
            title=info.title,
            notebook=(notebooks / info.notebook).absolute(),
            folder=self.folder / info.name,
            parameters={
                "profile": self.profile.name,
                "map_name": self.profile.map_name,
                "run": self.folder.name,
                "overrides": replaced,
            },
            made_from=self.made_from(info),
            built_on=self.earlier_ids(info),
            environment={"CRYOEM_HOME": str(data_folder())},
        )


def find_run(
    profile: str, *, run: str | None, map_name: str | None, overrides: Mapping[str, object] | None
) -> Run:
    """Return the run of a profile with the given map and settings; parameters as in ``open_phase``."""
    overrides = dict(overrides or {})
    if map_name is not None and overrides.setdefault("map_name", map_name) != map_name:
        raise ValueError(
            f"map_name must be given only once, got {map_name!r}, and {overrides['map_name']!r} in overrides"
        )
    resolved = get_profile(profile, **overrides)
    name = run_name(resolved) if run is None else run
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"--run must contain only letters, digits, '.', '-' and '_', and not start with '.', got {name!r}"
        )
    folder = data_folder() / "runs" / name
    check_writable(folder / INPUT_FILE)  # before the input files are read
    return Run(resolved, folder, _input_checksums(resolved, folder))


def open_measured(settings: DataSettings) -> ParticleFile:
    """Open the particle file of the given settings; raises the same errors as ``open_particles``."""
    return open_particles(
        settings.particles,
        pixel_size_angstrom=settings.pixel_size_angstrom,
        datadir=settings.particles_folder,
        optics_group=settings.optics_group,
        passthrough=settings.passthrough,
        microscope=settings.microscope,
        as_stack=settings.as_stack,
    )


def saved_figures(folder: Path) -> list[tuple[str, str, str]]:
    """Return the name, caption and plotly JSON of each figure of a phase, in the order in which they were saved."""
    paths = sorted((folder / FIGURES).glob("*.json"))
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [(content["name"], content["caption"], json.dumps(content["figure"])) for content in contents]


def _input_checksums(profile: Profile, folder: Path) -> dict[str, object]:
    """Return the sha256 of the map file, and of the particle file and its stacks, which are listed by relative path.

    Raise a MemoryError before any checksum is computed if the map or the refinement does not fit into memory, an
    OSError if the copy of the images does not fit on the disk, and a ValueError if a table in the ``folder`` of the run
    cannot refer to the images.
    """
    checksums: dict[str, object] = {}
    if profile.particles is None and profile.image_size is not None:  # otherwise, phase 0 checks this
        check_simulation(profile.n_test + profile.n_validation, profile.image_size, in_memory=True)
    if profile.map_name is not None and is_path(profile.map_name):
        n_bytes = Path(profile.map_name).stat().st_size
        check_memory(f"reading the map {profile.map_name}", n_bytes, remedy="use a smaller map")
        checksums["map_sha256"] = sha256_of(profile.map_name)
    if profile.particles is not None:
        if not Path(profile.particles).is_file():
            raise FileNotFoundError(f"particle file {profile.particles} not found")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # shown by the phase that reads the particles
            measured = open_measured(profile)
            if profile.reconstruction_method != "fourier" and measured.ctf is not None:
                raise ValueError(
                    "reconstruction_method must be fourier for particles with CTF parameters, "
                    f"got {profile.reconstruction_method}"
                )
            if profile.refine_ctf and measured.ctf is None:
                raise ValueError(f"refine_ctf requires CTF parameters, but {profile.particles} has none")
            stack_of_poses(folder / list(PHASES)[-1] / POSES_FILE, measured)
        count = min(len(measured), profile.n_particles or len(measured))
        profile.check_recovery(count)
        size = measured.image_size
        what = f"refining {count:,} particles of {size} px from {profile.particles}"
        read = 0 if profile.reconstruction_method == "fourier" else COPIES_OF_IMAGES * 4 * count * size**2
        check_memory(what, max(read, memory_bytes(count, size, refine_ctf=profile.refine_ctf)))
        copy = folder / next(iter(PHASES)) / PARTICLES_FILE
        if not copy.is_file():
            check_writable(copy, n_bytes=4 * count * size**2)
        start = Path(profile.particles).parent
        checksums["particles_sha256"] = {
            os.path.relpath(path, start): sha256_of(path) for path in measured.paths
        }
    return checksums
