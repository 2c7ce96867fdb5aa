"""The loss of the published pair network and its joint term; training; the aligner; errors."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiny_training import eagerly, uncompiled  # noqa: F401 (the first is a fixture)

from cryoem.training.compilation import TrainingSchedule, compile_network
from cryoem.udl.aligner import align, save_aligner
from cryoem.udl.networks import build_polar_pair_network, rotated
from cryoem.udl.pairs import (
    ObjectiveBatches,
    PairObjective,
    PairStream,
    natural_draw,
    train_pairs,
    training_model,
)
from cryoem.udl.published import (
    build_autoencoder,
    build_pair_network,
    difference_loss,
    log_spectra,
    published_optimizer,
    unit_range,
)
from cryoem.udl.published_training import (
    METHODS,
    DifferencePairs,
    PublishedAligner,
    PublishedOptions,
    ReconstructionError,
    difference_model,
    image_network,
)
from cryoem.udl.rotation import angle_errors_deg, joint_error_deg, rotate_images
from cryoem.udl.training import AlignerOptions, train

FLOAT32 = 1e-5
SIZE = 16
SMALL = PublishedOptions(channels_divisor=16, batch_size=8)
SHORT = TrainingSchedule(1, 1e-3)


def bars(n: int, rng, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Displaced bars and their angles, rad."""
    rng = np.random.default_rng(rng)
    angles, shifts = rng.uniform(0, 2 * np.pi, n), rng.uniform(-1, 1, (n, 2))
    axis = np.arange(size) - size // 2
    x, y = axis - shifts[:, 0, None, None], axis[:, None] - shifts[:, 1, None, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    along, across = cos * x + sin * y, cos * y - sin * x
    return np.exp(-0.5 * (along / 4) ** 2 - 0.5 * across**2).astype(np.float32), angles


@pytest.fixture(scope="module")
def images():
    return bars(40, 1)


# --- loss


def test_the_loss_is_lowest_at_the_true_difference_modulo_the_period():
    true, start = 100.0, 40.0
    for period, minima in ((180.0, {100.0, 280.0}), (360.0, {100.0})):
        changes = np.arange(0.0, 310.0, 5)
        losses = [
            float(
                difference_loss(
                    np.array([true], np.float32), ops.array([[start, start + c]]), period_deg=period
                )
            )
            for c in changes
        ]
        assert {float(c) for c, loss in zip(changes, losses, strict=True) if loss < 1e-3} == minima
    # the loss is that of the difference modulo 360, and jumps where it wraps
    at = [[[0.0, 359.9]], [[0.0, 0.1]]]
    jump, none = (
        float(difference_loss(np.array([0.1], np.float32), ops.array(x), period_deg=180.0)) for x in at
    )
    assert jump == pytest.approx(179.8, abs=1e-3)
    assert none == pytest.approx(0, abs=1e-3)


def test_margins_keep_answers_between_0_and_360():
    def loss(*answers):
        return float(difference_loss(np.zeros(1, np.float32), ops.array([answers]), period_deg=180.0))

    assert loss(50.0, 50.0) == pytest.approx(0, abs=1e-3)
    assert loss(-7.0, -7.0) == pytest.approx(14, abs=1e-3)
    assert loss(365.0, 365.0) == pytest.approx(10, abs=1e-3)


class Compass(layers.Layer):
    """Orientation of bars, degrees modulo 180, from the second moments of their spectra."""

    def call(self, spectra):
        axis = np.arange(SIZE, dtype="float32") - SIZE // 2
        weight = ops.where(np.hypot(axis[:, None], axis) < SIZE / 2 - 1, ops.power(spectra, 4), 0.0)
        x, y = axis[None, None], axis[None, :, None]
        sums = [ops.sum(weight * moment, axis=(1, 2)) for moment in (2 * x * y, x * x - y * y)]
        return (ops.arctan2(*sums) * (90 / np.pi))[:, None]


@pytest.fixture(scope="module")
def compass():
    """A pair network that answers by rule: the exact angle plus 200 degrees."""
    inputs = [keras.Input((SIZE, SIZE), name=name) for name in ("first", "second")]
    first, second = (Compass()(x) for x in inputs)
    return image_network(keras.Model(inputs, first - second + 200.0))


def test_an_equivariant_network_fulfils_the_pseudo_labels(images, compass):
    stack, angles = images
    pairs = np.stack([np.arange(40), np.roll(np.arange(40), -1)], axis=1)
    batches = DifferencePairs(stack, pairs, 40, joint=False, seed=3)
    inputs, targets = batches[0]
    answers = difference_model(compass)(list(inputs))["differences"]
    rest = np.asarray(answers)[:, 1] - np.asarray(answers)[:, 0] - targets["differences"]
    assert angle_errors_deg(np.radians(rest), 0 * rest, periods=2).mean() < 3  # bilinear interpolation
    wrong = np.asarray(answers)[:, 1] - np.asarray(answers)[:, 0] + targets["differences"]
    assert angle_errors_deg(np.radians(wrong), 0 * rest, periods=2).mean() > 20
    # an aligner with this network has the sign of ours, and its bias without the truth
    plain = PublishedAligner(compass, stack, 0.0, METHODS[0])
    same = plain.between(stack, stack)
    assert angle_errors_deg(same, np.full(40, np.radians(-200)), periods=2).max() < 0.1
    aligner = PublishedAligner(compass, stack, np.radians(-200), METHODS[0])
    assert angle_errors_deg(aligner.angles(stack), angles - angles[0], periods=2).mean() < 3
    between = aligner.between(stack[:-1], stack[1:])
    assert angle_errors_deg(between, np.diff(angles), periods=2).mean() < 3
    # it registers images, as any other
    assert joint_error_deg(align(stack, aligner).angles_rad, angles) < 3


def test_the_joint_term_rotates_the_second_onto_the_first(images, compass):
    stack = images[0][:8]
    found = np.asarray(compass([np.repeat(stack[:1], 8, axis=0), stack])) - 200.0
    spectra = np.asarray(log_spectra(unit_range(stack)))
    aligned = np.asarray(rotated(spectra, np.radians(found).astype(np.float32), mirrored=True))
    assert aligned.var(axis=0).mean() < 0.3 * spectra.var(axis=0).mean()


def test_mirrored_borders_continue_the_image(rng):
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.float32), (1, SIZE, SIZE))
    quarter = np.asarray(rotated(ramp, np.full((1, 1), np.pi / 4, np.float32), mirrored=True))
    inside = rotate_images(ramp, [np.pi / 4])
    np.testing.assert_allclose(quarter[0, 5:12, 5:12], inside[0, 5:12, 5:12], atol=0.1)
    nearest = np.asarray(rotated(ramp, np.full((1, 1), np.pi / 4, np.float32)))
    assert nearest.max() == SIZE - 1
    assert quarter[0, 8, -1] == pytest.approx(nearest[0, 8, -1], abs=1e-3)
    assert np.abs(quarter - nearest).max() > 1


