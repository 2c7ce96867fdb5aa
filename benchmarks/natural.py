"""Train networks on pairs of natural images with differences (UDL), labels or a spatial transformer (STN).

python benchmarks/natural.py                         measure four methods with three types of noise (40 minutes)
python benchmarks/natural.py --methods udl stn --noises clean --json table.json
python benchmarks/natural.py --as-published          crops, shifts and the published network at full size (on a GPU)

The photographs are read from CRYOEM_DATA/natural-images. Three of them are used for training and three for testing.
Crops are 64 px wide, with any rotation, shifts of up to 2 px and magnifications of 0.5 to 1.5. The noise is as
published: Gaussian noise with 10 times the variance of the crops, or 40 % of the pixels set to 0 or 1. Errors are mean
errors in degrees modulo 360, without a calibration against the truth; random angles would give 90. The numbers of steps
are chosen so that the methods take about the same time.

Three methods train our network; "published" trains the published network, which matches feature maps, with the
published loss, and with a quarter of its channels. With --as-published, crops are 128 px wide with shifts of up to
10 px and no magnification, and the network has all its channels.
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
    build_pair_network,
    build_polar_pair_network,
    load_photographs,
    natural_draw,
    published_noise_level,
    train_pairs,
)
from cryoem.udl.natural import NOISES
from cryoem.udl.pairs import METHODS

HELD_OUT = ("000000000139", "000000000285", "000000000632")
SMALL = {"image_size": 64, "shift_limit_px": 2.0, "magnification": (0.5, 1.5)}
AS_PUBLISHED = {"image_size": 128, "shift_limit_px": 10.0}
SMALL_DIVISOR = 4  # of the channels of the published network
BATCH_SIZE, EPOCHS, LEARNING_RATE, PUBLISHED_LEARNING_RATE = 64, 4, 3e-3, 5e-4
STEPS = {"udl": 1600, "supervised": 2400, "stn": 2400, "published": 1600}
HELD_OUT_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--noises", nargs="+", default=NOISES, choices=NOISES, metavar="NOISE")
    parser.add_argument("--as-published", action="store_true", help="crops and channels of the paper")
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
            history = measure(method, noise, training, held_out, as_published=arguments.as_published)
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


def measure(
    method: str, noise: str, training: list[np.ndarray], held_out: list[np.ndarray], *, as_published: bool
) -> dict:
    """Train a network with one method and type of noise, and return the history."""
    options = AS_PUBLISHED if as_published else SMALL
    size, shift = options["image_size"], options["shift_limit_px"]
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
    if method == "published":
        divisor = 1 if as_published else SMALL_DIVISOR
        network = build_pair_network(size, correlation=True, channels_divisor=divisor, rng=0)
        displaced = {"displacement_px": shift / 2}
    else:
        # ignore the soft edge of the mask, displaced by a shift
        network = build_polar_pair_network(size, border_px=0.05 * size + np.sqrt(2) * shift, rng=0)
        displaced = {"displacement_px": shift, "split_pixels": noise != "clean"} if method == "udl" else {}
    return train_pairs(
        network,
        stream,
        validation=validation,
        schedule=TrainingSchedule(
            EPOCHS, PUBLISHED_LEARNING_RATE if method == "published" else LEARNING_RATE
        ),
        objective=PairObjective(method, **displaced),
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
