"""Compilation of networks for training: schedule, optimizer, precision and XLA, on one device or several.

``tf.distribute`` passes a share of every batch through a copy of the network on each device, called a replica, and sums
the gradients. Training on several devices equals training on one only with three additions:

- Losses compare all pairs of a batch, but a replica has only its own images. Features and labels are small, so they
  are gathered, and each replica computes the loss of the whole batch over the number of replicas.
- Keras clips the gradient of each replica before the sum. The optimizers here clip the mean gradient.
- With float16, Keras skips a step if the gradient of the first replica is infinite, regardless of the others.
  The optimizers here test the mean gradient.

A model is replicated if it was built in the ``scope()`` of a strategy. On one device, and on Keras backends other than
TensorFlow, these additions have no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import keras

from cryoem import devices
from cryoem.validation import positive_number, whole_number

WARM_UP_STEPS = 50
LAST_RATE = 0.05
WEIGHT_DECAY = 1e-3
CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainingSchedule:
    """Training schedule.

    Parameters
    ----------
    epochs : int
    learning_rate : float
        Highest learning rate of AdamW, after a short warm-up and before a cosine decay.
    patience : int, optional
        Stop after this number of epochs without a lower validation loss; by default never.
    seconds : float, optional
        Stop after the epoch in which this time, including that of interrupted trainings, has passed; by default never.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int
    learning_rate: float = 2e-3
    patience: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        whole_number(self.epochs, name="epochs", at_least=1)
        positive_number(self.learning_rate, name="learning_rate")
        if self.patience is not None:
            whole_number(self.patience, name="patience", at_least=1)
        if self.seconds is not None:
            positive_number(self.seconds, name="seconds")


@contextmanager
def device_precision() -> Iterator[None]:
    """Build layers in the precision of the device; also a decorator of functions that build networks.

    On a GPU the policy is Keras' ``mixed_float16``: layers compute in float16 and keep their weights in float32. Layers
    that need full precision set ``dtype="float32"`` themselves. On a CPU, or if the user has set a policy, nothing
    changes.
    """
    before = keras.config.dtype_policy()
    if devices.gpus_of_tensorflow() and before.name == "float32":
        keras.config.set_dtype_policy("mixed_float16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_network(
    model: keras.Model, *, schedule: TrainingSchedule, steps_per_epoch: int, **options
) -> None:
    """Compile a model for the devices that it was built on, with AdamW, a short warm-up and a cosine decay.

    If layers compute in float16, the loss is scaled so that small gradients are not lost. On one GPU, XLA compiles the
    steps.

    Parameters
    ----------
    model : keras.Model
    schedule : TrainingSchedule
    steps_per_epoch : int
    **options
        Losses and metrics of ``model.compile``; see ``global_batch_loss``.
    """
    replicas, scaled = replica_count(model), computes_in_float16(model)
    steps = schedule.epochs * steps_per_epoch
    with strategy_scope(model):
        # average the gradients in the outermost optimizer: the loss scaling if there is one, otherwise AdamW
        optimizer = (keras.optimizers.AdamW if scaled else ReplicatedAdamW)(
            keras.optimizers.schedules.CosineDecay(
                LAST_RATE * schedule.learning_rate,
                decay_steps=max(1, steps - WARM_UP_STEPS),
                alpha=LAST_RATE,
                warmup_target=schedule.learning_rate,
                warmup_steps=min(WARM_UP_STEPS, steps - 1),
            ),
            weight_decay=WEIGHT_DECAY,
            clipnorm=CLIP_NORM / replicas,
        )
        if scaled:
            optimizer = ReplicatedLossScaleOptimizer(optimizer)
        # Keras' own choice would count GPUs that CRYOEM_DEVICE hides; XLA cannot compile communication of replicas
        jit_compile = "auto"
        if keras.backend.backend() == "tensorflow":
            jit_compile = replicas == 1 and bool(devices.gpus_of_tensorflow())
        model.compile(optimizer, jit_compile=jit_compile, **options)


def computes_in_float16(model: keras.Model) -> bool:
    """Whether any layer of a model, or of the models in it, computes in float16."""
    return any(
        computes_in_float16(layer) if isinstance(layer, keras.Model) else layer.compute_dtype == "float16"
        for layer in model.layers
    )


# --- several devices


def replica_count(model: keras.Model) -> int:
    """Number of devices that share a model's batches."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return model.distribute_strategy.num_replicas_in_sync


def strategy_scope(model: keras.Model) -> AbstractContextManager:
    """Context in which to create the variables of a model's optimizer and metrics."""
    return model.distribute_strategy.scope() if replica_count(model) > 1 else nullcontext()


def check_divisible(count: int, model: keras.Model, *, name: str) -> None:
    """Raise a ValueError if ``count`` images cannot be divided equally among the replicas of a model."""
    replicas = replica_count(model)
    if count % replicas:
        raise ValueError(f"{name} must be a multiple of the {replicas} replicas of the model, got {count}")


def global_batch_loss(function: Callable, *, is_metric: bool = False) -> Callable:
    """Wrap a scalar loss (y_true, y_pred) so that each replica returns its part of the loss of the whole batch.

    Keras sums the losses of the replicas, hence the division by their number; metrics are averaged instead.
    """

    @functools.wraps(function)
    def wrapped(y_true, y_pred):
        context = _replica_context()
        if context is None:
            return function(y_true, y_pred)
        value = function(*(context.all_gather(part, axis=0) for part in (y_true, y_pred)))
        return value if is_metric else value / context.num_replicas_in_sync

    return wrapped


def _replica_context():
    """TensorFlow's context of this replica; None on one device, or while Keras only infers shapes."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


class _MeanGradient:
    """Mixin: average the gradients of all replicas before anything else. Keras sums the results later."""

    def apply(self, grads, trainable_variables=None):
        context = _replica_context()
        if context is not None:
            import tensorflow as tf

            grads = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
        super().apply(grads, trainable_variables)


class ReplicatedAdamW(_MeanGradient, keras.optimizers.AdamW):
    """AdamW on several replicas. ``clipnorm`` applies to the mean gradient: the sum over the number of replicas."""


class ReplicatedLossScaleOptimizer(_MeanGradient, keras.optimizers.LossScaleOptimizer):
    """Loss scaling on several replicas, which all skip a step or none. The inner optimizer is Keras' own AdamW."""
