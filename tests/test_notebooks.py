"""The style of all notebooks, and the notebooks of phases 0 to 3 executed at toy size."""

from __future__ import annotations

import ast
import re

import h5py
import nbformat
import numpy as np
import pytest
from notebook_rules import assert_well_written, code_cells, outputs_of
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoem import runs, volumes
from cryoem.distances import load_encoder
from cryoem.files import load_arrays, notebooks_folder
from cryoem.orientations import pose_error
from cryoem.runs.execution import execute_notebook
from cryoem.runs.pipeline import WITHOUT_MAP

DATA, DISTANCES, ORIENTATIONS, MAP = runs.PHASES
FLOAT32 = 1e-5  # relative tolerance for values stored in single precision
FOLDER = notebooks_folder()
INDEX = FOLDER / "index.ipynb"
NOTEBOOKS = sorted(path for path in FOLDER.glob("*/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PHASES_0_TO_3 = {FOLDER / info.notebook: info for info in runs.PHASES.values()}
OF_PHASES = PHASES_0_TO_3 | {FOLDER / WITHOUT_MAP.notebook: WITHOUT_MAP}


# --- style


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_notebooks_are_valid_and_well_written(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    numbered = re.match(r"(\d\.\d|\d)-", path.name)
    title = "Experiment" if numbered is None else rf"Phase {numbered[1]}"
    assert_well_written(notebook.cells, title=title)


def test_the_index_links_to_every_numbered_notebook():
    text = "".join(cell.source for cell in nbformat.read(INDEX, as_version=4).cells)
    linked = {FOLDER / target for target in re.findall(r"\]\(([^)]+)\)", text)}
    assert linked == {path for path in NOTEBOOKS if path.name[0].isdigit()}


def test_each_numbered_notebook_ends_with_its_files_and_the_next_notebook():
    numbered = [path for path in NOTEBOOKS if path.name[0].isdigit() and "5-paper" not in path.parent.name]
    for path in numbered:
        cells = nbformat.read(path, as_version=4).cells
        last = code_cells(cells)[-1].source
        assert re.search(r"Written to|writes no files", last), path.name
        targets = re.findall(r"Next: (\S+\.ipynb)|\S+index\.ipynb|last phase", last)
        assert targets, path.name
        assert all(
            (path.parent / target).is_file() or (FOLDER / target).is_file() for target in targets if target
        )


def test_each_phase_has_one_notebook_and_warns_instead_of_failing():
    found = {path for path in NOTEBOOKS if path.parent.name in runs.PHASES}
    assert found == set(OF_PHASES)
    for path, info in OF_PHASES.items():
        cells = nbformat.read(path, as_version=4).cells
        parameters = ast.parse(cells[1].source).body
        values = {line.targets[0].id: ast.literal_eval(line.value) for line in parameters}
        assert values.pop("backend", "auto") == "auto"
        assert values == {"profile": "quick", "map_name": None, "run": None, "overrides": {}}
        source = "\n".join(cell.source for cell in code_cells(cells))
        assert f'"{info.name}"' in source
        assert "assert " not in source
        assert source.count("phase.finish()") == 1
        assert "phase.finish()" in code_cells(cells)[-1].source


# --- executed


@pytest.mark.notebooks
def test_headline_numbers_of_the_toy_run(toy_run):
    toy = runs.get_profile("toy")
    assert toy_run.executed == tuple(runs.PHASES)
    numbers = {name: value for phase in toy_run.numbers.values() for name, value in phase.items()}
    assert all(value is not None for value in numbers.values())
    assert numbers["images"] == toy.n_test
    assert numbers["pixel_size_angstrom"] == toy.voxel_size_angstrom
    assert numbers["training_steps"] <= toy.training_epochs * toy.steps_per_epoch
    assert numbers["distance_error_rad"] < min(0.4, numbers["euclidean_distance_error_rad"])
    assert numbers["pose_error_rad"] < 0.3
    # the best gauge is at least as good as that from the images, up to the re-weighted mean
    assert numbers["recovery_error_rad"] <= 1.01 * numbers["pose_error_rad"]
    assert numbers["pose_error_rad"] == pytest.approx(numbers["pose_error_before_rad"], rel=FLOAT32)
    assert numbers["refined_pose_error_rad"] < min(0.1, 0.5 * numbers["pose_error_before_rad"])
    assert numbers["common_line_agreement"] > 1.1 * numbers["common_line_agreement_of_runner_up"]
    nyquist = 2 * toy.voxel_size_angstrom
    assert numbers["nyquist_angstrom"] == nyquist
    names = ("against_truth", "before", "of_true_orientations", "unmasked_against_truth")
    for name in (*(f"resolution_{kind}" for kind in names), "half_map_resolution_masked"):
        assert nyquist <= numbers[f"{name}_angstrom"] < 10 * nyquist
    assert numbers["resolution_against_truth_angstrom"] <= numbers["resolution_before_angstrom"]
    assert (
        numbers["resolution_against_truth_angstrom"] <= numbers["resolution_unmasked_against_truth_angstrom"]
    )
    assert numbers["conical_resolution_finest_angstrom"] <= numbers["conical_resolution_coarsest_angstrom"]


@pytest.mark.notebooks
def test_executed_notebooks_show_their_figures_and_no_warnings(toy_run):
    for path, info in PHASES_0_TO_3.items():
        notebook = nbformat.read(toy_run.folder / info.name / path.name, as_version=4)
        printed, figures = outputs_of(notebook)
        assert len(figures) == len(runs.saved_figures(toy_run.folder / info.name))
        assert all(cell.execution_count is not None for cell in code_cells(notebook.cells))
        (listed,) = re.findall(rf"^Written to {toy_run.folder / info.name}: (.*)$", printed, re.MULTILINE)
        for name in re.split(r", | and ", listed):
            assert (toy_run.folder / info.name / name).is_file()


@pytest.mark.notebooks
def test_a_symmetric_map_is_rotated_onto_its_axes_or_named(tmp_path):
    turn = Rotation.from_euler("YZ", [50, 20], degrees=True).as_matrix()
    centre = np.full(3, 12)
    tilted = ndimage.affine_transform(
        volumes.phantom(size=24, symmetry="C3").data, turn, centre - turn @ centre
    )
    volumes.write_map(tmp_path / "tilted.mrc", volumes.DensityMap(tilted, 10.0))
    notebook = FOLDER / runs.PHASES[DATA].notebook
    printed = {}
    for symmetry in ("C1", "C3", "D4"):
        parameters = {"map_name": str(tmp_path / "tilted.mrc"), "overrides": {"symmetry": symmetry}}
        parameters |= {"profile": "toy", "run": symmetry}
        executed = tmp_path / f"{symmetry}.ipynb"
        execute_notebook(
            notebook, executed, parameters=parameters, environment={"CRYOEM_HOME": str(tmp_path)}
        )
        printed[symmetry] = outputs_of(nbformat.read(executed, as_version=4))[0]
    assert "Warning: the map is symmetric or nearly so, under C3 (correlation " in printed["C1"]
    assert "symmetry=C3 or a larger group" in printed["C1"]
    assert "Warning" not in printed["C3"]
    assert "The map was rotated onto the symmetry axes of C3." in printed["C3"]
    assert "Warning: the map has a correlation of only " in printed["D4"]


@pytest.mark.notebooks
def test_maps_can_be_read(toy_run):
    size = toy_run.numbers[DATA]["image_size_px"]
    kinds = ("map", "map-half-1", "map-half-2", "map-local-resolution", "map-sharpened")
    names = (f"{DATA}/density.mrc", *(f"{MAP}/{kind}.mrc" for kind in kinds))
    maps = {name: volumes.read_map(toy_run.folder / name) for name in names}
    assert {path.relative_to(toy_run.folder).as_posix() for path in toy_run.folder.rglob("*.mrc")} == set(
        maps
    )
    for density in maps.values():
        assert density.data.shape == (size, size, size)
        assert density.voxel_size_angstrom == pytest.approx(10.0, rel=FLOAT32)
        assert density.data.std() > 0
    one, two = (maps[f"{MAP}/map-half-{half}.mrc"].data.ravel() for half in (1, 2))
    assert 0.5 < np.corrcoef(one, two)[0, 1] < 1 - 1e-6


@pytest.mark.notebooks
def test_arrays_have_units_and_agree_with_the_numbers(toy_run):
    units = {
        "images": "clean standard deviations",
        "quaternions": "1",
        "shifts": "px",
        "pixel_size": "angstrom",
        "noise_variance": "clean variances",
        "distances": "rad",
        "losses": "rad^2",
        "subset": "1",
        "frequency": "1/angstrom",
        "correlation": "1",
    }
    stack = {"images", "quaternions", "shifts", "pixel_size", "noise_variance"}
    expected = {
        f"{DATA}/particles.h5": stack,
        f"{DATA}/validation.h5": stack,
        f"{DISTANCES}/distances.h5": {"distances", "shifts"},
        f"{ORIENTATIONS}/orientations.h5": {"quaternions", "shifts", "losses"},
        f"{MAP}/orientations.h5": {"quaternions", "shifts", "subset"},
        f"{MAP}/half-map-fsc.h5": {"frequency", "correlation"},
    }
    arrays = {name: load_arrays(toy_run.folder / name) for name in expected}
    for name, datasets in expected.items():
        assert arrays[name].keys() == datasets
        assert all(np.isfinite(array).all() for array in arrays[name].values())
        with h5py.File(toy_run.folder / name) as file:
            assert {dataset: file[dataset].attrs["units"] for dataset in datasets} == {
                dataset: units[dataset] for dataset in datasets
            }
    distances = arrays[f"{DISTANCES}/distances.h5"]["distances"]
    np.testing.assert_array_equal(distances, distances.T)
    assert 0 <= distances.min() <= distances.max() <= np.float32(np.pi)
    true = Rotation.from_quat(arrays[f"{DATA}/particles.h5"]["quaternions"])
    for phase, number in ((ORIENTATIONS, "pose_error_rad"), (MAP, "refined_pose_error_rad")):
        stored = arrays[f"{phase}/orientations.h5"]["quaternions"]
        error = pose_error(true, Rotation.from_quat(stored))
        assert error == pytest.approx(toy_run.numbers[phase][number], rel=1e-9)
    encoder = load_encoder(toy_run.folder / DISTANCES / "encoder.weights.h5")
    assert encoder.model.count_params() == toy_run.numbers[DISTANCES]["encoder_parameters"]
    assert encoder.settings.image_size == runs.get_profile("toy").network_image_size


@pytest.mark.notebooks
def test_a_second_run_keeps_everything(toy_run, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(toy_run.folder.parents[1]))
    made = {path: path.stat().st_mtime_ns for path in toy_run.folder.glob("*/**/*") if path.is_file()}
    again = runs.run(profile="toy", progress=False)
    assert again.folder == toy_run.folder
    assert again.executed == ()
    assert again.numbers == toy_run.numbers
    assert again.warnings == toy_run.warnings
    assert {path: path.stat().st_mtime_ns for path in again.folder.glob("*/**/*") if path.is_file()} == made
