"""Recovery at scale: 100,000 orientations from a file of their distances to 1,000 landmarks.

    python benchmarks/landmarks.py
    python benchmarks/landmarks.py --images 20000

Distances have Gaussian errors.  Beside them stand all pairs of 1,000 images, which give each image as many distances
as 1,000 landmarks do.  The time is that of ``recover_orientations`` alone, in a process of its own whose largest memory
the system tells.
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

from cryoem.distances import exact_distances, perturbed_distances
from cryoem.evaluation import recovery_error
from cryoem.recovery import recover_orientations
from cryoem.recovery.landmarks import spread_landmarks
from cryoem.rotations import geodesic_distance, random_rotations

SIGMA, LANDMARKS, BLOCK = 0.2, 1000, 2000
RECOVER = """
import json, sys, time, numpy as np
from cryoem.recovery import recover_orientations
from cryoem.rotations import geodesic_distance, random_rotations
folder, n, m = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
small = random_rotations(60, rng=0)
recover_orientations(geodesic_distance(small, small[:20]).astype(np.float32), landmarks=np.arange(20))  # compiles
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
            raise SystemExit(f"recovery ended with {os.waitstatus_to_exitcode(status)}")
        seconds = json.loads(answer)["seconds"]
        found = np.load(Path(folder) / "found.npy")
    error = recovery_error(rotations, type(rotations).from_quat(found))
    every = error_of_all_pairs(rotations[:LANDMARKS])
    print_table(
        f"{n:,} orientations from distances to {LANDMARKS:,} landmarks, errors of {SIGMA} rad",
        [
            ("recovery", "<= 60 s", f"{seconds:.1f} s"),
            ("largest memory", "<= 2 GB", f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB"),
            ("E_OR", "<= 1.2 x all pairs", f"{error:.5f} rad = {error / every:.3f} x all pairs"),
            (f"E_OR, all pairs of {LANDMARKS:,} images", "-", f"{every:.5f} rad"),
        ],
    )


def covering(rotations) -> np.ndarray:
    """Numbers of landmarks that cover all orientations, chosen by distances with errors, as an encoder's are."""
    rng = np.random.default_rng(1)

    def distances_to(image: int) -> np.ndarray:
        exact = geodesic_distance(rotations, rotations[image : image + 1])[:, 0]
        return exact + rng.normal(scale=SIGMA, size=exact.shape)

    return spread_landmarks(distances_to, len(rotations), LANDMARKS, rng=rng)


def write_distances(folder: Path, rotations, numbers: np.ndarray) -> None:
    """``landmarks.npy`` (m,) and ``distances`` (n, m) float32 with errors, those between two landmarks symmetric."""
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
    distances = perturbed_distances(exact_distances(rotations), standard_deviation=SIGMA, rng=3)
    return recovery_error(rotations, recover_orientations(distances).rotations)


if __name__ == "__main__":
    main()
