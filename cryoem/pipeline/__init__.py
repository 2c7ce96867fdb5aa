"""The pipeline: profiles, the phases that notebooks open and finish, and the runner that executes the notebooks."""

from cryoem.pipeline.artefacts import is_current, load_arrays, save_arrays
from cryoem.pipeline.differences import run_differences
from cryoem.pipeline.lock import RunInProgressError
from cryoem.pipeline.phases import MissingPhaseError, Phase, StalePhaseError, open_phase
from cryoem.pipeline.profiles import PROFILES, Profile, get_profile, parse_setting
from cryoem.pipeline.records import PHASES, PhaseInfo, is_complete
from cryoem.pipeline.runner import PhaseFailedError, run
from cryoem.pipeline.stacks import arrays_of, stack_of
from cryoem.pipeline.summary import RunSummary

__all__ = [
    "PHASES",
    "PROFILES",
    "MissingPhaseError",
    "Phase",
    "PhaseFailedError",
    "PhaseInfo",
    "Profile",
    "RunInProgressError",
    "RunSummary",
    "StalePhaseError",
    "arrays_of",
    "get_profile",
    "is_complete",
    "is_current",
    "load_arrays",
    "open_phase",
    "parse_setting",
    "run",
    "run_differences",
    "save_arrays",
    "stack_of",
]
