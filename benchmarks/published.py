"""Compare the published alignment networks with ours and with classical methods, or measure the published network.

    python benchmarks/published.py                   size and speed of the published network, 128 px (minutes)
    python benchmarks/published.py --minutes 10      all methods on the fourteen sets (6 hours), resumes if interrupted
    python benchmarks/published.py --minutes 5 --initial-minutes 120 --channels-divisor 8
                                                     train once without noise, then start from there
    python benchmarks/published.py --minutes 10 --sets 1-noise 4-ssnr --image-size 64 --channels-divisor 4
    python benchmarks/published.py --minutes 600 --image-size 128 --channels-divisor 1 --images 50000
                                                     train as published, on a GPU

After each method, the comparison adds a row for the set and method to a CSV file. All methods use the same images. They
are also trained on these images, without labels. Errors are modulo 180 degrees over the first 1,000 images of the set:

- ``pairs``: the angle from each image to the next ("against next");
- ``pairs_true_bias``: the same, after subtracting the mean error, which only the truth reveals, as published;
- ``reference``: the angles of all images to one reference, up to a constant. The published networks and the correlation
  compare all images with the first image of the set.

``--minutes`` limits the training of each published network; published-judl starts from the trained published-udl. As
in the authors' program, published-udl can start from a network that was trained on one set: here on the images of the
first set without noise. The time of this training, which all sets share, is ``--initial-minutes``. The training times
in the table include the earlier trainings.
Interrupted trainings continue from checkpoints in the folder benchmarks/ of the data folder, where ``history.csv``
contains the loss after each epoch. Random answers have a loss of about 54 degrees. Our trainings take about a minute.

The class averages are read from CRYOEM_DATA/class-averages.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from alignment import PIXEL_SIZES_ANGSTROM
from gpu_training import keras_finds_a_gpu
from table import card_name, print_columns, print_table

from cryoem.devices import chosen_device, cores
from cryoem.files import atomic_write, data_folder
from cryoem.training import TrainingSchedule
from cryoem.training.backend import keras
from cryoem.udl import (
    PublishedOptions,
    SyntheticSet,
    build_pair_network,
    iterated_template,
    joint_errors_deg,
    pair_angles,
    polar_grid,
    polar_spectra,
    read_class_average,
    synthetic_set,
    train,
    wrap_angles,
)
from cryoem.udl.published import MASK_FILTERS, PUBLISHED_FILTERS
from cryoem.udl.published_training import SCHEDULES, DifferencePairs, difference_model, image_network

HERE = Path(__file__).parent
TABLE = HERE.parent / "notebooks" / "5-paper-figures" / "results" / "published-alignment.csv"
SETS = [f"{number}-{noise}" for number in range(1, 8) for noise in ("noise", "ssnr")]
METHODS = ("correlation", "template", "udl", "judl", "published-udl", "published-judl")
OF_PUBLISHED = (
    "channels_divisor",
    "minutes",
    "initial_minutes",
    "rate_factor",
)  # blank for the other methods
EVALUATED = 1000
PUBLISHED_BATCH, PUBLISHED_STEPS = 32, 12_000  # one period of the published learning rate
MOST_EPOCHS = 100_000
# GroEL, on which the authors recommend to train initial weights; without noise, the loss leaves its plateau sooner
INITIAL_SET = "1-clean"
GPU_FLOPS = 20e12  # assumed sustained rate: a third of the nominal float32 rate of a current GPU


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="compare methods; time of each published training")
    parser.add_argument("--initial-minutes", type=float, default=0.0, help="training on clean images")
    parser.add_argument("--rate-factor", type=float, default=1.0, help="of the published learning rates")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, metavar="SET")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=None, help="64 to compare, otherwise 128")
    parser.add_argument("--channels-divisor", type=int, default=None, help="4 to compare, otherwise 1")
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    if arguments.minutes is None:
        measure_network(arguments.image_size or 128, arguments.channels_divisor or 1)
    else:
        compare(arguments)


# --- comparison


def compare(arguments: argparse.Namespace) -> None:
    """Measure the missing rows of the table, and print those of the chosen sets and methods."""
    settings = {
        "image_size_px": arguments.image_size or 64,
        "channels_divisor": arguments.channels_divisor or 4,
        "images": arguments.images,
        "minutes": arguments.minutes,
        "initial_minutes": arguments.initial_minutes,
        "rate_factor": arguments.rate_factor,
    }
    rows = pd.read_csv(arguments.table) if arguments.table.is_file() else pd.DataFrame()
    for name in arguments.sets:
        particles = None
        for method in arguments.methods:
            key = {"set": name, "method": method, **settings}
            if not selected(rows, key).empty:
                continue
            if particles is None:
                particles = load_set(name, settings["image_size_px"], arguments.images)
            row = {**key, **measure(particles, key)}
            if not method.startswith("published"):
                row |= dict.fromkeys(OF_PUBLISHED)
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
            with atomic_write(arguments.table) as aside:
                rows.to_csv(aside, index=False, float_format="%.6g")
            print(", ".join(f"{label} {value}" for label, value in rows.iloc[-1].items()), flush=True)
    chosen = selected(rows, settings)
    chosen = chosen[chosen["set"].isin(arguments.sets) & chosen["method"].isin(arguments.methods)]
    columns = ["set", "method", *chosen.columns[len(settings) + 2 :]]
    print_columns(
        "published-alignment",
        f"Alignment of {arguments.images:,} images per set, degrees modulo 180",
        columns,
        [
            [f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row]
            for row in chosen[columns].values
        ],
    )


def device() -> str:
    """Return the name of the GPU that Keras uses or, without one, the number of cores."""
    used = chosen_device() != "cpu" and keras_finds_a_gpu(keras.backend.backend())
    return card_name() or "GPU" if used else f"{cores()} cores"


def selected(rows: pd.DataFrame, key: dict) -> pd.DataFrame:
    """Return the rows with the values of ``key``, or with blanks, where a value does not matter."""
    if rows.empty:
        return rows
    return rows[(rows[list(key)].fillna(key) == pd.Series(key)).all(axis=1)]


@functools.lru_cache(maxsize=1)
def load_set(name: str, image_size: int, images: int) -> SyntheticSet:
    number, noise = int(name[0]), name[2:]
    average = read_class_average(
        Path(os.environ["CRYOEM_DATA"]) / "class-averages" / f"center-{number}.png",
        pixel_size_angstrom=PIXEL_SIZES_ANGSTROM[number - 1],
        image_size=image_size,
    )
    # shifts of 10 px of 128, as published
    return synthetic_set(average, images, noise=noise, shift_limit_px=round(10 * image_size / 128), rng=1)


def measure(particles: SyntheticSet, key: dict) -> dict[str, float]:
    """Train a method, if it is trained, and return its errors (degrees) and times (seconds)."""
    images = particles.images[:EVALUATED]
    start = time.perf_counter()
    if key["method"] in ("correlation", "template"):
        of_pairs, of_images, training = classical(particles.images, key["method"])
    else:
        aligner, training = trained(particles.images, key)
        aligner.angles(images[:2])  # compile the network
        start = time.perf_counter()
        of_pairs, of_images = aligner.between(images[:-1], images[1:]), aligner.angles(images)
    seconds = time.perf_counter() - start - (training if key["method"] == "template" else 0)
    true = particles.angles_rad[: len(images)]
    errors = wrap_angles(of_pairs - np.diff(true), np.pi)
    constant = np.angle(np.exp(2j * errors).mean()) / 2
    measured = {
        "pairs": np.degrees(np.abs(errors)),
        "pairs_true_bias": np.degrees(np.abs(wrap_angles(errors - constant, np.pi))),
        "reference": joint_errors_deg(of_images, true),
    }
    statistics = {
        f"{name}_{statistic.__name__}_deg": float(statistic(values))
        for name, values in measured.items()
        for statistic in (np.mean, np.median)
    }
    return {**statistics, "training_seconds": training, "seconds": seconds, "device": device()}


def classical(images: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Angles of the first pairs and of the first images, and the time of the iteration over all images."""
    grid = polar_grid(images.shape[1])
    if method == "correlation":
        spectra = polar_spectra(images[:EVALUATED], grid)
        return pair_angles(spectra[:-1], spectra[1:]), pair_angles(spectra[:1], spectra), 0.0
    start = time.perf_counter()
    angles, _ = iterated_template(polar_spectra(images, grid))
    angles = angles[:EVALUATED]
    return np.diff(angles), angles, time.perf_counter() - start


