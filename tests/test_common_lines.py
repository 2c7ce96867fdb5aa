"""Common lines by ASPIRE: conventions, what is said where it is missing, the benchmark's table and the notebook."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from notebook_rules import assert_well_written

from cryoem import common_lines, imaging, volumes
from cryoem.evaluation import pose_error
from cryoem.folders import notebooks_folder
from cryoem.pipeline.execution import NotebookError, execute_notebook

NOTEBOOK = notebooks_folder() / "5-paper-figures" / "5.3-common-lines.ipynb"
STORED = NOTEBOOK.parent / "results" / "common-lines.csv"
SIZES = json.loads(NOTEBOOK.with_name("toy.json").read_text(encoding="utf-8"))  # the site's, too
TOY = SIZES[NOTEBOOK.stem]
NEEDS_ASPIRE = pytest.mark.skipif(not common_lines.is_installed(), reason="ASPIRE is not installed")


# --- the estimator


@NEEDS_ASPIRE
@pytest.mark.parametrize("estimator", common_lines.ESTIMATORS)
def test_orientations_of_noise_free_images_are_found_up_to_frame_and_hand(estimator):
    particles = imaging.simulate(volumes.phantom(size=32, rng=0), 24, rng=1)
    found = common_lines.orientations_from_common_lines(particles.images, estimator=estimator, rng=0)
    assert len(found) == 24
    assert pose_error(particles.rotations, found) < 0.05  # directions are 1 degree apart; chance is 1.5
    assert pose_error(particles.rotations, found.inv()) > 0.5  # the transpose is another convention


@NEEDS_ASPIRE
def test_the_program_around_aspire_stays_as_it_was(tmp_path):
    code = (
        "import logging, sys; from cryoem import common_lines, imaging, volumes;"
        "mine = logging.getLogger('mine'); hook = sys.excepthook;"
        "images = imaging.simulate(volumes.phantom(size=32, rng=0), 10, rng=1).images;"
        "common_lines.orientations_from_common_lines(images);"
        "print(sys.excepthook is hook, mine.disabled, logging.getLogger().handlers)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout.strip() == "True False []"
    assert list(tmp_path.iterdir()) == []  # no folder of logs


def test_where_aspire_is_missing_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(common_lines, "is_installed", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cryoem\[baselines\]'"):
        common_lines.orientations_from_common_lines(np.random.default_rng(0).random((3, 8, 8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "magic"}, "estimator must be one of voting, sync3n, got 'magic'"),
        ({"directions": 7}, "directions must be even, got 7"),
        ({"largest_shift_px": -1}, "largest_shift_px must .* got -1"),
        ({"images": np.ones((2, 8, 8))}, "images must be at least 3, got 2"),
    ],
)
def test_wrong_arguments_are_named_with_what_was_seen(options, message):
    with pytest.raises(ValueError, match=message):
        common_lines.orientations_from_common_lines(**{"images": np.ones((3, 8, 8)), **options})


# --- the benchmark


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("common_lines")
    sys.modules.pop("common_lines")


def key(benchmark, **changes) -> dict:
    values = ("5j0n", benchmark.VOTING, 100, 4.0, 116, 58, 0)
    return dict(zip(benchmark.KEY, values, strict=True)) | changes


def test_rows_are_kept_and_what_was_not_run_gives_way(benchmark, tmp_path):
    path = tmp_path / "results" / "table.csv"
    table = benchmark.Table(path)
    one, other = key(benchmark), key(benchmark, images=200)
    table.add(one, "measured", pose_error_mean_rad=0.1, cpu_seconds=2.0)
    table.add(other, "not run", projected_cpu_seconds=16.0)
    again = benchmark.Table(path)
    assert again.has(one)
    assert not again.has(other)
    again.add(other, "failed", cpu_seconds=9.0)
    rows = pd.read_csv(path)
    assert list(rows.columns) == benchmark.COLUMNS
    assert list(rows.status) == ["measured", "failed"]
    assert benchmark.Table(path).has(other)


@pytest.mark.parametrize(("growth", "taken"), [(2.5, 2.5), (1.0, 2.0), (5.0, 3.0)])
def test_time_is_projected_by_its_growth_with_the_number_of_images(benchmark, tmp_path, growth, taken):
    table = benchmark.Table(tmp_path / "table.csv")
    assert benchmark.projected_seconds(table.rows, key(benchmark)) == 0
    for n in (100, 200):
        # other noise, since the time does not depend on it
        table.add(key(benchmark, images=n, noise_variance=0.0), "measured", cpu_seconds=(n / 100) ** growth)
    table.add(key(benchmark, images=200, method=benchmark.SYNC3N), "measured", cpu_seconds=1e6)
    projected = benchmark.projected_seconds(table.rows, key(benchmark, images=1000))
    assert projected == pytest.approx(2**growth * 5**taken)


def test_the_stored_table_holds_each_measurement_once(benchmark):
    table = pd.read_csv(STORED)
    assert list(table.columns) == benchmark.COLUMNS
    assert not table.duplicated(benchmark.KEY).any()
    assert set(table.status) <= {"measured", "not run", "failed"}
    measured, others = table[table.status == "measured"], table[table.status != "measured"]
    numbers = measured[["pose_error_mean_rad", "pose_error_median_rad", "cpu_seconds", "seconds"]]
    assert (numbers > 0).all(axis=None)
    assert (measured.pose_error_mean_rad < np.pi).all()
    assert others[["pose_error_mean_rad", "pose_error_median_rad"]].isna().all(axis=None)
    assert (table[table.status == "not run"].projected_cpu_seconds > 0).all()


def test_the_readme_quotes_the_stored_table(benchmark):
    table = pd.read_csv(STORED)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for method in (benchmark.VOTING, benchmark.LEARNED):
        (cells,) = re.findall(rf"^\| {method} \| ([0-9.]+) rad \| ([0-9.]+) rad \|$", readme, re.MULTILINE)
        for noise, quoted in zip((0, 4), cells, strict=True):
            stored = table[(table.method == method) & (table.noise_variance == noise) & (table.images == 200)]
            assert quoted == f"{stored.pose_error_mean_rad.item():.4f}"


# --- the notebook


def execute(home, **parameters) -> nbformat.NotebookNode:
    executed = home / NOTEBOOK.name
    execute_notebook(
        NOTEBOOK,
        executed,
        parameters={**TOY, **parameters},
        environment={"CRYOEM_HOME": str(home)},
        title="",
        progress=False,
    )
    return nbformat.read(executed, as_version=4)


def test_the_notebook_is_well_written():
    assert_well_written(nbformat.read(NOTEBOOK, as_version=4).cells, title="Phase 5.3", parameters=TOY)


@pytest.mark.notebooks
def test_the_notebook_runs_at_toy_size_with_aspire_and_says_so_without(tmp_path):
    outputs = [output for cell in execute(tmp_path).cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "Warning" not in "".join(output.text for output in outputs if output.get("name") == "stderr")
    figures = [
        output.data["application/vnd.plotly.v1+json"]
        for output in outputs
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(figures) == 4
    compared = " ".join(trace.get("name") or "" for trace in figures[-1]["data"])
    assert "learned distances" in compared
    assert ("common lines" in compared) == common_lines.is_installed()
    assert ("ASPIRE is not installed" in printed) != common_lines.is_installed()


@pytest.mark.notebooks
def test_a_missed_headline_stops_the_notebook_with_the_number(tmp_path):
    with pytest.raises(
        NotebookError, match=r"must be below 1e-06 of the common lines' pose error, but are at \d"
    ):
        execute(tmp_path, expected_ratio=1e-6, live_epochs=1)
