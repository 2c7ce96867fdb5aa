"""Compare the accuracy and speed of learned distances and of common lines (ASPIRE) on the same images.

    python benchmarks/common_lines.py                                     measure only the missing rows
    python benchmarks/common_lines.py --images 100 200 --noise-variance 0 --methods learned

The particles are simulated and centred, and noise-free images have variance 1. Both methods use downsampled images.
With --refine, the orientations from each method are refined by this package on the full images. One encoder is trained
for each map and noise variance, on projections of that map; common lines need no map.

Each row is for one method and one set of images. The time of a run is first extrapolated from runs with fewer images.
If it exceeds --seconds, the run is not started, and its row contains the projected time. The table has both wall-clock
times and processor times summed over all cores. The latter depend little on other work on the machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from table import print_table

from cryoem import distances, orientations, particles, reconstruction, volumes
from cryoem.files import atomic_write, data_folder
from cryoem.images import downsample
from cryoem.particles.simulation import ImagingConditions
from cryoem.training.backend import keras

HERE = Path(__file__).parent
TABLE = HERE.parent / "notebooks" / "5-paper-figures" / "results" / "common-lines.csv"
LEARNED, VOTING, SYNC3N = "learned distances", "common lines", "common lines, Sync3N"
METHODS = {"learned": LEARNED, "voting": VOTING, "sync3n": SYNC3N}
KEY = ["map", "method", "images", "noise_variance", "image_size_px", "network_size_px", "seed"]
MEASURED = ["pose_error_mean_rad", "pose_error_median_rad", "cpu_seconds", "seconds", "training_seconds"]
COLUMNS = [*KEY, "status", *MEASURED, "projected_cpu_seconds"]
GROWTH = 3.0  # largest exponent of the time in the number of images: common lines visit all triplets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n", help="name in the registry or path of a map")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument("--noise-variance", type=float, nargs="+", default=[0.0, 1.0, 4.0, 16.0])
    parser.add_argument("--methods", nargs="+", default=["learned", "voting"], choices=list(METHODS))
    parser.add_argument("--refine", action="store_true", help="also refine the orientations")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument(
        "--network-size",
        type=int,
        default=58,
        help="image size for the encoder and for common lines, px",
    )
    parser.add_argument(
        "--epochs", type=int, default=None, help="number of epochs, each of 50 steps with 128 images"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit for common lines, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    table = Table(arguments.table)
    for noise in arguments.noise_variance:
        for method in arguments.methods:
            if method == "learned":
                measure_learned(table, noise, arguments)
            elif orientations.is_installed():
                measure_common_lines(table, noise, method, arguments)
            else:
                print(
                    f"{METHODS[method]}: ASPIRE is not installed (extra baselines), so only stored rows are shown"
                )
    for noise in arguments.noise_variance:
        print_rows(table.rows, noise, arguments)


class Table:
    """A table of measurements, stored in a file that is rewritten after each new row."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = pd.DataFrame(pd.read_csv(path) if path.is_file() else None, columns=COLUMNS)

    def has(self, key: dict, *status: str) -> bool:
        """Return whether a row has one of the given statuses; by default, one that needs no new measurement."""
        return bool((self._same(key) & self.rows["status"].isin(status or ("measured", "failed"))).any())

    def add(self, key: dict, status: str, **values: float) -> None:
        row = pd.DataFrame([{**key, "status": status, **values}], columns=COLUMNS)
        kept = self.rows[~self._same(key)]
        rows = row if kept.empty else pd.concat([kept, row])
        self.rows = rows.sort_values(["map", "noise_variance", "method", "images", "seed"], ignore_index=True)
        with atomic_write(self.path) as aside:
            self.rows.to_csv(aside, index=False, float_format="%.6g")
        print(", ".join(f"{name} {value}" for name, value in {**key, "status": status, **values}.items()))

    def _same(self, key: dict) -> pd.Series:
        return (self.rows[list(key)] == pd.Series(key)).all(axis=1)


class Clock:
    """A stopwatch for processor time and wall-clock time, in seconds since its creation."""

    def __init__(self):
        self.start = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        return {
            "cpu_seconds": time.process_time() - self.start[0],
            "seconds": time.perf_counter() - self.start[1],
        }


def measure_learned(table: Table, noise: float, arguments: argparse.Namespace) -> None:
    """Train once, then recover the orientations for each number of images."""
    keys = {n: key_of(LEARNED, n, noise, arguments) for n in arguments.images}
    missing = [n for n, key in keys.items() if is_missing(table, key, arguments)]
    if not missing:
        return
    density = volumes.load(arguments.map)
    warm_up(density, arguments)
    encoder, training = trained(density, noise, arguments)
    for n in missing:
        stack = simulated(density, n, noise, arguments)
        clock = Clock()
        estimate = distances.estimate_distances(stack.images, encoder)
        recovery = orientations.recover_orientations(estimate.distances, rng=arguments.seed)
        found = orientations.fix_gauge(stack.images, recovery.rotations, rng=arguments.seed).rotations
        spent = {**clock.read(), "training_seconds": training}
        record(table, keys[n], stack, found, spent, refined=arguments.refine)


