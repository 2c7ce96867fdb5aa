"""The command that says what this machine has, and what will be used of it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import cryoem
from cryoem.cli.endings import NOTHING_CHANGED, Answer, ends_in_order
from cryoem.devices import chosen_device, cores

PACKAGES = {
    "numpy": "numpy",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "astra": "astra-toolbox",
    "finufft": "finufft",
    "numba": "numba",
}

NO_GPU = "none, the GPU asked for is not there"


@ends_in_order(afterwards=NOTHING_CHANGED)
def info() -> Answer:
    """Say which versions, devices and folders are used here.

    \b
    Example:
      cryoem info --json
    """
    from cryoem.folders import data_folder, notebooks_folder
    from cryoem.projectors import astra_gpu

    device, gpus, astra = chosen_device(), _tensorflow_gpus(), astra_gpu.is_usable()
    report = {
        "cryoem": cryoem.__version__,
        "python": sys.version.split()[0],
        **{name: _version(distribution) for name, distribution in PACKAGES.items()},
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
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _used(device: str, of_gpu: str | None, of_cpu: str) -> str:
    """What computes, by the switch: the way of a GPU, None where there is none, or that of the CPU."""
    if device == "gpu":
        return of_gpu or NO_GPU
    return of_cpu if device == "cpu" or of_gpu is None else of_gpu


def _tensorflow_gpus() -> list[str] | None:
    """Names of the GPUs, None without TensorFlow; asked in a process of its own, because it logs whatever one does."""
    if _version("tensorflow") is None:
        return None
    question = (
        "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices('GPU')), sep='\\n')"
    )
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(
            f"tensorflow {_version('tensorflow')} does not start: {answer.stderr.strip()[-300:]}"
        )
    return answer.stdout.split()


def _in_words(value) -> str:
    if value is None:
        return "not installed"
    if isinstance(value, bool):
        return "yes" if value else "none visible"
    if isinstance(value, list):
        return ", ".join(value) or "none visible"
    return str(value)
