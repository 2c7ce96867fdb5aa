"""The one switch between CPU and GPU: the environment variable ``CRYOEM_DEVICE``, for TensorFlow and ASTRA alike.

``auto``, the default: a GPU where one is visible, else the CPU.  ``cpu``: the CPU, even where a GPU is visible.
``gpu``: an error where none is visible.  Being in the environment, it reaches the kernels that execute notebooks, too.

On a GPU networks compute in float16 where it is fast, see ``device_precision``, and training steps are compiled by XLA,
see ``compilation``.  On other Keras backends than
TensorFlow the switch is ASTRA's alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "CRYOEM_DEVICE"
DEVICES = ("auto", "cpu", "gpu")


def chosen_device() -> str:
    """What the switch says: ``"auto"``, ``"cpu"`` or ``"gpu"``; ValueError where it says something else."""
    device = os.environ.get(VARIABLE) or "auto"
    if device not in DEVICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(DEVICES)}, got {device!r}")
    return device


@contextmanager
def device_chosen(device: str | None) -> Iterator[None]:
    """Set the switch for a while, also for processes that are started meanwhile; None leaves it as it is."""
    before = os.environ.get(VARIABLE)
    if device is not None:
        os.environ[VARIABLE] = device
    try:
        chosen_device()
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_of_tensorflow() -> list[str]:
    """Names of the GPUs that networks use in this process; ``cpu`` hides them from TensorFlow.

    Raises
    ------
    RuntimeError : the switch says ``gpu`` and none is visible, or ``cpu`` and TensorFlow has begun to use one.
    """
    keras = sys.modules.get("keras")  # an exported model is TensorFlow's alone, and needs no Keras
    if keras is not None and keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    device, visible = chosen_device(), tf.config.get_visible_devices("GPU")
    if device == "gpu" and not visible:
        raise RuntimeError(f"{VARIABLE}=gpu needs a GPU that TensorFlow can use, and none is visible here")
    if device != "cpu":
        return [gpu.name for gpu in visible]
    if visible:
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:
            raise RuntimeError(
                f"{VARIABLE}=cpu must be set before TensorFlow is first used, and it uses {visible[0].name} here"
            ) from None
    return []


@contextmanager
def device_precision() -> Iterator[None]:
    """Layers made meanwhile are of the precision of the device; also a decorator of functions that build networks.

    On a GPU that is Keras' ``mixed_float16``: layers compute in float16 and keep their weights in float32.  Those that
    must not lose digits say ``dtype="float32"`` themselves.  A policy that was set otherwise, and all of it on a CPU,
    stays as it is.  Raises as ``gpus_of_tensorflow``.
    """
    import keras

    before = keras.config.dtype_policy()
    mixed = bool(gpus_of_tensorflow()) and before.name == "float32"
    if mixed:
        keras.config.set_dtype_policy("mixed_float16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
