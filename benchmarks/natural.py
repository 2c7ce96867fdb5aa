"""Train one network on pairs of natural images with differences (UDL), labels or a spatial transformer (STN).

python benchmarks/natural.py                         measure three methods with three types of noise (20 minutes)
python benchmarks/natural.py --methods udl stn --noises clean --json table.json

The photographs are read from CRYOEM_DATA/natural-images. Three of them are used for training and three for testing.
Crops are 64 px wide, with any rotation, shifts of up to 2 px and magnifications of 0.5 to 1.5. The noise is as
published: Gaussian noise with 10 times the variance of the crops, or 40 % of the pixels set to 0 or 1. Errors are mean
errors in degrees modulo 360, without a calibration against the truth; random angles would give 90. The numbers of steps
are chosen so that the methods take about the same time.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from table import print_columns, print_table

from cryoem.training import TrainingSchedule
from cryoem.udl import (
    PairObjective,
    PairStream,
    build_polar_pair_network,
    load_photographs,
    natural_draw,
    published_noise_level,
    train_pairs,
)
from cryoem.udl.natural import NOISES
from cryoem.udl.pairs import METHODS

HELD_OUT = ("000000000139", "000000000285", "000000000632")
IMAGE_SIZE, SHIFT_LIMIT_PX, MAGNIFICATION = 64, 2.0, (0.5, 1.5)
BORDER_PX = 6.0  # the soft edge of the mask (3 px) and a shift
BATCH_SIZE, EPOCHS, LEARNING_RATE = 64, 4, 3e-3
STEPS = {"udl": 1600, "supervised": 2400, "stn": 2400}
HELD_OUT_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--noises", nargs="+", default=NOISES, choices=NOISES, metavar="NOISE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(os.environ["CRYOEM_DATA"]) / "natural-images"
    paths = sorted(folder.glob("*.jpg"))
    training, held_out = (
        load_photographs([path for path in paths if (path.stem in HELD_OUT) == chosen], size=300)
        for chosen in (False, True)
    )
    results: dict[str, dict[str, dict]] = {}
    for noise in arguments.noises:
        for method in arguments.methods:
            history = measure(method, noise, training, held_out)
            results.setdefault(method, {})[noise] = history
            print(f"{method}, {noise}: {history['val_error_deg'][-1]:.2f} deg", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    crops = HELD_OUT_BATCHES * BATCH_SIZE
    rows = []
    for method, of_noise in results.items():
        errors = [f"{history['val_error_deg'][-1]:.2f}" for history in of_noise.values()]
        times = " + ".join(f"{history['seconds'][-1]:.0f}" for history in of_noise.values())
        rows.append((method, *errors, f"{times} s"))
    print_columns(
        "natural",
        f"{crops:,} pairs of crops from held-out photographs, mean error in degrees modulo 360",
        ("method", *arguments.noises, "training"),
        rows,
    )
    if set(arguments.methods) == set(METHODS) and set(arguments.noises) == set(NOISES):
        print_table("natural-summary", "Natural images, summary", summary(results))


def measure(method: str, noise: str, training: list[np.ndarray], held_out: list[np.ndarray]) -> dict:
    """Train the network with one method and type of noise, and return the history."""
    options = {"image_size": IMAGE_SIZE, "shift_limit_px": SHIFT_LIMIT_PX, "magnification": MAGNIFICATION}
    noises = {"noise": noise, "noise_level": published_noise_level(training, noise, **options)}
    stream = PairStream(
        natural_draw(training, **options, **noises),
        batch_size=BATCH_SIZE,
        steps=STEPS[method] // EPOCHS,
        seed=1,
    )
    validation = PairStream(
        natural_draw(held_out, **options, **noises), batch_size=BATCH_SIZE, steps=HELD_OUT_BATCHES, seed=2
    )
    udl = {"displacement_px": SHIFT_LIMIT_PX, "split_pixels": noise != "clean"} if method == "udl" else {}
    return train_pairs(
        build_polar_pair_network(IMAGE_SIZE, border_px=BORDER_PX, rng=0),
        stream,
        validation=validation,
        schedule=TrainingSchedule(EPOCHS, LEARNING_RATE),
        objective=PairObjective(method, **udl),
    )


def summary(results: dict[str, dict[str, dict]]) -> list[tuple[str, str, str]]:
    """Return the rows of the summary, which compare the results with the targets."""
    error = {m: {n: h["val_error_deg"][-1] for n, h in row.items()} for m, row in results.items()}
    udl, stn = error["udl"], error["stn"]
    seconds = [history["seconds"][-1] for row in results.values() for history in row.values()]
    return [
        ("ratio of UDL error to STN error, clean images", "< 1", f"{udl['clean'] / stn['clean']:.2f}"),
        *((f"ratio of UDL error to STN error, {n} noise", "-", f"{udl[n] / stn[n]:.2f}") for n in NOISES[1:]),
        *(
            (
                f"UDL, ratio of error with {n} noise to error on clean images",
                ">= 1",
                f"{udl[n] / udl['clean']:.1f}",
            )
            for n in NOISES[1:]
        ),
        ("UDL, largest error", "<< 90 deg", f"{max(udl.values()):.1f} deg"),
        ("total training time", "<= 15 min", f"{sum(seconds) / 60:.1f} min"),
    ]


if __name__ == "__main__":
    main()
