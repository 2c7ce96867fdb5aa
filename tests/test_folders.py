"""Where the data folder and the notebooks are found."""

from __future__ import annotations

import pytest

from cryoem import folders, pipeline

(DATA, *_) = pipeline.PHASES


def test_the_data_folder_is_that_of_the_project_unless_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CRYOEM_HOME")
    inner = tmp_path / "notebooks" / "0-data-preparation"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert folders.data_folder() == inner / "data"
    (tmp_path / "pyproject.toml").touch()
    assert folders.data_folder() == tmp_path / "data"
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "elsewhere"))
    assert folders.data_folder() == tmp_path / "elsewhere"


def test_the_notebooks_are_found_beside_the_package_or_in_it(tmp_path, monkeypatch):
    package = tmp_path / "cryoem"
    package.mkdir()
    monkeypatch.setattr(folders, "__file__", str(package / "folders.py"))
    with pytest.raises(FileNotFoundError, match=f"no notebooks: neither {tmp_path}/notebooks nor "):
        folders.notebooks_folder()
    (package / "_notebooks" / DATA).mkdir(parents=True)
    assert folders.notebooks_folder() == package / "_notebooks"
    (tmp_path / "notebooks" / DATA).mkdir(parents=True)
    assert folders.notebooks_folder() == tmp_path / "notebooks"
