"""Experiments: the catalogue, points that run once and resume, and the messages of the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cryoem import experiments, volumes
from cryoem.cli import app
from cryoem.experiments import tables
from cryoem.files.reading import notebooks_folder
from cryoem.runs.jobs import RunInProgressError, folder_lock
from cryoem.workers import client_of, in_order

CODE = """import time
from pathlib import Path
from cryoem import experiments
time.sleep(seconds)
assert x != bad, f"x must not be {bad}"
experiments.save_rows(rows_file, [experiments.measurement("square", x**2, half=h) for h in halves])
if maps:
    from cryoem import volumes
    experiments.save_map(rows_file, f"map-{x}", volumes.load("phantom"))"""
PARAMETERS = "x = 1\nbad = -1\nhalves = [0]\nseconds = 0\nmaps = False\nrows_file = None"


def write_notebook(folder: Path, code: str = CODE) -> Path:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)])
    path = folder / "5-paper-figures" / "experiments" / "tiny.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return folder


def tiny(**fixed) -> experiments.Experiment:
    grid = experiments.Grid({"x": (2, 3)}, {"halves": [1, 2], **fixed})
    return experiments.Experiment("tiny", "What is a square?", "tiny.ipynb", {"toy": grid}, ("x", "halves"))


@pytest.fixture
def notebooks(tmp_path) -> Path:
    return write_notebook(tmp_path / "notebooks")


def run(notebooks: Path, experiment: experiments.Experiment | None = None, **options) -> pd.DataFrame:
    experiment = tiny() if experiment is None else experiment
    return experiments.run_experiment(experiment, size="toy", notebooks=notebooks, progress=False, **options)


def record_times(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.rglob("record.json")}


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS.values(), ids=lambda e: e.name)
def test_each_experiment_fits_its_notebook(experiment):
    path = notebooks_folder() / "5-paper-figures" / "experiments" / experiment.notebook
    cells = nbformat.read(path, as_version=4).cells
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    known: dict = {}
    exec(parameters.source, known)
    assert set(experiment.grids) - set(experiments.SIZES) == (
        {"cpu", "gpu"} if experiment.name == "published" else set()
    )
    for size in experiment.grids:
        for point in experiment.grid(size).points():
            assert set(point) <= set(known)
            assert set(experiment.cost) <= set(point)
            if point.get("image_size") is not None and "network_image_size" in point:
                assert point["network_image_size"] <= point["image_size"]
    assert experiment.work("toy") < experiment.work("quick") < experiment.work("paper")
    assert all(
        "map_name" not in point or point["map_name"].startswith("phantom")
        for point in experiment.grid("toy").points()
    )


@pytest.mark.notebooks
def test_maps_are_collected_with_the_table(notebooks, home, tmp_path):
    run(notebooks, tiny(maps=True), out=tmp_path / "results")
    stored = sorted((tmp_path / "results" / "tiny-toy").iterdir())
    assert [path.name for path in stored] == ["map-2.mrc", "map-3.mrc"]
    small, full = volumes.load(stored[0]), volumes.load("phantom")
    assert small.data.shape == (48, 48, 48)
    expected = volumes.resample(full, small.voxel_size_angstrom).data
    np.testing.assert_allclose(small.data / small.data.max(), expected / expected.max(), atol=0.01)


@pytest.mark.notebooks
def test_a_run_gives_one_long_table_and_repeats_only_what_changed(notebooks, home, tmp_path, monkeypatch):
    table = run(notebooks, out=tmp_path / "results")
    assert list(table)[-2:] == ["quantity", "value"]
    assert {"experiment", "x", "half"} <= set(table)
    assert "halves" not in table
    squares = table[table.quantity == "square"]
    assert list(zip(squares.x, squares.half, squares.value, strict=True)) == [
        (x, half, x**2) for x in (2, 3) for half in (1, 2)
    ]
    assert table[table.quantity == "point_seconds"].value.min() > 0
    stored = tables.read_table(tmp_path / "results", "tiny-toy")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False, rtol=1e-5)
    before = record_times(home)
    pd.testing.assert_frame_equal(run(notebooks), table)
    assert record_times(home) == before
    damaged = sorted(before)[0]
    damaged.write_text(damaged.read_text()[:-20])
    run(notebooks)
    assert [path for path in before if record_times(home)[path] != before[path]] == [damaged]
    write_notebook(notebooks, CODE.replace("x**2", "x**3"))
    assert sorted(run(notebooks).query("quantity == 'square'").value) == [8, 8, 27, 27]
    before = record_times(home)
    monkeypatch.setattr(
        "cryoem.experiments.running.sources_sha256", lambda: "0" * 64
    )  # different package code
    run(notebooks)
    assert all(record_times(home)[path] != before[path] for path in before)


@pytest.mark.notebooks
def test_a_point_that_fails_is_named_and_the_others_are_kept(notebooks, home, tmp_path):
    with pytest.raises(experiments.ExperimentFailedError) as caught:
        run(notebooks, tiny(bad=2), out=tmp_path / "results")
    message = str(caught.value)
    assert message.startswith("1 of 2 points failed; tiny, x 2 failed: AssertionError: x must not be 2; the")
    assert Path(message.rpartition(" is ")[2]).is_file()
    assert len(record_times(home)) == 1
    assert not (tmp_path / "results").exists()
    write_notebook(notebooks, "x")
    with pytest.raises(experiments.ExperimentFailedError, match="tiny, x 2 did not write its results"):
        run(notebooks)


def wait_for_lock(folder: Path) -> None:
    """Wait until the lock of a killed run is free: a kernel that was just being started inherits it for an instant."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with folder_lock(folder):
                return
        except RunInProgressError:
            assert time.monotonic() < deadline, "the lock of the killed run is not free after 30 s"
            time.sleep(0.05)


