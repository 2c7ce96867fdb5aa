"""The command that shows versions, devices and folders."""

from __future__ import annotations

import subprocess
import sys

import cryoem
from cryoem.cli.shared import NOTHING_CHANGED, Answer, command
from cryoem.devices import chosen_device, cores

PACKAGES = ("numpy", "tensorflow", "keras", "astra-toolbox", "finufft", "numba")
NO_GPU = "none: a GPU is required, but none is visible"
LIST_GPUS = (
    "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices('GPU')), sep='\\n')"
)


@command(afterwards=NOTHING_CHANGED)
def info() -> Answer:
    """Show the versions, devices and folders in use.

    \b
    Example:
      cryoem info --json
    """
    from cryoem.files.reading import data_folder, notebooks_folder
    from cryoem.projection.projectors import astra_is_usable

    device, gpus, astra = chosen_device(), _tensorflow_gpus(), astra_is_usable()
    report = {
        "cryoem": cryoem.__version__,
        "python": sys.version.split()[0],
        **{name.removesuffix("-toolbox"): _version(name) for name in PACKAGES},
        "cpu_cores": cores(),
        "gpus_of_tensorflow": gpus,
        "gpu_of_astra": astra,
        "device": device,
        "training_device": _used(device, "gpu" if gpus else None, "cpu"),
        "projection_backend": _used(device, "astra" if astra else None, "fourier"),
        "notebooks_folder": str(notebooks_folder()),
        "data_folder": str(data_folder()),
    }
    lines = [f"{name.replace('_', ' '):<20} {_in_words(value)}" for name, value in report.items()]
    return Answer("\n".join(lines), report)


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _used(device: str, on_gpu: str | None, on_cpu: str) -> str:
    """Return the device or backend used for the setting ``device``; ``on_gpu`` is None if no GPU is visible."""
    if device == "gpu":
        return on_gpu or NO_GPU
    return on_cpu if device == "cpu" or on_gpu is None else on_gpu


def _tensorflow_gpus() -> list[str] | None:
    """Return the names of the visible GPUs, or None if TensorFlow is not installed.

    TensorFlow runs in a separate process, because it prints log messages.
    """
    version = _version("tensorflow")
    if version is None:
        return None
    answer = subprocess.run([sys.executable, "-c", LIST_GPUS], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"tensorflow {version} failed to start: {answer.stderr.strip()[-300:]}")
    return answer.stdout.split()


def _in_words(value) -> str:
    if value is None:
        return "not installed"
    if isinstance(value, bool):
        return "yes" if value else "none visible"
    if isinstance(value, list):
        return ", ".join(value) or "none visible"
    return str(value)
