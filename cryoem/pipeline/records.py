"""What a run leaves on the disk, and whether it may be used.

The record of a finished phase is ``phase.json``: its presence means that the phase is complete.
It names the parameters that made the phase and the records of the earlier phases it was built on, so a phase is
current only while nothing before it was made anew; and the checksums of the phase's files and of those that it read.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import cryoem
from cryoem.folders import data_folder
from cryoem.pipeline.artefacts import is_current
from cryoem.pipeline.files import canonical_json, write_text
from cryoem.pipeline.inputs import input_checksums, sha256_of
from cryoem.pipeline.profiles import Profile, settings_up_to
from cryoem.plain_files import read_json
from cryoem.whole_files import remove_left_overs

RECORD_FILE = "phase.json"
CHECKPOINTS, FIGURES = "checkpoints", "figures"
MADE_WITH_FILE = "made-with.json"  # of checkpoints
FIELDS = {
    "id": str,
    "built_on": dict,
    "parameters": dict,
    "numbers": dict,
    "headline": list,
    "versions": dict,
    "inputs": dict,
    "artefacts": dict,
}
REMADE = ("*.mrc", "*.mrcs", "*.star", "*.json")
NO_ARTEFACTS = (RECORD_FILE, "*.ipynb", "*.log", ".*")
JUDGEMENT = "expected_"


@dataclass(frozen=True)
class PhaseInfo:
    """A phase: its name is its folder, ``notebook`` is relative to the notebooks folder, and so is the notebook in its
    place where particles are measured, ``notebook_of_measured``, None where one serves both.
    """

    name: str
    number: int
    title: str
    notebook: str
    description: str
    notebook_of_measured: str | None = None

    def notebook_for(self, profile: Profile) -> str:
        """The notebook of a run with this profile."""
        if profile.particles is None or self.notebook_of_measured is None:
            return self.notebook
        return self.notebook_of_measured


PHASES = {
    info.name: info
    for info in (
        PhaseInfo(
            name="0-data-preparation",
            number=0,
            title="Data preparation",
            notebook="0-data-preparation/0-density-and-projections.ipynb",
            description="A density map and its projections at random orientations.",
            notebook_of_measured="0-data-preparation/0-measured-particles.ipynb",
        ),
        PhaseInfo(
            name="1-distance-estimation",
            number=1,
            title="Distance estimation",
            notebook="1-distance-estimation/1-learn-distances.ipynb",
            description="A network learns the distance between the orientations of two projections.",
        ),
        PhaseInfo(
            name="2-orientation-recovery",
            number=2,
            title="Orientation recovery",
            notebook="2-orientation-recovery/2-recover-orientations.ipynb",
            description="Orientations from the distances, the gauge from the images.",
            notebook_of_measured="2-orientation-recovery/2-recover-unknown-orientations.ipynb",
        ),
        PhaseInfo(
            name="3-reconstruction",
            number=3,
            title="Reconstruction",
            notebook="3-reconstruction/3-reconstruct-and-refine.ipynb",
            description="A map from images and orientations, both refined, and its resolution.",
            notebook_of_measured="3-reconstruction/3-map-of-measured-particles.ipynb",
        ),
    )
}


def phase_info(name: str) -> PhaseInfo:
    """The phase of that name.

    Raises
    ------
    ValueError : no such phase.
    """
    if name not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, got {name!r}")
    return PHASES[name]


def phase_parameters(profile: Profile, phase_name: str) -> dict:
    """What makes the results of a phase what they are: package version, settings up to it, sha256 of the input files,
    the constants of the contrast transfer that is simulated.

    What a phase is merely judged by, the ``expected_...`` settings, is left out: another bar makes nothing anew.
    """
    info = phase_info(phase_name)
    settings = settings_up_to(profile, info.number)
    settings = {name: value for name, value in settings.items() if not name.startswith(JUDGEMENT)}
    parameters = {"phase": info.name, "cryoem_version": cryoem.__version__, "profile": settings.pop("name")}
    parameters |= input_checksums(profile)
    if profile.ctf:
        from cryoem.contrast import ContrastTransfer

        constants = dataclasses.asdict(ContrastTransfer())
        parameters["contrast_transfer"] = constants | {
            "defocus_angstrom": list(constants["defocus_angstrom"])
        }
    return parameters | settings


def read_record(folder: Path) -> dict | None:
    """The record of the phase in ``folder``; None where the phase is not complete, or its record not whole."""
    try:
        record = read_json(folder / RECORD_FILE)
    except (FileNotFoundError, ValueError):
        return None
    if record.get("status") != "complete":
        return None
    return record if all(isinstance(record.get(name), kind) for name, kind in FIELDS.items()) else None


def artefact_checksums(folder: Path) -> dict[str, str]:
    """The files that a phase made, figures included, each by its name in ``folder`` with its sha256."""
    made = {}
    for path in sorted((*folder.glob("*"), *folder.glob(f"{FIGURES}/*"))):
        if path.is_file() and not any(path.match(pattern) for pattern in NO_ARTEFACTS):
            made[path.relative_to(folder).as_posix()] = sha256_of(path)
    return made


def damage_of(folder: Path) -> str | None:
    """What is wrong with the files of the complete phase in ``folder``, as the end of a sentence; None: nothing."""
    wanted, found = read_record(folder)["artefacts"], artefact_checksums(folder)
    for name, sha256 in wanted.items():
        if name not in found:
            return f"has lost its file {name}"
        if found[name] != sha256:
            return f"has a file {name} that is not as it was written"
    return None


def earlier_record_ids(run_folder: Path, phase_name: str) -> dict[str, str]:
    """Identifiers of the records that the phases before ``phase_name`` have now, phase name -> identifier."""
    earlier = (info for info in PHASES.values() if info.number < phase_info(phase_name).number)
    records = {info.name: read_record(run_folder / info.name) for info in earlier}
    return {name: record["id"] for name, record in records.items() if record is not None}


def is_complete(run_folder: Path, phase_name: str, profile: Profile) -> bool:
    """True when a phase of a run is finished, with this profile's parameters, and nothing before it was made anew."""
    return why_not_current(run_folder, phase_name, profile) is None


