"""Orientation recovery from all pairs of 1,650 orientations: exact and perturbed distances, beside the paper's numbers.

python benchmarks/recovery.py
python benchmarks/recovery.py --stochastic     also the published stochastic method (minutes)
"""

from __future__ import annotations

import argparse
import time

from table import print_table

from cryoem.distances import exact_distances, perturbed_distances
from cryoem.evaluation import recovery_error
from cryoem.recovery import recover_orientations
from cryoem.rotations import random_rotations

PAPER_E_OR = {
    0.0: 0.0015,
    0.1: 0.069,
    0.2: 0.099,
    0.4: 0.128,
    0.8: 0.194,
}  # arXiv 2104.06237, figure on sensitivity
ASKED = {0.0: "< 1e-5", 0.8: "<= 0.06"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orientations", type=int, default=1650)
    parser.add_argument("--stochastic", action="store_true")
    arguments = parser.parse_args()
    true = random_rotations(arguments.orientations, rng=0)
    exact = exact_distances(true)
    recover_orientations(exact[:200, :200])  # loads the compiled code
    rows, asked_seconds = [], 0.0
    methods = ("spectral", "spectral+refine") + (("sgd",) if arguments.stochastic else ())
    for spread, paper in PAPER_E_OR.items():
        distances = perturbed_distances(exact, standard_deviation=spread, rng=1)
        for method in methods:
            start = time.perf_counter()
            recovered = recover_orientations(distances, method=method, rng=0)
            seconds = time.perf_counter() - start
            if method == "spectral+refine" and spread in ASKED:
                asked_seconds += seconds
            asked = ASKED.get(spread, "-") if method == "spectral+refine" else "-"
            error = recovery_error(true, recovered.rotations)
            measured = f"{error:.2g} rad in {seconds:.2f} s (paper {paper} rad)"
            rows.append((f"E_OR, sigma {spread:g} rad, {method}", asked, measured))
    rows.append(("both asked, spectral+refine", "<= 5 s", f"{asked_seconds:.2f} s"))
    print_table(f"{arguments.orientations} orientations, all pairs", rows)


if __name__ == "__main__":
    main()
