"""Stored encoders: they come back, and damaged ones are one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from interruptions import Interrupted, fail_at_call

from cryoem.siamese import (
    EncoderSettings,
    load_encoder,
    save_encoder,
)

ARCHITECTURES = ("polar", "published")


# --- storage


@pytest.fixture
def stored(tmp_path):
    settings = EncoderSettings(17, channels=8, blocks=2, feature_distance="cosine")
    keras.utils.set_random_seed(3)
    encoder = settings.build()
    path = tmp_path / "encoder.weights.h5"
    save_encoder(path, encoder, settings)
    return path, encoder, settings


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_encoder_comes_back(tmp_path, architecture, rng):
    settings = EncoderSettings(17, architecture=architecture, n_features=12, feature_distance="cosine")
    encoder = settings.build()
    save_encoder(tmp_path / "a.weights.h5", encoder, settings)
    assert {path.name for path in tmp_path.iterdir()} == {"a.weights.h5", "a.json"}
    again, same = load_encoder(str(tmp_path / "a.weights.h5"))
    assert same == settings
    images = rng.normal(size=(4, 17, 17)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(images, verbose=0), encoder.predict(images, verbose=0))


def test_the_suffix_of_a_stored_encoder_is_checked(tmp_path):
    settings = EncoderSettings(17, channels=8)
    for act in (lambda path: save_encoder(path, settings.build(), settings), load_encoder):
        with pytest.raises(ValueError, match=r"path must end in \.weights\.h5, got .*/encoder\.h5"):
            act(tmp_path / "encoder.h5")


@pytest.mark.parametrize("suffix", [".weights.h5", ".json"])
def test_a_missing_file_of_an_encoder_is_named(stored, suffix):
    path = stored[0]
    missing = path.with_name("encoder" + suffix)
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"no such file of an encoder: {missing}"):
        load_encoder(path)


@pytest.mark.parametrize("kept_share", [0, 0.02, 0.5, 0.999])
def test_damaged_weights_are_one_sentence(stored, kept_share):
    path = stored[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(kept_share * len(content))])
    expected = json.loads(path.with_name("encoder.json").read_text())["sha256"]
    message = (
        f"^{path} and its settings must have the sha256 {expected} written with them, got [0-9a-f]{{64}}$"
    )
    with pytest.raises(ValueError, match=message):
        load_encoder(path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "must hold JSON: Expecting value"),
        ("{", "must hold JSON: Expecting property name"),
        ("[]", r"must hold a JSON dictionary, got \[\]"),
        ("{}", "does not hold the settings of an encoder: 'settings'"),
        ('{"settings": null}', "does not hold the settings of an encoder: .* must be a mapping"),
        # as an older version wrote them
        (
            '{"image_size": 17, "channels": 8, "blocks": 2}',
            "does not hold the settings of an encoder: 'settings'",
        ),
    ],
)
def test_damaged_settings_are_one_sentence(stored, text, cause):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    settings_file.write_text(text)
    message = f"^{settings_file} {cause}"
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"color": 1}, "unexpected keyword argument 'color'"),
        ({"image_size": None}, "image_size must be a whole number of at least 8, got None"),
        ({"image_size": "17"}, "image_size must be a whole number of at least 8, got '17'"),
        ({"channels": "8"}, "channels must be a whole number of at least 1, got '8'"),
        (
            {"feature_distance": "dot"},
            "feature_distance must be one of kernel, cosine, euclidean, mlp, got 'dot'",
        ),
    ],
)
def test_impossible_settings_are_one_sentence(stored, change, cause):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    change_settings(settings_file, change)
    message = f"^{settings_file} does not hold the settings of an encoder: .*{cause}"
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


def test_settings_without_the_sum_of_their_weights_are_refused(stored):
    path = stored[0]
    settings_file = path.with_name("encoder.json")
    description = json.loads(settings_file.read_text())
    del description["sha256"]
    settings_file.write_text(json.dumps(description))
    message = f"^{settings_file} does not hold the settings of an encoder: .*sha256"
    with pytest.raises(ValueError, match=message):
        load_encoder(path)


def change_settings(settings_file: Path, change: dict) -> None:
    """Change some settings of a stored encoder; the sum of its weights stays."""
    description = json.loads(settings_file.read_text())
    description["settings"] |= change
    settings_file.write_text(json.dumps(description))


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # outside of tests a warning stops nothing
@pytest.mark.parametrize(
    "change",
    [{"channels": 12}, {"blocks": 1}, {"image_size": 16}, {"feature_distance": "kernel"}],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_weights_of_another_encoder_are_refused(stored, change):
    path = stored[0]
    change_settings(path.with_name("encoder.json"), change)
    with pytest.raises(ValueError, match=f"^{path} and its settings must have the sha256 ") as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)


def test_a_save_killed_between_its_two_files_mixes_no_encoders(stored, monkeypatch):
    """The weights fit the older settings in every shape, but were trained with another distance."""
    path, encoder, settings = stored
    before = encoder.get_weights()
    other = replace(settings, feature_distance="kernel")
    keras.utils.set_random_seed(4)
    newer = other.build()
    for failing in (1, 2):
        monkeypatch.setattr("cryoem.whole_files.os.replace", fail_at_call(failing))
        with pytest.raises(Interrupted):
            save_encoder(path, newer, other)
        monkeypatch.undo()
        if failing == 1:  # neither file was replaced
            again, same = load_encoder(path)
            assert same == settings
            for a, b in zip(again.get_weights(), before, strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(
        ValueError, match=f"^{path} and its settings must have the sha256 .* written with them, got "
    ):
        load_encoder(path)
    save_encoder(path, newer, other)
    assert load_encoder(path)[1] == other
