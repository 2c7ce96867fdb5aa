"""Locations of the project, its notebooks and its data."""

from __future__ import annotations

import os
from pathlib import Path

FIRST_PHASE = "0-data-preparation"


def project_folder() -> Path:
    """Return the nearest folder, from the working folder upwards, with ``pyproject.toml`` and ``notebooks/``.

    If there is none, the working folder is returned.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_folder() -> Path:
    """Return the folder for downloads and results: ``$CRYOEM_HOME``, or ``data/`` in the project.

    The path is absolute. The folder is not created.
    """
    home = os.environ.get("CRYOEM_HOME")
    return Path(home).expanduser().absolute() if home else project_folder() / "data"


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: ``notebooks/`` of a checkout, or the copy in the installed package.

    Raises
    ------
    FileNotFoundError
        Neither folder contains the first phase.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package.parent / "notebooks", package / "_notebooks")
    for folder in folders:
        if (folder / FIRST_PHASE).is_dir():
            return folder
    raise FileNotFoundError(
        f"notebooks not found: neither {folders[0]} nor {folders[1]} contains {FIRST_PHASE}/"
    )
