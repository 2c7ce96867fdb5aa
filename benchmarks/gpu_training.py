"""Sections of gpu.py that train networks. Each section yields rows of (quantity, target, measured)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import initial_models as search
import numpy as np
from gpu_projection import Clock, NotMeasured, Sizes, load_map
from watch import time_text

from cryoem.devices import cores


def training(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Time training steps of the polar and the published encoder, on prepared images and on simulated ones."""
    backend = keras_backend()
    from cryoem import distances
    from cryoem.particles.conditions import ImagingConditions
    from cryoem.training.compilation import computes_in_float16

    if not keras_finds_a_gpu(backend):
        raise NotMeasured(f"not measured, because Keras' backend {backend} finds no GPU")

    class Prepared(distances.ProjectionStream):
        """The first batch at every step."""

        def __getitem__(self, index):
            if not hasattr(self, "_batch"):
                self._batch = super().__getitem__(0)
            return self._batch

    density = load_map(sizes.image_size)
    for arguments in sizes.encoders:
        settings = distances.EncoderSettings(**arguments)
        for stream_type in (Prepared, distances.ProjectionStream):
            if clock.left() <= 0:
                raise NotMeasured("stopped, because the time is up")
            encoder = distances.TrainedEncoder(settings.build(), settings)
            stream = stream_type(
                density,
                ImagingConditions(sizes.image_size),
                network_image_size=settings.image_size,
                batch_size=sizes.batch_size,
                steps=sizes.steps,
            )
            images, quaternions = stream[0]
            history = distances.train(
                encoder,
                stream,
                validation=(images[:2], quaternions[:2]),  # the smallest set, because its time is included
                schedule=distances.TrainingSchedule(1 + sizes.repeats),
            )
            # the first epoch also compiles
            step_s = float(np.median(np.diff(history["seconds"]))) / sizes.steps
            precision = "float16" if computes_in_float16(encoder.model) else "float32"
            source = "prepared images" if stream_type is Prepared else f"images simulated on {cores()} cores"
            yield (
                f"step of the {settings.architecture} encoder, {settings.image_size} px, {sizes.batch_size} {source}: "
                f"{backend}, {precision}",
                "-",
                f"{time_text(step_s)}, {sizes.batch_size / step_s:,.0f} images/s",
            )


def keras_backend() -> str:
    """Choose Keras' backend before it is imported: ``KERAS_BACKEND``, or the first that is installed."""
    installed = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    if not installed:
        raise NotMeasured("not measured, because none of tensorflow, jax and torch is installed")
    os.environ.setdefault("KERAS_BACKEND", installed[0])
    # leave memory of the card to other processes
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from cryoem.training.backend import keras

    return keras.backend.backend()


def keras_finds_a_gpu(backend: str) -> bool:
    """Return whether Keras' backend finds a GPU."""
    if backend == "tensorflow":
        from cryoem.devices import gpus_of_tensorflow

        return bool(gpus_of_tensorflow())
    if backend == "jax":
        import jax

        return any(device.platform == "gpu" for device in jax.devices())
    import torch

    return torch.cuda.is_available()


def published(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Run the experiment `published` at the size of the paper; finished points are kept."""
    from cryoem.experiments.catalogue import EXPERIMENTS

    if "published" not in EXPERIMENTS:
        raise NotMeasured("not run, because no experiment `published` is registered in cryoem.experiments")
    if importlib.util.find_spec("tensorflow") is None:
        raise NotMeasured("not run, because the published descent needs TensorFlow, which is not installed")
    command = [sys.executable, "-m", "cryoem.cli", "experiment", "published", "--size", sizes.experiment]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    start, limit = time.perf_counter(), clock.left()
    try:  # in another process, which can be stopped
        subprocess.run(command, check=True, env=environment, timeout=None if limit == float("inf") else limit)
    except subprocess.TimeoutExpired:
        raise NotMeasured(
            "stopped, because the time is up; run the same command again to resume it"
        ) from None
    yield f"experiment `published`, size {sizes.experiment}", "-", time_text(time.perf_counter() - start)


def initial_models(sizes: Sizes, clock: Clock) -> Iterator[tuple[str, str, str]]:
    """Find orientations without a map with cryoDRGN, and with cryoem on the CPU of the same machine."""
    if not shutil.which("cryodrgn"):
        raise NotMeasured("not measured, because there is no command cryodrgn")
    stack = search.simulate(sizes.search_images)
    for method, near, error, taken in search.contenders(stack, "cryodrgn", min(search.SECONDS, clock.left())):
        quantity = f"orientations of {len(stack):,} images, {stack.image_size} px: {method}"
        yield quantity, "-", f"{near} within 0.3 rad, mean error {error}, {taken}"
