"""The runner, on minimal notebooks: a run that is killed, fails, succeeds, is repeated and is damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from small_notebooks import (
    PARAMETERS_CELL,
    TOY_RUN,
    finish_phases,
    is_alive,
    start_run,
    wait_for,
    write_notebooks,
)

from cryoem import runs
from cryoem.runs.jobs import folder_lock
from cryoem.runs.pipeline import find_run

DATA, DISTANCES, ORIENTATIONS, MAP = runs.PHASES
TOY = runs.get_profile("toy")

BODIES = {
    DATA: """
images = np.full((2, 3, 3), phase.settings.noise_variance)
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
phase.warn_if(resumed, "The training was interrupted.")
""",
    ORIENTATIONS: """
if first_time("failed"):
    try:
        raise RuntimeError("the notebook goes on after this one")
    except RuntimeError:
        get_ipython().showtraceback()
    raise ValueError("distances must be square, got (3, 4)")
import plotly.graph_objects as go
_ = phase.save_figure("losses", go.Figure(go.Scatter(x=[0, 1], y=[1, 2])), "Loss against rounds.")
phase.record(recovery_error_rad=np.float32(0.125), n_images=1650)
""",
    MAP: """
import warnings
warnings.warn("the map is small", UserWarning)
images = phase.load("0-data-preparation", "projections", ["images"])["images"]
phase.record(rounds=phase.settings.gradient_rounds, noise_variance=images.max())
phase.record(headline=True, resolution_angstrom=8.25)
""",
}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One run that is killed twice, fails, succeeds, is repeated, and is repeated with a different setting."""
    home = tmp_path_factory.mktemp("home")
    notebooks = write_notebooks(home / "notebooks", BODIES)
    story = SimpleNamespace(folder=home / "runs" / TOY_RUN, notebooks=notebooks, home=home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOEM_HOME", str(home))
        with start_run(home, notebooks, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(home / "started", seconds=60)
                with pytest.raises(runs.RunInProgressError) as story.in_use:
                    runs.run(profile="toy", notebooks=notebooks)
            finally:
                process.kill()
        story.complete_after_kill = (story.folder / DATA / "record.json").exists()
        with pytest.raises(runs.NotebookError) as story.killed_kernel:
            runs.run(profile="toy", notebooks=notebooks, progress=False)
        with pytest.raises(runs.NotebookError) as story.failed_cell:
            runs.run(profile="toy", notebooks=notebooks, progress=False)
        story.whole = runs.run(profile="toy", notebooks=notebooks, progress=False)
        story.files = {path.name: path.read_text() for path in story.folder.glob("*.*") if path.is_file()}
        story.repeated = runs.run(profile="toy", notebooks=notebooks, progress=False)
        overrides = {"gradient_rounds": 5}
        story.changed = runs.run(profile="toy", notebooks=notebooks, overrides=overrides, progress=False)
        yield story


def test_a_second_run_in_the_folder_is_refused(story):
    assert str(story.in_use.value) == (
        f"{story.folder} is in use by another run; wait for it to finish, or choose a different --run"
    )


def test_a_killed_run_leaves_no_complete_phase_and_resumes_its_training(story):
    assert not story.complete_after_kill
    assert story.whole.numbers[DISTANCES] == {"resumed": True}
    assert not (story.folder / DISTANCES / "checkpoints").exists()


def test_a_dead_kernel_and_a_failing_cell_are_one_sentence(story):
    partial = story.folder / DISTANCES / "1-learn-distances.partial.ipynb"
    assert str(story.killed_kernel.value) == (
        "Distance estimation failed: the kernel was killed or ran out of memory; "
        f"the partly executed notebook is {partial}"
    )
    partial = story.folder / ORIENTATIONS / "2-recover-orientations.partial.ipynb"
    assert str(story.failed_cell.value) == (
        "Orientation recovery failed: distances must be square, got (3, 4); "
        f"the partly executed notebook is {partial}"
    )


def test_only_what_is_missing_is_executed(story):
    assert story.whole.executed == (ORIENTATIONS, MAP)
    assert story.repeated.executed == ()
    assert story.repeated.seconds == story.whole.seconds
    assert story.changed.executed == (MAP,)
    assert story.whole.numbers[MAP]["rounds"] == TOY.gradient_rounds != 5
    assert story.changed.numbers[MAP]["rounds"] == 5


def test_a_run_ends_with_a_summary_that_shows_warnings(story):
    numbers = story.whole.numbers
    assert numbers[ORIENTATIONS] == {"recovery_error_rad": 0.125, "n_images": 1650}
    content = json.loads(story.files["summary.json"])
    assert content["numbers"] == numbers
    assert content["warnings"][DISTANCES] == ["The training was interrupted."]
    assert all(0 < seconds < 60 for seconds in content["seconds"].values())
    text = story.files["summary.txt"]
    assert text == story.whole.text + "\n"
    assert text.startswith("Result\n")
    assert text.index("8.25 Å") < text.index("interrupted") < text.index("0.125 rad") < text.index("executed")
    of_map = text[text.index("\nReconstruction\n") :]
    assert of_map.index("8.25 Å") < of_map.index("rounds")
    page = story.files["report.html"]
    assert story.whole.report == story.folder / "report.html"
    for shown in ("Loss against rounds.", "8.25 Å", "Distance estimation: The training was interrupted."):
        assert shown in page


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


NOTEBOOK, FIGURE = "2-recover-orientations.ipynb", "figures/01-losses.json"
DAMAGE = [
    ("record.json", Path.unlink, "is not complete"),
    ("record.json", cut, "has a damaged record.json"),
    ("record.json", lambda path: path.write_text('{"id": "0"}'), "has a damaged record.json"),
    (NOTEBOOK, cut, f"has a damaged executed notebook {NOTEBOOK}"),
    (NOTEBOOK, Path.unlink, f"is missing its executed notebook {NOTEBOOK}"),
    (FIGURE, cut, f"has a damaged or modified file {FIGURE}"),
    (FIGURE, Path.unlink, f"is missing its file {FIGURE}"),
]


def test_a_damaged_phase_is_noticed_and_repeated(story, capfd):
    folder = story.folder / ORIENTATIONS
    run = find_run("toy", run=None, map_name=None, overrides=None)
    job = run.job(runs.PHASES[ORIENTATIONS], notebooks=story.notebooks, overrides={})
    assert job.why_not_current() is None
    for file, damage, reason in DAMAGE:
        content = (folder / file).read_bytes()
        damage(folder / file)
        assert job.why_not_current() == reason
        (folder / file).write_bytes(content)
    (folder / FIGURE).unlink()
    partial = story.folder / MAP / ".partial-0-map.mrc"
    partial.touch()
    overrides = {"gradient_rounds": 5}
    again = runs.run(profile="toy", notebooks=story.notebooks, overrides=overrides)
    assert again.executed == (ORIENTATIONS,)  # its results are the same, so the map remains current
    assert again.numbers == story.changed.numbers
    assert capfd.readouterr().err.splitlines()[1:3] == [
        "Distance estimation: complete, kept",
        f"Orientation recovery is missing its file {FIGURE}; repeating it",
    ]
    assert not partial.exists()


def test_other_notebooks_code_and_hands_are_noticed(story, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cryoem.runs.runner.sources_sha256", lambda: "0" * 64)
        overrides = {"gradient_rounds": 5}
        assert runs.run(profile="toy", notebooks=story.notebooks, overrides=overrides).executed == ()
    assert capfd.readouterr().err.splitlines()[0] == (
        "Data preparation: complete, kept; "
        "the code of this package has changed since, so use --force to repeat it"
    )
    finish_phases([MAP])
    assert runs.run(profile="toy", notebooks=story.notebooks).executed == (MAP,)
    notices = capfd.readouterr().err.splitlines()
    assert (
        "Reconstruction was run by hand, or interrupted just before it was complete; repeating it" in notices
    )
    assert "Reconstruction: warning: the map is small" in notices
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS_CELL)])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, story.notebooks / runs.PHASES[MAP].notebook)
    with pytest.raises(
        runs.NotebookError, match=r"^Reconstruction did not write its results; the executed notebook"
    ):
        runs.run(profile="toy", notebooks=story.notebooks)
    assert (
        "Reconstruction is out of date because its notebook has changed; repeating it"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "from cryoem.runs.phase import StalePhaseError\nraise StalePhaseError('phase 0 is stale')",
            "phase 0 is stale",
        ),
        (
            "from cryoem.particles.pixel_sizes import UnknownPixelSize\nraise UnknownPixelSize('no size', 1.0)",
            "no size",
        ),
        ("np.linalg.inv(np.zeros((2, 2)))", "LinAlgError: Singular matrix"),
        ("{}['a']", "KeyError: 'a'"),
    ],
)
def test_only_unexpected_errors_have_the_name_of_their_class(home, body, sentence):
    notebooks = write_notebooks(home / "notebooks", {DATA: body})
    with pytest.raises(runs.NotebookError) as failed:
        runs.run(profile="toy", notebooks=notebooks, progress=False)
    assert str(failed.value).startswith(f"Data preparation failed: {sentence}; the partly executed notebook")


