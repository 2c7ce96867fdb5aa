"""The interface of the phase notebooks: open a phase, load and save results, and finish the phase."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import Markdown, display
from scipy.spatial.transform import Rotation

from cryoem.contrast import OWN, ContrastTransfer, Optics
from cryoem.files.arrays import load_arrays, save_arrays
from cryoem.files.reading import canonical_json
from cryoem.files.writing import write_text
from cryoem.particles.files import ParticleFile
from cryoem.particles.stack import ParticleStack, StackOnDemand
from cryoem.rotations import Poses
from cryoem.runs.jobs import RECORD_FILE, read_record, write_record
from cryoem.runs.pipeline import FIGURES, PhaseInfo, Run, find_run, open_measured, phase_info
from cryoem.runs.profiles import settings_of_phase

CHECKPOINTS = "checkpoints"
DISCARDED_PATTERNS = ("*.h5", "*.mrc", "*.mrcs", "*.star", "*.cs", "*.json", "*.cxc")
TRUE_POSES = "used only to report errors"
TRANSFER, OWN_TRANSFER = "contrast_transfer_", "contrast_transfer_of_image_"
UNITS_OF_TRANSFER = {
    "voltage_kv": "kV",
    "spherical_aberration_mm": "mm",
    "amplitude_contrast": "1",
    "b_factor_angstrom2": "angstrom^2",
    "defocus_range_angstrom": "angstrom",
    "phase_shift_rad": "rad",
    "inverted": "1",
    "scale": "1",
}


class MissingPhaseError(FileNotFoundError):
    """An earlier phase is not complete, or one of its files is missing."""


class StalePhaseError(ValueError):
    """An earlier phase was run with different settings, is older than a phase it depends on, or has a damaged file."""


class Phase:
    """A phase of a run that is open for writing; use ``open_phase`` to create it.

    Attributes
    ----------
    info : PhaseInfo
        Name, number and title of the phase.
    folder : Path
        ``<data folder>/runs/<run>/<phase name>``.
    settings : DataSettings
        Settings of this phase and of earlier phases, as attributes.
    rng : numpy.random.Generator
        Generator seeded with the seed of the run and the number of the phase.
    """

    def __init__(self, info: PhaseInfo, run: Run):
        self.info = info
        self.folder = run.folder / info.name
        self.settings = settings_of_phase(run.profile, info.number)
        self.rng = np.random.default_rng([run.profile.seed, info.number])
        self._run = run
        self._made_from = run.made_from(info)
        self._built_on = run.earlier_ids(info)
        self._results = {"numbers": {}, "headline": [], "warnings": []}
        self._checked: set[str] = set()
        self._figure_names: list[str] = []
        self._started = time.monotonic()

    def path(self, filename: str) -> Path:
        """Return the path of a file of this phase, such as a map."""
        return self.folder / filename

    @property
    def checkpoints(self) -> Path:
        """Folder for checkpoints, which is kept if the process is killed.

        ``open_phase`` empties it if the settings or the earlier phases have changed, and ``finish`` removes it.
        """
        return self.folder / CHECKPOINTS

    def find(self, phase_name: str, filename: str) -> Path:
        """Return the path of a file written by this phase or an earlier one.

        Raises
        ------
        ValueError
            If there is no such phase, or it is a later one.
        MissingPhaseError
            If the earlier phase is not complete, or the file does not exist.
        StalePhaseError
            If the results of the earlier phase are out of date or damaged.
        """
        info = phase_info(phase_name)
        if info.number > self.info.number:
            raise ValueError(
                f"phase {self.info.name} can load files only from itself and earlier phases, not from {phase_name}"
            )
        path = self._run.folder / info.name / filename
        said = f"phase {info.name} of run {self._run.folder.name!r}"
        if info.number < self.info.number and info.name not in self._checked:
            if reason := self._run.why_not_current(info):
                problem = StalePhaseError if read_record(path.parent) else MissingPhaseError
                raise problem(f"{said} {reason}; {self._remedy(info)}")
            self._checked.add(info.name)  # only once per phase, because the check reads all its files
        if not path.is_file():
            raise MissingPhaseError(f"{said} has no file {path}; {self._remedy(info)}")
        return path

    def save(self, name: str, arrays: Mapping[str, tuple]) -> None:
        """Save arrays to ``<name>.h5``; each value is ``(array, units)`` or ``(array, units, description)``."""
        save_arrays(self.path(f"{name}.h5"), arrays, parameters=self._made_from)

    def load(
        self, phase_name: str, name: str, datasets: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Load arrays saved by this phase or an earlier one, by default all datasets.

        Raises the same errors as ``find``.
        """
        return load_arrays(self.find(phase_name, f"{name}.h5"), datasets)

    def save_particles(self, name: str, stack: ParticleStack | StackOnDemand, **more: tuple) -> None:
        """Save a particle stack and additional arrays, which have the form described in ``save``.

        Images are read block by block. The symmetry is not saved, because it is a setting of the run.
        """
        arrays = {
            "images": (stack, "clean standard deviations", "(n, y, x) particle images"),
            "pixel_size": (np.array(stack.pixel_size_angstrom), "angstrom", "pixel size"),
        }
        if stack.poses is not None:
            text = f"known orientations, quaternions xyzw; {TRUE_POSES}"
            arrays["quaternions"] = (stack.rotations.as_quat(), "1", text)
            arrays["shifts"] = (stack.shifts_px, "px", f"known displacements (x, y); {TRUE_POSES}")
        if stack.ctf is not None:
            text = "underfocus; U, V and azimuth (rad) of U"
            arrays["defocus"] = (stack.defocus_angstrom, "angstrom", text)
            for key, value in dataclasses.asdict(stack.ctf).items():
                arrays[TRANSFER + key] = (np.array(value), UNITS_OF_TRANSFER[key], "CTF parameter")
            for key, values in stack.optics.own_values.items():
                arrays[OWN_TRANSFER + key] = (values, UNITS_OF_TRANSFER[key], "(n,) value of each image")
        self.save(name, arrays | more)

    def load_particles(self, phase_name: str, name: str) -> StackOnDemand:
        """Load a particle stack, with the symmetry from the settings; raises the same errors as ``load``.

        Its images are read when they are used.
        """
        arrays = self.load(phase_name, name)
        ctf = poses = None
        if "defocus" in arrays:
            constants = {
                key: arrays[TRANSFER + key].tolist() for key in UNITS_OF_TRANSFER if TRANSFER + key in arrays
            }
            constants["defocus_range_angstrom"] = tuple(constants["defocus_range_angstrom"])
            ctf = ContrastTransfer(**constants)
        if "quaternions" in arrays:
            poses = Poses(Rotation.from_quat(arrays["quaternions"]), arrays["shifts"])
        own = {key: arrays[OWN_TRANSFER + key] for key in OWN if OWN_TRANSFER + key in arrays}
        optics = Optics(float(arrays["pixel_size"]), ctf, arrays.get("defocus"), **own)
        images = arrays["images"]
        return StackOnDemand(images, np.arange(len(images)), optics, poses, self.settings.symmetry)

    def open_particles(self) -> ParticleFile:
        """Open the measured particles of the run.

        Raises the same errors as ``particles.open_particles``.
        """
        return open_measured(self.settings)

    def save_figure(self, name: str, figure, caption: str) -> None:
        """Save a plotly figure for the report and, in a notebook, display the figure with its caption below it.

        The report shows the figures in the order in which they are saved. A figure with the same name is replaced.
        """
        if not re.fullmatch("[A-Za-z0-9-]+", name):
            raise ValueError(f"name must contain only letters, digits and hyphens, got {name!r}")
        if name not in self._figure_names:
            self._figure_names.append(name)
        number = self._figure_names.index(name) + 1
        content = {"name": name, "caption": caption, "figure": json.loads(figure.to_json())}
        write_text(self.folder / FIGURES / f"{number:02d}-{name}.json", json.dumps(content))
        if get_ipython() is not None:
            display(figure, Markdown(f"*{caption}*"))

    def record(self, *, headline: bool = False, **numbers) -> None:
        """Record numbers, strings or booleans for the summary, such as ``pose_error_rad=0.09``.

        The names must end in the unit. If ``headline`` is true, the values are also shown at the top of the report.
        Numbers that are not finite are shown as not available.
        """
        for name, value in numbers.items():
            value = value.item() if isinstance(value, np.generic) else value
            if not isinstance(value, (bool, int, float, str)):
                raise TypeError(f"{name} must be a single number, string or boolean, got {value!r:.60}")
            not_finite = isinstance(value, float) and not math.isfinite(value)
            self._results["numbers"][name] = None if not_finite else value
            if headline and name not in self._results["headline"]:
                self._results["headline"].append(name)

    def warn_if(self, condition: bool, sentence: str) -> None:
        """Print a warning if a condition is true, and include it in the summary and the report."""
        if condition:
            sys.stdout.write(f"Warning: {sentence}\n")
            if sentence not in self._results["warnings"]:
                self._results["warnings"].append(sentence)

    def finish(self) -> None:
        """Mark the phase as complete by writing its record, and remove the checkpoints."""
        write_record(
            self.folder,
            made_from=self._made_from,
            built_on=self._built_on,
            results=self._results,
            seconds=time.monotonic() - self._started,
        )
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _remedy(self, info: PhaseInfo) -> str:
        return f"run notebooks/{info.notebook} or `{self._run.command}` first"


