"""State of a computation that takes long, in one file among the checkpoints of a phase."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoem.pipeline.artefacts import load_arrays, save_arrays


class FileMemory:
    """Keeps named arrays in an HDF5 file: what ``refinement.refine`` takes as its ``memory``."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays that were saved last; None where there are none, and with a warning where they are damaged."""
        try:
            return load_arrays(self._path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            warnings.warn(f"{error}; what it was to keep is computed anew", stacklevel=2)
            return None

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace what is kept; raises OSError where the file cannot be written."""
        save_arrays(self._path, {name: (array, "") for name, array in arrays.items()}, parameters={})
