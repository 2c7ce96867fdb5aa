"""The switch between CPU and GPU, and what a GPU changes: precision and compilation."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from cryoem import devices
from cryoem.cli import app
from cryoem.compilation import computes_in_float16
from cryoem.pipeline.execution import execute_notebook
from cryoem.projectors import astra_gpu, resolve_backend
from cryoem.rotations import random_rotations
from cryoem.siamese import ProjectionStream, build_encoder, load_encoder, save_encoder, train
from cryoem.siamese.prediction import EncoderSettings
from cryoem.udl.natural_network import build_polar_pair_network
from cryoem.udl.network import build_polar_network
from cryoem.udl.published import build_pair_network
from cryoem.udl.spectra import polar_grid
from cryoem.volumes import phantom

FLOAT32 = 1e-5
FLOAT16 = 5e-3  # some roundings to 11 bits, one in every layer
SIZE = 16


@pytest.fixture
def gpus(monkeypatch):
    """TensorFlow's visible devices, where the test says which; as it has them until it first computes."""
    visible = []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(visible))
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda wanted, kind: visible.__setitem__(slice(None), wanted)
    )
    return visible


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Networks are built as on a GPU, and compute here."""
    monkeypatch.setattr(devices, "gpus_of_tensorflow", lambda: ["/physical_device:GPU:0"])


def switch(monkeypatch, device: str | None) -> None:
    if device is None:
        monkeypatch.delenv(devices.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(devices.VARIABLE, device)


CARD = SimpleNamespace(name="/physical_device:GPU:0")


# --- the switch


@pytest.mark.parametrize("device", [None, "auto", "gpu"])
def test_a_visible_gpu_is_used(monkeypatch, gpus, device):
    switch(monkeypatch, device)
    gpus[:] = [CARD]
    assert devices.gpus_of_tensorflow() == [CARD.name]
    assert gpus == [CARD]


def test_cpu_hides_a_gpu_from_tensorflow(monkeypatch, gpus):
    switch(monkeypatch, "cpu")
    gpus[:] = [CARD]
    assert devices.gpus_of_tensorflow() == []
    assert gpus == []


def test_cpu_too_late_is_one_sentence(monkeypatch, gpus):
    def refuse(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    switch(monkeypatch, "cpu")
    gpus[:] = [CARD]
    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    with pytest.raises(
        RuntimeError, match=r"^CRYOEM_DEVICE=cpu must be set before TensorFlow is first used, and it "
    ):
        build_encoder(SIZE)


def test_auto_without_a_gpu_is_the_cpu(monkeypatch, gpus):
    switch(monkeypatch, None)
    assert devices.gpus_of_tensorflow() == []
    assert not computes_in_float16(build_encoder(SIZE, channels=4, blocks=1, n_features=9))


def test_gpu_without_one_is_refused(monkeypatch, gpus, tmp_path):
    settings = EncoderSettings(SIZE, channels=4, blocks=1, n_features=9)
    save_encoder(tmp_path / "encoder.weights.h5", settings.build(), settings)
    switch(monkeypatch, "gpu")
    monkeypatch.setattr(astra_gpu, "is_usable", lambda: False)
    sentence = "^CRYOEM_DEVICE=gpu needs a GPU that TensorFlow can use, and none is visible here$"
    for build in (settings.build, lambda: load_encoder(tmp_path / "encoder.weights.h5")):
        with pytest.raises(RuntimeError, match=sentence):
            build()
    with pytest.raises(
        RuntimeError, match=r"^CRYOEM_DEVICE=gpu needs astra-toolbox and a visible GPU, and none"
    ):
        resolve_backend("auto")
    assert resolve_backend("fourier") == "fourier"  # whoever names a backend means it


@pytest.mark.parametrize(("device", "backend"), [("auto", "astra"), ("gpu", "astra"), ("cpu", "fourier")])
def test_projection_follows_the_switch(monkeypatch, device, backend):
    switch(monkeypatch, device)
    monkeypatch.setattr(astra_gpu, "is_usable", lambda: True)
    assert resolve_backend("auto") == backend


def test_astra_is_refused_where_the_switch_says_cpu(monkeypatch):
    switch(monkeypatch, "cpu")
    monkeypatch.setattr(astra_gpu, "is_usable", lambda: True)
    with pytest.raises(
        RuntimeError, match=r'^backend="astra" needs a GPU, and CRYOEM_DEVICE=cpu forbids one$'
    ):
        resolve_backend("astra")


def test_another_word_is_refused(monkeypatch):
    switch(monkeypatch, "cuda")
    with pytest.raises(ValueError, match=r"^CRYOEM_DEVICE must be one of auto, cpu, gpu, got 'cuda'$"):
        resolve_backend("auto")


def test_a_choice_lasts_as_long_as_its_block(monkeypatch):
    switch(monkeypatch, None)
    with devices.device_chosen("cpu"):
        assert devices.chosen_device() == "cpu"
        with devices.device_chosen(None):
            assert devices.chosen_device() == "cpu"
    assert devices.chosen_device() == "auto"


def test_the_option_of_a_command_sets_the_switch(monkeypatch, tmp_path):
    switch(monkeypatch, "cpu")
    monkeypatch.setattr(astra_gpu, "is_usable", lambda: False)
    arguments = ["project", "phantom", "-n", "2", "--out", str(tmp_path / "images.star")]
    refused = CliRunner().invoke(app, [*arguments, "--device", "gpu"])
    assert (refused.exit_code, refused.stderr[:33]) == (1, "cryoem: CRYOEM_DEVICE=gpu needs a")
    assert list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(app, arguments).exit_code == 0
    unknown = CliRunner().invoke(app, [*arguments, "--device", "cuda"])
    assert unknown.exit_code == 2
    assert "must be one of auto, cpu, gpu, got 'cuda'" in unknown.stderr


def test_the_switch_reaches_the_kernels_of_notebooks(tmp_path):
    source = "import os\nassert os.environ['CRYOEM_DEVICE'] == 'cpu'"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    with devices.device_chosen("cpu"):
        execute_notebook(
            tmp_path / "a.ipynb",
            tmp_path / "b.ipynb",
            parameters={},
            environment={},
            title="a",
            progress=False,
        )


# --- what a GPU changes


def small_encoder(**options) -> keras.Model:
    keras.utils.set_random_seed(0)
    defaults = {"channels": 8, "blocks": 1} if options.get("architecture") != "published" else {}
    return build_encoder(SIZE, **(defaults | options))


def small_stream() -> ProjectionStream:
    return ProjectionStream(
        phantom(size=SIZE),
        image_size=SIZE,
        network_image_size=SIZE,
        batch_size=8,
        steps=2,
        noise_variance=0.5,
    )


def held_out(n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, SIZE, SIZE)).astype(np.float32), random_rotations(n, rng=2).as_quat()


@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, "kernel"), ({"pair_head": True}, "mlp"), ({"architecture": "published"}, "cosine")],
)
def test_an_encoder_on_a_gpu_computes_in_float16_and_answers_in_float32(on_a_gpu, monkeypatch, options, kind):
    encoder = small_encoder(**options)
    assert computes_in_float16(encoder)
    assert keras.config.dtype_policy().name == "float32"  # as it was
    assert all(weight.dtype == "float32" for weight in encoder.weights)
    images, _ = held_out()
    features = encoder(1e6 * images)  # more than float16 holds
    assert features.dtype == "float32"
    monkeypatch.undo()
    plain = small_encoder(**options)
    assert not computes_in_float16(plain)
    expected = plain(1e6 * images)
    assert 0 < np.abs(features - expected).max() < FLOAT16 * np.abs(expected).max()


def test_training_in_float16_is_near_that_in_float32(on_a_gpu, monkeypatch):
    encoder = small_encoder()
    before = encoder.get_weights()
    history = train(encoder, small_stream(), epochs=1, validation=held_out())
    assert isinstance(encoder.optimizer, keras.optimizers.LossScaleOptimizer)
    assert all(not np.array_equal(a, b) for a, b in zip(before, encoder.get_weights(), strict=True))
    monkeypatch.undo()
    expected = train(small_encoder(), small_stream(), epochs=1, validation=held_out())
    assert history["step"] == expected["step"]
    assert history["learning_rate"] == expected["learning_rate"]
    for name in ("loss", "val_loss", "distance_error_rad"):
        assert history[name] == pytest.approx(expected[name], rel=FLOAT16)


def test_checkpoints_of_another_precision_are_refused(on_a_gpu, monkeypatch, tmp_path):
    options = {"epochs": 2, "validation": held_out(), "checkpoints": tmp_path}
    history = train(small_encoder(), small_stream(), seconds=1e-6, **options)
    assert len(history["loss"]) == 1
    assert len(train(small_encoder(), small_stream(), **options)["loss"]) == 2
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of another training, with precision 'mixed_float16' and not None"):
        train(small_encoder(), small_stream(), **options)


def test_a_policy_that_was_set_otherwise_stays(on_a_gpu):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = small_encoder()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in encoder.layers} >= {"bfloat16", "float32"}
    assert encoder(held_out()[0]).dtype == "float32"


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: build_polar_network(polar_grid(32), seed=0), ["spectra"]),
        (lambda: build_pair_network(32, filters=(4, 8), dense=(8,), rng=0), ["first", "second"]),
        (
            lambda: build_pair_network(32, filters=(4, 8), dense=(8,), correlation=True, rng=0),
            ["first", "second"],
        ),
        (lambda: build_polar_pair_network(32, channels=8, blocks=1, dense=8, rng=0), ["first", "second"]),
    ],
    ids=["polar", "published", "correlation", "natural"],
)
def test_networks_of_alignment_answer_alike_in_float16(on_a_gpu, monkeypatch, rng, build, inputs):
    network = build()
    assert computes_in_float16(network)
    arrays = [rng.normal(size=(4, *tensor.shape[1:])).astype(np.float32) for tensor in network.inputs]
    answer = network(arrays if len(inputs) > 1 else arrays[0])
    assert answer.dtype == "float32"
    monkeypatch.undo()
    plain = build()
    plain.set_weights(network.get_weights())
    expected = plain(arrays if len(inputs) > 1 else arrays[0])
    np.testing.assert_allclose(answer, expected, atol=10 * FLOAT16)  # of unit vectors


def test_steps_compiled_by_xla_are_the_plain_ones(monkeypatch):
    plain, compiled = small_encoder(), small_encoder()  # both in float32
    options = {"epochs": 1, "validation": held_out()}
    expected = train(plain, small_stream(), **options)
    monkeypatch.setattr(devices, "gpus_of_tensorflow", lambda: [CARD.name])
    history = train(compiled, small_stream(), **options)
    assert (plain.jit_compile, compiled.jit_compile) == (False, True)
    for name in ("loss", "val_loss", "distance_error_rad"):
        assert history[name] == pytest.approx(expected[name], rel=FLOAT32)
    np.testing.assert_allclose(compiled(held_out()[0]), plain(held_out()[0]), atol=FLOAT32)
