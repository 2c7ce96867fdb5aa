"""Orientations from learned distances and from common lines (ASPIRE), on the same images: errors and times.

    python benchmarks/common_lines.py                                     the stored table, with what is missing in it
    python benchmarks/common_lines.py --images 100 200 --noise-variance 0 --methods learned

Particles are simulated, centred, with noise of a variance beside clean images of variance 1.  Both methods see them
downsampled; with --refine, our refinement goes on from either, with the whole images.  An encoder is trained once for
a map and a noise variance, on projections of that map; common lines need no map.  A row of the table is one method on
one set of images; rows that are there are kept.  What would take longer than --seconds, as the times of fewer images
say, is not run and stands as such in the table with its projected time.  Times are those of the processor, all cores
together, which other work on the machine hardly changes, and those of the clock.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from table import print_table

from cryoem import common_lines, imaging, registry, siamese
from cryoem.evaluation import align_frame
from cryoem.folders import data_folder
from cryoem.gauge import fix_gauge
from cryoem.pipeline.files import written_aside
from cryoem.recovery import recover_orientations
from cryoem.refinement import refine

HERE = Path(__file__).parent
TABLE = HERE.parent / "notebooks" / "5-paper-figures" / "results" / "common-lines.csv"
LEARNED, VOTING, SYNC3N = "learned distances", "common lines", "common lines, Sync3N"
METHODS = {"learned": LEARNED, "voting": VOTING, "sync3n": SYNC3N}
KEY = ["map", "method", "images", "noise_variance", "image_size_px", "network_size_px", "seed"]
MEASURED = ["pose_error_mean_rad", "pose_error_median_rad", "cpu_seconds", "seconds", "training_seconds"]
COLUMNS = [*KEY, "status", *MEASURED, "projected_cpu_seconds"]
GROWTH = 3.0  # of the time of common lines with the number of images, at most: all triplets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n", help="registry name or path of a map")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument("--noise-variance", type=float, nargs="+", default=[0.0, 1.0, 4.0, 16.0])
    parser.add_argument("--methods", nargs="+", default=["learned", "voting"], choices=list(METHODS))
    parser.add_argument("--refine", action="store_true", help="and go on from the orientations found")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--network-size", type=int, default=58, help="what encoder and common lines see, px")
    parser.add_argument("--epochs", type=int, default=None, help="epochs of 50 steps of 128 images")
    parser.add_argument("--seconds", type=float, default=600.0, help="longest run of common lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    table = Table(arguments.table)
    for noise in arguments.noise_variance:
        for method in arguments.methods:
            if method == "learned":
                measure_learned(table, noise, arguments)
            elif common_lines.is_installed():
                measure_common_lines(table, noise, method, arguments)
            else:
                print(f"{METHODS[method]}: ASPIRE is not installed (extra baselines); stored rows are shown")
    for noise in arguments.noise_variance:
        print_rows(table.rows, noise, arguments)


class Table:
    """The rows so far, written whole after each new one."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = pd.DataFrame(pd.read_csv(path) if path.is_file() else None, columns=COLUMNS)

    def has(self, key: dict, *status: str) -> bool:
        """Whether there is a row of that status: by default one that need not be measured again."""
        return bool((self._same(key) & self.rows["status"].isin(status or ("measured", "failed"))).any())

    def add(self, key: dict, status: str, **values: float) -> None:
        row = pd.DataFrame([{**key, "status": status, **values}], columns=COLUMNS)
        kept = self.rows[~self._same(key)]
        rows = row if kept.empty else pd.concat([kept, row])
        self.rows = rows.sort_values(["map", "noise_variance", "method", "images", "seed"], ignore_index=True)
        with written_aside(self.path) as aside:
            self.rows.to_csv(aside, index=False, float_format="%.6g")
        print(", ".join(f"{name} {value}" for name, value in {**key, "status": status, **values}.items()))

    def _same(self, key: dict) -> pd.Series:
        return (self.rows[list(key)] == pd.Series(key)).all(axis=1)


class Clock:
    """Seconds of processor and clock since it was made."""

    def __init__(self):
        self.start = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        return {
            "cpu_seconds": time.process_time() - self.start[0],
            "seconds": time.perf_counter() - self.start[1],
        }


def measure_learned(table: Table, noise: float, arguments: argparse.Namespace) -> None:
    """Train once, then recover the orientations of each number of images."""
    keys = {n: key_of(LEARNED, n, noise, arguments) for n in arguments.images}
    missing = [n for n, key in keys.items() if is_missing(table, key, arguments)]
    if not missing:
        return
    density = registry.load(arguments.map)
    warm_up(density, arguments)
    encoder, training = train(density, noise, arguments)
    for n in missing:
        stack = simulate(density, n, noise, arguments)
        clock = Clock()
        small = imaging.downsample(stack.images, arguments.network_size)
        distances = siamese.predict_distances(encoder, small)
        recovery = recover_orientations(distances, rng=arguments.seed)
        found = fix_gauge(stack.images, recovery.rotations, rng=arguments.seed).rotations
        spent = {**clock.read(), "training_seconds": training}
        record(table, keys[n], stack, found, spent, refined=arguments.refine)


def measure_common_lines(table: Table, noise: float, method: str, arguments: argparse.Namespace) -> None:
    """ASPIRE's orientations for each number of images, the fewest first."""
    name = METHODS[method]
    density = registry.load(arguments.map)
    for n in sorted(arguments.images):
        key = key_of(name, n, noise, arguments)
        if not is_missing(table, key, arguments):
            continue
        projected = projected_seconds(table.rows, key)
        if projected > arguments.seconds:
            table.add(key, "not run", projected_cpu_seconds=projected)
            continue
        stack = simulate(density, n, noise, arguments)
        clock = Clock()
        try:
            found = common_lines.orientations_from_common_lines(
                imaging.downsample(stack.images, arguments.network_size),
                estimator=method,
                rng=arguments.seed,
            )
        except np.linalg.LinAlgError:
            table.add(key, "failed", **clock.read())
            continue
        record(table, key, stack, found, clock.read(), refined=arguments.refine)


