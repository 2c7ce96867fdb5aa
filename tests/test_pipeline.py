"""Profiles, artefacts, phases and the runner, on notebooks of a few lines that the tests write themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from small_notebooks import PARAMETERS_CELL, finish_phases, pretend_executed, wait_for, write_notebooks

from cryoem import folders, pipeline, volumes
from cryoem.pipeline.execution import last_line
from cryoem.pipeline.lock import locked
from cryoem.pipeline.records import saved_figures
from cryoem.pipeline.summary import with_unit

DATA, DISTANCES, ORIENTATIONS, MAP = pipeline.PHASES
TOY = pipeline.get_profile("toy")

BODIES = {
    DATA: """
images = np.full((2, 3, 3), phase.profile.noise_variance)
phase.save("projections", {"images": (images, "standard deviations", "two images")})
if first_time("started"):
    time.sleep(120)  # the runner is killed here
""",
    DISTANCES: """
checkpoint = phase.checkpoints / "step-2.txt"
resumed = checkpoint.exists()
checkpoint.write_text("weights")
if first_time("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
phase.load("0-data-preparation", "projections")
phase.record(resumed=resumed)
""",
    ORIENTATIONS: """
if first_time("failed"):
    raise ValueError("distances must be square, got (3, 4)")
import plotly.graph_objects as go
_ = phase.save_figure("losses", go.Figure(go.Scatter(x=[0, 1], y=[1, 2])), "Loss against rounds.")
phase.record(recovery_error_rad=np.float32(0.125), n_images=1650)
""",
    MAP: """
images = phase.load("0-data-preparation", "projections", ["images"])["images"]
phase.record(headline=True, resolution_angstrom=8.25)
phase.record(rounds=phase.profile.gradient_rounds, noise_variance=images.max())
""",
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One run that is killed, killed, fails, succeeds, is repeated and is repeated with another setting."""
    home = tmp_path_factory.mktemp("home")
    notebooks = write_notebooks(home / "notebooks", BODIES)
    told = SimpleNamespace(folder=home / "runs" / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOEM_HOME", str(home))
        script = f"from cryoem import pipeline; pipeline.run(profile='toy', notebooks={str(notebooks)!r})"
        with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(home / "started", seconds=60)
                with pytest.raises(pipeline.RunInProgressError) as told.in_use:
                    pipeline.run(profile="toy", notebooks=notebooks)
                told.first_process = process.pid
            finally:
                os.kill(process.pid, signal.SIGKILL)
        told.complete_after_kill = (told.folder / DATA / "phase.json").exists()
        with pytest.raises(pipeline.PhaseFailedError) as told.killed_kernel:
            pipeline.run(profile="toy", notebooks=notebooks, progress=False)
        with pytest.raises(pipeline.PhaseFailedError) as told.failed_cell:
            pipeline.run(profile="toy", notebooks=notebooks, progress=False)
        told.whole = pipeline.run(profile="toy", notebooks=notebooks, progress=False)
        told.files = {path.name: path.read_text() for path in told.folder.glob("*.*") if path.is_file()}
        told.repeated = pipeline.run(profile="toy", notebooks=notebooks, progress=False)
        overrides = {"gradient_rounds": 5}
        told.changed = pipeline.run(profile="toy", notebooks=notebooks, overrides=overrides, progress=False)
    return told


def test_a_second_run_in_the_folder_is_refused(story):
    assert str(story.in_use.value) == (
        f"{story.folder} is in use by process {story.first_process}; wait for it or choose another run name"
    )


def test_a_killed_run_leaves_no_complete_phase_and_is_resumed(story):
    assert not story.complete_after_kill
    assert (story.folder / DATA / "phase.json").exists()


def test_a_dead_kernel_is_one_sentence(story):
    partial = story.folder / DISTANCES / "1-learn-distances.partial.ipynb"
    assert str(story.killed_kernel.value) == (
        f"phase {DISTANCES} stopped: its kernel was killed or ran out of memory; "
        f"the partly executed notebook is {partial}"
    )


def test_training_goes_on_from_its_checkpoints_and_drops_them_at_the_end(story):
    assert story.whole.numbers[DISTANCES] == {"resumed": True}
    assert not (story.folder / DISTANCES / "checkpoints").exists()


def test_a_failing_cell_is_one_sentence_with_its_own_message(story):
    partial = story.folder / ORIENTATIONS / "2-recover-orientations.partial.ipynb"
    assert str(story.failed_cell.value) == (
        f"phase {ORIENTATIONS} stopped: ValueError: distances must be square, got (3, 4); "
        f"the partly executed notebook is {partial}"
    )


def test_only_what_is_missing_is_executed(story):
    assert story.whole.executed == (ORIENTATIONS, MAP)
    assert story.repeated.executed == ()
    assert story.repeated.seconds == story.whole.seconds
    assert story.changed.executed == (MAP,)
    assert story.whole.numbers[MAP]["rounds"] == TOY.gradient_rounds != 5
    assert story.changed.numbers[MAP]["rounds"] == 5


def test_executed_notebooks_are_kept_and_partial_ones_are_not(story):
    for name, info in pipeline.PHASES.items():
        (path,) = (story.folder / name).glob("*.ipynb")
        assert path == story.folder / info.notebook
        cells = nbformat.read(path, as_version=4).cells
        assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, 5]
        assert [output.text for cell in cells for output in cell.outputs] == ["one\ntwo\n"]


def test_a_run_ends_with_a_summary(story):
    numbers = story.whole.numbers
    assert numbers[ORIENTATIONS] == {"recovery_error_rad": 0.125, "n_images": 1650}
    content = json.loads(story.files["summary.json"])
    assert content["numbers"] == numbers
    assert content["seconds"] == story.whole.seconds
    assert all(0 < seconds < 60 for seconds in story.whole.seconds.values())
    text = story.files["summary.txt"]
    assert text == story.whole.text + "\n"
    assert text.startswith("Result\n")
    assert text.index("8.25 Å") < text.index("0.125 rad") < text.index("executed")
    page = story.files["report.html"]
    assert "Loss against rounds." in page
    assert "8.25 Å" in page
    assert story.whole.report == story.folder / "report.html"


def test_a_notebook_that_changed_is_executed_again(home, capfd):
    notebooks = write_notebooks(home / "notebooks", BODIES)
    finish_phases()
    pretend_executed(home, notebooks)
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == ()
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS_CELL)])
    empty.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(empty, notebooks / pipeline.PHASES[MAP].notebook)
    with pytest.raises(pipeline.PhaseFailedError, match=f"phase {MAP} ran to its end without phase.finish"):
        pipeline.run(profile="toy", notebooks=notebooks, progress=False)
    assert capfd.readouterr().err == ""


