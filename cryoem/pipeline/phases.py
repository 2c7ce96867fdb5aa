"""What a notebook uses: open a phase, read what earlier phases made, save arrays, figures and numbers, finish."""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import cryoem
from cryoem.pipeline.artefacts import load_arrays, save_arrays, stored_parameters
from cryoem.pipeline.files import canonical_json, write_text
from cryoem.pipeline.inputs import sha256_of
from cryoem.pipeline.memory import FileMemory
from cryoem.pipeline.profiles import Profile, get_profile, settings_up_to
from cryoem.pipeline.records import (
    CHECKPOINTS,
    FIGURES,
    RECORD_FILE,
    PhaseInfo,
    artefact_checksums,
    discard_results,
    earlier_record_ids,
    open_checkpoints,
    phase_info,
    phase_parameters,
    read_record,
    run_folder,
    why_not_current,
)
from cryoem.pipeline.settings import Settings
from cryoem.sources import sources_sha256


class MissingPhaseError(FileNotFoundError):
    """An earlier phase, or something it should have made, is not there."""


class StalePhaseError(ValueError):
    """An earlier phase was made with other parameters, or before a phase it builds on was made anew."""


@dataclass
class Phase:
    """One phase of one run, open for writing; made by ``open_phase``.

    Attributes
    ----------
    info : name, number, title of the phase.
    run : name of the run.
    folder : ``<runs folder>/<run>/<phase name>``, where everything of the phase lies.
    profile : the settings that this phase may read, as attributes.
    parameters : what makes the results what they are; everything saved carries them.
    rng : generator seeded by the profile's seed and the phase, the same in every run.
    """

    info: PhaseInfo
    run: str
    folder: Path
    profile: Settings
    parameters: dict
    rng: np.random.Generator
    _full_profile: Profile
    _built_on: dict[str, str]
    _inputs: dict[str, str] = field(default_factory=dict)
    _numbers: dict = field(default_factory=dict)
    _headline: list[str] = field(default_factory=list)
    _figure_names: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    def path(self, filename: str) -> Path:
        """Where this phase puts a file of its own, such as a map: ``<folder>/<filename>``."""
        return self.folder / filename

    @property
    def checkpoints(self) -> Path:
        """Folder for checkpoints: survives a kill, is emptied when parameters change or an earlier phase is made anew,
        goes in ``finish``.
        """
        return self.folder / CHECKPOINTS

    def memory(self, name: str) -> FileMemory:
        """Where a computation keeps its state, such as ``refinement.refine``; a checkpoint among the others."""
        return FileMemory(self.checkpoints / f"{name}.h5")

    def save(self, name: str, arrays: Mapping[str, tuple]) -> None:
        """Save arrays as ``<folder>/<name>.h5``.

        ``arrays`` maps dataset names to ``(array, units)`` or ``(array, units, description)``; raises as
        ``save_arrays``.
        """
        save_arrays(self.path(f"{name}.h5"), arrays, parameters=self.parameters)

    def load(
        self, phase_name: str, name: str, datasets: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Load arrays that this or an earlier phase saved, dataset name -> array.

        Raises
        ------
        MissingPhaseError : the phase is not complete or saved nothing of that name.
        StalePhaseError : it was made with other parameters, or before a phase it builds on was made anew, or a file
            is not as the phase wrote it.
        ValueError : the phase is a later one, the file is damaged, or it holds no such dataset.
        """
        path = self.find(phase_name, f"{name}.h5")
        expected = phase_parameters(self._full_profile, phase_name)
        if canonical_json(stored_parameters(path)) != canonical_json(expected):
            raise StalePhaseError(f"{path} was made with other parameters than {phase_name} has now")
        return load_arrays(path, datasets)

    def find(self, phase_name: str, filename: str) -> Path:
        """Path of a file that this or an earlier phase made, such as a map; raises as ``load``."""
        info = phase_info(phase_name)
        if info.number > self.info.number:
            raise ValueError(
                f"{self.info.name} must load from itself or an earlier phase, got {phase_name!r}"
            )
        if info.number < self.info.number:
            self._require(info)
        path = self.folder.parent / info.name / filename
        if not path.is_file():
            raise MissingPhaseError(
                f"phase {info.name} of run {self.run!r} made no file {path}; {self._remedy(info)}"
            )
        if info.number < self.info.number:
            self._note_input(info, filename, sha256_of(path))
        return path

    def save_figure(self, name: str, figure, caption: str):
        """Keep a plotly figure for the report, in the order of saving, and return it so that a cell displays it.

        ``name`` is of letters, digits and hyphens; saving under the same name again replaces the figure.

        Raises
        ------
        ValueError : the name has other characters.
        TypeError : ``figure`` is no plotly figure.
        """
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            raise ValueError(f"name must be of letters, digits and hyphens, got {name!r}")
        if not hasattr(figure, "to_json"):
            raise TypeError(f"figure must be a plotly Figure, got {type(figure).__name__}")
        if name not in self._figure_names:
            self._figure_names.append(name)
        number = self._figure_names.index(name) + 1
        content = {"name": name, "caption": caption, "figure": json.loads(figure.to_json())}
        write_text(self.folder / FIGURES / f"{number:02d}-{name}.json", json.dumps(content))
        return figure

    def record(self, *, headline: bool = False, **numbers) -> None:
        """Collect numbers for the summary, the unit at the end of the name: ``recovery_error_rad=0.09``.

        With ``headline`` they also stand at the top of the report. Not finite means not available.

        Raises
        ------
        TypeError : a value is not a single number, text or boolean.
        """
        for name, value in numbers.items():
            self._numbers[name] = _scalar(name, value)
            if headline and name not in self._headline:
                self._headline.append(name)

    def finish(self) -> None:
        """Declare the phase complete: write ``phase.json``, after everything else, and drop the checkpoints."""
        record = {
            "status": "complete",
            "id": uuid.uuid4().hex,
            "built_on": self._built_on,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - self._started,
            "seed": self.profile.seed,
            "parameters": self.parameters,
            "numbers": self._numbers,
            "headline": self._headline,
            "versions": _versions(),
            "inputs": self._inputs,
            "artefacts": artefact_checksums(self.folder),
        }
        write_text(self.folder / RECORD_FILE, json.dumps(record, indent=2, allow_nan=False))
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # gone already when a cell finishes twice

    def _require(self, info: PhaseInfo) -> None:
        reason = why_not_current(self.folder.parent, info.name, self._full_profile)
        if reason is None:
            self._built_on = earlier_record_ids(self.folder.parent, self.info.name)
            return
        missing = read_record(self.folder.parent / info.name) is None
        problem = MissingPhaseError if missing else StalePhaseError
        raise problem(f"phase {info.name} of run {self.run!r} {reason}; {self._remedy(info)}")

    def _note_input(self, info: PhaseInfo, filename: str, sha256: str) -> None:
        if read_record(self.folder.parent / info.name)["artefacts"].get(filename) != sha256:
            raise StalePhaseError(
                f"phase {info.name} of run {self.run!r} has a file {filename} that is not as it was written; "
                f"{self._remedy(info)}"
            )
        self._inputs[f"{info.name}/{filename}"] = sha256

    def _remedy(self, info: PhaseInfo) -> str:
        name = self._full_profile.name
        with_run = "" if self.run == name else f" --run {self.run}"
        notebook = info.notebook_for(self._full_profile)
        return f"run notebooks/{notebook} or `cryoem run --profile {name}{with_run}` with the same settings first"


def open_phase(
    name: str,
    *,
    run: str | None = None,
    profile: str = "quick",
    map_name: str | None = None,
    overrides: Mapping[str, object] | None = None,
    runs_folder: Path | None = None,
) -> Phase:
    """Start a phase of a run anew: the first call of its notebook.

    Parameters
    ----------
    name : of the phase, such as ``"0-data-preparation"``.
    run : name of the run, the profile's name by default; its folder is ``<runs folder>/<run>``.
    profile : name of the profile.
    map_name : the map, the profile's by default.
    overrides : settings of the profile to replace.
    runs_folder : ``<data folder>/runs`` by default.

    What an earlier attempt left is removed, but for arrays and checkpoints made with the same parameters.

    Raises
    ------
    ValueError : no such phase, profile or setting, a value it cannot have, or a run name that is no folder name.
    FileNotFoundError : ``map_name`` is the path of a file that is not there.
    """
    info = phase_info(name)
    full_profile = resolve_profile(profile, map_name=map_name, overrides=overrides)
    run = full_profile.name if run is None else run
    folder = run_folder(run, runs_folder) / info.name
    parameters = phase_parameters(full_profile, info.name)
    discard_results(folder, keep_made_with=parameters)
    open_checkpoints(folder, parameters)
    return Phase(
        info=info,
        run=run,
        folder=folder,
        profile=Settings(**settings_up_to(full_profile, info.number)),
        parameters=parameters,
        rng=np.random.default_rng([full_profile.seed, info.number]),
        _full_profile=full_profile,
        _built_on=earlier_record_ids(folder.parent, info.name),
    )


def resolve_profile(
    name: str, *, map_name: str | None = None, overrides: Mapping[str, object] | None = None
) -> Profile:
    """The profile with its map and overrides in place; raises as ``get_profile`` and where the map is given twice."""
    overrides = dict(overrides or {})
    if map_name is not None and overrides.setdefault("map_name", map_name) != map_name:
        raise ValueError(
            f"map_name must be given once, got {map_name!r} and {overrides['map_name']!r} in overrides"
        )
    return get_profile(name, **overrides)


def _scalar(name: str, value):
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"{name} must be a single number, text or boolean, got {value!r:.60}")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    loaded = {
        name: sys.modules[name] for name in ("numpy", "scipy", "tensorflow", "keras") if name in sys.modules
    }
    versions = {name: module.__version__ for name, module in loaded.items()}
    own = {"cryoem": cryoem.__version__, "cryoem_sources_sha256": sources_sha256()}
    return {"python": platform.python_version()} | own | versions
