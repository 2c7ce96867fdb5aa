"""Files of arrays: units, names and parameters come back, and a file that is not whole is no hit."""

from __future__ import annotations

import time

import h5py
import numpy as np
import pytest

from cryoem import pipeline


def test_arrays_come_back_with_names_units_and_parameters(tmp_path):
    path = tmp_path / "folder" / "a.h5"
    arrays = {
        "images": (np.arange(8, dtype=np.float32).reshape(2, 2, 2), "density", "two images"),
        "kept": (np.array([True, False]), ""),
        "voxel": (3.5, "angstrom"),
    }
    pipeline.save_arrays(path, arrays, parameters={"seed": 0, "size": None})
    loaded = pipeline.load_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, entry in arrays.items():
        np.testing.assert_array_equal(loaded[name], entry[0])
        assert loaded[name].dtype == np.asarray(entry[0]).dtype
    assert pipeline.load_arrays(path, ["kept"]).keys() == {"kept"}
    with h5py.File(path) as file:
        assert file["images"].attrs["units"] == "density"
        assert file["images"].attrs["description"] == "two images"
        assert file.attrs["parameters"] == '{"seed":0,"size":null}'
        assert 0 <= time.time() - file.attrs["created_unix_seconds"] < 60
    assert [entry.name for entry in path.parent.iterdir()] == ["a.h5"]


def test_a_cache_hit_needs_the_same_parameters(tmp_path):
    path = tmp_path / "a.h5"
    parameters = {"seed": 0, "noise_variance": 16.0, "shape": (2, 2)}
    pipeline.save_arrays(path, {"x": (np.zeros(3), "px")}, parameters=parameters)
    assert pipeline.is_current(path, dict(reversed(parameters.items())))
    assert not pipeline.is_current(path, parameters | {"seed": 1})
    assert not pipeline.is_current(path, {"seed": 0})
    assert not pipeline.is_current(tmp_path / "b.h5", parameters)


@pytest.mark.parametrize("kept_share", [0, 0.5, 0.999])
def test_a_half_written_file_is_no_hit_and_one_sentence(tmp_path, kept_share):
    path = tmp_path / "a.h5"
    pipeline.save_arrays(path, {"x": (np.zeros(1000), "px")}, parameters={})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept_share * len(content))])
    assert not pipeline.is_current(path, {})
    with pytest.raises(ValueError, match=f"^{path} is not a whole HDF5 file: "):
        pipeline.load_arrays(path)


def test_a_foreign_file_is_no_hit_and_one_sentence(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert not pipeline.is_current(path, {})
    with pytest.raises(ValueError, match=f"^{path} was not written by this package"):
        pipeline.load_arrays(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "arrays must name at least one dataset"),
        ({"x": (np.array([None]), "px")}, r"arrays\['x'\] must hold numbers or booleans, got dtype object"),
        ({"x": (np.array(["a"]), "px")}, r"arrays\['x'\] must hold numbers or booleans, got dtype <U1"),
        ({"x": np.zeros(2)}, r"arrays\['x'\] must be \(array, units\)"),
        ({"x": (np.zeros(2), 1)}, r"arrays\['x'\] must be \(array, units\)"),
    ],
)
def test_what_is_not_arrays_with_units_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        pipeline.save_arrays(tmp_path / "a.h5", arrays, parameters={})
    assert not list(tmp_path.iterdir())


def test_a_missing_dataset_or_file_is_one_sentence(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match=f"there is no file {path}"):
        pipeline.load_arrays(path)
    pipeline.save_arrays(path, {"x": (np.zeros(3), "px")}, parameters={})
    with pytest.raises(ValueError, match="must hold the dataset 'y', it holds x"):
        pipeline.load_arrays(path, ["y"])