def trained(images: np.ndarray, key: dict):
    """Return the trained aligner and the time of its training, including that of the aligner it started from."""
    if key["method"].startswith("published"):
        return published_aligner(**key)
    start = time.perf_counter()
    aligner = train(images, method=key["method"]).aligner
    return aligner, time.perf_counter() - start


@functools.cache
def published_aligner(**key):
    """Return a trained published network and the time of its training, including that of its initial network."""
    particles = load_set(key["set"], key["image_size_px"], key["images"])
    initial, seconds = None, 0.0
    if key["method"] == "published-judl":
        initial, seconds = published_aligner(**key | {"method": "published-udl"})
    elif key["initial_minutes"]:
        first = {"set": INITIAL_SET, "minutes": key["initial_minutes"], "initial_minutes": 0.0}
        initial, seconds = published_aligner(**key | first)
    name = "-".join(str(value) for value in key.values())
    rate = key["rate_factor"] * SCHEDULES[key["method"]].learning_rate
    result = train(
        particles.images,
        method=key["method"],
        options=PublishedOptions(channels_divisor=key["channels_divisor"], initial_aligner=initial),
        schedule=TrainingSchedule(MOST_EPOCHS, rate, seconds=60 * key["minutes"]),
        checkpoints=data_folder() / "benchmarks" / name,
    )
    return result.aligner, seconds + result.history["seconds"][-1]