def test_aligned_spectra_are_easier_to_reconstruct(images):
    stack, angles = images
    spectra = np.asarray(log_spectra(unit_range(stack)))
    others = np.random.default_rng(0).uniform(0, 2 * np.pi, 40)
    errors = []
    for rotations in (-angles, others):  # the same interpolation
        turned = np.asarray(rotated(spectra, rotations[:, None].astype(np.float32), mirrored=True))
        autoencoder = build_autoencoder(SIZE, rng=0)
        autoencoder.compile(keras.optimizers.Adam(1e-2), loss="mse")
        for _ in range(60):
            autoencoder.train_on_batch(turned, turned)
        joint = ReconstructionError(autoencoder)
        joint.weight.assign(20.0)
        errors.append(float(ops.mean(joint(turned, training=True))))
    assert errors[0] < 0.9 * errors[1]


# --- training


@uncompiled
@pytest.mark.parametrize("method", METHODS)
def test_one_epoch_has_a_history_and_does_not_use_the_truth(images, method):
    stack, angles = images
    options = {"method": method, "options": SMALL, "schedule": SHORT}
    watched = train(stack[:18], true_angles_rad=angles[:18], **options)
    blind = train(stack[:18], **options)
    names = {"loss", "val_loss", "bias_deg", "val_error_deg", "val_error_true_bias_deg", "seconds", "step"}
    assert names <= set(watched.history)
    assert ("joint_loss" in watched.history) == (method == "published-judl")
    assert {"val_loss", "bias_deg", "val_error_deg"} <= set(watched.untrained)
    assert "val_error_deg" not in blind.history
    found = blind.aligner.angles(stack)
    np.testing.assert_allclose(watched.aligner.angles(stack), found, atol=1e-3)
    assert found.min() >= 0
    assert found.max() < np.pi
    same = blind.aligner.between(stack[:16], stack[:16])  # training images
    assert abs(np.angle(np.exp(2j * same).mean())) < 0.05  # the bias
    assert blind.aligner.epochs == 1


@uncompiled
def test_joint_training_starts_from_pairwise_training_and_counts_its_epochs(images):
    stack, _ = images
    pairwise = train(
        stack[:18], method="published-udl", options=SMALL, schedule=TrainingSchedule(2, 1e-3)
    ).aligner
    weights = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(float(self.model.get_layer("joint").weight))

    joint = train(
        stack[:18],
        method="published-judl",
        options=replace(SMALL, initial_aligner=pairwise),
        schedule=TrainingSchedule(2, 1e-9),
        callbacks=[Watch()],
    ).aligner
    assert sorted(set(weights)) == [60, 80]  # 20 times the epoch, after two
    assert joint.epochs == 4
    start, end = (aligner.network.trainable_weights for aligner in (pairwise, joint))
    assert all(np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-6 for a, b in zip(start, end, strict=True))


