"""The benchmarks: every question has a script that answers it, and their common parts measure what they say."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMON = {"growth_steps", "peers", "table", "watch", "write_report"}
BY_HAND = {"common_lines", "kills"}  # their tables are elsewhere


@pytest.fixture
def module(monkeypatch):
    """A function that imports a script of the benchmarks by its name, for one test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    before = names & set(sys.modules)
    yield importlib.import_module
    for name in names - before:
        sys.modules.pop(name, None)


def test_every_script_answers_a_question(module):
    asked = {shlex.split(question)[0] for question in module("write_report").QUESTIONS}
    scripts = {path.name for path in BENCHMARKS.glob("*.py") if path.stem not in COMMON | BY_HAND}
    assert asked == scripts


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_every_script_says_what_it_measures(script):
    if Path(script).stem in COMMON - {"write_report"}:
        pytest.skip("a common part, which is not run")
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--help"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("usage:")


def test_every_question_has_options_that_its_script_knows(module):
    for question in module("write_report").QUESTIONS:
        script, *options = shlex.split(question)
        source = (BENCHMARKS / script).read_text(encoding="utf-8")
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in source


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of one call"
)
def test_the_peak_is_that_of_the_call_alone(module):
    watch = module("watch")
    held = np.ones(20_000_000)  # 160 MB that were there before
    large = watch.watch(lambda: np.ones(10_000_000).sum())
    small = watch.watch(lambda: np.ones(100_000).sum())
    assert large.result == 10_000_000
    assert 78e6 < large.peak_bytes < 100e6  # the system counts some pages late
    assert small.peak_bytes < 20e6
    assert len(held) == 20_000_000


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of one call"
)
def test_the_peak_in_a_process_of_its_own_is_that_of_the_call(module):
    peak = module("watch").peak_alone(partial, np.ones, 10_000_000)
    assert 78e6 < peak < 100e6


def test_contenders_take_turns_and_the_slow_are_called_once(module):
    watch, calls = module("watch"), []
    watched = watch.in_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2, rehearsals=1
    )
    assert calls == ["a", "b"] * 3
    assert [len(one.seconds) for one in watched.values()] == [2, 2]
    impatient = watch.in_turns({"a": lambda: 1}, repeats=3, rehearsals=0, patience_s=0)
    assert len(impatient["a"].seconds) == 1


def test_contenders_stand_beside_each_other(module, capsys):
    watch = module("watch")
    watched = {"ours": watch.Watched([1.0], 2_000_000), "theirs": watch.Watched([4.0, 6.0])}
    watch.print_beside(
        "A title", watched, accuracy={"theirs": "good"}, work=10, unit="images/s", absent=("other",)
    )
    lines = capsys.readouterr().out.strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert lines[0] == "### A title"
    assert cells[0][3] == "ours is faster by"
    assert cells[2] == ["ours", "1.00 s (once)", "10 images/s", "", "", "2 MB", "-"]
    assert cells[3] == ["theirs", "5.00 s", "2 images/s", "5 x", "good", "not known", "-"]
    assert cells[4] == ["other", "not installed", "", "", "", "", "-"]


def test_peers_that_are_not_installed_are_none(module, monkeypatch):
    peers = module("peers")
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.aspire("volume") is None
    assert peers.scikit_learn("manifold") is None


def test_the_losses_of_pairs_and_of_batches_are_the_same(module, rng):
    training = module("training")
    quaternions = rng.standard_normal((6, 4)).astype(np.float32)
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    images = rng.standard_normal((6, 16, 16)).astype(np.float32)
    for kind in training.PAIR_LOSSES:
        encoder = training.siamese.build_encoder(16, channels=8, blocks=1)
        all_pairs, pair_wise = training.trainers_of(encoder, kind)
        assert training.disagreement(all_pairs, pair_wise, images, quaternions) < training.TOLERANCE
        assert training.disagreement(all_pairs, pair_wise, images, quaternions[::-1]) < training.TOLERANCE


def test_points_of_rotation_matrices_give_the_rotations(module, rng):
    from cryoem.rotations import random_rotations

    recovery_speed = module("recovery_speed")
    true = random_rotations(30, rng=1)
    turn, _ = np.linalg.qr(rng.standard_normal((9, 9)))
    found = recovery_speed.nearest_rotations(3 * true.as_matrix().reshape(-1, 9) @ turn + 1, true)
    assert (true.inv() * found).magnitude().max() < 1e-6


def test_images_lose_their_nyquist_frequency_alone(module, rng):
    projection = module("projection")
    images = rng.standard_normal((2, 8, 8)).astype(np.float32)
    before, after = (np.fft.fft2(array) for array in (images, projection.without_nyquist(images)))
    assert np.abs(after[:, 4]).max() < 1e-5
    assert np.abs(after[:, :, 4]).max() < 1e-5
    kept = np.delete(np.arange(8), 4)
    assert np.allclose(after[:, kept][:, :, kept], before[:, kept][:, :, kept], atol=1e-5)
