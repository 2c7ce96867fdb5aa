"""One training on several devices: what ``tf.distribute`` and Keras leave to losses and optimizers.

Each device, a replica, passes its share of every batch through its copy of the network, and the gradients of all are
added up.  For a training to give what it gives on one device, three things must be added to that:

- Losses compare all pairs of a batch, and a replica has its own images alone.  So features and labels, which are small,
  are gathered, and each replica takes the loss of the whole batch over the number of replicas; comparing costs little
  beside the passes through the network.
- Keras clips the gradient of each replica, and adds them up then.
- With float16, it skips a step where the gradient of the first replica is infinite, whatever the others' are.

The last two are put right by optimizers that take the mean over the replicas before anything else.

A model is of the replicas of the ``strategy.scope()`` that it was built in.  On one device, and on other backends than
TensorFlow, nothing here changes anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import keras


def replicas_of(model: keras.Model) -> int:
    """How many devices share a model's batches."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return model.distribute_strategy.num_replicas_in_sync


def scope_of(model: keras.Model) -> AbstractContextManager:
    """Where the variables of a model's optimizer and metrics are to be made."""
    return model.distribute_strategy.scope() if replicas_of(model) > 1 else nullcontext()


def of_whole_batch(function: Callable, *, shared: bool) -> Callable:
    """A loss or metric (y_true, y_pred) of the whole batch, for replicas that each hold a share of it.

    ``shared``: over the number of replicas, as Keras adds up losses but takes the mean of metrics.  Shares need not be
    of one size.  ``function`` returns one number.
    """

    @functools.wraps(function)
    def wrapped(y_true, y_pred):
        context = _replica_context()
        if context is None:
            return function(y_true, y_pred)
        value = function(*(context.all_gather(part, axis=0) for part in (y_true, y_pred)))
        return value / context.num_replicas_in_sync if shared else value

    return wrapped


def check_divisible(count: int, model: keras.Model, *, name: str) -> None:
    """Raise a ValueError where a batch cannot be shared out alike."""
    replicas = replicas_of(model)
    if count % replicas:
        raise ValueError(f"{name} must be a multiple of the {replicas} replicas of the model, got {count}")


def _replica_context():
    """TensorFlow's context of this replica; None where there are no others, or where Keras only looks at shapes."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


class _OfAllReplicas:
    """An optimizer that is given the mean of the replicas' gradients, the same on each, and adds them up later."""

    def apply(self, grads, trainable_variables=None):
        context = _replica_context()
        if context is not None:
            import tensorflow as tf

            grads = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
        super().apply(grads, trainable_variables)


class AdamWOfReplicas(_OfAllReplicas, keras.optimizers.AdamW):
    """AdamW on several replicas: ``clipnorm`` is of the mean gradient, which is the sum over their number."""


class LossScaleOfReplicas(_OfAllReplicas, keras.optimizers.LossScaleOptimizer):
    """Loss scaling on several replicas, which all skip a step or none; around an AdamW of Keras' own."""
