"""Profiles and their settings: names, sizes, types, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from cryoem import pipeline, volumes


def test_profiles_know_their_names_and_the_paper_its_sizes():
    assert all(pipeline.get_profile(name).name == name for name in ("quick", "paper", "toy"))
    paper = pipeline.get_profile("paper")
    assert (paper.n_validation, paper.n_test) == (838, 1650)
    box_of_5j0n = volumes.DensityMap(np.zeros((69, 57, 75)), 3.667)
    assert paper.image_size is None  # then what holds the map, 116 px for the paper's
    assert volumes.enclosing_image_size(box_of_5j0n) == 116


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("fast", {}, "profile must be one of quick, paper, toy, got 'fast'"),
        ("toy", {"steps": 3}, "a profile has no setting 'steps', only seed, "),
        ("toy", {"name": "x"}, "a profile has no setting 'name', only seed, "),
        ("toy", {"training_epochs": "many"}, "training_epochs must be int, got 'many'"),
        ("toy", {"training_epochs": 0}, "training_epochs must be at least 1, got 0"),
        ("toy", {"training_epochs": True}, "training_epochs must be int, got True"),
        ("toy", {"noise_variance": float("nan")}, "noise_variance must be finite, got nan"),
        ("toy", {"noise_variance": -1}, "noise_variance must be at least 0, got -1.0"),
        ("toy", {"landmarks": 1.5}, "landmarks must be int or None, got 1.5"),
        ("toy", {"architecture": "large"}, "architecture must be one of polar, published, got 'large'"),
    ],
)
def test_wrong_profiles_are_one_sentence(name, overrides, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        pipeline.get_profile(name, **overrides)
    assert str(caught.value).startswith(message)


def test_overrides_take_the_type_of_the_setting():
    profile = pipeline.get_profile("toy", noise_variance=16, training_seconds=None)
    assert (profile.noise_variance, type(profile.noise_variance)) == (16.0, float)
    assert profile.training_seconds is None


def test_settings_are_read_from_text():
    assert pipeline.parse_setting("training_epochs=12") == ("training_epochs", 12)
    assert pipeline.parse_setting("noise_variance=16") == ("noise_variance", 16.0)
    assert pipeline.parse_setting("training_seconds=none") == ("training_seconds", None)
    assert pipeline.parse_setting("recovery_method=sgd") == ("recovery_method", "sgd")
    for text, message in (
        ("seed", "must be given as name=value, got 'seed'"),
        ("steps=3", "no setting 'steps'"),
        ("seed=one", "seed must be int, got 'one'"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.parse_setting(text)


def test_a_path_of_a_map_is_made_absolute_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "particle.mrc").write_bytes(b"map")
    assert pipeline.get_profile("toy", map_name="particle.mrc").map_name == str(tmp_path / "particle.mrc")
    assert pipeline.get_profile("toy", map_name="5j0n").map_name == "5j0n"
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/other.mrc"):
        pipeline.get_profile("toy", map_name="other.mrc")
