"""The peers that need not be installed (extra ``baselines``): found, imported without noise, or None."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from types import ModuleType

from scipy.spatial.transform import Rotation

from cryoem import common_lines

ASPIRE, SCIKIT_LEARN = "ASPIRE", "scikit-learn"


def aspire(*modules: str) -> ModuleType | None:
    """ASPIRE with some of its modules, or None where it is not installed."""
    if not common_lines.is_installed():
        return None
    package = common_lines.import_aspire()
    logging.disable(logging.WARNING)
    for module in modules:
        importlib.import_module(f"aspire.{module}")
    return package


def scikit_learn(*modules: str) -> ModuleType | None:
    """scikit-learn with some of its modules, or None where it is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    for module in modules:
        importlib.import_module(f"sklearn.{module}")
    return importlib.import_module("sklearn")


def matrices_for_aspire(rotations: Rotation):
    """(n, 3, 3) float32 orientations as ASPIRE has them: the transposes of ours."""
    return rotations.inv().as_matrix().astype("float32")
