"""The choice between CPU and GPU, and what a GPU changes: precision and compilation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import (
    SETTINGS,
    eagerly,  # noqa: F401 (a fixture)
    other_settings,
    tiny_stream,
    tiny_training,
    tiny_validation,
    uncompiled,
)
from typer.testing import CliRunner

from cryoem import devices
from cryoem.cli import app
from cryoem.distances.trained import TrainedEncoder, load_encoder, save_encoder
from cryoem.distances.training import TrainingSchedule, train
from cryoem.projection import projectors
from cryoem.projection.projectors import resolve_backend
from cryoem.runs.execution import execute_notebook
from cryoem.training.compilation import computes_in_float16
from cryoem.udl.networks import build_polar_network, build_polar_pair_network
from cryoem.udl.spectra import polar_grid

FLOAT32 = 1e-5
FLOAT16 = 5e-3  # roundings to 11 bits, one per layer
CARD = SimpleNamespace(name="/physical_device:GPU:0")


@pytest.fixture
def gpus(monkeypatch):
    """Let the test set the devices that TensorFlow sees."""
    visible = []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(visible))
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda wanted, kind: visible.__setitem__(slice(None), wanted)
    )
    return visible


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Build networks as on a GPU, but compute on the CPU."""
    monkeypatch.setattr(devices, "gpus_of_tensorflow", lambda: [CARD.name])


def choose(monkeypatch, device: str | None) -> None:
    if device is None:
        monkeypatch.delenv(devices.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(devices.VARIABLE, device)


# --- Keras and TensorFlow as this package uses them

SETTINGS_USED = """
from cryoem.distances import build_encoder
from cryoem.training import keras
layer = build_encoder(24, channels=8).layers[-1]
import tensorflow as tf
tf.add(1, 2)
config = keras.config
print(keras.backend.backend(), config.floatx(), config.epsilon(), config.image_data_format(), layer.dtype_policy.name)
"""


def test_keras_json_changes_nothing_and_tensorflow_prints_nothing(tmp_path):
    chosen = {"floatx": "float16", "epsilon": 0.01, "backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(chosen))
    environment = {name: value for name, value in os.environ.items() if name != devices.LOG_LEVEL}
    environment.pop("KERAS_BACKEND", None)
    ended = subprocess.run(
        [sys.executable, "-c", SETTINGS_USED],
        env=environment | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "tensorflow float32 1e-07 channels_last float32\n"
    assert ended.stderr == ""


def test_only_log_messages_are_hidden_while_tensorflow_is_imported(monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "tensorflow")
    lines = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795736668.832542    1698 port.cc:153] oneDNN custom operations are on. You may",
        "E0000 00:00:1795736575.525869     580 cuda_platform.cc:52] failed call to cuInit: INTERNAL",
        "To enable the following instructions: AVX2 AVX512F, in other operations, rebuild TensorFlow",
        "W of another kind",
        "a message of another library",
    )
    for level, shown in (("3", lines[-2:]), ("0", lines)):
        monkeypatch.setenv(devices.LOG_LEVEL, level)
        with devices.quiet_import():
            os.write(2, "\n".join([*lines, ""]).encode())
        assert capfd.readouterr().err.splitlines() == list(shown)


def test_keras_is_imported_from_one_place():
    root = Path(devices.__file__).parents[1]
    sources = [
        *root.glob("cryoem/**/*.py"),
        *root.glob("benchmarks/*.py"),
        *root.glob("notebooks/**/*.ipynb"),
    ]
    assert len(sources) > 100
    pattern = re.compile(r'^\s*"?(import keras|from keras)\b', re.MULTILINE)
    found = {path for path in sources if pattern.search(path.read_text(encoding="utf-8"))}
    assert found == {root / "cryoem" / "training" / "backend.py"}


# --- the choice


@pytest.mark.parametrize(
    ("device", "names", "left"), [(None, [CARD.name], [CARD]), ("gpu", [CARD.name], [CARD]), ("cpu", [], [])]
)
def test_a_visible_gpu_is_used_unless_cpu_hides_it(monkeypatch, gpus, device, names, left):
    choose(monkeypatch, device)
    gpus[:] = [CARD]
    assert devices.gpus_of_tensorflow() == names
    assert gpus == left


def test_without_a_gpu_auto_is_the_cpu_and_gpu_is_refused(monkeypatch, gpus, tmp_path):
    choose(monkeypatch, None)
    assert devices.gpus_of_tensorflow() == []
    model = SETTINGS.build()
    assert not computes_in_float16(model)
    save_encoder(tmp_path / "encoder.weights.h5", TrainedEncoder(model, SETTINGS))
    choose(monkeypatch, "gpu")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: False)
    sentence = "^CRYOEM_DEVICE=gpu needs a GPU that TensorFlow can use, but none is visible$"
    for build in (SETTINGS.build, lambda: load_encoder(tmp_path / "encoder.weights.h5")):
        with pytest.raises(RuntimeError, match=sentence):
            build()
    with pytest.raises(RuntimeError, match=r"^CRYOEM_DEVICE=gpu needs astra-toolbox and a visible GPU"):
        resolve_backend("auto")
    assert resolve_backend("fourier") == "fourier"


