"""Common lines with ASPIRE: conventions, and errors if ASPIRE is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cryoem import orientations, volumes
from cryoem.orientations import common_lines
from cryoem.orientations.evaluation import pose_error
from cryoem.particles import simulate

NEEDS_ASPIRE = pytest.mark.skipif(not orientations.is_installed(), reason="ASPIRE is not installed")


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
        ({"images": np.ones((2, 8, 8))}, "at least 3 images are required, got 2"),
    ],
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        orientations.orientations_from_common_lines(**{"images": np.ones((3, 8, 8)), **options})
