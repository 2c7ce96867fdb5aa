"""Device selection: ``CRYOEM_DEVICE`` selects the CPU or a GPU for TensorFlow and ASTRA.

- ``auto`` (default): use a GPU if one is visible, otherwise the CPU.
- ``cpu``: use the CPU, even if a GPU is visible.
- ``gpu``: raise an error if no GPU is visible.

Child processes, such as the kernels that execute notebooks, inherit the variable.

On a GPU, networks compute in float16 and training steps are compiled by XLA (see ``cryoem.training.compilation``). With
Keras backends other than TensorFlow, the variable affects only ASTRA.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "CRYOEM_DEVICE"
DEVICES = ("auto", "cpu", "gpu")
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
LOG_LINES = re.compile(  # TensorFlow's messages about oneDNN, CUDA and the processor
    rb"^(?:[IWE]\d{4} \d\d:\d\d:|WARNING: All log messages before absl::|To enable the following instructions: ).*\n?",
    re.MULTILINE,
)


def chosen_device() -> str:
    """Return the value of ``CRYOEM_DEVICE``: ``"auto"``, ``"cpu"`` or ``"gpu"``.

    Raises
    ------
    ValueError
        If the variable has any other value.
    """
    device = os.environ.get(VARIABLE) or "auto"
    if device not in DEVICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(DEVICES)}, got {device!r}")
    return device


@contextmanager
def device_chosen(device: str | None) -> Iterator[None]:
    """Set ``CRYOEM_DEVICE`` within a ``with`` block and for processes started there; None leaves it unchanged."""
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
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_import() -> Iterator[None]:
    """Hide the log messages that TensorFlow prints when it is imported and when it first looks for a GPU.

    Other output on stderr is shown after the import. If the user has set ``TF_CPP_MIN_LOG_LEVEL`` to a value below 3,
    nothing is hidden.
    """
    if os.environ.setdefault(LOG_LEVEL, "3") != "3" or "tensorflow" in sys.modules:
        yield
        return
    # TensorFlow's libraries write to the file descriptor, some of them regardless of the log level
    with tempfile.TemporaryFile() as printed:
        try:
            stderr = os.dup(2)
        except OSError:  # this process has no stderr
            yield
            return
        os.dup2(printed.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            printed.seek(0)
            os.write(stderr, LOG_LINES.sub(b"", printed.read()))
            os.close(stderr)


def gpus_of_tensorflow() -> list[str]:
    """Return the names of the GPUs that TensorFlow uses in this process.

    If ``CRYOEM_DEVICE`` is ``cpu``, hide all GPUs from TensorFlow and return an empty list.

    Raises
    ------
    RuntimeError
        If ``CRYOEM_DEVICE`` is ``gpu`` and no GPU is visible, or if it is ``cpu`` and TensorFlow already uses a GPU.
    """
    keras = sys.modules.get("keras")  # exported models run without Keras
    if keras is not None and keras.backend.backend() != "tensorflow":
        return []
    with quiet_import():
        import tensorflow as tf

    device, visible = chosen_device(), tf.config.get_visible_devices("GPU")
    if device == "gpu" and not visible:
        raise RuntimeError(f"{VARIABLE}=gpu needs a GPU that TensorFlow can use, but none is visible")
    if device != "cpu":
        return [gpu.name for gpu in visible]
    if visible:
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:
            raise RuntimeError(
                f"{VARIABLE}=cpu must be set before TensorFlow is first used; it already uses {visible[0].name}"
            ) from None
    return []
