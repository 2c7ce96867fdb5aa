"""The benchmark of growth with size: what it measures and the table that it stores."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from cryoem.files.reading import notebooks_folder

STORED = notebooks_folder() / "5-paper-figures" / "results" / "growth.csv"
SCRIPTS = ("growth", "growth_steps", "landmarks", "table", "watch")
VALUES = {"seconds": 2.0, "cpu_seconds": 4.0, "repeats": 1, "added_memory_gb": 0.1, "peak_memory_gb": 0.3}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("growth")
    for script in SCRIPTS:
        sys.modules.pop(script, None)


def test_every_target_has_points_of_several_sizes(benchmark):
    sizes = {}
    for point in benchmark.points():
        sizes.setdefault((point.step, point.variable), []).append(point.size)
    assert sizes.keys() >= benchmark.TARGETS.keys()
    assert all(len(found) >= 3 and found == sorted(set(found)) for found in sizes.values())


def test_a_run_measures_what_is_missing_and_prints_the_growth(benchmark, tmp_path, monkeypatch, capsys):
    path = tmp_path / "growth.csv"
    measured = []

    def measure(point):
        measured.append(point.size)
        return {**VALUES, "seconds": point.size / 100}

    monkeypatch.setattr(benchmark, "measured", measure)
    for most in ("10000", "100000"):
        options = ["--csv", str(path), "--steps", "projection", "--most-px", "32", "--most", most]
        monkeypatch.setattr(sys, "argv", ["growth.py", *options])
        benchmark.main()
    assert measured == [1_000, 10_000, 100_000]
    assert list(pd.read_csv(path)["size"]) == measured
    printed = capsys.readouterr().out
    assert re.search(
        r"projection, images 1,000 to 100,000: time exponent +\| <= 1\.1 +\| 1\.00; 1e\+03 s", printed
    )
    assert re.search(r"memory per image +\| <= 100 bytes +\| 0 bytes; 0\.30 GB", printed)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="growth is measured on Linux")
@pytest.mark.parametrize(
    ("step", "numbers"),
    [
        ("projection", (30, 16, 0)),
        ("alignment, template", (30, 32, 0)),
        ("reconstruction", (30, 16, 0)),
        ("recovery", (200, 0, 100)),
    ],
)
def test_each_step_is_measured(benchmark, tmp_path, monkeypatch, step, numbers):
    steps = importlib.import_module("growth_steps")
    monkeypatch.setattr(steps, "ENOUGH_SECONDS", 0)
    found = steps.measure(steps.STEPS[step](*numbers, tmp_path))
    assert found["repeats"] == 1
    assert min(found["seconds"], found["cpu_seconds"]) > 0
    assert found["peak_memory_gb"] > found["added_memory_gb"] >= 0
    if step in ("recovery", "alignment, template"):
        assert found["error_rad"] < 0.1  # the measured step works; chance is 1.5 rad


def test_the_stored_table_has_each_measurement_once(benchmark):
    table = pd.read_csv(STORED)
    assert list(table.columns) == benchmark.COLUMNS
    assert not table.duplicated(benchmark.KEY).any()
    assert (table[["seconds", "cpu_seconds", "repeats", "peak_memory_gb"]] > 0).all(axis=None)
    assert table[benchmark.STAMP].notna().all(axis=None)
    keys = {tuple(point.key.values()) for point in benchmark.points()}
    assert set(table[benchmark.KEY].itertuples(index=False, name=None)) <= keys
