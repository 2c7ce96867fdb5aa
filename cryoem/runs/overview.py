"""The page of all runs: a sortable table of their numbers, and their Fourier shell correlations in one figure."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from cryoem import plots
from cryoem.files.arrays import load_arrays
from cryoem.files.reading import data_folder, read_json
from cryoem.files.writing import write_text
from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD
from cryoem.runs.quantities import DEFINITIONS, quantity
from cryoem.runs.report import embeddable, render_page
from cryoem.units import label_with_unit, readable_duration

PAGE = "index.html"
SUMMARY_FILE = "summary.json"
CURVE = ("3-reconstruction", "half-map-fsc.h5")
NUMBERS = (
    "images",
    "noise_variance",
    "distance_error_rad",
    "pose_error_rad",
    "refined_pose_error_rad",
    "half_map_resolution_masked_angstrom",
    "resolution_against_truth_angstrom",
)


def all_runs(folder: Path | None = None) -> list[dict]:
    """Return the summary of each run in a folder, the newest first; a run that has never been completed is left out.

    Parameters
    ----------
    folder : Path, optional
        Folder of the runs. Default: ``<data folder>/runs``.

    Returns
    -------
    list of dict
        ``name``, ``finished_at`` (ISO 8601, UTC), ``input``, ``profile``, ``numbers``, ``seconds``, ``warnings`` (their
        number) and ``report`` (path) of each run.
    """
    found = []
    for path in sorted(_runs_folder(folder).glob(f"*/{SUMMARY_FILE}")):
        try:
            content = read_json(path)
            numbers = {name: value for one in content["numbers"].values() for name, value in one.items()}
            run = {
                "name": path.parent.name,
                "finished_at": content["finished_at"],
                "input": content["input"],
                "profile": content["profile"],
                "numbers": numbers,
                "seconds": sum(content["seconds"].values()),
                "warnings": sum(map(len, content["warnings"].values())),
                "report": path.parent / "report.html",
            }
        except (ValueError, KeyError):  # damaged, or written by an earlier version
            continue
        found.append(run)
    return sorted(found, key=lambda run: run["finished_at"], reverse=True)


def write_overview(folder: Path | None = None) -> Path:
    """Write the page of all runs, ``index.html`` in their folder, and return its path.

    ``folder`` is the same as in ``all_runs``.
    """
    folder = _runs_folder(folder)
    runs = all_runs(folder)
    headings = {
        "run": "Name of the run, with a link to its report.",
        "finished (UTC)": "Time at which the last phase was completed.",
        "input": "Map or particle file.",
        "profile": "Size of the run.",
        **{_heading(name): DEFINITIONS[name] for name in NUMBERS},
        "time": DEFINITIONS["total_time_seconds"],
        "warnings": "Number of warnings in the report.",
    }
    columns = [{"label": label, "definition": text, "sorted": ""} for label, text in headings.items()]
    columns[1]["sorted"] = "descending"
    figures = []
    if curves := _curves(folder, runs):
        drawn = plots.fourier_shell_correlation(curves, thresholds=(HALF_MAP_THRESHOLD,))
        caption = (
            "Fourier shell correlation between the half-maps of each run, inside its mask (threshold "
            f"{HALF_MAP_THRESHOLD:g}). Click on a name in the legend to hide its curve."
        )
        figures.append({"caption": caption, **embeddable(drawn.to_json())})
    path = folder / PAGE
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    page = {"about": f"{count} in {folder.name}/. Click on a column to sort the table.", "title": "Runs"}
    write_text(
        path,
        render_page(
            "overview.html", columns=columns, rows=[_row(run) for run in runs], figures=figures, **page
        ),
    )
    return path


def _runs_folder(folder: Path | None) -> Path:
    return data_folder() / "runs" if folder is None else Path(folder)


def _heading(name: str) -> str:
    return label_with_unit(name.replace("_rad", "_deg"))


def _row(run: dict) -> list[dict]:
    finished = datetime.fromisoformat(run["finished_at"]).strftime("%Y-%m-%d %H:%M")
    row = [
        {"text": run["name"], "value": run["name"], "target": f"{run['name']}/report.html"},
        {"text": finished, "value": finished},
        {"text": run["input"], "value": run["input"]},
        {"text": run["profile"], "value": run["profile"]},
    ]
    for name in NUMBERS:
        value = run["numbers"].get(name)
        if value is None:
            row.append({"text": "–", "value": ""})
        elif name.endswith("_rad"):
            row.append({"text": f"{np.degrees(value):.3g}", "value": value})
        else:
            row.append({"text": quantity(name, value).text.removesuffix(" Å"), "value": value})
    row.append({"text": readable_duration(run["seconds"]), "value": run["seconds"]})
    row.append({"text": str(run["warnings"]), "value": run["warnings"]})
    return [{"target": "", **cell} for cell in row]


def _curves(folder: Path, runs: list[dict]) -> dict[str, tuple]:
    curves = {}
    for run in runs:
        path = folder.joinpath(run["name"], *CURVE)
        if path.is_file():
            curve = load_arrays(path)
            curves[run["name"]] = (curve["frequency"], np.clip(curve["correlation"], -1, 1))
    return curves
