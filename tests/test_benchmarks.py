"""The benchmarks: each has a command on the page, and the shared code measures what it claims."""

from __future__ import annotations

import importlib
import pickle
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryoem import particles, volumes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMON = {"gpu_projection", "gpu_training", "growth_steps", "peers", "table", "watch", "write_page"}
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux reports the peak memory of one call"
)


@pytest.fixture
def module(monkeypatch):
    """Return a function that imports a benchmark script for one test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    before = names & set(sys.modules)
    yield importlib.import_module
    for name in names - before:
        sys.modules.pop(name, None)


def test_every_script_has_a_command_with_options_that_it_defines(module):
    commands = [shlex.split(command) for command in module("table").COMMANDS]
    scripts = {path.name for path in BENCHMARKS.glob("*.py") if path.stem not in COMMON}
    assert {script for script, *_ in commands} == scripts
    for script, *options in commands:
        source = (BENCHMARKS / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in options if option.startswith("--"))


def test_every_script_loads(module):
    for path in sorted(BENCHMARKS.glob("*.py")):
        assert module(path.stem).__doc__


def test_the_page_is_made_of_the_stored_tables(module):
    write_page, table = module("write_page"), module("table")
    assert write_page.PAGE.read_text(encoding="utf-8") == write_page.page()
    commands = {table.read(path).command for path in table.RESULTS.glob("*.csv")}
    assert len(commands) > 10
    assert commands <= set(table.COMMANDS)


def test_cryodrgn_is_stopped_and_its_last_poses_are_compared(module, tmp_path):
    script = module("initial_models")
    stack = particles.simulate(volumes.phantom(size=24), 60, image_size=24, rng=0)
    with (tmp_path / "poses.pkl").open("wb") as file:
        pickle.dump((Rotation.random(rng=1) * stack.rotations.inv()).inv().as_matrix(), file)
    command = tmp_path / "cryodrgn"
    lines = ["#!/bin/sh", 'mkdir "$6"', 'cp "$2" "$6/pose.0.pkl"']
    found = []
    for last, seconds in (("sleep 60", 2.0), (f'cp "{tmp_path}/poses.pkl" "$6/pose.3.pkl"', 60.0)):
        command.write_text("\n".join([*lines, last]))
        command.chmod(0o755)
        found.append(script.cryodrgn(stack, str(command), seconds))
    assert found[0][:3] == ("cryoDRGN abinit, stopped in epoch 1 of 30", "-", "-")
    assert found[1][:3] == ("cryoDRGN abinit, 3 of 30 epochs", "100.0 %", "0.000 rad")


def test_only_a_command_of_the_page_replaces_a_stored_table(module, monkeypatch, tmp_path, capsys):
    table = module("table")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    rows = [("time, median", "< 2 s", "1,000 ms"), ("size", "-", '"large"')]
    monkeypatch.setattr(sys, "argv", ["benchmarks/recovery.py", "--orientations", "20"])
    table.print_table("recovery", "A title", rows)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["benchmarks/recovery.py", "--stochastic"])
    table.print_table("recovery", "A title", rows)
    stored = table.read(tmp_path / "recovery.csv")
    assert (stored.title, stored.command) == ("A title", "recovery.py --stochastic")
    assert stored.columns == ("quantity", "target", "measured")
    assert list(stored.rows) == rows
    assert capsys.readouterr().out.count("| time, median | < 2 s  | 1,000 ms |") == 2


@linux
def test_the_peak_is_that_of_the_call_alone(module):
    watch = module("watch")
    held = np.ones(20_000_000)  # 160 MB that were allocated beforehand
    large = watch.watch(lambda: np.ones(10_000_000).sum())
    small = watch.watch(lambda: np.ones(100_000).sum())
    assert large.result == 10_000_000
    assert 78e6 < large.peak_bytes < 100e6  # the system counts some pages with a delay
    assert small.peak_bytes < 20e6
    assert len(held) == 20_000_000
    assert 78e6 < watch.peak_alone(partial, np.ones, 10_000_000) < 100e6


def test_pair_wise_and_batch_losses_agree(module, rng):
    training = module("training")
    quaternions = rng.standard_normal((6, 4)).astype(np.float32)
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    images = rng.standard_normal((6, 16, 16)).astype(np.float32)
    for kind in training.PAIR_LOSSES:
        encoder = training.build_encoder(16, channels=8, blocks=1)
        all_pairs, pair_wise = training.trainers_of(encoder, kind)
        assert training.disagreement(all_pairs, pair_wise, images, quaternions) < training.TOLERANCE


def test_a_table_of_natural_images_is_completed_after_an_interruption(module, monkeypatch, tmp_path):
    natural = module("natural")
    trained = []

    def measure(method, noise, photographs, as_published, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((noise, method, options["seconds"]))
        history = {"bias_deg": [0.0], "step": [7], "seconds": [3.5]}
        return None, [(np.zeros(2), np.zeros(2), np.radians([10.0, 30.0]))], history

    monkeypatch.setenv("CRYOEM_DATA", str(tmp_path))
    monkeypatch.setattr(natural, "load_photographs", lambda paths, size: [])
    monkeypatch.setattr(natural, "measure", measure)
    monkeypatch.setattr(natural, "predict_angles", lambda network, first, second, bias_rad: np.zeros(2))
    options = ["--minutes", "0.5", "--noises", "clean", "--methods", "udl", "stn", "published"]
    monkeypatch.setattr(sys, "argv", ["natural.py", *options, "--table", str(tmp_path / "table.csv")])
    with pytest.raises(KeyboardInterrupt):
        natural.main()
    assert trained == [("clean", "udl", 30.0), ("clean", "stn", 30.0)]
    trained.clear()
    natural.main()
    assert trained == [("clean", "published", 30.0)]  # the others are there already
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.method) == ["udl", "stn", "published"]
    np.testing.assert_allclose(table.mean_deg, 20)