def test_a_missing_notebook_is_named_before_anything_runs(home):
    with pytest.raises(FileNotFoundError, match=f"phase {DATA} has no notebook {home}"):
        pipeline.run(profile="toy", notebooks=home, progress=False)
    assert not (home / "runs").exists()


@pytest.mark.parametrize("run", ["", "..", "a/b", ".hidden"])
def test_a_run_name_must_be_a_folder_name(home, run):
    with pytest.raises(ValueError, match="run must be a folder name"):
        pipeline.open_phase(DATA, run=run)


def test_a_dead_owner_of_the_lock_is_named_and_a_clean_end_is_not(tmp_path):
    (tmp_path / ".lock").write_text("12345")
    notices = []
    for _ in range(2):
        with (
            locked(tmp_path, notice=notices.append),
            pytest.raises(pipeline.RunInProgressError, match=f"in use by process {os.getpid()};"),
            locked(tmp_path, notice=notices.append),
        ):
            pass
    assert notices == ["Process 12345 ended in the middle of this run; taking over."]


# profiles


def test_profiles_know_their_names_and_the_paper_its_sizes():
    assert all(pipeline.get_profile(name).name == name for name in ("quick", "paper", "toy"))
    paper = pipeline.get_profile("paper")
    assert (paper.n_validation, paper.n_test) == (838, 1650)
    box_of_5j0n = volumes.DensityMap(np.zeros((69, 57, 75)), 3.667)
    assert paper.image_size is None  # then what holds the map, 116 px for the paper's
    assert volumes.enclosing_image_size(box_of_5j0n) == 116


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("fast", {}, "profile must be one of quick, paper, toy, got 'fast'"),
        ("toy", {"steps": 3}, "a profile has no setting 'steps', only seed, "),
        ("toy", {"name": "x"}, "a profile has no setting 'name', only seed, "),
        ("toy", {"training_epochs": "many"}, "training_epochs must be int, got 'many'"),
        ("toy", {"training_epochs": 0}, "training_epochs must be at least 1, got 0"),
        ("toy", {"training_epochs": True}, "training_epochs must be int, got True"),
        ("toy", {"noise_variance": float("nan")}, "noise_variance must be finite, got nan"),
        ("toy", {"noise_variance": -1}, "noise_variance must be at least 0, got -1.0"),
        ("toy", {"landmarks": 1.5}, "landmarks must be int or None, got 1.5"),
        ("toy", {"architecture": "large"}, "architecture must be one of polar, published, got 'large'"),
    ],
)
def test_wrong_profiles_are_one_sentence(name, overrides, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        pipeline.get_profile(name, **overrides)
    assert str(caught.value).startswith(message)


def test_overrides_take_the_type_of_the_setting():
    profile = pipeline.get_profile("toy", noise_variance=16, training_seconds=None)
    assert (profile.noise_variance, type(profile.noise_variance)) == (16.0, float)
    assert profile.training_seconds is None


def test_settings_are_read_from_text():
    assert pipeline.parse_setting("training_epochs=12") == ("training_epochs", 12)
    assert pipeline.parse_setting("noise_variance=16") == ("noise_variance", 16.0)
    assert pipeline.parse_setting("training_seconds=none") == ("training_seconds", None)
    assert pipeline.parse_setting("recovery_method=sgd") == ("recovery_method", "sgd")
    for text, message in (
        ("seed", "must be given as name=value, got 'seed'"),
        ("steps=3", "no setting 'steps'"),
        ("seed=one", "seed must be int, got 'one'"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.parse_setting(text)


def test_a_path_of_a_map_is_made_absolute_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "particle.mrc").write_bytes(b"map")
    assert pipeline.get_profile("toy", map_name="particle.mrc").map_name == str(tmp_path / "particle.mrc")
    assert pipeline.get_profile("toy", map_name="5j0n").map_name == "5j0n"
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/other.mrc"):
        pipeline.get_profile("toy", map_name="other.mrc")


# artefacts


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


# phases


def test_a_phase_reads_what_an_earlier_one_saved(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    np.testing.assert_array_equal(phase.load(DATA, "numbers")["x"], np.arange(3.0))
    assert phase.folder == home / "runs" / "toy" / DISTANCES
    assert phase.find(DATA, "numbers.h5") == home / "runs" / "toy" / DATA / "numbers.h5"
    phase.save("own", {"y": (np.ones(2), "rad")})
    np.testing.assert_array_equal(phase.load(DISTANCES, "own")["y"], np.ones(2))


def test_a_missing_phase_is_named_with_the_way_to_make_it(home):
    phase = pipeline.open_phase(DISTANCES, profile="toy", run="mine")
    pipeline.open_phase(DATA, profile="toy", run="mine").save("numbers", {"x": (np.zeros(3), "px")})
    with pytest.raises(pipeline.MissingPhaseError) as caught:
        phase.load(DATA, "numbers")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == (
        f"phase {DATA} of run 'mine' is not complete; run notebooks/{pipeline.PHASES[DATA].notebook} "
        "or `cryoem run --profile toy --run mine` with the same settings first"
    )


def test_a_missing_file_of_a_complete_phase_is_named(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    with pytest.raises(
        pipeline.MissingPhaseError, match=r"made no file .*density\.mrc; run notebooks/0-data"
    ):
        phase.find(DATA, "density.mrc")
    with pytest.raises(ValueError, match="must load from itself or an earlier phase, got '3-reconstruction'"):
        phase.load(MAP, "map")


def test_an_earlier_phase_with_other_parameters_is_refused(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(
        DISTANCES, profile="toy", overrides={"noise_variance": 16, "training_epochs": 5}
    )
    with pytest.raises(pipeline.StalePhaseError) as caught:
        phase.load(DATA, "numbers")
    assert str(caught.value).startswith(
        f"phase {DATA} of run 'toy' was made with noise_variance={TOY.noise_variance} and not with "
        "noise_variance=16.0; run "
    )


def test_parameters_of_later_phases_do_not_matter_to_earlier_ones(home):
    finish_phases()
    other = pipeline.get_profile("toy", gauge_pairs=21)
    complete = [pipeline.is_complete(home / "runs" / "toy", name, other) for name in pipeline.PHASES]
    assert complete == [True, True, False, False]


def test_a_phase_cannot_read_the_settings_of_a_later_one(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    assert phase.profile.n_test == TOY.n_test
    with pytest.raises(AttributeError, match="no setting 'training_epochs', only name, seed"):
        _ = phase.profile.training_epochs


def test_making_a_phase_anew_invalidates_what_was_built_on_it(home):
    finish_phases()
    run_folder, toy = home / "runs" / "toy", pipeline.get_profile("toy")
    assert all(pipeline.is_complete(run_folder, name, toy) for name in pipeline.PHASES)
    finish_phases([DISTANCES])
    complete = [pipeline.is_complete(run_folder, name, toy) for name in pipeline.PHASES]
    assert complete == [True, True, False, False]
    phase = pipeline.open_phase(MAP, profile="toy")
    with pytest.raises(pipeline.StalePhaseError, match=f"was made before {DISTANCES} was made anew"):
        phase.load(ORIENTATIONS, "numbers")


def test_a_changed_map_file_invalidates_the_phases(home):
    map_file = home / "particle.mrc"
    map_file.write_bytes(b"one")
    finish_phases([DATA], map_name=str(map_file))
    toy = pipeline.get_profile("toy", map_name=str(map_file))
    assert pipeline.is_complete(home / "runs" / "toy", DATA, toy)
    map_file.write_bytes(b"two")
    assert not pipeline.is_complete(home / "runs" / "toy", DATA, toy)


def test_opening_a_phase_removes_what_is_stale_and_keeps_what_is_not(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    phase.save("numbers", {"x": (np.zeros(3), "px")})
    phase.save_figure("one", go.Figure(), "One.")
    phase.path("map.mrc").write_bytes(b"map")
    (phase.checkpoints / "step").touch()
    again = pipeline.open_phase(DATA, profile="toy")
    assert {path.name for path in again.folder.iterdir()} == {"numbers.h5", "checkpoints"}
    assert (again.checkpoints / "step").exists()
    again.finish()
    again.finish()  # as a cell that is run twice
    assert {path.name for path in again.folder.iterdir()} == {"numbers.h5", "phase.json"}
    changed = pipeline.open_phase(DATA, profile="toy", overrides={"seed": 1})
    (changed.checkpoints / "step").touch()
    assert {path.name for path in changed.folder.iterdir()} == {"checkpoints"}
    back = pipeline.open_phase(DATA, profile="toy")
    assert not (back.checkpoints / "step").exists()


def test_the_record_says_what_made_the_phase(home):
    phase = pipeline.open_phase(DATA, profile="toy", overrides={"seed": 3})
    phase.record(images=16, mean=np.float32(0.5), bad=float("nan"), note="clean", closed=True)
    phase.finish()
    record = json.loads((phase.folder / "phase.json").read_text())
    assert record["status"] == "complete"
    assert record["seed"] == 3
    assert record["parameters"] == phase.parameters
    assert record["numbers"] == {"images": 16, "mean": 0.5, "bad": None, "note": "clean", "closed": True}
    assert {"python", "numpy", "cryoem"} <= record["versions"].keys()
    with pytest.raises(TypeError, match="losses must be a single number, text or boolean"):
        phase.record(losses=np.zeros(2))


def test_random_numbers_are_the_same_in_every_run_and_differ_between_phases(home):
    draws = [pipeline.open_phase(name, profile="toy").rng.normal() for name in (DATA, DATA, DISTANCES)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_figures_keep_their_order_and_a_repeated_cell_replaces_its_own(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    figure = go.Figure(layout={"title": "old"})
    assert phase.save_figure("zebra", figure, "First.") is figure
    phase.save_figure("aardvark", go.Figure(), "Second.")
    phase.save_figure("zebra", go.Figure(layout={"title": {"text": "new"}}), "First again.")
    figures = saved_figures(phase.folder)
    assert [caption for caption, _ in figures] == ["First again.", "Second."]
    assert json.loads(figures[0][1])["layout"]["title"]["text"] == "new"
    with pytest.raises(ValueError, match="name must be of letters, digits and hyphens, got 'a/b'"):
        phase.save_figure("a/b", go.Figure(), "")
    with pytest.raises(TypeError, match="figure must be a plotly Figure, got dict"):
        phase.save_figure("a", {}, "")


def test_wrong_phases_and_maps_given_twice_are_one_sentence(home):
    with pytest.raises(ValueError, match=r"phase must be one of 0-data-preparation, .*, got '4-dreams'"):
        pipeline.open_phase("4-dreams")
    with pytest.raises(
        ValueError, match="map_name must be given once, got '5j0n' and 'phantom' in overrides"
    ):
        pipeline.open_phase(DATA, map_name="5j0n", overrides={"map_name": "phantom"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("recovery_error_rad", 0.09314, ("recovery error", "0.09314 rad")),
        ("resolution_angstrom", None, ("resolution", "not available")),
        ("n_images", 1650, ("n images", "1,650")),
        ("gauge_inverted", True, ("gauge inverted", "yes")),
        ("backend", "fourier", ("backend", "fourier")),
    ],
)
def test_numbers_are_shown_with_their_unit(name, value, expected):
    assert with_unit(name, value) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n", "two"),
        ("\r 10%\r\x1b[1m 20%\x1b[0m\r", "20%"),
        ("step 1\b\b\b\b\b\bstep 2", "step 2"),
        (" \n\r", ""),
    ],
)
def test_progress_shows_the_last_line_a_cell_printed(text, line):
    assert last_line(text) == line


# folders


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
