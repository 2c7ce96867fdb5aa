"""Experiments: grids, points that are executed once and resumed, tables, and what the command says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from small_notebooks import is_alive, wait_until_ended
from typer.testing import CliRunner

import cryoem
from cryoem import experiments
from cryoem.cli import app
from cryoem.distributed import client_of
from cryoem.experiments import overview, tables
from cryoem.experiments.points import Point
from cryoem.folders import notebooks_folder

CODE = """import os, time
from cryoem import experiments
time.sleep(seconds)
assert x != bad, f"x must not be {bad}"
rows = [experiments.measurement("square", x**2, half=h) for h in halves]
rows.append(experiments.measurement("threads", int(os.environ.get("OMP_NUM_THREADS", 0))))
experiments.save_rows(rows_file, rows)"""
PARAMETERS = "x = 1\nbad = -1\nhalves = [0]\nseconds = 0\nrows_file = None"


def write_notebook(folder: Path, code: str = CODE) -> None:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)])
    path = folder / "5-paper-figures" / "experiments" / "tiny.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def tiny(**fixed) -> experiments.Experiment:
    grid = experiments.Grid({"x": (2, 3)}, {"halves": [1, 2], **fixed})
    return experiments.Experiment("tiny", "What is a square?", "tiny.ipynb", {"toy": grid}, ("x", "halves"))


@pytest.fixture
def notebooks(tmp_path) -> Path:
    write_notebook(tmp_path / "notebooks")
    return tmp_path / "notebooks"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(
    notebooks: Path, experiment: experiments.Experiment | None = None, *, workers: int = 1, **options
) -> pd.DataFrame:
    experiment = tiny() if experiment is None else experiment
    with client_of(workers) as client:
        return experiments.run_experiment(
            "tiny",
            size="toy",
            experiment=experiment,
            notebooks=notebooks,
            client=client,
            progress=False,
            **options,
        )


def record_times(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.rglob("point.json")}


# --- grids


def test_a_grid_is_all_combinations():
    grid = experiments.Grid(
        {"a": (1, 2), "case": ({"b": 3, "c": [1]}, {"b": 4, "c": [2]})}, {"d": 5, "listed": [1, 2]}
    )
    shared = {"d": 5, "listed": [1, 2]}
    assert grid.points() == [
        {**shared, "a": a, "b": b, "c": c} for a in (1, 2) for b, c in ((3, [1]), (4, [2]))
    ]
    assert grid.varying() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": ()},), r"axes\['a'\] must hold at least one value, got \(\)"),
        (({"a": 3},), r"axes\['a'\] must hold at least one value, got 3"),
        (({"a": (1,)}, {"a": 2}), "a must be either an axis or fixed, got both"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiments.Grid(*arguments)


def test_time_grows_with_the_work():
    experiment = experiments.Experiment(
        "a",
        "?",
        "a.ipynb",
        {
            "quick": experiments.Grid({"x": (1, 2)}, {"many": [0]}),
            "paper": experiments.Grid({"x": (6,)}, {"many": [0, 0]}),
        },
        ("x", "many"),
    )
    assert experiment.work("quick") == 1 + 2
    assert experiment.work("paper") == 6 * 2
    assert experiment.projected_seconds("paper", measured=30.0) == pytest.approx(30 * 12 / 3)
    with pytest.raises(ValueError, match="size must be one of quick, paper, got 'huge'"):
        experiment.grid("huge")


# --- the catalogue


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS.values(), ids=lambda e: e.name)
def test_each_experiment_fits_its_notebook(experiment):
    path = notebooks_folder() / "5-paper-figures" / "experiments" / experiment.notebook
    cells = nbformat.read(path, as_version=4).cells
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    known: dict = {}
    exec(parameters.source, known)
    assert set(experiment.grids) == set(experiments.SIZES)
    for size in experiments.SIZES:
        for point in experiment.grid(size).points():
            assert set(point) <= set(known)
            assert set(experiment.cost) <= set(point)
    assert experiment.work("toy") < experiment.work("quick") < experiment.work("paper")
    assert all(
        "map_name" not in point or point["map_name"].startswith("phantom")
        for point in experiment.grid("toy").points()
    )


def test_a_wrong_name_is_refused():
    with pytest.raises(ValueError, match=r"experiment must be one of .*, noise, .*, got 'nois'"):
        experiments.run_experiment("nois")


# --- rows


def test_rows_are_plain_and_finite(tmp_path):
    import numpy as np

    row = experiments.measurement("error_rad", np.float32(0.5), seed=np.int64(3), kind="a")
    assert row == {"seed": 3, "kind": "a", "quantity": "error_rad", "value": 0.5}
    experiments.save_rows(tmp_path / "rows.json", [row])
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]
    experiments.save_rows(None, [row])
    with pytest.raises(ValueError, match="error_rad must be finite, got nan"):
        experiments.measurement("error_rad", float("nan"))
    with pytest.raises(ValueError, match="rows must hold at least one measurement, got none"):
        experiments.save_rows(None, [])
    with pytest.raises(ValueError, match=r"rows must hold quantity and value, got \{'seed': 1\}"):
        experiments.save_rows(None, [{"seed": 1}])


# --- execution


@pytest.mark.notebooks
def test_a_run_gives_one_long_table_and_the_next_keeps_it(notebooks, home, tmp_path):
    table = run(notebooks, out=tmp_path / "results")
    assert {"experiment", "x", "half"} <= set(table)
    assert list(table)[-2:] == ["quantity", "value"]
    assert "halves" not in table
    squares = table[table.quantity == "square"]
    assert sorted(zip(squares.x, squares.half, squares.value, strict=True)) == [
        (x, half, x**2) for x in (2, 3) for half in (1, 2)
    ]
    assert table[table.quantity == "point_seconds"].value.min() > 0
    stored = tables.read_table(tmp_path / "results", "tiny")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False, rtol=1e-5)
    before = record_times(home)
    assert len(before) == 2
    again = run(notebooks)
    assert record_times(home) == before
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.notebooks
def test_points_are_made_anew_when_what_made_them_changes(notebooks, home, monkeypatch):
    run(notebooks)
    (path, *_) = sorted(home.rglob("point.json"))
    record = json.loads(path.read_text())
    notebook = notebooks / "5-paper-figures" / "experiments" / "tiny.ipynb"
    point = Point("tiny", notebook, record["made_from"]["parameters"], path.parent)
    assert point.record() == record
    assert replace(point, sources="0" * 64).record() is None  # other code of this package
    with monkeypatch.context() as patch:
        patch.setattr(cryoem, "__version__", "999")
        assert point.record() is None
    path.write_text(path.read_text()[:-20])  # cut short
    assert point.record() is None
    path.write_text(json.dumps(record))
    write_notebook(notebooks, CODE.replace("x**2", "x**3"))
    assert point.record() is None
    table = run(notebooks)
    assert sorted(table[table.quantity == "square"].value) == [8, 8, 27, 27]


@pytest.mark.notebooks
def test_a_point_that_fails_is_named_and_the_others_are_kept(notebooks, home, tmp_path):
    for workers in (1, 2):
        with pytest.raises(experiments.ExperimentFailedError) as caught:
            run(notebooks, tiny(bad=2), workers=workers, out=tmp_path / "results")
        message = str(caught.value)
        assert message.startswith(
            f"1 of {3 - workers} points stopped; tiny, x 2 stopped: AssertionError: x must"
        )
        assert Path(message.rpartition(" is ")[2]).is_file()
        assert len(record_times(home)) == 1
        assert not (tmp_path / "results").exists()


@pytest.mark.notebooks
def test_a_notebook_that_hands_back_nothing_is_named(notebooks, home):
    write_notebook(notebooks, "x")
    with pytest.raises(
        experiments.ExperimentFailedError, match=r"tiny, x 2 ran to its end without save_rows\(\)"
    ):
        run(notebooks)


@pytest.mark.notebooks
def test_several_processes_share_the_cores_and_agree_with_one(notebooks, home):
    table = run(notebooks, workers=2)
    threads = table[table.quantity == "threads"].value
    assert (threads == max(1, os.cpu_count() // 2)).all()
    squares = table[table.quantity == "square"]
    assert list(squares.value) == [4, 4, 9, 9]  # in the order of the grid


def finding_tests() -> dict[str, str]:
    """The environment of a process that imports this module."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


