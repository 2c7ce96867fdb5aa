"""Where things lie on the disk: the project, its notebooks and its data."""

from __future__ import annotations

import os
from pathlib import Path

FIRST_PHASE = "0-data-preparation"


def project_folder() -> Path:
    """The project around the working folder.

    Returns
    -------
    The nearest folder, from the working folder upwards, that holds both ``pyproject.toml`` and ``notebooks/``; the
    working folder itself when there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_folder() -> Path:
    """The folder for downloads and generated artefacts: ``$CRYOEM_HOME``, else ``data/`` of the project.

    Returns
    -------
    An absolute path; the folder is not created.
    """
    home = os.environ.get("CRYOEM_HOME")
    return Path(home).expanduser().absolute() if home else project_folder() / "data"


def notebooks_folder() -> Path:
    """The folder of the notebooks: ``notebooks/`` beside the package in a checkout, else the copy installed in it.

    Raises
    ------
    FileNotFoundError : neither holds the first phase.
    """
    package = Path(__file__).resolve().parent
    folders = (package.parent / "notebooks", package / "_notebooks")
    for folder in folders:
        if (folder / FIRST_PHASE).is_dir():
            return folder
    raise FileNotFoundError(f"no notebooks: neither {folders[0]} nor {folders[1]} holds {FIRST_PHASE}/")
