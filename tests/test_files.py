"""Atomic writing, arrays in HDF5, JSON, and the locations of the project's folders."""

from __future__ import annotations

import errno
import os
import time

import h5py
import numpy as np
import pytest

from cryoem import files
from cryoem.files import reading


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- atomic writing


def test_a_file_appears_when_its_block_ends_and_parents_are_created(tmp_path):
    path = tmp_path / "new" / "a.weights.h5"
    with files.atomic_write(path) as partial:
        partial.write_text("new")
        assert partial.parent == path.parent
        assert partial.name.endswith(".weights.h5")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == [path.name]


def test_two_writers_do_not_interfere(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_write(path) as first:
        first.write_text("first")
        files.write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_failed_block_keeps_the_old_files(tmp_path, stop):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    for old in (path, other):
        old.write_text("old")

    def stopped_halfway():
        with files.atomic_write_many(path, other) as partials:
            partials[0].write_text("half of it")
            raise stop

    with pytest.raises(stop):
        stopped_halfway()
    assert path.read_text() == other.read_text() == "old"
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_a_table_never_appears_next_to_another_stack(tmp_path, monkeypatch):
    """Two renames are not atomic: between them, there is a new stack without a table."""
    stack, table = tmp_path / "a.mrcs", tmp_path / "a.star"
    for path in (stack, table):
        path.write_text("old")
    rename, seen = os.replace, []

    def replace(source, target):
        seen.append([name for name in names(tmp_path) if not name.startswith(".")])
        if target == table:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)

    def write_both():
        with files.atomic_write_many(stack, table) as partials:
            for partial in partials:
                partial.write_text("new")

    with pytest.raises(OSError, match=rf"^cannot write {table}: No space left on device$"):
        write_both()
    assert seen == [["a.mrcs"], ["a.mrcs"]]
    assert (names(tmp_path), stack.read_text()) == (["a.mrcs"], "new")


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Unable to flush file (file write failed: errno = 28, error message = 'No space')"),
    ],
    ids=["system", "hdf5"],
)
def test_a_failed_write_is_one_sentence_with_the_name_of_the_file(tmp_path, failure):
    with (
        pytest.raises(OSError, match=rf"^cannot write {tmp_path}/a.txt: No space left on device$"),
        files.atomic_write(tmp_path / "a.txt"),
    ):
        raise failure


def test_files_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "file" / "a.txt", "(Not a directory|File exists)"),
    ):
        with pytest.raises(OSError, match=f"^cannot write {path}: {reason}$"):
            files.write_text(path, "text")
    with (
        pytest.raises(OSError, match=rf"^cannot write {tmp_path}/a.txt: No such file or directory$"),
        files.atomic_write(tmp_path / "a.txt"),
    ):
        pass  # nothing is written
    # Errors about other files pass through.
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*missing'"),
        files.atomic_write(tmp_path / "a.txt"),
    ):
        (tmp_path / "missing").read_text()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "results" / "out"
    with files.new_folder(out) as partial:
        (partial / "a.txt").write_text("a")
        assert not out.exists()
    assert names(out) == ["a.txt"]
    with (
        pytest.raises(ValueError, match=f"^{out} exists; choose a new or empty folder$"),
        files.new_folder(out),
    ):
        pass
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(OSError, match=rf"^cannot write {tmp_path}/empty/b/c.txt: No such file or directory$"),
        files.new_folder(tmp_path / "empty") as partial,
    ):
        (partial / "b" / "c.txt").write_text("c")
    assert names(tmp_path) == ["empty", "results"]


def test_parents_of_a_failed_file_or_folder_are_removed(tmp_path):
    for fails in (files.new_folder, files.atomic_write):
        with pytest.raises(ValueError, match="refused"), fails(tmp_path / "a" / "b" / "c"):
            raise ValueError("refused")
        assert names(tmp_path) == []
    (tmp_path / "a").mkdir()  # existed before
    with pytest.raises(ValueError, match="refused"), files.new_folder(tmp_path / "a" / "b" / "c"):
        raise ValueError("refused")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where nobody can create files")
def test_places_where_nobody_can_write_are_found_before_the_work(monkeypatch):
    monkeypatch.chdir("/tmp")
    for path in ("/proc/a.txt", "/proc/new/a.txt", "../proc/a.txt"):
        with pytest.raises(OSError, match=f"^cannot write {path}: ") as error:
            files.check_writable(path)
        assert "partial" not in str(error.value)
    with pytest.raises(OSError, match=r"^cannot write \.\./proc/a: ") as error, files.new_folder("../proc/a"):
        pass
    assert "partial" not in str(error.value)


def test_a_file_larger_than_the_free_space_is_refused_and_nothing_is_left(tmp_path):
    files.check_writable(tmp_path / "new" / "a.txt", n_bytes=1)
    with pytest.raises(OSError, match=rf"^cannot write {tmp_path}/a.txt: it needs 1e\+09 GB, but only "):
        files.check_writable(tmp_path / "a.txt", n_bytes=10**18)
    assert names(tmp_path) == []


