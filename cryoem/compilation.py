"""How networks are compiled for training: optimizer and schedule, loss scaling, XLA; on one device or several."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from cryoem import devices
from cryoem.replicas import AdamWOfReplicas, LossScaleOfReplicas, replicas_of, scope_of

WARM_UP_STEPS = 50
LAST_RATE = 0.05
WEIGHT_DECAY = 1e-3
CLIP_NORM = 1.0


def compile_network(model: keras.Model, *, learning_rate: float, steps: int, **options) -> None:
    """``model.compile`` with AdamW on the schedule of ``cosine_rate``, for the devices that the model was built for.

    Where layers compute in float16, the loss is scaled so that small gradients are not lost.  On one GPU, steps are
    compiled by XLA.

    Parameters
    ----------
    learning_rate, steps : as in ``cosine_rate``.
    options : losses and metrics, as ``model.compile`` takes them.
    """
    replicas, scaled = replicas_of(model), computes_in_float16(model)
    with scope_of(model):
        # a scaled loss is for the outermost optimizer to average, one that is not scaled for AdamW itself
        adamw = keras.optimizers.AdamW if replicas == 1 or scaled else AdamWOfReplicas
        rate = cosine_rate(learning_rate, steps)
        optimizer = adamw(rate, weight_decay=WEIGHT_DECAY, clipnorm=CLIP_NORM / replicas)
        if scaled:
            wrapper = keras.optimizers.LossScaleOptimizer if replicas == 1 else LossScaleOfReplicas
            optimizer = wrapper(optimizer)
        model.compile(optimizer, jit_compile=_by_xla(replicas), **options)


def cosine_rate(learning_rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A short linear warm-up to ``learning_rate``, and a cosine fall over all ``steps``."""
    return keras.optimizers.schedules.CosineDecay(
        LAST_RATE * learning_rate,
        decay_steps=max(1, steps - WARM_UP_STEPS),
        alpha=LAST_RATE,
        warmup_target=learning_rate,
        warmup_steps=min(WARM_UP_STEPS, steps - 1),
    )


def _by_xla(replicas: int) -> bool | str:
    """Whether steps are compiled by XLA, as Keras is to be told.

    Keras' own choice, where it is asked, would look at GPUs that are hidden, too.
    """
    if keras.backend.backend() != "tensorflow":
        return "auto"
    return replicas == 1 and bool(
        devices.gpus_of_tensorflow()
    )  # XLA cannot compile what replicas tell each other


def computes_in_float16(model: keras.Model) -> bool:
    """Whether any layer of a model, or of the models in it, computes in float16."""
    return any(layer.compute_dtype == "float16" for layer in _layers(model))


def precision_of(model: keras.Model) -> dict[str, str]:
    """What ``checkpoints.restore`` is to know: float16 keeps a scale of the loss, which float32 has none of."""
    return {"precision": "mixed_float16"} if computes_in_float16(model) else {}


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
