"""Run the notebooks of the four phases in order, skipping what is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cryoem.folders import data_folder, notebooks_folder
from cryoem.pipeline.execution import NotebookError, code_of, execute_notebook, read_notebook
from cryoem.pipeline.lock import locked
from cryoem.pipeline.notices import notice_on_stderr, silent
from cryoem.pipeline.phases import resolve_profile
from cryoem.pipeline.profiles import Profile
from cryoem.pipeline.records import (
    PHASES,
    PhaseInfo,
    discard_results,
    is_complete,
    phase_parameters,
    run_folder,
)
from cryoem.pipeline.summary import RunSummary, summarise


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

    A phase is skipped when it is complete with the same parameters, its notebook has not changed and no phase before it
    was executed. A phase that was killed is executed again; its training goes on from its checkpoints.

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
        "overrides": {key: value for key, value in (overrides or {}).items() if key != "map_name"},
    }
    notice = notice_on_stderr if progress else silent
    executed = []
    with locked(folder, notice=notice):
        for info in PHASES.values():
            if not (force or executed) and _is_done(folder, info, sources[info.name], resolved):
                notice(f"{info.title}: complete, kept")
                continue
            kept = None if force else phase_parameters(resolved, info.name)
            discard_results(folder / info.name, keep_made_with=kept)
            _execute(info, sources[info.name], folder, resolved, parameters=parameters, progress=progress)
            executed.append(info.name)
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
    partial = executed.with_suffix(".partial.ipynb")
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
    os.replace(partial, executed)


def _is_done(folder: Path, info: PhaseInfo, source: Path, profile: Profile) -> bool:
    executed = _executed_notebook(folder, info, profile)
    if not executed.is_file() or not is_complete(folder, info.name, profile):
        return False
    return code_of(read_notebook(executed)) == code_of(read_notebook(source))


def _executed_notebook(folder: Path, info: PhaseInfo, profile: Profile) -> Path:
    return folder / info.notebook_for(
        profile
    )  # a phase's folder has the same name in a run and among the notebooks


def _seconds(folder: Path, info: PhaseInfo, profile: Profile) -> float:
    """Wall time of a phase's execution, the start of its kernel included."""
    return read_notebook(_executed_notebook(folder, info, profile))["metadata"]["papermill"]["duration"]