def test_a_full_disk_is_one_sentence_and_no_harm(home):
    body = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
phase.save("large", {"x": (np.zeros(10**6), "px")})
"""
    notebooks = write_notebooks(home / "notebooks", {DATA: body})
    large = home / "runs" / TOY_RUN / DATA / "large.h5"
    with pytest.raises(runs.NotebookError, match=f"failed: cannot write {large}: File too large;"):
        runs.run(profile="toy", notebooks=notebooks, progress=False)
    assert not list(large.parent.glob("*.h5"))
    assert runs.read_record(large.parent) is None


def test_a_missing_notebook_is_named_before_anything_runs(home):
    with pytest.raises(FileNotFoundError, match=f"notebook {home}.* of phase {DATA} not found"):
        runs.run(profile="toy", notebooks=home, progress=False)
    assert not (home / "runs").exists()


def test_an_interrupt_ends_a_run_in_one_sentence_and_its_kernel_too(home):
    body = '(home / "kernel").write_text(str(os.getpid()))\nfirst_time("started")\ntime.sleep(60)'
    notebooks = write_notebooks(home / "notebooks", {DATA: body})
    script = (  # the process that runs the tests may ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pathlib import Path; from cryoem import cli; from cryoem.runs import runner;"
        f"runner.notebooks_folder = lambda: Path({str(notebooks)!r}); cli.app(['run', '--profile', 'toy'])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        wait_for(home / "started", seconds=60)
        kernel = int((home / "kernel").read_text())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert stderr.strip().splitlines() == ["cryoem: interrupted; the same command resumes it"]
    assert not is_alive(kernel)
    assert runs.read_record(home / "runs" / TOY_RUN / DATA) is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gives_a_warning_and_a_marker_file(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = (
        f"the file system of {tmp_path} does not support locks; do not start a second run in this folder"
    )
    for _ in range(2):  # the second starts after the first has ended
        with (
            pytest.warns(UserWarning, match=message),
            folder_lock(tmp_path),
            pytest.raises(runs.RunInProgressError, match="is in use by another run"),
            folder_lock(tmp_path),
        ):
            pass
