"""Compilation of networks for training: schedule, optimizer, precision and XLA, on one or several devices.

``tf.distribute`` keeps a copy of the network, called a replica, on each device, passes a part of every batch through
each replica and sums the gradients. Three additions make the result the same as on a single device:

- Losses compare all pairs in a batch, but a replica holds only its own images. Features and labels are small, so they
  are gathered, and each replica computes the loss of the whole batch divided by the number of replicas.
- Keras clips the gradient of each replica before summing. The optimizers in this module clip the mean gradient.
- With float16, Keras skips a step if the gradient of the first replica is infinite, regardless of the others.
  The optimizers in this module test the mean gradient.

A model is replicated if it was built within the ``scope()`` of a strategy. On a single device, and with Keras backends
other than TensorFlow, these additions have no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from cryoem import devices
from cryoem.training.backend import keras
from cryoem.validation import positive_number, whole_number

WARM_UP_STEPS = 50
LAST_RATE = 0.05
WEIGHT_DECAY = 1e-3
CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainingSchedule:
    """Learning rate and stopping criteria for training.

    Parameters
    ----------
    epochs : int
        Maximum number of epochs.
    learning_rate : float
        Peak learning rate of AdamW, reached after a short warm-up and followed by a cosine decay. Default: 0.003.
    patience : int, optional
        Number of epochs without a lower validation loss after which training stops. Default: no early stopping.
    seconds : float, optional
        Time limit in seconds, including the time before interruptions. Training stops after the epoch in which the
        limit is reached. Default: no limit.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int
    learning_rate: float = 3e-3
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
    """Set the precision of layers built in this context to suit the device; also usable as a decorator.

    On a GPU, the policy is Keras' ``mixed_float16``: layers compute in float16 and keep their weights in float32.
    Layers that need full precision set ``dtype="float32"`` themselves. On a CPU, or if the user has already set a
    policy, nothing changes.
    """
    before = keras.config.dtype_policy()
    if devices.gpus_of_tensorflow() and before.name == "float32":
        keras.config.set_dtype_policy("mixed_float16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_network(
    model: keras.Model,
    *,
    schedule: TrainingSchedule,
    steps_per_epoch: int,
    optimizer: keras.optimizers.Optimizer | None = None,
    **options,
) -> None:
    """Compile a model with AdamW, a short warm-up and a cosine decay of the learning rate.

    The model is compiled for the devices on which it was built. If layers compute in float16, the loss is scaled so
    that small gradients do not underflow. On a single GPU, XLA compiles the training steps.

    Parameters
    ----------
    model : keras.Model
        Model to compile, changed in place.
    schedule : TrainingSchedule
        Number of epochs and learning rate.
    steps_per_epoch : int
        Number of batches per epoch.
    optimizer : keras.optimizers.Optimizer, optional
        Custom optimizer, for models on a single device only. Default: AdamW with the learning rates of ``schedule``.
    **options
        Losses and metrics for ``model.compile``. Wrap losses and metrics that compare images across the whole batch in
        ``global_batch_loss``.

    Raises
    ------
    ValueError
        If ``optimizer`` is given for a model on several devices.
    """
    replicas, scaled = replica_count(model), computes_in_float16(model)
    if optimizer is not None and replicas > 1:
        raise ValueError(f"this method supports only a single device, got a model on {replicas} devices")
    steps = schedule.epochs * steps_per_epoch
    with strategy_scope(model):
        # average the gradients in the outermost optimizer: loss scaling if it is used, otherwise AdamW
        optimizer = optimizer or (keras.optimizers.AdamW if scaled else ReplicatedAdamW)(
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
        # variables that the first step creates would make TensorFlow trace it twice
        optimizer.build(model.trainable_variables)
        # XLA cannot compile communication between replicas
        model.compile(optimizer, jit_compile=replicas == 1 and jit_compile(), **options)


def jit_compile() -> bool | str:
    """Return Keras' option ``jit_compile``; its default for TensorFlow counts GPUs that ``CRYOEM_DEVICE`` hides."""
    return bool(devices.gpus_of_tensorflow()) if keras.backend.backend() == "tensorflow" else "auto"


def computes_in_float16(model: keras.Model) -> bool:
    """Return whether any layer of a model, including nested models, computes in float16."""
    return any(
        computes_in_float16(layer) if isinstance(layer, keras.Model) else layer.compute_dtype == "float16"
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)  # which computes nothing
    )


# --- several devices


def replica_count(model: keras.Model) -> int:
    """Return the number of devices among which a model's batches are divided."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return model.distribute_strategy.num_replicas_in_sync


def strategy_scope(model: keras.Model) -> AbstractContextManager:
    """Return the context in which to create the variables of a model's optimizer and metrics."""
    return model.distribute_strategy.scope() if replica_count(model) > 1 else nullcontext()


def check_divisible(count: int, model: keras.Model, *, name: str) -> None:
    """Raise a ValueError if ``count`` images cannot be divided equally among the replicas of a model."""
    replicas = replica_count(model)
    if count % replicas:
        raise ValueError(
            f"{name} must be divisible by the number of replicas of the model ({replicas}), got {count}"
        )


def global_batch_loss(function: Callable, *, is_metric: bool = False) -> Callable:
    """Wrap a scalar loss (y_true, y_pred) so that each replica returns its share of the loss of the whole batch.

    Keras sums losses over the replicas, so they are divided by the number of replicas. It averages metrics instead.
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
    """Return TensorFlow's context for this replica; None on one device or while Keras infers shapes."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


class _MeanGradient:
    """Mixin that first averages the gradients over all replicas. Keras sums the results later."""

    def apply(self, grads, trainable_variables=None):
        context = _replica_context()
        if context is not None:
            import tensorflow as tf

            grads = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
        super().apply(grads, trainable_variables)


class ReplicatedAdamW(_MeanGradient, keras.optimizers.AdamW):
    """AdamW for several replicas. ``clipnorm`` limits the mean gradient, not that of each replica."""


class ReplicatedLossScaleOptimizer(_MeanGradient, keras.optimizers.LossScaleOptimizer):
    """Loss scaling for several replicas, which skip steps together. The inner optimizer is Keras' own AdamW."""
