"""Growth of cost with size: what is measured, the table that is kept, exponents, and the notebook."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from notebook_rules import assert_well_written

from cryoem.experiments.growth import growth_of
from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import NotebookError, execute_notebook

NOTEBOOK = notebooks_folder() / "5-paper-figures" / "5.4-speed-and-scale.ipynb"
STORED = NOTEBOOK.parent / "results" / "growth.csv"
SCRIPTS = ("growth", "growth_steps", "landmarks", "table", "watch")
VALUES = {"seconds": 2.0, "cpu_seconds": 4.0, "repeats": 1, "added_memory_gb": 0.1, "peak_memory_gb": 0.3}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("growth")
    for script in SCRIPTS:
        sys.modules.pop(script, None)


@pytest.fixture
def steps(benchmark):
    return importlib.import_module("growth_steps")


# --- the growth


def test_the_exponent_is_that_of_the_largest_sizes():
    """Beside what is done once, which hides it at the smallest, and of each step and variable by itself."""
    sizes = np.array([10, 100, 1000, 10_000])
    seconds = np.where(sizes == 10, 50.0, 0.01 * sizes**1.5)
    rows = [("a", "images", *row) for row in zip(sizes, seconds, [1.0, 1.0, 1.0, 1.5], strict=True)]
    rows += [("a", "landmarks", 5, 3.0, 1.0), ("a", "landmarks", 50, 3.0, 0.5), ("b", "images", 10, 1.0, 1.0)]
    table = pd.DataFrame(rows, columns=["step", "variable", "size", "seconds", "added_memory_gb"])
    growth = growth_of(table.sample(frac=1, random_state=0)).set_index("variable")
    assert set(growth.index) == {"images", "landmarks"}  # one size alone tells nothing
    assert growth.exponent["images"] == pytest.approx(1.5)
    assert growth.exponent["landmarks"] == pytest.approx(0)
    assert growth.bytes_each["images"] == pytest.approx(0.5e9 / 9990)
    assert (growth.smallest["images"], growth.largest["images"]) == (10, 10_000)


# --- the benchmark


def test_rows_are_kept_each_once(benchmark, tmp_path):
    path = tmp_path / "results" / "growth.csv"
    first, second = benchmark.points()[:2]
    benchmark.Table(path).add(second, VALUES)
    benchmark.Table(path).add(first, VALUES)
    table = benchmark.Table(path)
    assert all(table.has(point) for point in (first, second))
    assert not table.has(first._replace(images=7))
    table.add(first, {**VALUES, "seconds": 1.0})
    assert sorted(pd.read_csv(path).seconds) == [1.0, 2.0]


def test_what_is_asked_of_growth_is_measured(benchmark):
    measured = {}
    for point in benchmark.points():
        measured.setdefault((point.step, point.variable), []).append(point.size)
    assert measured.keys() >= benchmark.ASKED.keys()
    for (_, variable), sizes in measured.items():
        assert sizes == sorted(set(sizes))
        if variable == "images":
            assert sizes == [10**3, 10**4, 10**5, 10**6]
    assert measured["projection", "image_size_px"] == [64, 128, 256, 512]


def test_a_run_measures_what_is_missing_and_says_what_grew(benchmark, tmp_path, monkeypatch, capsys):
    path = tmp_path / "growth.csv"
    asked = []

    def measured(point):
        asked.append(point.size)
        return {**VALUES, "seconds": point.size / 100}

    monkeypatch.setattr(benchmark, "measured", measured)
    command = ["growth.py", "--csv", str(path), "--steps", "projection", "--most-px", "32"]
    monkeypatch.setattr(sys, "argv", [*command, "--most", "10000"])
    benchmark.main()
    monkeypatch.setattr(sys, "argv", [*command, "--most", "100000"])
    benchmark.main()
    assert asked == [1_000, 10_000, 100_000]
    printed = capsys.readouterr().out
    assert re.search(
        r"projection, images 1,000 to 100,000: exponent of time +\| <= 1\.1 +\| 1\.00; 1e\+03 s", printed
    )
    assert re.search(r"memory of one more image +\| <= 100 bytes +\| 0 bytes; 0\.30 GB", printed)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="growth is measured on Linux")
@pytest.mark.parametrize(
    ("step", "numbers"),
    [
        ("projection", (30, 16, 0)),
        ("volume transform", (0, 16, 0)),
        ("alignment, template", (30, 32, 0)),
        ("reconstruction", (30, 16, 0)),
        ("recovery", (200, 0, 100)),
    ],
)
def test_each_step_is_measured(steps, tmp_path, monkeypatch, step, numbers):
    monkeypatch.setattr(steps, "ENOUGH_SECONDS", 0)
    found = steps.measure(steps.STEPS[step](*numbers, tmp_path))
    assert found["repeats"] == 1
    assert min(found["seconds"], found["cpu_seconds"]) > 0
    assert found["peak_memory_gb"] > found["added_memory_gb"] >= 0
    if step in ("recovery", "alignment, template"):
        assert found["error_rad"] < 0.1  # what is timed does its work; chance is 1.5


def test_the_largest_memory_counts_from_when_it_is_measured(steps):
    gone = np.ones(50_000_000)
    del gone
    held = steps.measure(lambda: np.ones(10_000_000).sum() and None)
    assert 0.07 < held["added_memory_gb"] < min(0.2, held["peak_memory_gb"])


def test_blocks_are_those_of_a_pool_shown_again(steps):
    shown = list(steps.again(1000, 600, 300))
    assert [(some.start, some.stop) for some in shown] == [(0, 300), (300, 600), (0, 300), (300, 400)]


def test_the_stored_table_holds_each_measurement_once(benchmark):
    table = pd.read_csv(STORED)
    assert list(table.columns) == benchmark.COLUMNS
    assert not table.duplicated(benchmark.KEY).any()
    assert (table[["seconds", "cpu_seconds", "repeats", "peak_memory_gb"]] > 0).all(axis=None)
    assert table[benchmark.STAMP].notna().all(axis=None)
    keys = {tuple(point.key.values()) for point in benchmark.points()}
    assert set(table[benchmark.KEY].itertuples(index=False, name=None)) <= keys


# --- the notebook


def execute(home, **parameters) -> nbformat.NotebookNode:
    executed = home / NOTEBOOK.name
    execute_notebook(
        NOTEBOOK,
        executed,
        parameters=parameters,
        environment={"CRYOEM_HOME": str(home)},
        title="",
        progress=False,
    )
    return nbformat.read(executed, as_version=4)


def test_the_notebook_is_well_written():
    assert_well_written(nbformat.read(NOTEBOOK, as_version=4).cells, title="Phase 5.4")


@pytest.mark.notebooks
def test_the_notebook_draws_the_stored_table(tmp_path):
    outputs = [output for cell in execute(tmp_path).cells for output in cell.get("outputs", [])]
    assert "Warning" not in "".join(output.text for output in outputs if output.get("name") == "stderr")
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) == 3


@pytest.mark.notebooks
def test_growth_beyond_what_is_asked_stops_the_notebook_with_the_number(tmp_path):
    with pytest.raises(NotebookError, match=r"grow with images by an exponent of 0\.01 .* but does by \d"):
        execute(tmp_path, most_exponent=0.01)
