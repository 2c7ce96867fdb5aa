"""The four notebooks: how they are written, and what they make when they are executed at toy size."""

from __future__ import annotations

import ast
import html
import json
import math
import re

import h5py
import nbformat
import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from scipy.spatial.transform import Rotation

from cryoem import pipeline, volumes
from cryoem.evaluation import pose_error
from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import NotebookError, execute_notebook
from cryoem.pipeline.records import saved_figures
from cryoem.siamese import load_encoder

DATA, DISTANCES, ORIENTATIONS, MAP = pipeline.PHASES
LONGEST_CELL = 40  # lines: a screen
FLOAT32 = 1e-5  # relative, for values stored in single precision
EACH_NOTEBOOK = pytest.mark.parametrize("info", pipeline.PHASES.values(), ids=lambda info: info.name)


def notebook_of(info: pipeline.PhaseInfo) -> nbformat.NotebookNode:
    return nbformat.read(notebooks_folder() / info.notebook, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def imported_modules(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


# --- as they are written


def test_there_is_one_notebook_for_each_phase_and_no_other():
    found = {
        path.relative_to(notebooks_folder()).as_posix()
        for path in notebooks_folder().rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts and path.parent.name in pipeline.PHASES
    }
    phases = pipeline.PHASES.values()
    of_measured = {info.notebook_of_measured for info in phases} - {None}
    assert found == {info.notebook for info in phases} | of_measured
    assert len(of_measured) == 3


@EACH_NOTEBOOK
def test_notebooks_are_valid_and_hold_no_results(info):
    notebook = notebook_of(info)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs
        assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@EACH_NOTEBOOK
def test_notebooks_begin_with_a_title_and_their_parameters(info):
    cells = notebook_of(info).cells
    assert cells[0].cell_type == "markdown"
    assert re.match(rf"# Phase {info.number}: \S.*\n\n\S", cells[0].source)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [cells[1]]
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert values == {"profile": "quick", "map_name": None, "run": None, "overrides": {}}


@EACH_NOTEBOOK
def test_notebooks_tell_before_they_show(info):
    cells = notebook_of(info).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[3] == "markdown"  # after title, parameters and imports
    assert all(cell.source.strip() for cell in cells)


@EACH_NOTEBOOK
def test_cells_are_short_and_import_at_the_top(info):
    first, *others = code_cells(notebook_of(info))[1:]
    assert f'"{info.name}"' in first.source
    assert imported_modules(ast.parse(first.source))
    for cell in (first, *others):
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        assert "sys.path" not in cell.source
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE)  # no magics, no shell
    for cell in others:
        assert not imported_modules(ast.parse(cell.source))


@EACH_NOTEBOOK
def test_notebooks_end_by_asserting_their_headline_number(info):
    last = code_cells(notebook_of(info))[-1]
    assert notebook_of(info).cells[-1].source == last.source
    statements = ast.parse(last.source).body
    assert ast.unparse(statements[-1]) == "phase.finish()"
    asserts = [statement for statement in statements if isinstance(statement, ast.Assert)]
    assert asserts
    assert all(statement.msg is not None for statement in asserts)  # it prints the actual value
    source = "\n".join(cell.source for cell in code_cells(notebook_of(info)))
    assert source.count("phase.finish()") == 1
    assert "headline=True" in source


# --- executed


@pytest.fixture(scope="module")
def executed(toy_run) -> pipeline.RunSummary:
    return toy_run


@pytest.mark.notebooks
def test_all_phases_run_in_order(executed):
    assert executed.executed == tuple(pipeline.PHASES)
    assert list(executed.numbers) == list(pipeline.PHASES)
    assert all(seconds > 0 for seconds in executed.seconds.values())
    for info in pipeline.PHASES.values():
        record = json.loads((executed.folder / info.name / "phase.json").read_text())
        assert record["status"] == "complete"
        assert record["headline"]
        assert not (executed.folder / info.name / "checkpoints").exists()


@pytest.mark.notebooks
def test_the_numbers_are_sane(executed):
    toy = pipeline.get_profile("toy")
    numbers = {name: value for phase in executed.numbers.values() for name, value in phase.items()}
    assert all(value is not None for value in numbers.values())
    assert numbers["images"] == toy.n_test
    assert numbers["pixel_size_angstrom"] == toy.voxel_size_angstrom
    assert numbers["training_steps"] <= toy.training_epochs * toy.steps_per_epoch
    assert numbers["distance_error_rad"] < numbers["euclidean_distance_error_rad"]
    # the best gauge of all is at least as good as that from the images; its mean is found by re-weighting
    assert numbers["recovery_error_rad"] <= 1.01 * numbers["pose_error_rad"]
    assert numbers["pose_error_rad"] == pytest.approx(numbers["pose_error_before_rad"], rel=FLOAT32)
    assert numbers["refined_pose_error_rad"] < 0.5 * numbers["pose_error_before_rad"]
    assert numbers["common_line_agreement"] > numbers["common_line_agreement_of_runner_up"]
    nyquist = 2 * toy.voxel_size_angstrom
    assert numbers["nyquist_angstrom"] == nyquist
    names = ("against_truth", "unmasked_before", "unmasked_of_true_orientations")
    for name in (*(f"resolution_{kind}" for kind in names), "half_map_resolution_masked"):
        assert nyquist <= numbers[f"{name}_angstrom"] < 10 * nyquist
    assert numbers["resolution_against_truth_angstrom"] <= numbers["resolution_unmasked_before_angstrom"]


@pytest.mark.notebooks
def test_a_summary_stands_in_text_and_json(executed):
    content = json.loads((executed.folder / "summary.json").read_text())
    assert content["numbers"] == executed.numbers
    assert content["profile"] == "toy"
    text = (executed.folder / "summary.txt").read_text()
    assert text == executed.text + "\n"
    refined = executed.numbers[MAP]["refined_pose_error_rad"]
    assert re.search(rf"^  refined pose error +{refined:.4g} rad$", text, re.MULTILINE)


@pytest.mark.notebooks
def test_the_report_is_one_page_with_each_figure_once(executed):
    page = executed.report.read_text(encoding="utf-8")
    assert executed.report == executed.folder / "report.html"
    assert page.count(get_plotlyjs()) == 1
    own = page.replace(get_plotlyjs(), "")
    without_figures = re.sub(r'(class="figure-json">).*?(</script>)', r"\1\2", own, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|@import|<link|<iframe|\bsrc=|url\(", without_figures)
    embedded = [
        json.loads(text) for text in re.findall(r'class="figure-json">(.*?)</script>', own, re.DOTALL)
    ]
    saved = [saved for name in pipeline.PHASES for saved in saved_figures(executed.folder / name)]
    assert embedded == [json.loads(figure) for _, figure in saved]
    assert len(saved) >= 12
    captions = [html.unescape(text) for text in re.findall(r"<figcaption>(.*?)</figcaption>", own)]
    assert captions == [caption for caption, _ in saved]
    assert len(set(captions)) == len(captions)
    for figure in embedded:  # nothing in a figure is fetched either
        assert not re.search(r'"(source|url|href)": *"https?:', json.dumps(figure))


@pytest.mark.notebooks
def test_the_executed_notebooks_show_their_figures_and_no_warnings(executed):
    for info in pipeline.PHASES.values():
        notebook = nbformat.read(executed.folder / info.notebook, as_version=4)
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        assert all(cell.execution_count is not None for cell in code_cells(notebook))
        assert not [output for output in outputs if output.output_type == "error"]
        figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
        assert len(figures) == len(saved_figures(executed.folder / info.name))
        errors = "".join(output.text for output in outputs if output.get("name") == "stderr")
        assert "Warning" not in errors
        assert "Traceback" not in errors


@pytest.mark.notebooks
def test_maps_can_be_read(executed):
    size = executed.numbers[DATA]["image_size_px"]
    names = (f"{DATA}/density.mrc", f"{MAP}/map.mrc", f"{MAP}/map-half-1.mrc", f"{MAP}/map-half-2.mrc")
    maps = {name: volumes.read_map(executed.folder / name) for name in names}
    assert {path.name for path in executed.folder.rglob("*.mrc")} == {
        name.rpartition("/")[2] for name in names
    }
    for density in maps.values():
        assert density.data.shape == (size, size, size)
        assert density.voxel_size_angstrom == pytest.approx(10.0, rel=FLOAT32)
        assert density.data.std() > 0
    one, two = (maps[f"{MAP}/map-half-{half}.mrc"].data.ravel() for half in (1, 2))
    assert np.corrcoef(one, two)[0, 1] > 0.5
    assert not np.array_equal(one, two)


@pytest.mark.notebooks
def test_arrays_can_be_read_and_have_units(executed):
    expected = {
        f"{DATA}/particles.h5": {"images", "quaternions", "shifts", "pixel_size", "noise_variance"},
        f"{DATA}/validation.h5": {"images", "quaternions", "shifts", "pixel_size", "noise_variance"},
        f"{DISTANCES}/distances.h5": {"distances", "shifts"},
        f"{ORIENTATIONS}/orientations.h5": {"quaternions", "losses"},
        f"{MAP}/orientations.h5": {"quaternions", "shifts", "subset"},
    }
    units = {
        "images": "clean standard deviations",
        "quaternions": "1",
        "shifts": "px",
        "pixel_size": "angstrom",
        "noise_variance": "clean variances",
    }
    units |= {"distances": "rad", "losses": "rad^2", "subset": "1"}
    for name, datasets in expected.items():
        arrays = pipeline.load_arrays(executed.folder / name)
        assert arrays.keys() == datasets
        assert all(np.isfinite(array).all() for array in arrays.values())
        with h5py.File(executed.folder / name) as file:
            for dataset in datasets:
                assert file[dataset].attrs["units"] == units[dataset]
                assert file[dataset].attrs["description"]
            assert json.loads(file.attrs["parameters"])["profile"] == "toy"
    files = {path.relative_to(executed.folder).as_posix() for path in executed.folder.rglob("*.h5")}
    assert files == {*expected, f"{DISTANCES}/encoder.weights.h5"}


@pytest.mark.notebooks
def test_the_artefacts_agree_with_the_numbers(executed):
    folder, n = executed.folder, pipeline.get_profile("toy").n_test
    particles = pipeline.load_arrays(folder / DATA / "particles.h5")
    distances = pipeline.load_arrays(folder / DISTANCES / "distances.h5")["distances"]
    assert distances.shape == (n, n)
    np.testing.assert_array_equal(distances, distances.T)
    assert 0 <= distances.min() <= distances.max() <= np.float32(math.pi)
    true = Rotation.from_quat(particles["quaternions"])
    for phase, number in ((ORIENTATIONS, "pose_error_rad"), (MAP, "refined_pose_error_rad")):
        stored = pipeline.load_arrays(folder / phase / "orientations.h5")["quaternions"]
        error = pose_error(true, Rotation.from_quat(stored))
        assert error == pytest.approx(executed.numbers[phase][number], rel=1e-9)  # float64
    encoder, settings = load_encoder(folder / DISTANCES / "encoder.weights.h5")
    assert encoder.count_params() == executed.numbers[DISTANCES]["encoder_parameters"]
    assert settings.image_size == pipeline.get_profile("toy").network_image_size


@pytest.mark.notebooks
def test_a_second_run_keeps_everything(executed, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(executed.folder.parents[1]))
    made = {path: path.stat().st_mtime_ns for path in executed.folder.glob("*/**/*") if path.is_file()}
    again = pipeline.run(profile="toy", progress=False)
    assert again.executed == ()
    assert again.numbers == executed.numbers
    assert again.seconds == executed.seconds
    assert {path: path.stat().st_mtime_ns for path in again.folder.glob("*/**/*") if path.is_file()} == made
    assert again.text.count("kept from before") == len(pipeline.PHASES)


@pytest.mark.notebooks
def test_a_notebook_without_the_phase_before_says_what_is_missing(tmp_path):
    info = pipeline.PHASES[ORIENTATIONS]
    with pytest.raises(NotebookError) as caught:
        execute_notebook(
            notebooks_folder() / info.notebook,
            tmp_path / "executed.ipynb",
            parameters={"profile": "toy", "run": "alone"},
            environment={"CRYOEM_HOME": str(tmp_path)},
            title="",
            progress=False,
        )
    assert str(caught.value) == (
        f"MissingPhaseError: phase {DATA} of run 'alone' is not complete; run "
        f"notebooks/{pipeline.PHASES[DATA].notebook} or `cryoem run --profile toy --run alone` "
        "with the same settings first"
    )