def test_a_wrong_or_late_choice_is_one_sentence(monkeypatch, gpus):
    def refuse(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    choose(monkeypatch, "cpu")
    gpus[:] = [CARD]
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    with pytest.raises(
        RuntimeError, match=r"^CRYOEM_DEVICE=cpu must be set before TensorFlow is first used; it "
    ):
        SETTINGS.build()
    choose(monkeypatch, "cuda")
    with pytest.raises(ValueError, match=r"^CRYOEM_DEVICE must be one of auto, cpu, gpu, got 'cuda'$"):
        resolve_backend("auto")


@pytest.mark.parametrize(("device", "backend"), [("auto", "astra"), ("gpu", "astra"), ("cpu", "fourier")])
def test_projection_follows_the_choice(monkeypatch, device, backend):
    choose(monkeypatch, device)
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: True)
    assert resolve_backend("auto") == backend
    if device == "cpu":
        with pytest.raises(RuntimeError, match=r'^backend="astra" needs a GPU'):
            resolve_backend("astra")


def test_a_choice_lasts_as_long_as_its_block_and_reaches_notebooks(monkeypatch, tmp_path):
    source = "import os\nassert os.environ['CRYOEM_DEVICE'] == 'cpu'"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    choose(monkeypatch, None)
    with devices.device_chosen("cpu"):
        with devices.device_chosen(None):
            assert devices.chosen_device() == "cpu"
        execute_notebook(
            tmp_path / "a.ipynb",
            tmp_path / "b.ipynb",
            parameters={},
            environment={},
            title="a",
            progress=False,
        )
    assert devices.chosen_device() == "auto"


def test_the_option_of_a_command_is_the_choice(monkeypatch, tmp_path):
    choose(monkeypatch, "cpu")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: False)
    arguments = ["project", "phantom", "-n", "2", "--out", str(tmp_path / "images.star")]
    refused = CliRunner().invoke(app, [*arguments, "--device", "gpu"])
    assert refused.exit_code == 1
    assert "CRYOEM_DEVICE=gpu needs a" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    unknown = CliRunner().invoke(app, [*arguments, "--device", "cuda"])
    assert unknown.exit_code == 2


# --- what a GPU changes


def images_of(n: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 12, 12)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [{}, {"feature_distance": "mlp"}],
    ids=["polar", "mlp"],
)
def test_an_encoder_on_a_gpu_computes_in_float16_and_returns_float32(on_a_gpu, monkeypatch, changes):
    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        return other_settings(**changes).build()

    encoder = build()
    assert computes_in_float16(encoder)
    assert keras.config.dtype_policy().name == "float32"  # unchanged
    assert all(weight.dtype == "float32" for weight in encoder.weights)
    features = encoder(1e6 * images_of())  # above the float16 range
    assert features.dtype == "float32"
    monkeypatch.undo()
    plain = build()
    assert not computes_in_float16(plain)
    expected = plain(1e6 * images_of())
    assert 0 < np.abs(features - expected).max() < FLOAT16 * np.abs(expected).max()


def test_the_published_encoder_computes_in_float32(on_a_gpu):
    encoder = other_settings(architecture="published", n_features=None).build()
    assert not computes_in_float16(encoder)
    assert np.isfinite(encoder(1e6 * images_of())).all()  # above the float16 range


@uncompiled
def test_training_in_float16_is_near_that_in_float32_and_resumes(on_a_gpu, monkeypatch, tmp_path):
    encoder, history = tiny_training(epochs=2, seconds=1e-6, checkpoints=tmp_path)
    assert isinstance(encoder.model.optimizer, keras.optimizers.LossScaleOptimizer)
    _, resumed = tiny_training(epochs=2, checkpoints=tmp_path)
    monkeypatch.undo()
    _, expected = tiny_training(epochs=2)
    assert resumed["loss"][:1] == history["loss"]
    for name in ("step", "learning_rate", "loss", "val_loss", "distance_error_rad"):
        assert resumed[name] == pytest.approx(expected[name], rel=FLOAT16)
    with pytest.raises(
        ValueError, match=r"different training run \(precision 'mixed_float16' instead of 'float32'"
    ):
        tiny_training(epochs=2, checkpoints=tmp_path)


def test_a_policy_of_the_user_stays(on_a_gpu):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = SETTINGS.build()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in encoder.layers} >= {"bfloat16", "float32"}
    assert encoder(images_of()).dtype == "float32"


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_polar_network(polar_grid(32), seed=0),
        lambda: build_polar_pair_network(32, channels=8, blocks=1, dense=8, rng=0),
    ],
    ids=["polar", "natural"],
)
def test_networks_of_alignment_agree_in_float16(on_a_gpu, monkeypatch, rng, build):
    network = build()
    assert computes_in_float16(network)
    arrays = [rng.normal(size=(4, *tensor.shape[1:])).astype(np.float32) for tensor in network.inputs]
    inputs = arrays if len(arrays) > 1 else arrays[0]
    output = network(inputs)
    assert output.dtype == "float32"
    monkeypatch.undo()
    plain = build()
    plain.set_weights(network.get_weights())
    np.testing.assert_allclose(output, plain(inputs), atol=10 * FLOAT16)  # output is unit vectors


def test_steps_compiled_by_xla_are_the_plain_ones(monkeypatch):
    def build() -> TrainedEncoder:
        keras.utils.set_random_seed(0)
        return TrainedEncoder(SETTINGS.build(), SETTINGS)

    plain, compiled = build(), build()  # both in float32
    options = {"validation": tiny_validation(), "schedule": TrainingSchedule(1)}
    expected = train(plain, tiny_stream(), **options)
    monkeypatch.setattr(devices, "gpus_of_tensorflow", lambda: [CARD.name])
    history = train(compiled, tiny_stream(), **options)
    assert (plain.model.jit_compile, compiled.model.jit_compile) == (False, True)
    for name in ("loss", "val_loss", "distance_error_rad"):
        assert history[name] == pytest.approx(expected[name], rel=FLOAT32)
    np.testing.assert_allclose(compiled.model(images_of()), plain.model(images_of()), atol=FLOAT32)
