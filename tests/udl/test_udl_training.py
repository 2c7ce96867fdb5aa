"""Training of aligners: improvement, history, resuming, errors."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_training import eagerly, uncompiled  # noqa: F401 (the first is a fixture)

from cryoem.training.compilation import TrainingSchedule
from cryoem.udl.rotation import joint_error_deg, wrap_angles
from cryoem.udl.synthetic import synthetic_set
from cryoem.udl.training import METHODS, AlignerOptions, train

SMALL_BATCHES = AlignerOptions(batch_size=32)


@uncompiled
@pytest.mark.parametrize("method", METHODS)
def test_training_has_a_history_and_does_not_use_the_truth(noisy, method):
    options = {"method": method, "options": SMALL_BATCHES, "schedule": TrainingSchedule(1, 1e-3)}
    watched = train(noisy.images, true_angles_rad=noisy.angles_rad, **options)
    blind = train(noisy.images, **options)
    assert {"loss", "val_loss", "val_error_deg", "seconds", "step"} <= set(watched.history)
    assert all(len(values) == 1 for values in watched.history.values())
    found = blind.aligner.angles(noisy.images)
    np.testing.assert_allclose(watched.aligner.angles(noisy.images), found, atol=1e-3)
    assert joint_error_deg(found, noisy.angles_rad) < 10
    assert (blind.aligner.reference is None) == (method == "udl")
    same = blind.aligner.between(noisy.images[:5], noisy.images[:5])
    assert np.abs(wrap_angles(same, np.pi)).max() < 1e-6  # no bias to calibrate


@pytest.mark.slow
def test_training_improves_on_its_start(average):
    particles = synthetic_set(average, 600, noise="clean", shift_limit_px=3, rng=3)
    pairs = train(
        particles.images,
        method="udl",
        options=AlignerOptions(batch_size=16, warm_start=False),
        schedule=TrainingSchedule(3, 3e-3),
        true_angles_rad=particles.angles_rad,
    )
    assert pairs.untrained["val_error_deg"] > 20
    assert pairs.history["val_error_deg"][-1] < 2
    assert pairs.history["val_loss"][-1] < 0.1 * pairs.untrained["val_loss"]


@uncompiled
def test_an_interrupted_training_resumes_with_the_same_numbers(noisy, tmp_path):
    images, options = noisy.images[:24], {"method": "udl", "options": SMALL_BATCHES}
    whole = train(images, schedule=TrainingSchedule(2, 1e-3), **options)
    stopped = TrainingSchedule(2, 1e-3, seconds=1e-9)
    train(images, schedule=stopped, checkpoints=tmp_path, **options)
    changes = (
        ({"method": "judl"}, "method"),
        ({"options": AlignerOptions(batch_size=16)}, "batch_size"),
        ({"rng": 1}, "rng"),
        ({"schedule": TrainingSchedule(2, 2e-3)}, "learning_rate"),
        ({"stack": images[::-1]}, "images"),
    )
    for change, name in changes:
        arguments = {"stack": images, "schedule": TrainingSchedule(2, 1e-3), **options, **change}
        with pytest.raises(ValueError, match=rf"different training.*\b{name}\b"):
            train(arguments.pop("stack"), checkpoints=tmp_path, **arguments)
    resumed = train(images, schedule=TrainingSchedule(2, 1e-3), checkpoints=tmp_path, **options)
    assert len(resumed.history["loss"]) == 2
    np.testing.assert_allclose(resumed.history["val_loss"], whole.history["val_loss"], rtol=1e-4)


def test_errors_name_the_argument_and_the_value(noisy):
    with pytest.raises(
        ValueError, match="method must be one of udl, judl, published-udl, published-judl, got 'magic'"
    ):
        train(noisy.images, method="magic")
    with pytest.raises(ValueError, match=r"true_angles_rad must have .*120.*, got 3"):
        train(noisy.images, true_angles_rad=np.zeros(3))
    with pytest.raises(ValueError, match="symmetry must be a cyclic group"):
        train(noisy.images, options=AlignerOptions(symmetry="D7"))
    with pytest.raises(ValueError, match="at least 4 images are required, got 3"):
        train(noisy.images[:3])
    with pytest.raises(ValueError, match=r"validation_fraction must be above 0 and at most 0.5, got 0.9"):
        AlignerOptions(validation_fraction=0.9)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 2, got 1"):
        AlignerOptions(batch_size=1)
