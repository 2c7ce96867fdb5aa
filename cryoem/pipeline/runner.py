"""Run the notebooks of the four phases in order, skipping what is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cryoem.folders import data_folder, notebooks_folder
from cryoem.pipeline.execution import NotebookError, code_of, execute_notebook, read_notebook, warnings_of
from cryoem.pipeline.lock import locked, wait_for_kernel
from cryoem.pipeline.notices import notice_on_stderr, silent
from cryoem.pipeline.phases import resolve_profile
from cryoem.pipeline.profiles import Profile
from cryoem.pipeline.records import (
    PHASES,
    RECORD_FILE,
    PhaseInfo,
    damage_of,
    discard_results,
    is_complete,
    phase_parameters,
    read_record,
    run_folder,
    why_not_current,
)
from cryoem.pipeline.summary import RunSummary, summarise
from cryoem.sources import sources_sha256
from cryoem.whole_files import remove_left_overs, to_disk


class PhaseFailedError(RuntimeError):
    """A phase's notebook stopped; the message names the phase, the reason and the notebook kept for inspection."""


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
    """Execute the four phases and summarise them in ``<data folder>/runs/<run>``.

    A phase is skipped when it is complete with the same parameters, its files are as it wrote them, its notebook has
    not changed and no phase before it was executed. A phase that was killed is executed again; its training and its
    refinement go on from their checkpoints.

    Parameters
    ----------
    profile : name of the profile.
    map_name : a registry name or the path of a map; the profile's by default.
    run : name of the run, the profile's by default.
    overrides : settings of the profile to replace.
    force : execute every phase from scratch.
    progress : show bars and notices on stderr.
    notebooks : folder of the notebooks, ``notebooks_folder()`` by default.

    Raises
    ------
    ValueError : no such profile or setting, or a value it cannot have.
    FileNotFoundError : a notebook or the map file is not there.
    RunInProgressError : another process is running in the same folder.
    OSError : the run's folder cannot be written, such as on a full disk.
    PhaseFailedError : a cell raised, the kernel died, or a notebook did not finish its phase.
    """
    resolved = resolve_profile(profile, map_name=map_name, overrides=overrides)
    name = profile if run is None else run
    folder = run_folder(name)
    sources = _sources(notebooks_folder() if notebooks is None else Path(notebooks), resolved)
    # the kernel works in another folder, so paths go to it in full
    parameters = {
        "profile": profile,
        "map_name": resolved.map_name,
        "run": name,
        "overrides": {key: getattr(resolved, key) for key in overrides or {} if key != "map_name"},
    }
    notice = notice_on_stderr if progress else silent
    executed = []
    with locked(folder, notice=notice):
        _clear_away(folder)
        for info in PHASES.values():
            if not (force or executed):
                reason = _why_not_done(folder, info, sources[info.name], resolved)
                if reason is None:
                    notice(f"{info.title}: complete, kept{_other_code(folder / info.name)}")
                    continue
                if (folder / info.name / RECORD_FILE).exists():
                    notice(f"{info.title} {reason}; it is made anew")
            kept = None if force else phase_parameters(resolved, info.name)
            discard_results(folder / info.name, keep_made_with=kept)
            _execute(info, sources[info.name], folder, resolved, parameters=parameters, progress=progress)
            executed.append(info.name)
            for warning in warnings_of(read_notebook(_executed_notebook(folder, info, resolved))):
                notice(f"{info.title}: warning: {warning}")
            notice(f"{info.title}: done in {_seconds(folder, info, resolved):.0f} s")
        seconds = {info.name: _seconds(folder, info, resolved) for info in PHASES.values()}
        return summarise(folder, resolved, seconds=seconds, executed=tuple(executed))


def _sources(notebooks: Path, profile: Profile) -> dict[str, Path]:
    sources = {info.name: (notebooks / info.notebook_for(profile)).absolute() for info in PHASES.values()}
    for name, path in sources.items():
        if not path.is_file():
            raise FileNotFoundError(f"phase {name} has no notebook {path}")
    return sources


def _execute(
    info: PhaseInfo, source: Path, folder: Path, profile: Profile, *, parameters: dict, progress: bool
) -> None:
    executed = _executed_notebook(folder, info, profile)
    partial = _partial_notebook(folder, info, profile)
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.unlink(missing_ok=True)
    try:
        execute_notebook(
            source,
            partial,
            parameters=parameters,
            environment={"CRYOEM_HOME": str(data_folder())},
            title=f"{info.number + 1}/{len(PHASES)} {info.title}",
            progress=progress,
        )
    except NotebookError as error:
        raise PhaseFailedError(
            f"phase {info.name} stopped: {error}; the partly executed notebook is {partial}"
        ) from error
    if not is_complete(folder, info.name, profile):
        raise PhaseFailedError(
            f"phase {info.name} ran to its end without phase.finish(); its notebook is {partial}"
        )
    to_disk(partial)
    os.replace(partial, executed)


def _clear_away(folder: Path) -> None:
    """Let the kernel of a run that was killed end, and remove what it left half-written."""
    for log in folder.glob("*/*.log"):
        wait_for_kernel(log)
    remove_left_overs(folder)


def _why_not_done(folder: Path, info: PhaseInfo, source: Path, profile: Profile) -> str | None:
    """Why a phase is executed, as the end of a sentence; None where it is kept."""
    reason = why_not_current(folder, info.name, profile) or damage_of(folder / info.name)
    if reason is not None:
        return reason
    executed = _executed_notebook(folder, info, profile)
    try:
        if code_of(read_notebook(executed)) != code_of(read_notebook(source)):
            return "has a notebook that changed"
        _seconds(folder, info, profile)
    except FileNotFoundError:
        return "was stopped at its very end"
    except (ValueError, KeyError, TypeError):
        return f"has a damaged {executed.name}"
    return None


def _other_code(folder: Path) -> str:
    """What to say of a phase that other code of the same version made: nothing where it was the same."""
    same = read_record(folder)["versions"].get("cryoem_sources_sha256") == sources_sha256()
    return "" if same else ", though this package's code has changed since; --force makes it anew"


def _executed_notebook(folder: Path, info: PhaseInfo, profile: Profile) -> Path:
    return folder / info.notebook_for(
        profile
    )  # a phase's folder has the same name here and among the notebooks


def _partial_notebook(folder: Path, info: PhaseInfo, profile: Profile) -> Path:
    return _executed_notebook(folder, info, profile).with_suffix(".partial.ipynb")


def _seconds(folder: Path, info: PhaseInfo, profile: Profile) -> float:
    """Wall time of a phase's execution, the start of its kernel included."""
    return read_notebook(_executed_notebook(folder, info, profile))["metadata"]["papermill"]["duration"]