def test_temporary_files_of_killed_processes_can_be_removed(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in (".partial-0123abcd-a.txt", "inner/.partial-0123abcd-b.h5", "inner/kept.txt"):
        (tmp_path / name).touch()
    files.remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept.txt"]


# --- arrays


def test_arrays_come_back_with_names_units_and_parameters(tmp_path):
    path = tmp_path / "folder" / "a.h5"
    arrays = {
        "images": (np.arange(8, dtype=">f4").reshape(2, 2, 2), "density", "two images"),
        "kept": (np.array([True, False]), ""),
        "voxel": (3.5, "angstrom"),
        "none": (np.zeros((0, 3), np.int32), "px"),
    }
    files.save_arrays(path, arrays, parameters={"seed": 0, "size": None})
    loaded = files.load_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, entry in arrays.items():
        np.testing.assert_array_equal(loaded[name], entry[0])
        assert loaded[name].dtype == np.asarray(entry[0]).dtype
    assert files.load_arrays(path, ["kept"]).keys() == {"kept"}
    assert files.stored_parameters(path) == {"seed": 0, "size": None}
    with h5py.File(path) as file:
        assert file["images"].attrs["units"] == "density"
        assert file["images"].attrs["description"] == "two images"
        assert 0 <= time.time() - file.attrs["created_unix_seconds"] < 60
    assert names(path.parent) == ["a.h5"]


def test_large_arrays_are_mapped_and_neither_changes_nor_a_new_file_affect_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoem.files.arrays.MAPPED_BYTES", 100)
    path, values = tmp_path / "a.h5", np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    files.save_arrays(path, {"x": (values, "px"), "few": (values[0], "px")}, parameters={})
    loaded = files.load_arrays(path)
    assert [isinstance(loaded[name], np.memmap) for name in ("x", "few")] == [True, False]
    np.testing.assert_array_equal(loaded["x"], values)
    loaded["x"][0, 0, 0] = -1
    np.testing.assert_array_equal(files.load_arrays(path)["x"], values)
    files.save_arrays(path, {"x": (0 * values, "px")}, parameters={})
    np.testing.assert_array_equal(loaded["x"][1:], values[1:])


def test_images_in_files_are_written_block_by_block(tmp_path, monkeypatch):
    class Images:
        shape, read = (5, 4, 4), []

        def __len__(self):
            return 5

        def __getitem__(self, block):
            self.read.append(block)
            return values[block]

    monkeypatch.setattr("cryoem.files.arrays.BLOCK_BYTES", 2 * 4 * 4 * 4)
    values = np.random.default_rng(0).normal(size=Images.shape).astype(np.float32)
    files.save_arrays(tmp_path / "a.h5", {"x": (Images(), "px", "images")}, parameters={})
    np.testing.assert_array_equal(files.load_arrays(tmp_path / "a.h5")["x"], values)
    assert Images.read == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_files_that_hold_no_such_arrays(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match=f"^{path} does not exist$"):
        files.load_arrays(path)
    files.save_arrays(path, {"x": (np.zeros(3), "px")}, parameters={})
    with pytest.raises(ValueError, match=f"^{path} has no dataset 'y'; it has x$"):
        files.load_arrays(path, ["y"])
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match=f"^{path} was not written by this package, or is damaged"):
        files.load_arrays(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "arrays is empty; pass at least one dataset"),
        ({"x": (np.array(["a"]), "px")}, r"arrays\['x'\] must contain numbers or booleans, got dtype <U1"),
        ({"x": (np.zeros(2), 1)}, r"arrays\['x'\] must be \(array, units\)"),
    ],
)
def test_arrays_that_cannot_be_saved(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        files.save_arrays(tmp_path / "a.h5", arrays, parameters={})
    assert not names(tmp_path)


def test_json_is_a_dictionary_of_finite_numbers(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    for text, message in (
        ("[1]", r"must contain a JSON object, got \[1\]"),
        ('{"a": NaN}', "is not valid JSON: NaN is not a valid JSON number"),
        ("[" * 100_000, "is not valid JSON: maximum recursion depth exceeded"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^{path} {message}"):
            files.read_json(path)


# --- locations


def test_the_data_folder_is_that_of_the_project_unless_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CRYOEM_HOME")
    inner = tmp_path / "notebooks" / "0-data-preparation"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert files.data_folder() == inner / "data"
    (tmp_path / "pyproject.toml").touch()
    assert files.data_folder() == tmp_path / "data"
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "elsewhere"))
    assert files.data_folder() == tmp_path / "elsewhere"


def test_the_notebooks_are_found_next_to_the_package_or_in_it(tmp_path, monkeypatch):
    package = tmp_path / "cryoem"
    monkeypatch.setattr(reading, "__file__", str(package / "files" / "reading.py"))
    with pytest.raises(FileNotFoundError, match=f"notebooks not found: neither {tmp_path}/notebooks nor "):
        files.notebooks_folder()
    (package / "_notebooks" / "0-data-preparation").mkdir(parents=True)
    assert files.notebooks_folder() == package / "_notebooks"
    (tmp_path / "notebooks" / "0-data-preparation").mkdir(parents=True)
    assert files.notebooks_folder() == tmp_path / "notebooks"