def why_not_current(run_folder: Path, phase_name: str, profile: Profile) -> str | None:
    """Why the results of a phase may not be used, as the end of a sentence; None when they may."""
    record = read_record(run_folder / phase_name)
    if record is None:
        is_damaged = (run_folder / phase_name / RECORD_FILE).exists()
        return f"has a damaged {RECORD_FILE}" if is_damaged else "is not complete"
    wanted, made_with = phase_parameters(profile, phase_name), record["parameters"]
    if canonical_json(wanted) != canonical_json(made_with):
        names = [name for name in wanted | made_with if wanted.get(name) != made_with.get(name)]
        made, asked = (
            ", ".join(f"{name}={values.get(name)!r}" for name in names) for values in (made_with, wanted)
        )
        return f"was made with {made} and not with {asked}"
    for earlier, identifier in earlier_record_ids(run_folder, phase_name).items():
        if record["built_on"].get(earlier) != identifier:
            return f"was made before {earlier} was made anew"
    return None


def run_folder(run: str, runs_folder: Path | None = None) -> Path:
    """Folder of a run, ``<data folder>/runs/<run>`` by default.

    Raises
    ------
    ValueError : ``run`` is not letters, digits, dots, hyphens and underscores, or starts with a dot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", run):
        raise ValueError(f"run must be a folder name of letters, digits, '.', '-' and '_', got {run!r}")
    return (data_folder() / "runs" if runs_folder is None else Path(runs_folder)) / run


def discard_results(folder: Path, *, keep_made_with: dict | None) -> None:
    """Remove what a phase left in its folder: record first, then figures, maps, half-written files.

    Arrays and checkpoints stay where they were made with the parameters ``keep_made_with``, checkpoints only where the
    earlier phases are those that they were made from; None keeps nothing.  Notebooks stay.
    """
    (folder / RECORD_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    if not _made_with(folder, keep_made_with):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    remove_left_overs(folder)
    for pattern in REMADE:
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob("*.h5"):
        if keep_made_with is None or not is_current(path, keep_made_with):
            path.unlink()


def saved_figures(folder: Path) -> list[tuple[str, str]]:
    """The figures of the phase in ``folder`` in the order of saving: (caption, plotly figure as JSON)."""
    contents = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / FIGURES).glob("*.json"))
    ]
    return [(content["caption"], json.dumps(content["figure"])) for content in contents]


def open_checkpoints(folder: Path, parameters: dict) -> None:
    """Make the folder of a phase's checkpoints, which says what they are made with."""
    write_text(folder / CHECKPOINTS / MADE_WITH_FILE, _checkpoints_made_with(folder, parameters))


def _made_with(folder: Path, parameters: dict | None) -> bool:
    path = folder / CHECKPOINTS / MADE_WITH_FILE
    return (
        parameters is not None
        and path.is_file()
        and path.read_bytes() == _checkpoints_made_with(folder, parameters).encode()
    )


def _checkpoints_made_with(folder: Path, parameters: dict) -> str:
    return canonical_json(
        {"parameters": parameters, "built_on": earlier_record_ids(folder.parent, folder.name)}
    )