def test_a_batch_is_learned_from_its_pseudo_labels(images):
    stack, _ = images
    model = difference_model(image_network(build_pair_network(SIZE, channels_divisor=8, rng=0)))
    pairs = np.stack([np.arange(32), np.roll(np.arange(32), -1)], axis=1)
    inputs, targets = DifferencePairs(stack, pairs, 32, joint=False, seed=0)[0]
    loss = {"differences": partial(difference_loss, period_deg=180.0)}
    compile_network(
        model, schedule=SHORT, steps_per_epoch=1, optimizer=published_optimizer(1e-3), loss=loss, metrics=[]
    )
    losses = [float(model.train_on_batch(list(inputs), targets)) for _ in range(50)]
    assert losses[0] > 45  # of random answers
    assert losses[-1] < 10


@uncompiled
def test_natural_pairs_train_with_the_published_objective(photographs):
    draw = natural_draw(photographs, image_size=64)
    stream, validation = (PairStream(draw, batch_size=4, steps=1, seed=seed) for seed in (1, 2))
    objective = PairObjective("published", displacement_px=2.0)
    network = build_pair_network(64, correlation=True, channels_divisor=16, rng=0)
    history = train_pairs(network, stream, validation=validation, schedule=SHORT, objective=objective)
    assert np.isfinite([history[name] for name in ("loss", "val_loss", "val_error_deg", "bias_deg")]).all()
    (first, second, *turned), target = ObjectiveBatches(stream, objective)[0]
    assert target.shape == (4,)
    model, loss = training_model(network, objective)
    assert model([first, second, *turned]).shape == (4, 2)
    assert np.isfinite(float(loss(target, model([first, second, *turned]))))


def test_the_learning_rate_falls_every_12_000_steps():
    rates = published_optimizer(3e-4)._learning_rate
    at = [float(rates(step)) for step in (0, 11_999, 12_000, 24_000)]
    np.testing.assert_allclose(at, 3e-4 * np.array([1, 1, 0.8, 0.64]), rtol=1e-5)
    assert published_optimizer(1e-4, decay=False).epsilon == 1e-8


# --- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: build_pair_network(15), "image_size must be .*16, got 15"),
        (
            lambda _: build_pair_network(64, channels_divisor=0),
            "channels_divisor must be .*1, got 0",
        ),
        (lambda _: build_pair_network(16, correlation=True), "between 32 and 256 px .*, got 16"),
        (lambda _: build_autoencoder(20), "image_size must be a multiple of 8 px .*, got 20"),
        (lambda _: PublishedOptions(batch_size=1), "batch_size must be .*2, got 1"),
        (lambda _: PublishedOptions(validation_fraction=0.9), "validation_fraction must be .*, got 0.9"),
        (
            lambda _: PublishedOptions(initial_aligner="m"),
            "initial_aligner must be a PublishedAligner .*, got str",
        ),
        (
            lambda x: train(x, method="published-udl", options=AlignerOptions()),
            "PublishedOptions.*, got AlignerOptions",
        ),
        (
            lambda x: train(0 * x, method="published-udl", options=SMALL),
            "images must not be constant; number of constant images: 40",
        ),
        (
            lambda x: train_pairs(
                build_polar_pair_network(16, channels=4, blocks=1, groups=1, dense=4),
                *[PairStream(None, batch_size=1, steps=1)],
                validation=None,
                schedule=SHORT,
                objective=PairObjective("published"),
            ),
            "method 'published' requires a network from build_pair_network, got one with 2",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(images, call, message):
    with pytest.raises(ValueError, match=re.compile(message)):
        call(images[0])


def test_what_an_aligner_does_not_do_is_refused(images, compass, tmp_path):
    stack, _ = images
    aligner = PublishedAligner(compass, stack, 0.0, METHODS[0])
    with pytest.raises(ValueError, match="images must be 16 px wide for this model, got 20"):
        aligner.angles(np.ones((2, 20, 20)))
    with pytest.raises(ValueError, match=r"first and second must have the same shape, got \(2, .*\(3, "):
        aligner.between(stack[:2], stack[:3])
    with pytest.raises(ValueError, match="aligner must be an Aligner to be written, got PublishedAligner"):
        save_aligner(aligner, tmp_path / "model")
    other = PublishedOptions(channels_divisor=8, initial_aligner=aligner)
    with pytest.raises(
        ValueError, match="initial_aligner must be trained on 16 px images with channels_divisor 8"
    ):
        train(stack, method="published-udl", options=other)
