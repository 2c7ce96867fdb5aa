"""The runner: a run that is killed, fails, succeeds and is repeated, on notebooks of a few lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from small_notebooks import PARAMETERS_CELL, finish_phases, pretend_executed, wait_for, write_notebooks

from cryoem import pipeline
from cryoem.pipeline.execution import last_line
from cryoem.pipeline.lock import locked
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
