"""Train networks on pairs of natural images with differences (UDL), labels or a spatial transformer (STN).

python benchmarks/natural.py                         measure four methods with three types of noise (40 minutes)
python benchmarks/natural.py --methods udl stn --noises clean
python benchmarks/natural.py --minutes 10            write the table that notebook 5.2 shows; resumes if interrupted
python benchmarks/natural.py --minutes 10 --as-published --channels-divisor 4
python benchmarks/natural.py --minutes 300 --as-published
                                                     crops, shifts and network of the paper, on a GPU

The photographs are read from CRYOEM_DATA/natural-images. Three of them are used for training and three for testing.
Crops are 64 px wide, with any rotation, shifts of up to 2 px and magnifications of 0.5 to 1.5. The noise is as
published: Gaussian noise with 10 times the variance of the crops, or 40 % of the pixels set to 0 or 1. Errors are mean
errors in degrees modulo 360, without a calibration against the truth; random angles would give 90. The numbers of steps
are chosen so that the methods take about the same time.

Three methods train our network; "published" trains the published network, which matches feature maps, with the
published loss, and with a quarter of its channels. With --as-published, crops are 128 px wide with shifts of up to
10 px and no magnification, and the published network has all its channels unless --channels-divisor is given.

With --minutes, the published network is trained for this time instead of a number of steps, and the training of our
network is stopped after this time if it takes longer. A row is added to a CSV file after each training; a row that is
there already is not measured again, and an interrupted training continues from checkpoints. All twelve rows take up to
12 times --minutes: at 64 px, our network needs about 2 minutes for each of its nine rows, and at 128 px about 8.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from published import device, selected
from table import print_columns, print_table

from cryoem.files import atomic_write, data_folder
from cryoem.training import TrainingSchedule
from cryoem.udl import (
    PairObjective,
    PairStream,
    angle_errors_deg,
    build_pair_network,
    build_polar_pair_network,
    load_photographs,
    natural_draw,
    predict_angles,
    published_noise_level,
    train_pairs,
)
from cryoem.udl.natural import NOISES
from cryoem.udl.pairs import METHODS

HERE = Path(__file__).parent
TABLE = HERE.parent / "notebooks" / "5-paper-figures" / "results" / "natural-images.csv"
HELD_OUT = ("000000000139", "000000000285", "000000000632")
SMALL = {"image_size": 64, "shift_limit_px": 2.0, "magnification": (0.5, 1.5)}
AS_PUBLISHED = {"image_size": 128, "shift_limit_px": 10.0}
SMALL_DIVISOR = 4  # of the channels of the published network
BATCH_SIZE, EPOCHS, LEARNING_RATE, PUBLISHED_LEARNING_RATE = 64, 4, 3e-3, 5e-4
STEPS = {"udl": 1600, "supervised": 2400, "stn": 2400, "published": 1600}
HELD_OUT_BATCHES = 20
MOST_EPOCHS, STEPS_OF_TIMED_EPOCH = 100_000, 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--noises", nargs="+", default=NOISES, choices=NOISES, metavar="NOISE")
    parser.add_argument("--as-published", action="store_true", help="crops and channels of the paper")
    parser.add_argument("--channels-divisor", type=int, help="of the published network")
    parser.add_argument("--minutes", type=float, help="limit each training and write a table")
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    folder = Path(os.environ["CRYOEM_DATA"]) / "natural-images"
    paths = sorted(folder.glob("*.jpg"))
    photographs = [
        load_photographs([path for path in paths if (path.stem in HELD_OUT) == chosen], size=300)
        for chosen in (False, True)
    ]
    if arguments.minutes is not None:
        compare(photographs, arguments)
        return
    divisor = divisor_of(arguments)
    results: dict[str, dict[str, dict]] = {}
    for noise in arguments.noises:
        for method in arguments.methods:
            *_, history = measure(method, noise, photographs, arguments.as_published, divisor=divisor)
            results.setdefault(method, {})[noise] = history
            print(f"{method}, {noise}: {history['val_error_deg'][-1]:.2f} deg", flush=True)
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


def divisor_of(arguments: argparse.Namespace) -> int:
    return arguments.channels_divisor or (1 if arguments.as_published else SMALL_DIVISOR)


def compare(photographs: list[list[np.ndarray]], arguments: argparse.Namespace) -> None:
    """Measure the missing rows of the table."""
    options = AS_PUBLISHED if arguments.as_published else SMALL
    settings = {
        "image_size_px": options["image_size"],
        "shift_limit_px": options["shift_limit_px"],
        "channels_divisor": divisor_of(arguments),
        "minutes": arguments.minutes,
    }
    rows = pd.read_csv(arguments.table) if arguments.table.is_file() else pd.DataFrame()
    for noise in arguments.noises:
        for method in arguments.methods:
            key = {"noise": noise, "method": method, **settings}
            if not selected(rows, key).empty:
                continue
            network, held_out, history = measure(
                method,
                noise,
                photographs,
                arguments.as_published,
                divisor=settings["channels_divisor"],
                seconds=60 * arguments.minutes,
                checkpoints=data_folder() / "benchmarks" / "-".join(["natural", *map(str, key.values())]),
            )
            first, second, angles = (
                np.concatenate(parts)
                for parts in zip(*(held_out[i] for i in range(len(held_out))), strict=True)
            )
            found = predict_angles(network, first, second, bias_rad=np.radians(history["bias_deg"][-1]))
            errors = angle_errors_deg(found, angles)
            row = {
                **key,
                "mean_deg": float(errors.mean()),
                "median_deg": float(np.median(errors)),
                "steps": int(history["step"][-1]),
                "training_seconds": history["seconds"][-1],
                "device": device(),
            }
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
            with atomic_write(arguments.table) as aside:
                rows.to_csv(aside, index=False, float_format="%.6g")
            print(", ".join(f"{label} {value}" for label, value in row.items()), flush=True)


def measure(
    method: str,
    noise: str,
    photographs: list[list[np.ndarray]],
    as_published: bool,
    *,
    divisor: int,
    seconds: float | None = None,
    checkpoints: Path | None = None,
):
    """Train a network with one method and type of noise; return it, the stream of held-out pairs and the history."""
    training, held_out = photographs
    options = AS_PUBLISHED if as_published else SMALL
    size, shift = options["image_size"], options["shift_limit_px"]
    noises = {"noise": noise, "noise_level": published_noise_level(training, noise, **options)}
    published = method == "published"
    epochs, steps = EPOCHS, STEPS[method] // EPOCHS
    if published and seconds is not None:
        epochs, steps = MOST_EPOCHS, STEPS_OF_TIMED_EPOCH
    stream = PairStream(
        natural_draw(training, **options, **noises), batch_size=BATCH_SIZE, steps=steps, seed=1
    )
    validation = PairStream(
        natural_draw(held_out, **options, **noises), batch_size=BATCH_SIZE, steps=HELD_OUT_BATCHES, seed=2
    )
    if published:
        network = build_pair_network(size, correlation=True, channels_divisor=divisor, rng=0)
        displaced = {"displacement_px": shift / 2}
    else:
        # ignore the soft edge of the mask, displaced by a shift
        network = build_polar_pair_network(size, border_px=0.05 * size + np.sqrt(2) * shift, rng=0)
        displaced = {"displacement_px": shift, "split_pixels": noise != "clean"} if method == "udl" else {}
    history = train_pairs(
        network,
        stream,
        validation=validation,
        schedule=TrainingSchedule(
            epochs, PUBLISHED_LEARNING_RATE if published else LEARNING_RATE, seconds=seconds
        ),
        objective=PairObjective(method, **displaced),
        checkpoints=checkpoints,
    )
    return network, validation, history


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
