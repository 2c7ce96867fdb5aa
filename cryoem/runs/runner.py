"""Run the notebooks of the four phases in order, skip phases whose results are current, and write a report."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cryoem.files.reading import notebooks_folder, sources_sha256
from cryoem.files.writing import remove_partial_files, write_text
from cryoem.runs.execution import read_notebook, warnings_of
from cryoem.runs.jobs import RECORD_FILE, folder_lock, read_record, write_json
from cryoem.runs.phase import CHECKPOINTS
from cryoem.runs.pipeline import PHASES, PhaseInfo, Run, find_run, saved_figures
from cryoem.units import format_quantity, readable_duration

DEFAULT_HEIGHT_PX = 440  # of the plotly template


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
    """Execute the four phases, and write a summary and a report to ``<data folder>/runs/<run>``.

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
    RunInProgressError
        If another process is using the folder of the run.
    OSError
        If the folder of the run cannot be written, for example because the disk is full.
    NotebookError
        If a cell raises an error, the kernel dies, or a notebook does not finish its phase.
    """
    source = notebooks_folder() if notebooks is None else Path(notebooks)
    for info in PHASES.values():
        if not (source / info.notebook).is_file():
            raise FileNotFoundError(f"notebook {source / info.notebook} of phase {info.name} not found")
    found = find_run(profile, run=run, map_name=map_name, overrides=overrides)

    def notice(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    executed = []
    with folder_lock(found.folder, remedy="wait for it to finish, or choose a different --run"):
        found.claim(force=force)
        remove_partial_files(found.folder)
        for info in PHASES.values():
            job = found.job(info, notebooks=source, overrides=overrides or {})
            if force:
                shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
            elif (reason := job.why_not_current()) is None:
                made_by = read_record(job.folder)["versions"].get("cryoem_sources_sha256")
                hint = "; the code of this package has changed since, so use --force to repeat it"
                notice(f"{info.title}: complete, kept{'' if made_by == sources_sha256() else hint}")
                continue
            elif (job.folder / RECORD_FILE).exists():
                notice(f"{info.title} {reason}; repeating it")
            record = job.execute(progress=progress)
            executed.append(info.name)
            for warning in _warnings(job.folder, info):
                notice(f"{info.title}: warning: {warning}")
            notice(f"{info.title}: done in {record['seconds']:.0f} s")
        return _summarise(found, executed=tuple(executed))


def _warnings(folder: Path, info: PhaseInfo) -> list[str]:
    """Return the warnings from ``phase.warn_if`` and the Python warnings of a complete phase."""
    shown = warnings_of(read_notebook(folder / Path(info.notebook).name))
    return [*read_record(folder)["results"]["warnings"], *shown]


def _summarise(run: Run, *, executed: tuple[str, ...]) -> RunSummary:
    """Write ``summary.json``, ``summary.txt`` and ``report.html`` for a run whose phases are complete."""
    profile, folder = run.profile, run.folder
    records = {name: read_record(folder / name) for name in PHASES}
    results = {name: record["results"] for name, record in records.items()}
    numbers = {name: result["numbers"] for name, result in results.items()}
    warned = {name: _warnings(folder / name, info) for name, info in PHASES.items()}
    seconds = {name: record["seconds"] for name, record in records.items()}
    headline = {key: numbers[name][key] for name, result in results.items() for key in result["headline"]}
    sections = {
        "Result": _formatted(headline | {"total_time_seconds": sum(seconds.values())}),
        "Run": {
            "profile": profile.name,
            "map": Path(profile.map_name).name,
            **(
                {"noise variance": f"{profile.noise_variance:g}"}
                if profile.particles is None
                else {"particles": Path(profile.particles).name}
            ),
            "seed": str(profile.seed),
        },
        **{PHASES[name].title: _formatted(values) for name, values in numbers.items() if values},
    }
    phases = {
        info.title: {
            "seconds": seconds[name],
            "status": "executed" if name in executed else "kept from an earlier run",
            "text": f"{info.description} Executed notebook: {info.notebook}",
            "warnings": warned[name],
            "figures": saved_figures(folder / name),
        }
        for name, info in PHASES.items()
    }
    text = render_text_summary(sections, phases)
    report = folder / "report.html"
    title = f"{Path(profile.particles or profile.map_name).name}, {profile.name} profile"
    content = {"profile": profile.name, "map_name": profile.map_name}
    content |= {"seconds": seconds, "numbers": numbers, "warnings": warned}
    write_json(folder / "summary.json", content)
    write_text(folder / "summary.txt", text + "\n")
    write_text(report, render_report(title=title, summary=sections, phases=phases))
    return RunSummary(folder, report, text, numbers, warned, seconds, executed)


def _formatted(numbers: Mapping[str, object]) -> dict[str, str]:
    return dict(format_quantity(name, value) for name, value in numbers.items())


def render_report(
    *, title: str, summary: Mapping[str, Mapping[str, str]], phases: Mapping[str, Mapping]
) -> str:
    """Render the numbers, warnings, phases and figures of a run as one HTML page.

    The page includes plotly.js once, and its content security policy forbids network requests. Figures are drawn when
    they scroll into view, because browsers allow only about 16 WebGL contexts per page. All text is escaped.

    ``summary`` maps each section title to a mapping of labels to formatted values. The first section is shown in large
    type below the title, and the other sections as tables. ``phases`` maps each phase title to its ``seconds``,
    ``status``, ``text``, ``warnings`` and ``figures``, where each figure is a caption and plotly JSON.
    """
    sections = [
        {
            "title": phase,
            "duration": readable_duration(about["seconds"]),
            "status": about["status"],
            "text": about["text"],
            "figures": [{"caption": caption, **_embeddable(text)} for caption, text in about["figures"]],
        }
        for phase, about in phases.items()
    ]
    headline, *tables = ({"title": section, "rows": list(rows.items())} for section, rows in summary.items())
    return _template("report.html").render(
        title=title,
        headline=headline,
        warnings=_sentences(phases),
        tables=tables,
        sections=sections,
        plotly_js=get_plotlyjs(),
    )


def render_figure(figure_json: str) -> str:
    """Render one plotly figure as HTML, for a page that includes plotly.js and ``figures_script()``."""
    return f"<figure>\n{_template('figure.html').render(figure=_embeddable(figure_json))}</figure>"


def figures_script() -> str:
    """Return the JavaScript that draws the figures from ``render_figure``; it must be at the end of the page."""
    return _template("figures.js").render()


def render_text_summary(summary: Mapping[str, Mapping[str, str]], phases: Mapping[str, Mapping]) -> str:
    """Render the numbers and warnings of a run as aligned columns; parameters as in ``render_report``."""
    blocks = [(section, list(rows.items())) for section, rows in summary.items()]
    times = [
        (phase, f"{readable_duration(about['seconds']):>12}  {about['status']}")
        for phase, about in phases.items()
    ]
    blocks.append(("Phases", times))
    if warned := _sentences(phases):
        blocks.insert(1, ("Warnings", warned))
    width = max(len(label) for _, rows in blocks for label, _ in rows)
    lines = []
    for section, rows in blocks:
        lines += ["", section, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    return "\n".join(lines[1:])


def _sentences(phases: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    return [(phase, sentence) for phase, about in phases.items() for sentence in about["warnings"]]


def _template(name: str):
    return Environment(
        loader=PackageLoader("cryoem.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _embeddable(figure_json: str) -> dict:
    layout = json.loads(figure_json).get("layout", {})
    return {
        # escape "<", because "</script>" in a string would end the script element
        "json": figure_json.replace("<", "\\u003c"),
        "height_px": int(layout.get("height") or DEFAULT_HEIGHT_PX),
        "width_px": int(layout.get("width") or 0),
    }
