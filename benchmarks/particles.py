"""Measure the rate at which synthetic particle images are simulated, with rotations, shifts, CTF and noise.

    python benchmarks/particles.py

The images are copies of the phantom's class average, 128 px wide. Rates are medians over five blocks, after a first
block that compiles the code.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from table import print_table

from cryoem.udl.synthetic import NOISES, phantom_class_average, synthetic_set

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="number of images per block")
    images = parser.parse_args().images
    average = phantom_class_average()
    rows = []
    for noise in NOISES:
        seconds = []
        for repeat in range(REPEATS + 1):
            start = time.perf_counter()
            synthetic_set(average, images, noise=noise, rng=repeat)
            seconds.append(time.perf_counter() - start)
        rate = images / np.median(seconds[1:])
        rows.append((noise, ">= 1,000 images/s", f"{rate:,.0f} images/s"))
    print_table("particles", "Simulation of synthetic particles, 128 px", rows)


if __name__ == "__main__":
    main()
