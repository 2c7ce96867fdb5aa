"""Synthetic particle images: how many a second are made, turned, shifted, seen through the microscope and noisy.

python benchmarks/particles.py

From the phantom's class average, 128 px, in blocks of images; medians of five after one that compiles.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from table import print_table

from cryoem.udl.synthetic import NOISES, phantom_class_average, simulate_particles

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="of a block")
    images = parser.parse_args().images
    average = phantom_class_average()
    rows = []
    for noise in NOISES:
        seconds = []
        for repeat in range(REPEATS + 1):
            start = time.perf_counter()
            simulate_particles(average, images, noise=noise, rng=repeat)
            seconds.append(time.perf_counter() - start)
        rate = images / np.median(seconds[1:])
        rows.append((noise, ">= 1,000 images/s", f"{rate:,.0f} images/s"))
    print_table("Synthetic particles made, 128 px", rows)


if __name__ == "__main__":
    main()
