"""Runs of the pipeline: profiles, the interface of the phase notebooks, and the runner that executes them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "execution": ["NotebookError", "execute_notebook"],
        "jobs": ["NotebookJob", "RunInProgressError", "read_record"],
        "overview": ["all_runs", "write_overview"],
        "phase": ["MissingPhaseError", "Phase", "StalePhaseError", "open_phase"],
        "pipeline": ["PHASES", "OtherInputError", "PhaseInfo", "open_measured", "run_name", "saved_figures"],
        "profiles": ["PROFILES", "Profile", "get_profile", "parse_setting"],
        "runner": ["RunSummary", "run"],
    },
)