@pytest.mark.notebooks
def test_a_killed_run_keeps_its_complete_points(notebooks, home, tmp_path):
    # the second point waits until this test has killed the run
    blocked = CODE.replace(
        "time.sleep(seconds)",
        "while x == 3 and not Path(rows_file).parents[1].joinpath('go').exists(): time.sleep(.1)",
    )
    write_notebook(notebooks, blocked)
    code = (
        "import sys; from pathlib import Path; import test_experiments_running as t; t.run(Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(notebooks)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        start_new_session=True,
    )
    folder = home / "experiments" / "tiny" / "toy"
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*/tiny*.ipynb"))) < 2:
            assert time.monotonic() < deadline, "the second point did not start within 60 s"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_for_lock(folder)
    before = record_times(home)
    assert len(before) == 1
    assert not list(home.rglob("tiny*.csv"))
    (folder / "go").touch()
    table = run(notebooks)
    assert len(table[table.quantity == "square"]) == 4
    after = record_times(home)
    assert before.items() <= after.items()
    assert len(after) == 2
    assert not list(home.rglob("*partial*"))


@pytest.mark.notebooks
def test_workers_share_the_points_and_replace_one_that_is_killed(notebooks, home):
    kill_once = (
        "import os, signal; trace = Path(rows_file).parents[1] / 'killed'\n"
        "if x == 2 and not trace.exists(): trace.touch(); os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)\n"
    )
    write_notebook(notebooks, CODE.replace("time.sleep(seconds)\n", kill_once))
    with client_of(2) as client:
        table = run(notebooks, map_blocks=partial(in_order, client=client))
    assert list(home.rglob("killed"))
    assert list(table[table.quantity == "square"].value) == [4, 4, 9, 9]  # in grid order


def test_what_cannot_be_run_is_refused(notebooks, home):
    with pytest.raises(ValueError, match=r"experiment must be one of .*, noise, .*, got 'nois'"):
        experiments.run_experiment("nois")
    with pytest.raises(ValueError, match="experiment tiny uses no map; omit --map phantom"):
        run(notebooks, map_name="phantom")
    with pytest.raises(FileNotFoundError, match=r"notebook .* of experiment tiny not found"):
        run(notebooks / "elsewhere")
    if Path("/proc/self").is_dir():  # where nobody can create files
        with pytest.raises(OSError, match=r"^cannot write /proc/tables/tiny-toy\.csv: "):
            run(notebooks, out="/proc/tables")
    assert not (home / "experiments").exists()


def test_the_command_lists_the_experiments_with_their_times():
    listed = CliRunner().invoke(app, ["experiment", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in experiments.EXPERIMENTS)
    noise, *_ = (
        row
        for row in tables.times(notebooks_folder() / "5-paper-figures" / "results")
        if row["name"] == "noise"
    )
    assert 60 < noise["quick_seconds"] < noise["paper_seconds"]
    assert tables.time_in_words(None) == "not measured"
    assert (
        f"quick: 6 points, {tables.time_in_words(noise['quick_seconds'])}; paper: 6 points, " in listed.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment"], "give the name of an experiment, or use --list"),
        (["experiment", "nois"], "experiment must be one of"),
        (["experiment", "noise", "--size", "huge"], "size must be one of quick, paper, toy, got 'huge'"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, message):
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2
    assert message in " ".join(answer.stderr.split())