def open_phase(
    name: str,
    *,
    run: str | None = None,
    profile: str = "quick",
    map_name: str | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Phase:
    """Open a phase of a run for writing. Call this function at the start of the phase's notebook.

    Results of an earlier attempt are removed. Checkpoints are kept if the settings and the earlier phases have not
    changed.

    Parameters
    ----------
    name : str
        Name of the phase, such as ``"0-data-preparation"``.
    run : str, optional
        Name of the run. Default: the name of the map or particle file, followed by the profile, as in ``5j0n-quick``.
    profile : str
        Name of the profile, ``"quick"``, ``"paper"`` or ``"toy"``.
    map_name : str, optional
        Registry name or path of the map. Default: the map of the profile, or no map for measured particles.
    overrides : mapping, optional
        Settings that replace those of the profile.

    Raises
    ------
    ValueError
        If there is no such phase, profile or setting, or a value or the name of the run is invalid.
    OtherInputError
        If the run has results for a different map or different particles.
    FileNotFoundError
        If the map file or the particle file does not exist.
    MemoryError
        If the map or the particles do not fit into memory.
    """
    info = phase_info(name)
    opened = find_run(profile, run=run, map_name=map_name, overrides=overrides)
    if name not in opened.phases:
        method = opened.profile.orientation_method
        raise ValueError(f"phase {name} is not part of a run with orientation_method={method}")
    opened.claim()
    phase = Phase(info, opened)
    # remove the results of an earlier attempt, starting with the record
    (phase.folder / RECORD_FILE).unlink(missing_ok=True)
    shutil.rmtree(phase.folder / FIGURES, ignore_errors=True)
    for pattern in DISCARDED_PATTERNS:
        for path in phase.folder.glob(pattern):
            path.unlink()
    # keep checkpoints with the same inputs
    stamp_file = phase.checkpoints / "made-from.json"
    stamp = canonical_json({"made_from": phase._made_from, "built_on": phase._built_on})
    if not stamp_file.is_file() or stamp_file.read_bytes() != stamp.encode():
        shutil.rmtree(phase.checkpoints, ignore_errors=True)
        write_text(stamp_file, stamp)
    return phase