@pytest.mark.notebooks
def test_a_killed_run_goes_on_where_it_stopped(notebooks, home):
    code = (
        "import sys; from pathlib import Path; import test_experiments as t; "
        "t.run(Path(sys.argv[1]), t.tiny(seconds=1.5))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(notebooks)], env=finding_tests(), start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not record_times(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = record_times(home)
    assert len(before) == 1
    assert not list(home.rglob("tiny.csv"))
    table = run(notebooks, tiny(seconds=1.5))
    assert len(table[table.quantity == "square"]) == 4
    after = record_times(home)
    assert before.items() <= after.items()  # kept as it was
    assert len(after) == 2
    assert not list(home.rglob("*.partial*"))
    assert not list(home.rglob("rows.json"))


@pytest.mark.notebooks
def test_a_point_whose_worker_is_killed_is_executed_by_another(notebooks, home):
    kill_once = (
        "import signal; from pathlib import Path; trace = Path(rows_file).parents[1] / 'killed'\n"
        "if x == 2 and not trace.exists(): trace.touch(); os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)\n"
    )
    write_notebook(notebooks, CODE.replace("time.sleep(seconds)\n", kill_once))
    table = run(notebooks, workers=2)
    assert list(home.rglob("killed"))
    assert list(table[table.quantity == "square"].value) == [4, 4, 9, 9]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel looks for its parent once a second")
@pytest.mark.notebooks
def test_workers_and_their_kernels_end_with_the_run(notebooks, home, tmp_path):
    code = (
        "import sys; from pathlib import Path; import test_experiments as t\n"
        "if __name__ == '__main__': t.run(Path(sys.argv[1]), t.tiny(seconds=60), workers=2)"
    )
    told = (
        "import os, time; from pathlib import Path; numbers = Path(rows_file).with_name('numbers')\n"
        "numbers.with_suffix('.new').write_text(f'{os.getpid()} {os.getppid()}')\n"
        "numbers.with_suffix('.new').rename(numbers); time.sleep(60)"
    )
    write_notebook(notebooks, told)
    script = tmp_path / "script.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script, str(notebooks)], env=finding_tests()) as process:
        deadline = time.monotonic() + 60
        while len(found := list(home.rglob("numbers"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes = [int(number) for path in found for number in path.read_text().split()]
        assert len(set(processes)) == 4
        assert all(map(is_alive, processes))
        process.kill()
    wait_until_ended(*processes)


def test_what_cannot_be_run_is_refused(notebooks, home):
    with pytest.raises(
        ValueError, match="map_name must not be given for tiny, which has none, got 'phantom'"
    ):
        run(notebooks, map_name="phantom")
    with pytest.raises(FileNotFoundError, match="experiment tiny has no notebook"):
        run(notebooks / "elsewhere")


# --- tables


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {
            "experiment": "a",
            "noise_variance": noise,
            "test_coverage": "so3",
            "test_noise_variance": test,
            "seed": seed,
        }
        | {"quantity": "error", "value": noise + test + seed}
        for noise in (0, 4)
        for test in (0, 4)
        for seed in (0, 2)
    ]
    return pd.DataFrame(rows)


def test_a_curve_is_the_mean_over_what_is_not_asked_for(table):
    x, mean, low, high = tables.curve(table, "error", against="noise_variance", test_noise_variance=4)
    assert (list(x), list(mean), list(low), list(high)) == ([0, 4], [5, 9], [4, 8], [6, 10])
    own = tables.own_test(table)
    assert (own.noise_variance == own.test_noise_variance).all()
    assert len(own) == 4
    with pytest.raises(KeyError, match="the table has no error with noise_variance 9"):
        tables.select(table, "error", noise_variance=9)


def test_missing_and_foreign_tables_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no table .*noise.csv; `cryoem experiment noise --out"
    ):
        tables.read_table(tmp_path, "noise")
    (tmp_path / "noise.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"must have the columns experiment, quantity and value, got a, b"):
        tables.read_table(tmp_path, "noise")


def test_times_are_words():
    assert [overview.in_words(seconds) for seconds in (None, 12.4, 600.0, 9000.0)] == [
        "not measured",
        "12 s",
        "10 min",
        "2 h",
    ]


# --- the command


def test_the_command_lists_the_experiments():
    listed = CliRunner().invoke(app, ["experiment", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in experiments.EXPERIMENTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment"], "name an experiment, or give --list"),
        (["experiment", "nois"], "experiment must be one of"),
        (["experiment", "noise", "--size", "huge"], "size must be one of quick, paper, toy, got 'huge'"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, message):
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2
    assert message in " ".join(answer.stderr.split())
