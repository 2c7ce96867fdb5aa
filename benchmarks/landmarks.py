"""Measure the recovery of 100,000 orientations from a file of their distances to 1,000 landmarks.

    python benchmarks/landmarks.py
    python benchmarks/landmarks.py --images 20000

The distances have Gaussian errors. The reference is the recovery of 1,000 orientations from all pairwise distances,
which has the same number of distances per image. Only ``recover_orientations`` is timed, in a separate process whose
peak memory the system reports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from table import print_table

from cryoem.distances import exact_distances, perturbed_distances, spread_landmarks
from cryoem.orientations import recover_orientations, recovery_error
from cryoem.rotations import geodesic_distance, random_rotations

SIGMA, LANDMARKS, BLOCK = 0.2, 1000, 2000
RECOVER = """
import json, sys, time, numpy as np
from cryoem.orientations import recover_orientations
from cryoem.rotations import geodesic_distance, random_rotations
folder, n, m = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
small = random_rotations(60, rng=0)
recover_orientations(geodesic_distance(small, small[:20]).astype(np.float32), landmarks=np.arange(20))  # compile
recover_orientations(geodesic_distance(small, small))
columns = np.memmap(folder + "/distances", np.float32, "r", shape=(n, m))
numbers = np.load(folder + "/landmarks.npy")
start = time.perf_counter()
recovery = recover_orientations(columns, landmarks=numbers)
seconds = time.perf_counter() - start
np.save(folder + "/found.npy", recovery.rotations.as_quat())
print(json.dumps({"seconds": seconds}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    n = parser.parse_args().images
    rotations = random_rotations(n, rng=0)
    with tempfile.TemporaryDirectory() as folder:
        write_distances(Path(folder), rotations, covering(rotations))
        process = subprocess.Popen(
            [sys.executable, "-c", RECOVER, folder, str(n), str(LANDMARKS)], stdout=subprocess.PIPE
        )
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(
                f"the recovery process failed with exit code {os.waitstatus_to_exitcode(status)}"
            )
        seconds = json.loads(answer)["seconds"]
        found = np.load(Path(folder) / "found.npy")
    error = recovery_error(rotations, type(rotations).from_quat(found))
    every = error_of_all_pairs(rotations[:LANDMARKS])
    print_table(
        "landmarks",
        f"Recovery of {n:,} orientations from distances to {LANDMARKS:,} landmarks, distance errors of {SIGMA} rad",
        [
            ("recovery", "<= 60 s", f"{seconds:.1f} s"),
            ("peak memory", "<= 2 GB", f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB"),
            ("E_OR", "<= 1.2 x all pairs", f"{error:.5f} rad = {error / every:.3f} x all pairs"),
            (f"E_OR, all pairs of {LANDMARKS:,} images", "-", f"{every:.5f} rad"),
        ],
    )


def covering(rotations) -> np.ndarray:
    """Choose landmarks that cover all orientations, using distances with errors like those of an encoder."""
    rng = np.random.default_rng(1)

    def distances_to(image: int) -> np.ndarray:
        exact = geodesic_distance(rotations, rotations[image : image + 1])[:, 0]
        return exact + rng.normal(scale=SIGMA, size=exact.shape)

    return spread_landmarks(distances_to, len(rotations), LANDMARKS, rng=rng)


def write_distances(folder: Path, rotations, numbers: np.ndarray) -> None:
    """Write ``landmarks.npy``, (m,), and ``distances``, (n, m) float32 with errors, symmetric among the landmarks."""
    n = len(rotations)
    np.save(folder / "landmarks.npy", numbers)
    columns = np.memmap(folder / "distances", np.float32, "w+", shape=(n, len(numbers)))
    rng = np.random.default_rng(2)
    for start in range(0, n, BLOCK):
        exact = geodesic_distance(rotations[start : start + BLOCK], rotations[numbers])
        columns[start : start + BLOCK] = exact + rng.normal(scale=SIGMA, size=exact.shape)
    among = perturbed_distances(exact_distances(rotations[numbers]), standard_deviation=SIGMA, rng=rng)
    columns[numbers] = among
    columns.flush()


def error_of_all_pairs(rotations) -> float:
    """Return the E_OR (rad) of the recovery from all pairwise distances."""
    distances = perturbed_distances(exact_distances(rotations), standard_deviation=SIGMA, rng=3)
    return recovery_error(rotations, recover_orientations(distances).rotations)


if __name__ == "__main__":
    main()
