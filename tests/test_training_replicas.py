"""Training on two devices gives the same losses, metrics, weights and checkpoints as on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FLOAT32 = 1e-5  # several thousand operations in single precision, summed in a different order
FLOAT16 = 2e-3  # several roundings to 11 bits
OF_THE_WAY = 0.02  # where a gradient cancels, Adam still takes a step, determined by rounding errors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """The report of ``two_devices.py``, from a process in which TensorFlow has two devices."""
    folder = tmp_path_factory.mktemp("two-devices")
    script = Path(__file__).with_name("two_devices.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder / "report.json"), str(folder / "checkpoints")],
        env=os.environ | {"PYTHONPATH": str(script.parents[1]), "CRYOEM_DEVICE": "auto"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads((folder / "report.json").read_text())


def assert_same_history(one: dict, two: dict, *, tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name in one.keys() - {"seconds"}:
        assert two[name] == pytest.approx(one[name], rel=tolerance), name


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", FLOAT32), ("float16", FLOAT16)])
def test_two_devices_train_as_one(report, kind, tolerance):
    found = report[kind]
    assert found["start"] == 0  # the same initial weights
    assert_same_history(*found["history"], tolerance=tolerance)
    assert found["went"] > 1e-3
    assert found["apart"] < OF_THE_WAY * found["went"]
    assert found["features_apart"] < tolerance


def test_aligners_train_on_two_devices_as_on_one_and_resume_to_the_same_numbers(report):
    found = report["aligners"]
    assert_same_history(*found["history"], tolerance=FLOAT32)
    assert_same_history(*found["untrained"], tolerance=FLOAT32)
    assert found["apart"] < OF_THE_WAY * found["rate"]
    assert len(found["loss"][0]) == 2
    assert found["loss"][0] == found["loss"][1]


def test_batches_that_cannot_be_shared_equally_are_refused(report):
    sentence = "{} must be divisible by the number of replicas of the model (2), got {}"
    assert report["odd batch"] == sentence.format("batch_size", 7)
    assert report["odd validation"] == sentence.format("the number of validation images", 13)
