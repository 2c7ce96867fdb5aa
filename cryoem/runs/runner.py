"""Run the notebooks of the phases in order, skip phases whose results are current, and write a report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cryoem.files.reading import notebooks_folder, sources_sha256
from cryoem.files.writing import remove_partial_files, write_text
from cryoem.runs.execution import notice, read_notebook, warnings_of
from cryoem.runs.jobs import RECORD_FILE, folder_lock, read_record, write_json
from cryoem.runs.overview import PAGE, SUMMARY_FILE, write_overview
from cryoem.runs.phase import CHECKPOINTS
from cryoem.runs.pipeline import PhaseInfo, Run, find_run, saved_figures
from cryoem.runs.quantities import Quantity, quantity
from cryoem.runs.report import render_report, render_text_summary

REPORT_FILE = "report.html"
MAP_FILES = {  # and their link texts in the report
    "Map": "3-reconstruction/map.mrc",
    "Half-map 1": "3-reconstruction/map-half-1.mrc",
    "Half-map 2": "3-reconstruction/map-half-2.mrc",
    "ChimeraX script": "3-reconstruction/map.cxc",
}
TO_VIEW = (
    "to view the map, open the ChimeraX script, or the map in napari with its plugin napari-mrcfile-reader"
)


@dataclass(frozen=True)
class RunSummary:
    """Results of a run.

    Attributes
    ----------
    folder, report : Path
        Folder of the run, and path of its HTML report.
    text : str
        Numbers and warnings as text for a terminal.
    numbers, warnings, seconds : dict
        Recorded numbers, warnings and execution time in seconds, by phase name.
    executed : tuple of str
        Names of the phases that this call executed. The other phases were already complete.
    """

    folder: Path
    report: Path
    text: str
    numbers: dict[str, dict]
    warnings: dict[str, list[str]]
    seconds: dict[str, float]
    executed: tuple[str, ...]


def run(
    *,
    profile: str = "quick",
    map_name: str | None = None,
    run: str | None = None,
    overrides: Mapping[str, object] | None = None,
    force: bool = False,
    progress: bool = True,
    notebooks: Path | None = None,
) -> RunSummary:
    """Execute the phases, and write a summary and a report to ``<data folder>/runs/<run>``.

    A completed phase is kept if its settings, its notebook and the earlier phases have not changed, and its files are
    intact. An interrupted phase is executed again, but its training resumes from the last completed epoch.

    Parameters
    ----------
    profile, map_name, run, overrides
        See ``open_phase``.
    force : bool
        Whether to execute every phase from scratch, even if the run has results for a different input.
    progress : bool
        Whether to show progress bars and messages on stderr.
    notebooks : Path, optional
        Folder of the notebooks. Default: ``notebooks_folder()``.

    Raises
    ------
    ValueError
        If there is no such profile or setting, or a value is invalid.
    OtherInputError
        If the run has results for a different map or different particles.
    FileNotFoundError
        If a notebook or an input file does not exist.
    MemoryError
        If the map or the particles do not fit into memory.
    RunInProgressError
        If another process is using the folder of the run.
    OSError
        If the folder of the run cannot be written, for example because the disk is full.
    NotebookError
        If a cell raises an error, the kernel dies, or a notebook does not finish its phase.
    """
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    found = find_run(profile, run=run, map_name=map_name, overrides=overrides)
    for info in found.phases.values():
        if not (source / info.notebook).is_file():
            raise FileNotFoundError(f"notebook {source / info.notebook} of phase {info.name} not found")

    say = partial(notice, progress=progress)
    executed = []
    with folder_lock(found.folder, remedy="wait for it to finish, or choose a different --run"):
        found.claim(force=force)
        remove_partial_files(found.folder)
        for info in found.phases.values():
            job = found.job(info, notebooks=source, overrides=overrides or {})
            if force:
                shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
            elif (reason := job.why_not_current()) is None:
                made_by = read_record(job.folder)["versions"].get("cryoem_sources_sha256")
                hint = "; the code of this package has changed since, so use --force to repeat it"
                say(f"{info.title}: complete, kept{'' if made_by == sources_sha256() else hint}")
                continue
            elif (job.folder / RECORD_FILE).exists():
                say(f"{info.title} {reason}; repeating it")
            record = job.execute(progress=progress)
            executed.append(info.name)
            for warning in _warnings(job.folder, info):
                say(f"{info.title}: warning: {warning}")
            say(f"{info.title}: done in {record['seconds']:.0f} s")
        return _summarise(found, executed=tuple(executed))


def _warnings(folder: Path, info: PhaseInfo) -> list[str]:
    """Return the warnings from ``phase.warn_if`` and the Python warnings of a complete phase."""
    shown = warnings_of(read_notebook(folder / Path(info.notebook).name))
    return [*read_record(folder)["results"]["warnings"], *shown]


def _summarise(run: Run, *, executed: tuple[str, ...]) -> RunSummary:
    """Write ``summary.json``, ``summary.txt``, ``report.html`` and the page of all runs for a complete run."""
    profile, folder = run.profile, run.folder
    records = {name: read_record(folder / name) for name in run.phases}
    results = {name: record["results"] for name, record in records.items()}
    numbers = {name: result["numbers"] for name, result in results.items()}
    warned = {name: _warnings(folder / name, info) for name, info in run.phases.items()}
    seconds = {name: record["seconds"] for name, record in records.items()}
    headline = {key: numbers[name][key] for name, result in results.items() for key in result["headline"]}
    source = Path(profile.particles or profile.map_name).name
    sections = {
        "Result": _quantities(headline | {"total_time_seconds": sum(seconds.values())}),
        "Run": [
            Quantity("profile", profile.name, "Size of the run: the settings that `cryoem settings` lists."),
            Quantity("map", "none" if profile.map_name is None else Path(profile.map_name).name),
            quantity("noise_variance", float(profile.noise_variance))
            if profile.particles is None
            else Quantity("particles", source),
            Quantity("seed", str(profile.seed), "Seed of the random numbers."),
        ],
        # the most important numbers of a phase come first
        **{
            run.phases[name].title: _quantities(
                {key: values[key] for key in results[name]["headline"]} | values
            )
            for name, values in numbers.items()
            if values
        },
    }
    phases = {
        info.title: {
            "seconds": seconds[name],
            "status": "executed" if name in executed else "kept from an earlier run",
            "text": info.description,
            "notebook": f"{name}/{Path(info.notebook).name}",
            "warnings": warned[name],
            "figures": saved_figures(folder / name),
        }
        for name, info in run.phases.items()
    }
    finished = max(datetime.fromisoformat(record["finished_at"]) for record in records.values())
    versions = sorted({record["versions"]["cryoem"] for record in records.values()})
    text = render_text_summary(sections, phases)
    report = folder / REPORT_FILE
    maps = {name: path for name, path in MAP_FILES.items() if (folder / path).is_file()}
    page = {
        "title": f"{source}, {profile.name} profile",
        "about": f"Run {folder.name}, finished on {finished.day} {finished:%B %Y at %H:%M UTC}, "
        f"cryoem {' and '.join(versions)}{f'; {TO_VIEW}' if 'ChimeraX script' in maps else ''}",
        "links": maps,
        "command": run.command,
    }
    notebooks = {f"Notebook {info.number}": phases[info.title]["notebook"] for info in run.phases.values()}
    page["links"] |= notebooks
    page["links"] |= {"Numbers as JSON": SUMMARY_FILE, "All runs": f"../{PAGE}"}
    content = {"profile": profile.name, "map_name": profile.map_name, "input": source}
    content |= {"finished_at": finished.isoformat(), "command": run.command}
    content |= {"seconds": seconds, "numbers": numbers, "warnings": warned}
    write_json(folder / SUMMARY_FILE, content)
    write_text(folder / "summary.txt", text + "\n")
    write_text(report, render_report(**page, summary=sections, phases=phases))
    write_overview(folder.parent)
    return RunSummary(folder, report, text, numbers, warned, seconds, executed)


def _quantities(numbers: Mapping[str, object]) -> list[Quantity]:
    return [quantity(name, value) for name, value in numbers.items()]
