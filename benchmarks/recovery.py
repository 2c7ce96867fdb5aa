"""Recover 1,650 orientations from exact and perturbed distances of all pairs, and compare the errors with the paper.

python benchmarks/recovery.py
python benchmarks/recovery.py --stochastic     also run stochastic descent, ours and as published (minutes)
"""

from __future__ import annotations

import argparse
import time

from table import print_table

from cryoem import experiments
from cryoem.distances import exact_distances, perturbed_distances
from cryoem.orientations import recover_orientations, recovery_error
from cryoem.rotations import random_rotations

SIGMAS_RAD = (0.0, 0.1, 0.2, 0.4, 0.8)
TARGETS = {0.0: "< 1e-5", 0.8: "<= 0.06"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orientations", type=int, default=1650)
    parser.add_argument("--stochastic", action="store_true")
    arguments = parser.parse_args()
    true = random_rotations(arguments.orientations, rng=0)
    exact = exact_distances(true)
    recover_orientations(exact[:200, :200])  # load the compiled code before timing
    rows, target_seconds = [], 0.0
    methods = ("spectral", "spectral+gauss_newton") + (("sgd", "published") if arguments.stochastic else ())
    published = experiments.published("figure-5").set_index("sigma_rad").recovery_error_rad
    for spread in SIGMAS_RAD:
        paper = published[spread]
        distances = perturbed_distances(exact, standard_deviation=spread, rng=1)
        for method in methods:
            start = time.perf_counter()
            recovered = recover_orientations(distances, method=method, rng=0)
            seconds = time.perf_counter() - start
            if method == "spectral+gauss_newton" and spread in TARGETS:
                target_seconds += seconds
            target = TARGETS.get(spread, "-") if method == "spectral+gauss_newton" else "-"
            error = recovery_error(true, recovered.rotations)
            measured = f"{error:.2g} rad in {seconds:.2f} s (paper {paper} rad)"
            rows.append((f"E_OR, sigma {spread:g} rad, {method}", target, measured))
    rows.append(
        ("total time for both rows with a target, spectral+gauss_newton", "<= 5 s", f"{target_seconds:.2f} s")
    )
    print_table(
        "recovery", f"Recovery of {arguments.orientations:,} orientations from all pairwise distances", rows
    )


if __name__ == "__main__":
    main()