def measure_common_lines(table: Table, noise: float, method: str, arguments: argparse.Namespace) -> None:
    """Run ASPIRE for each number of images, in increasing order."""
    name = METHODS[method]
    density = volumes.load(arguments.map)
    for n in sorted(arguments.images):
        key = key_of(name, n, noise, arguments)
        if not is_missing(table, key, arguments):
            continue
        projected = projected_seconds(table.rows, key)
        if projected > arguments.seconds:
            table.add(key, "not run", projected_cpu_seconds=projected)
            continue
        stack = simulated(density, n, noise, arguments)
        clock = Clock()
        try:
            found = orientations.orientations_from_common_lines(
                downsample(stack.images, arguments.network_size),
                estimator=method,
                rng=arguments.seed,
            )
        except np.linalg.LinAlgError:
            table.add(key, "failed", **clock.read())
            continue
        record(table, key, stack, found, clock.read(), refined=arguments.refine)


def is_missing(table: Table, key: dict, arguments: argparse.Namespace) -> bool:
    """Return whether a row must be measured. If a method failed, there are no orientations to refine."""
    if not table.has(key):
        return True
    return arguments.refine and not table.has(key, "failed") and not table.has(refined_key(key))


def refined_key(key: dict) -> dict:
    return {**key, "method": f"{key['method']}, refined"}


def record(table: Table, key: dict, stack, found, spent: dict[str, float], *, refined: bool) -> None:
    """Store a row for the given orientations and, if ``refined``, a row for their refinement."""
    table.add(key, "measured", **errors_of(stack, found), **spent)
    if not refined:
        return
    clock = Clock()
    found = reconstruction.refine(stack.images, found, optics=stack.optics, rng=key["seed"]).rotations
    spent = spent | {name: spent[name] + more for name, more in clock.read().items()}
    table.add(refined_key(key), "measured", **errors_of(stack, found), **spent)


def errors_of(stack, found) -> dict[str, float]:
    errors = orientations.align_frame(stack.rotations, found).errors
    return {"pose_error_mean_rad": errors.mean(), "pose_error_median_rad": float(np.median(errors))}


def trained(density, noise: float, arguments: argparse.Namespace):
    """Train an encoder for a map and a noise variance, or resume. Return the encoder and the training time (s)."""
    folder = data_folder() / "common-lines"
    folder /= f"{Path(arguments.map).stem}-{arguments.image_size}px-noise-{noise:g}-seed-{arguments.seed}"
    keras.utils.set_random_seed(arguments.seed)
    settings = distances.EncoderSettings(image_size=arguments.network_size)
    encoder = distances.TrainedEncoder(settings.build(), settings)
    conditions = {"image_size": arguments.image_size, "noise_variance": noise}
    stream = distances.ProjectionStream(
        density,
        ImagingConditions(**conditions),
        network_image_size=arguments.network_size,
        batch_size=128,
        steps=50,
        seed=arguments.seed,
    )
    history = distances.train(
        encoder,
        stream,
        validation=particles.simulate(density, 256, rng=[arguments.seed, 2], **conditions),
        schedule=distances.TrainingSchedule(arguments.epochs or (16 if noise == 0 else 30)),
        checkpoints=folder,
        verbose=2,
    )
    return encoder, history["seconds"][-1]


def simulated(density, n: int, noise: float, arguments: argparse.Namespace):
    return particles.simulate(
        density, n, image_size=arguments.image_size, noise_variance=noise, rng=[arguments.seed, 1]
    )


def warm_up(density, arguments: argparse.Namespace) -> None:
    """Compile all functions, so that the first row does not include compilation time."""
    stack = simulated(density, 40, 0.0, arguments)
    orientations.fix_gauge(stack.images, stack.rotations, rng=0)
    if arguments.refine:
        reconstruction.refine(stack.images, stack.rotations, optics=stack.optics, rng=0)


def key_of(method: str, n: int, noise: float, arguments: argparse.Namespace) -> dict:
    sizes = arguments.image_size, arguments.network_size
    return dict(zip(KEY, (arguments.map, method, n, noise, *sizes, arguments.seed), strict=True))


def projected_seconds(rows: pd.DataFrame, key: dict) -> float:
    """Extrapolate the processor time of a method from runs with fewer images, at any noise. Return 0 if unknown."""
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
    """Print the stored rows for the given noise variance."""
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
                f"{row.cpu_seconds:.0f} s processor time, {row.seconds:.0f} s wall-clock time"
            )
        elif row.status == "failed":
            text = f"failed after {row.cpu_seconds:.0f} s processor time"
        else:
            text = f"not run; projected processor time {row.projected_cpu_seconds:.0f} s"
        shown.append((f"{row.images} images, {row.method}", "-", text))
    training = chosen["training_seconds"].dropna()
    if len(training):
        shown.append(("training the encoder (once)", "-", f"{training.iloc[0]:.0f} s"))
    print_table("common-lines", f"Pose error, {arguments.map}, noise variance {noise:g}", shown)


if __name__ == "__main__":
    main()
