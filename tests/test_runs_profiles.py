"""Profiles and their settings: values, types, ranges and errors."""

from __future__ import annotations

import numpy as np
import pytest

from cryoem import runs, volumes
from cryoem.runs.profiles import described_settings


def test_the_paper_profile_has_the_sizes_of_the_paper():
    assert all(runs.get_profile(name).name == name for name in ("quick", "paper", "toy"))
    paper = runs.get_profile("paper")
    assert (paper.n_validation, paper.n_test) == (838, 1650)
    box_of_5j0n = volumes.DensityMap(np.zeros((69, 57, 75)), 3.667)
    assert paper.image_size is None  # the map determines it: 116 px for the paper's
    assert volumes.enclosing_image_size(box_of_5j0n) == 116


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("fast", {}, "profile must be one of quick, paper, toy, got 'fast'"),
        ("toy", {"steps": 3}, "unknown setting 'steps'; did you mean 'steps_per_epoch'?"),
        ("toy", {"name": "x"}, "unknown setting 'name'; did you mean 'map_name'?"),
        ("toy", {"colour": 1}, "unknown setting 'colour'; `cryoem settings` lists all settings"),
        ("toi", {}, "profile must be one of quick, paper, toy, got 'toi'; did you mean 'toy'?"),
        (
            "toy",
            {"leave_out_outliers": True},
            "leave_out_outliers applies only to measured particles, got True",
        ),
        ("toy", {"training_epochs": "many"}, "training_epochs must be a valid integer, got 'many'"),
        ("toy", {"training_epochs": 0}, "training_epochs must be greater than or equal to 1, got 0"),
        ("toy", {"training_epochs": True}, "training_epochs must be a valid integer, got True"),
        ("toy", {"noise_variance": float("nan")}, "noise_variance must be a finite number, got nan"),
        ("toy", {"noise_variance": -1}, "noise_variance must be greater than or equal to 0, got -1"),
        (
            "toy",
            {"landmarks": 40, "recovery_method": "sgd"},
            "recovery_method sgd requires the distances between all pairs, so landmarks must be None, got 40",
        ),
        (
            "toy",
            {"symmetry": "D2", "recovery_method": "sgd"},
            "symmetry must be C1 for recovery_method sgd, got D2",
        ),
        (
            "toy",
            {"n_test": 10_001, "recovery_method": "published"},
            "recovery_method published requires the distances between all pairs, which are estimated for at most "
            "10,000 images, got 10,001 images; use fewer, or spectral+gauss_newton",
        ),
        ("toy", {"landmarks": 1.5}, "landmarks must be a valid integer, got 1.5"),
        ("toy", {"architecture": "large"}, "architecture must be 'polar' or 'published', got 'large'"),
        (
            "toy",
            {"ctf": True, "reconstruction_method": "cgls"},
            "reconstruction_method must be fourier if ctf is true, got cgls",
        ),
        (
            "toy",
            {"refine_ctf": True},
            "refine_ctf requires images with a CTF, so ctf must be true, got False",
        ),
        ("toy", {"n_particles": 20}, "n_particles applies only to measured particles, got 20"),
    ],
)
def test_wrong_profiles_are_one_sentence(name, overrides, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the full message is compared
        runs.get_profile(name, **overrides)
    assert str(caught.value) == message


def test_measured_particles_may_be_off_centre(tmp_path):
    job = {"map_name": None, "orientation_method": "ab_initio", "particles": str(tmp_path / "job.star")}
    assert runs.get_profile("toy").shift_limit_of(100) == 0
    # a triangular distribution with a standard deviation of 3 px
    assert runs.get_profile("toy", **job).shift_limit_of(100) == pytest.approx(7.348, abs=1e-3)
    for limit in (0, 20):
        assert runs.get_profile("toy", **job, shift_limit_px=limit).shift_limit_of(100) == limit
    with pytest.raises(ValueError, match="must be 0 for architecture published, got the default of 7 %"):
        runs.get_profile("toy", **job, architecture="published")


def test_large_stacks_use_landmarks_unless_the_number_is_set():
    assert [runs.get_profile("quick").landmarks_of(n) for n in (10_000, 10_001, 50_000)] == [None, 1000, 1000]
    assert [runs.get_profile("quick", landmarks=40).landmarks_of(n) for n in (100, 50_000)] == [40, 40]
    with pytest.raises(ValueError, match="landmarks must be at most 39, the number of images, got 40"):
        runs.get_profile("quick", landmarks=40).landmarks_of(39)


@pytest.mark.parametrize(
    ("symmetry", "landmarks"), [("D4", 1000), ("O", 1000), ("C5", 1953), ("C7", 5359), ("C40", 20_000)]
)
def test_symmetric_particles_have_enough_landmarks(symmetry, landmarks):
    assert runs.get_profile("quick", symmetry=symmetry).landmarks_of(20_000) == landmarks


def test_overrides_take_the_type_of_the_setting():
    profile = runs.get_profile("toy", noise_variance=16, training_seconds=None)
    assert (profile.noise_variance, type(profile.noise_variance)) == (16.0, float)
    assert profile.training_seconds is None


def test_settings_are_read_from_text():
    assert runs.parse_setting("training_epochs=12") == ("training_epochs", 12)
    assert runs.parse_setting("noise_variance=16") == ("noise_variance", 16.0)
    assert runs.parse_setting("training_seconds=none") == ("training_seconds", None)
    assert runs.parse_setting("recovery_method=sgd") == ("recovery_method", "sgd")
    for text, message in (
        ("seed", "must have the form name=value, got 'seed'"),
        ("steps=3", "unknown setting 'steps'"),
        ("seed=one", "seed must be a valid integer, got 'one'"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.parse_setting(text)


def test_settings_are_described_with_their_range_and_values():
    described = described_settings()
    assert "name" not in described
    assert described["batch_size"] == {
        "meaning": "images per training step; at least 2",
        "quick": 32,
        "paper": 128,
        "toy": 32,
    }
    assert described["architecture"]["meaning"] == "encoder architecture: polar, published"


def test_the_path_of_a_map_becomes_absolute_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "particle.mrc").write_bytes(b"map")
    assert runs.get_profile("toy", map_name="particle.mrc").map_name == str(tmp_path / "particle.mrc")
    assert runs.get_profile("toy", map_name="5j0n").map_name == "5j0n"
    with pytest.raises(FileNotFoundError, match=f"the path of a map; {tmp_path}/other.mrc does not exist"):
        runs.get_profile("toy", map_name="other.mrc")
