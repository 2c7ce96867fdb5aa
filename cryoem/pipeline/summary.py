"""The end of a run: its numbers and figures as ``summary.json``, ``summary.txt`` and ``report.html``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryoem.pipeline.files import write_text
from cryoem.pipeline.profiles import Profile
from cryoem.pipeline.records import PHASES, read_record, saved_figures

UNITS = {"rad": "rad", "deg": "°", "px": "px", "angstrom": "Å", "seconds": "s", "percent": "%"}


@dataclass(frozen=True)
class RunSummary:
    """What a run came to.

    ``numbers`` and ``seconds`` are by phase name; ``executed`` names the phases that this call executed, the
    others were kept; ``text`` is for a terminal; ``report`` is the HTML page in ``folder``.
    """

    folder: Path
    report: Path
    text: str
    numbers: dict[str, dict]
    seconds: dict[str, float]
    executed: tuple[str, ...]


def summarise(
    folder: Path, profile: Profile, *, seconds: dict[str, float], executed: tuple[str, ...]
) -> RunSummary:
    """Write the summary files of a run whose phases are all complete.

    Parameters
    ----------
    folder : of the run.
    seconds : phase name -> wall time of its execution.
    executed : names of the phases that were executed now.
    """
    from cryoem.report import render_report, render_text_summary

    records = {name: read_record(folder / name) for name in PHASES}
    numbers = {name: record["numbers"] for name, record in records.items()}
    headline = {key: numbers[name][key] for name, record in records.items() for key in record["headline"]}
    sections = {"Result": _formatted(headline | {"total_time_seconds": sum(seconds.values())})}
    noise = {"noise variance": f"{profile.noise_variance:g}"}
    sections["Run"] = {
        "profile": profile.name,
        "map": Path(profile.map_name).name,
        **(noise if profile.particles is None else {"particles": Path(profile.particles).name}),
        "seed": str(profile.seed),
    }
    sections |= {PHASES[name].title: _formatted(values) for name, values in numbers.items() if values}
    phases = {
        info.title: {
            "seconds": seconds[info.name],
            "status": "executed" if info.name in executed else "kept from before",
            "text": f"{info.description} Executed notebook: {info.notebook_for(profile)}",
        }
        for info in PHASES.values()
    }
    figures = [
        (info.title, caption, figure)
        for info in PHASES.values()
        for caption, figure in saved_figures(folder / info.name)
    ]
    text = render_text_summary(sections, phases)
    content = {"profile": profile.name, "map_name": profile.map_name, "seconds": seconds, "numbers": numbers}
    write_text(folder / "summary.json", json.dumps(content, indent=2, allow_nan=False))
    write_text(folder / "summary.txt", text + "\n")
    title = f"{Path(profile.map_name).name}, {profile.name} profile"
    report = folder / "report.html"
    write_text(report, render_report(title=title, summary=sections, figures=figures, phases=phases))
    return RunSummary(
        folder=folder, report=report, text=text, numbers=numbers, seconds=seconds, executed=executed
    )


def with_unit(name: str, value) -> tuple[str, str]:
    """Label and value of a recorded number: ``recovery_error_rad`` 0.0931 is "recovery error", "0.0931 rad"."""
    words, _, last = name.rpartition("_")
    label, unit = (words, f" {UNITS[last]}") if words and last in UNITS else (name, "")
    if value is None:
        text, unit = "not available", ""
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = f"{value:,}" if isinstance(value, int) else value
    return label.replace("_", " "), text + unit


def _formatted(numbers: dict) -> dict[str, str]:
    return dict(with_unit(name, value) for name, value in numbers.items())
