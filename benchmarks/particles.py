"""Synthetic particle images: how many a second are made, turned, shifted, seen through the microscope and noisy.

python benchmarks/particles.py

From the phantom's class average, 128 px, in blocks of 2,000 images; medians of five after one that compiles.
"""

from __future__ import annotations

import time

import numpy as np
from table import print_table

from cryoem.udl.synthetic import NOISES, phantom_class_average, simulate_particles

IMAGES, REPEATS = 2000, 5


def main() -> None:
    average = phantom_class_average()
    rows = []
    for noise in NOISES:
        seconds = []
        for repeat in range(REPEATS + 1):
            start = time.perf_counter()
            simulate_particles(average, IMAGES, noise=noise, rng=repeat)
            seconds.append(time.perf_counter() - start)
        rate = IMAGES / np.median(seconds[1:])
        rows.append((noise, ">= 1,000 images/s", f"{rate:,.0f} images/s"))
    print_table("Synthetic particles made, 128 px", rows)


if __name__ == "__main__":
    main()
