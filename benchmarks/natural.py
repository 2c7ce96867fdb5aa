"""Pairs of natural images: one network trained by differences (UDL), by labels and by a spatial transformer (STN).

python benchmarks/natural.py                         the table of three methods and three noises (about 20 minutes)
python benchmarks/natural.py --methods udl stn --noises clean --json table.json

Photographs are those of CRYOEM_DATA/natural-images: three for training, three for the measurement. Crops have 64 px,
any rotation, displacements of up to 2 px and magnifications of 0.5 to 1.5. Noise is as published: 10 times the
variance of the crops, or 40 % of the pixels set to 0 or 1. Errors are mean errors in degrees modulo 360 (chance: 90);
no calibration uses the truth. The methods take different numbers of steps, so that their times are about equal.
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
from cryoem.udl.pair_training import METHODS

HELD_OUT = ("000000000139", "000000000285", "000000000632")
IMAGE_SIZE, SHIFT_LIMIT_PX, MAGNIFICATION = 64, 2.0, (0.5, 1.5)
BORDER_PX = 6.0  # 3 px of the mask's edge and a displacement
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
        f"{crops:,} pairs of crops of held-out photographs, mean error in degrees modulo 360",
        ("method", *arguments.noises, "training"),
        rows,
    )
    if set(arguments.methods) == set(METHODS) and set(arguments.noises) == set(NOISES):
        print_table("natural-summary", "Natural images, summary", summary(results))


def measure(method: str, noise: str, training: list[np.ndarray], held_out: list[np.ndarray]) -> dict:
    """Return the history of one training."""
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
    """Compare the whole table with its targets."""
    error = {m: {n: h["val_error_deg"][-1] for n, h in row.items()} for m, row in results.items()}
    udl, stn = error["udl"], error["stn"]
    seconds = [history["seconds"][-1] for row in results.values() for history in row.values()]
    return [
        ("error ratio of UDL to STN, clean images", "< 1", f"{udl['clean'] / stn['clean']:.2f}"),
        *((f"error ratio of UDL to STN, {n} noise", "-", f"{udl[n] / stn[n]:.2f}") for n in NOISES[1:]),
        *(
            (f"UDL, error ratio of {n} noise to clean images", ">= 1", f"{udl[n] / udl['clean']:.1f}")
            for n in NOISES[1:]
        ),
        ("UDL, largest error", "<< 90 deg", f"{max(udl.values()):.1f} deg"),
        ("total training time", "<= 15 min", f"{sum(seconds) / 60:.1f} min"),
    ]


if __name__ == "__main__":
    main()
