"""Measure the size, speed and training loss of the published pair network on particle spectra.

    python benchmarks/published.py                   train for 36 steps on 4 pairs of 128 px (minutes on two cores)
    python benchmarks/published.py --fresh --particles 50000 --steps 12000 --batch-size 32
                                                     train as published, on a GPU

The network has the published widths. By default, it sees the same pairs at every step and memorises them. A falling
loss therefore shows that gradients reach the whole network, but not that the network has learned to align. The time of
the published training on a GPU is not measured, but estimated from the number of operations.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import keras
import numpy as np
from table import print_table

from cryoem.training import TrainingSchedule
from cryoem.udl import (
    PairObjective,
    build_pair_network,
    power_spectra,
    predict_angles,
    read_class_average,
    stack_draw,
    synthetic_set,
    train_pairs,
)
from cryoem.udl.pairs import PairStream
from cryoem.udl.published import PUBLISHED_FILTERS

PIXEL_SIZE_ANGSTROM = 2.08  # pixel size of center-1.png
GPU_FLOPS = 20e12  # assumed sustained rate: a third of the nominal float32 rate of a current GPU
PUBLISHED_BATCH, PUBLISHED_STEPS = 32, 12_000  # one period of the published learning rate


class SameBatch(PairStream):
    """A stream that yields the same batch of pairs and rotations at every step."""

    def rng(self, *key):
        return super().rng(0, 0, *key[2:])


class Losses(keras.callbacks.Callback):
    """Record the loss and the end time of every step."""

    def __init__(self):
        super().__init__()
        self.losses, self.ends = [], []

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)  # Keras reports the mean of the epoch so far
        self.losses.append(total if batch == 0 else total - self._total)
        self._total = total
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--fresh", action="store_true", help="draw new pairs at every step")
    arguments = parser.parse_args()
    size, batch_size = arguments.image_size, arguments.batch_size
    average = read_class_average(
        Path(os.environ["CRYOEM_DATA"]) / "class-averages" / "center-1.png",
        image_size=size,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
    )
    particles = synthetic_set(average, arguments.particles, noise="noise", rng=1)
    draw = stack_draw(power_spectra(particles.images), particles.angles_rad)
    network = build_pair_network(size, rng=0)
    stream = (PairStream if arguments.fresh else SameBatch)(
        draw, batch_size=batch_size, steps=arguments.steps, seed=1
    )
    validation = PairStream(draw, batch_size=batch_size, steps=2, seed=2)

    watch = Losses()
    train_pairs(
        network,
        stream,
        validation=validation,
        schedule=TrainingSchedule(1, arguments.learning_rate),
        objective=PairObjective(periods=2, against_itself=False),
        callbacks=[watch],
    )
    step_seconds = float(np.median(np.diff(watch.ends)))
    first, second, _ = stream[0]
    first, second = (np.concatenate([x] * -(-16 // batch_size)) for x in (first, second))
    predict_angles(network, first, second, periods=2)  # compile
    start = time.perf_counter()
    predict_angles(network, first, second, periods=2)
    pairs_per_second = len(first) / (time.perf_counter() - start)

    third = max(1, arguments.steps // 3)
    operations = 2 * multiplications(size)  # for one pair, forward pass only
    estimate = (
        3 * 2 * operations * PUBLISHED_BATCH / GPU_FLOPS
    )  # the backward pass costs twice as much, and UDL sees each pair twice
    rows = [
        ("parameters", "-", f"{network.count_params() / 1e6:.1f} million"),
        ("inference", "-", f"{pairs_per_second:.2f} pairs/s"),
        (f"UDL step of {batch_size} pairs", "-", f"{step_seconds:.2f} s"),
        (f"loss, first {third} steps", "-", f"{np.mean(watch.losses[:third]):.3f}"),
        (f"loss, last {third} steps", "lower", f"{np.mean(watch.losses[-third:]):.3f}"),
        ("operations per pair, forward pass", "-", f"{operations / 1e9:.1f} GFLOP"),
        (
            f"GPU, step of {PUBLISHED_BATCH} pairs at {GPU_FLOPS / 1e12:.0f} TFLOP/s",
            "-",
            f"{estimate:.3f} s (estimate, not measured)",
        ),
        (
            f"GPU, {PUBLISHED_STEPS:,} steps",
            "-",
            f"{estimate * PUBLISHED_STEPS / 60:.0f} min (estimate, not measured)",
        ),
    ]
    print_table("published-network", f"Published pair network, {size} px", rows)


def multiplications(image_size: int) -> float:
    """Count the multiplications for one pair: the mask branch at full size, then blocks that halve the image size."""
    total, width_in, side = 0.0, 1, image_size
    for width in (4, 8, 16, 32, 1):
        total += 9 * width_in * width * side**2
        width_in = width
    width_in = 1
    for width in PUBLISHED_FILTERS:
        total += (2 * width_in * width + 10 * width**2) * side**2
        width_in, side = width, side // 2
    return 2 * total


if __name__ == "__main__":
    main()