def is_missing(table: Table, key: dict, arguments: argparse.Namespace) -> bool:
    """Whether there is something to measure: a method that failed has nothing to refine."""
    if not table.has(key):
        return True
    return arguments.refine and not table.has(key, "failed") and not table.has(refined_key(key))


def refined_key(key: dict) -> dict:
    return {**key, "method": f"{key['method']}, refined"}


def record(table: Table, key: dict, stack, found, spent: dict[str, float], *, refined: bool) -> None:
    """Rows of some orientations and, if asked for, of what the refinement makes of them."""
    table.add(key, "measured", **errors_of(stack, found), **spent)
    if not refined:
        return
    clock = Clock()
    found = refine(
        stack.images, found, pixel_size_angstrom=stack.pixel_size_angstrom, rng=key["seed"]
    ).rotations
    spent = spent | {name: spent[name] + more for name, more in clock.read().items()}
    table.add(refined_key(key), "measured", **errors_of(stack, found), **spent)


def errors_of(stack, found) -> dict[str, float]:
    errors = align_frame(stack.rotations, found).errors
    return {"pose_error_mean_rad": errors.mean(), "pose_error_median_rad": float(np.median(errors))}


def train(density, noise: float, arguments: argparse.Namespace):
    """An encoder for a map and a noise variance, and the seconds of its training; it is kept and goes on from there."""
    folder = data_folder() / "common-lines"
    folder /= f"{Path(arguments.map).stem}-{arguments.image_size}px-noise-{noise:g}-seed-{arguments.seed}"
    keras.utils.set_random_seed(arguments.seed)
    size = arguments.network_size
    options = {"image_size": arguments.image_size, "noise_variance": noise}
    encoder = siamese.build_encoder(size)
    stream = siamese.ProjectionStream(
        density, network_image_size=size, batch_size=128, steps=50, seed=arguments.seed, **options
    )
    held_out = imaging.simulate(density, 256, rng=[arguments.seed, 2], **options)
    validation = imaging.downsample(held_out.images, size), held_out.rotations.as_quat()
    epochs = arguments.epochs or (16 if noise == 0 else 30)
    history = siamese.train(
        encoder, stream, epochs=epochs, validation=validation, checkpoints=folder, verbose=2
    )
    return encoder, history["seconds"][-1]


def simulate(density, n: int, noise: float, arguments: argparse.Namespace):
    return imaging.simulate(
        density, n, image_size=arguments.image_size, noise_variance=noise, rng=[arguments.seed, 1]
    )


def warm_up(density, arguments: argparse.Namespace) -> None:
    """Compile what is compiled once, so that the first row does not pay for it."""
    stack = simulate(density, 40, 0.0, arguments)
    fix_gauge(stack.images, stack.rotations, rng=0)
    if arguments.refine:
        refine(stack.images, stack.rotations, pixel_size_angstrom=stack.pixel_size_angstrom, rng=0)


def key_of(method: str, n: int, noise: float, arguments: argparse.Namespace) -> dict:
    sizes = arguments.image_size, arguments.network_size
    return dict(zip(KEY, (arguments.map, method, n, noise, *sizes, arguments.seed), strict=True))


def projected_seconds(rows: pd.DataFrame, key: dict) -> float:
    """Processor seconds that a method will take, from its times for fewer images at any noise; 0 if unknown."""
    free = ("images", "noise_variance", "seed")
    same = (
        rows[[name for name in KEY if name not in free]]
        == pd.Series({name: value for name, value in key.items() if name not in free})
    ).all(axis=1)
    times = rows[same & (rows["status"] == "measured")].groupby("images")["cpu_seconds"].mean()
    times = times[times.index <= key["images"]]
    if times.empty:
        return 0.0
    growth = GROWTH
    if len(times) > 1:
        (n_1, t_1), (n_2, t_2) = list(times.items())[-2:]
        growth = float(np.clip(np.log(t_2 / t_1) / np.log(n_2 / n_1), 2.0, GROWTH))
    return float(times.iloc[-1] * (key["images"] / times.index[-1]) ** growth)


def print_rows(rows: pd.DataFrame, noise: float, arguments: argparse.Namespace) -> None:
    """The stored rows of a noise variance as a table."""
    chosen = rows[
        (rows["map"] == arguments.map)
        & (rows["noise_variance"] == noise)
        & (rows["image_size_px"] == arguments.image_size)
        & (rows["seed"] == arguments.seed)
        & rows["images"].isin(arguments.images)
    ]
    shown = []
    for row in chosen.sort_values(["images", "method"]).itertuples():
        if row.status == "measured":
            text = (
                f"{row.pose_error_mean_rad:.4f} rad, median {row.pose_error_median_rad:.4f}; "
                f"{row.cpu_seconds:.0f} s of processor, {row.seconds:.0f} s"
            )
        elif row.status == "failed":
            text = f"no orientations, after {row.cpu_seconds:.0f} s of processor"
        else:
            text = f"not run; projected {row.projected_cpu_seconds:.0f} s of processor"
        shown.append((f"{row.images} images, {row.method}", "-", text))
    training = chosen["training_seconds"].dropna()
    if len(training):
        shown.append(("training, once", "-", f"{training.iloc[0]:.0f} s"))
    print_table(f"{arguments.map}, noise variance {noise:g}, pose error", shown)


if __name__ == "__main__":
    main()