# --- size and speed of the network


def measure_network(size: int, divisor: int, batch: int = 4, steps: int = 6) -> None:
    """Measure training steps with a small batch and predictions; estimate the time of the published training."""
    images = np.random.default_rng(0).standard_normal((16, size, size), dtype=np.float32)
    network = build_pair_network(size, channels_divisor=divisor, rng=0)
    parameters = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    model = difference_model(image_network(network))
    pairs = np.stack([np.arange(16), np.roll(np.arange(16), -1)], axis=1)
    (first, second, rotations), _ = DifferencePairs(images, pairs, batch, joint=False, seed=0)[0]
    model.compile(keras.optimizers.Adam(1e-4), loss="mse", jit_compile=False)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_on_batch([first, second, rotations], np.zeros((batch, 2)))
        seconds.append(time.perf_counter() - start)
    network.predict([images, images], verbose=0)  # compile
    start = time.perf_counter()
    network.predict([images, images], verbose=0)
    pairs_per_second = len(images) / (time.perf_counter() - start)
    operations = 2 * multiplications(size)  # for one pair, forward pass only
    # the backward pass costs twice as much, and UDL sees each pair twice
    estimate = 3 * 2 * operations * PUBLISHED_BATCH / GPU_FLOPS
    rows = [
        ("trainable parameters", "-", f"{parameters:,}"),
        ("inference", "-", f"{pairs_per_second:.2f} pairs/s"),
        (f"UDL step of {batch} pairs", "-", f"{np.median(seconds[1:]):.2f} s"),
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
    for width in (*MASK_FILTERS, 1):
        total += 9 * width_in * width * side**2
        width_in = width
    width_in = 1
    for width in PUBLISHED_FILTERS:
        total += (2 * width_in * width + 10 * width**2) * side**2
        width_in, side = width, side // 2
    return 2 * total


if __name__ == "__main__":
    main()
