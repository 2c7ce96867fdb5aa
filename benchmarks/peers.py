"""Import the optional packages in the extra ``baselines``. Functions return None if a package is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from types import ModuleType

from scipy.spatial.transform import Rotation

from cryoem import orientations

ASPIRE, SCIKIT_LEARN = "ASPIRE", "scikit-learn"


def aspire(*modules: str) -> ModuleType | None:
    """Import ASPIRE and the given submodules."""
    if not orientations.is_installed():
        return None
    package = orientations.import_aspire()
    logging.disable(logging.WARNING)
    for module in modules:
        importlib.import_module(f"aspire.{module}")
    return package


def scikit_learn(*modules: str) -> ModuleType | None:
    """Import scikit-learn and the given submodules."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    for module in modules:
        importlib.import_module(f"sklearn.{module}")
    return importlib.import_module("sklearn")


def matrices_for_aspire(rotations: Rotation):
    """Return orientations as matrices in ASPIRE's convention, the transposes of ours: (n, 3, 3) float32."""
    return rotations.inv().as_matrix().astype("float32")
