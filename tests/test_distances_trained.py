"""Saved encoders are restored, and damaged files raise a single sentence."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from interruptions import Interrupted, fail_at_call

from cryoem.distances.trained import EncoderSettings, TrainedEncoder, load_encoder, save_encoder


@pytest.fixture(scope="module")
def encoder():
    settings = EncoderSettings(17, channels=8, blocks=2, feature_distance="cosine")
    keras.utils.set_random_seed(3)
    return TrainedEncoder(settings.build(), settings)


@pytest.fixture
def stored(tmp_path, encoder):
    save_encoder(tmp_path / "encoder.weights.h5", encoder)
    return tmp_path / "encoder.weights.h5"


def message_of(path) -> str:
    with pytest.raises(ValueError, match="encoder") as caught:
        load_encoder(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes", [{}, {"architecture": "published", "n_features": 12}, {"feature_distance": "mlp"}]
)
def test_an_encoder_comes_back_from_disk_and_from_a_pickle(tmp_path, encoder, changes, rng):
    settings = replace(encoder.settings, **changes)
    encoder = TrainedEncoder(settings.build(), settings)
    save_encoder(tmp_path / "a.weights.h5", encoder)
    assert {path.name for path in tmp_path.iterdir()} == {"a.weights.h5", "a.json"}
    images = rng.normal(size=(4, 17, 17)).astype(np.float32)
    expected = encoder.model.predict(images, verbose=0)
    for again in (load_encoder(str(tmp_path / "a.weights.h5")), pickle.loads(pickle.dumps(encoder))):
        assert again.settings == settings
        np.testing.assert_array_equal(again.model.predict(images, verbose=0), expected)
        for a, b in zip(again.model.get_weights(), encoder.model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_wrong_name_and_a_missing_file_are_one_sentence(stored, encoder):
    for act in (lambda path: save_encoder(path, encoder), load_encoder):
        with pytest.raises(ValueError, match=r"path must end in \.weights\.h5, got .*/encoder\.h5"):
            act(stored.with_name("encoder.h5"))
    for missing in (stored.with_name("encoder.json"), stored):
        missing.unlink()
        with pytest.raises(FileNotFoundError, match=f"^encoder file not found: {missing}$"):
            load_encoder(stored)


def test_settings_that_are_damaged_or_of_another_encoder_are_one_sentence(stored):
    """See ``test_damaged_files`` for other kinds of damage."""
    settings_file = stored.with_name("encoder.json")
    description = json.loads(settings_file.read_text())
    wrong = "does not contain encoder settings: "
    for text, cause in {
        "{}": f"{wrong}'settings'",
        '{"settings": {"image_size": 17}}': f"{wrong}'sha256'",
        '{"settings": {"color": 1}, "sha256": ""}': f"{wrong}EncoderSettings",
        '{"settings": {"image_size": 17, "feature_distance": "x"}, "sha256": ""}': f"{wrong}feature_distance must",
    }.items():
        settings_file.write_text(text)
        assert message_of(stored).startswith(f"{settings_file} {cause}")
    for change in ({"channels": 12}, {"image_size": "17"}, {"feature_distance": "kernel"}):
        settings_file.write_text(json.dumps(description | {"settings": description["settings"] | change}))
        sentence = f"{stored} or its settings are damaged or belong to a different encoder: expected sha256 "
        assert message_of(stored).startswith(sentence + description["sha256"])


def test_a_save_killed_between_its_two_files_mixes_no_encoders(stored, encoder, monkeypatch):
    """The shapes of the new weights fit the old settings, but they were trained with a different distance."""
    settings = replace(encoder.settings, feature_distance="kernel")
    keras.utils.set_random_seed(4)
    newer = TrainedEncoder(settings.build(), settings)
    for failing in (1, 2):
        monkeypatch.setattr("cryoem.files.writing.os.replace", fail_at_call(failing))
        with pytest.raises(Interrupted):
            save_encoder(stored, newer)
        monkeypatch.undo()
        if failing == 1:  # neither file was replaced
            assert load_encoder(stored).settings == encoder.settings
    assert "or belong to a different encoder" in message_of(stored)
    save_encoder(stored, newer)
    assert load_encoder(stored).settings == settings
