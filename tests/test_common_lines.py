"""Common lines with ASPIRE: conventions, errors if ASPIRE is missing, and the table of the benchmark."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoem import orientations, volumes
from cryoem.files.reading import notebooks_folder
from cryoem.orientations import common_lines
from cryoem.orientations.evaluation import pose_error
from cryoem.particles import simulate

STORED = notebooks_folder() / "5-paper-figures" / "results" / "common-lines.csv"
NEEDS_ASPIRE = pytest.mark.skipif(not orientations.is_installed(), reason="ASPIRE is not installed")


# --- the estimator


@NEEDS_ASPIRE
@pytest.mark.parametrize("estimator", common_lines.ESTIMATORS)
def test_orientations_of_noise_free_images_are_found_up_to_frame_and_hand(estimator):
    particles = simulate(volumes.phantom(size=32, rng=0), 24, rng=1)
    found = orientations.orientations_from_common_lines(particles.images, estimator=estimator, rng=0)
    assert len(found) == 24
    assert pose_error(particles.rotations, found) < 0.05  # directions are 1 degree apart; chance is 1.5 rad
    assert pose_error(particles.rotations, found.inv()) > 0.5  # the transpose is the other convention


@NEEDS_ASPIRE
def test_aspire_leaves_no_handlers_hooks_and_log_files(tmp_path):
    code = (
        "import logging, sys; from cryoem import orientations, particles, volumes;"
        "mine = logging.getLogger('mine'); hook = sys.excepthook;"
        "images = particles.simulate(volumes.phantom(size=32, rng=0), 10, rng=1).images;"
        "orientations.orientations_from_common_lines(images);"
        "print(sys.excepthook is hook, mine.disabled, logging.getLogger().handlers)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout.strip() == "True False []"
    assert list(tmp_path.iterdir()) == []  # no log folder


def test_without_aspire_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(common_lines, "is_installed", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[baselines\]'"):
        orientations.orientations_from_common_lines(np.random.default_rng(0).random((3, 8, 8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "magic"}, "estimator must be one of voting, sync3n, got 'magic'"),
        ({"directions": 7}, "directions must be even, got 7"),
        ({"largest_shift_px": -1}, "largest_shift_px must .* got -1"),
        ({"images": np.ones((2, 8, 8))}, "at least 3 images are required, got 2"),
    ],
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        orientations.orientations_from_common_lines(**{"images": np.ones((3, 8, 8)), **options})


# --- the benchmark


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("common_lines")
    sys.modules.pop("common_lines")


def test_the_stored_table_holds_each_measurement_once_and_the_readme_quotes_it(benchmark):
    table = pd.read_csv(STORED)
    assert list(table.columns) == benchmark.COLUMNS
    assert not table.duplicated(benchmark.KEY).any()
    errors = table[["pose_error_mean_rad", "pose_error_median_rad"]]
    measured = table.status == "measured"
    assert (errors[measured] > 0).all(axis=None)
    assert (errors[measured] < np.pi).all(axis=None)
    assert (table[measured][["cpu_seconds", "seconds"]] > 0).all(axis=None)
    assert errors[~measured].isna().all(axis=None)
    assert (table[table.status == "not run"].projected_cpu_seconds > 0).all()
    assert set(table.status) <= {"measured", "not run", "failed"}
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for method in (benchmark.VOTING, benchmark.LEARNED):
        (cells,) = re.findall(rf"^\| {method} \| ([0-9.]+) rad \| ([0-9.]+) rad \|$", readme, re.MULTILINE)
        for noise, quoted in zip((0, 4), cells, strict=True):
            stored = table[(table.method == method) & (table.noise_variance == noise) & (table.images == 200)]
            assert quoted == f"{stored.pose_error_mean_rad.item():.4f}"
