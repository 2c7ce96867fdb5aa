"""Compare the time of orientation recovery with that of the published stochastic descent, at equal error.

    python benchmarks/recovery_speed.py                  15 minutes on two cores
    python benchmarks/recovery_speed.py --seconds 60     limit the stochastic descent to one minute

Our method is ``spectral+gauss_newton`` on all pairs; its time is the median over several calls. The stochastic descent
(arXiv 2104.06237, our implementation) is first run with the published 30,000 steps. It is then repeated from the
beginning with up to four times as many steps, until its E_OR is within 2 % of ours or the time limit is reached. As
long as its E_OR is larger, the speed-up is a lower bound.

scikit-learn (extra ``baselines``) serves as a sanity check. MDS and Isomap embed the images in nine dimensions, using
the distances 2 sqrt(2) sin(d / 2) between rotation matrices. The embedding is aligned with the true matrices, which the
other methods do not need, and each point is projected onto the nearest rotation.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import peers
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation
from table import print_columns
from watch import ABSENT, OURS, Watched, in_turns, ratio_text, time_text, watch

from cryoem.distances import exact_distances, perturbed_distances
from cryoem.orientations import recover_orientations, recovery_error
from cryoem.rotations import random_rotations

PUBLISHED_STEPS = 30_000
GROWTH = 4
SAME = 1.02
TARGET = ">= 1,000 x"
NEIGHBOURS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orientations", type=int, default=1650)
    parser.add_argument(
        "--sigma", type=float, default=0.2, help="standard deviation of the distance errors, rad"
    )
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="time limit for the stochastic descent, s"
    )
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    true = random_rotations(arguments.orientations, rng=0)
    distances = perturbed_distances(exact_distances(true), standard_deviation=arguments.sigma, rng=1)
    methods = ("spectral+gauss_newton", "spectral")
    ours = in_turns(
        {method: partial(recover_orientations, distances, method=method) for method in methods},
        repeats=arguments.repeats,
    )
    error = recovery_error(true, ours[methods[0]].result.rotations)
    seconds = ours[methods[0]].median_s
    rows = [row(f"{OURS}, {methods[0]}", ours[methods[0]], error)]
    rows.append(
        row(
            f"{OURS}, {methods[1]}", ours[methods[1]], recovery_error(true, ours[methods[1]].result.rotations)
        )
    )
    rows += stochastic_rows(true, distances, error, seconds, arguments.seconds)
    rows += embedding_rows(true, distances, seconds)
    print_columns(
        "recovery-speed",
        f"Time to recover {arguments.orientations:,} orientations with equal E_OR, all pairs, "
        f"distance errors of {arguments.sigma:g} rad",
        ("method", "time", f"speed-up of {OURS}", "E_OR", "peak memory", "target"),
        rows,
    )


def stochastic_rows(true, distances, best: float, ours_s: float, limit_s: float) -> list[tuple[str, ...]]:
    """Run the stochastic descent with more and more steps until it reaches the target error or the time limit."""
    recover_orientations(distances, method="sgd", steps=GROWTH, rng=0)  # load TensorFlow
    rows, steps, wanted = [], PUBLISHED_STEPS, SAME * best
    while True:
        one = watch(partial(recover_orientations, distances, method="sgd", steps=steps, rng=0))
        error = recovery_error(true, one.result.rotations)
        affordable = int(steps * limit_s / one.seconds[0])
        reached = error <= wanted
        last = reached or steps > affordable / 1.25
        # the variance added by the descent to that due to the distances falls as 1 / steps
        missing = (error**2 - best**2) / (wanted**2 - best**2)
        ratio = ratio_text(one.seconds[0] / ours_s)
        rows.append(
            row(
                f"stochastic, {steps:,} steps",
                one,
                error,
                ratio=ratio if reached else f"> {ratio}",
                note="" if reached else ", not converged",
                target=TARGET if last else "-",
            )
        )
        if last:
            return rows
        steps = min(int(np.clip(1.1 * missing, 1.2, GROWTH) * steps), affordable)


def embedding_rows(true, distances, ours_s: float) -> list[tuple[str, ...]]:
    """Embed the distances with scikit-learn's metric MDS and Isomap."""
    names = ("scikit-learn, MDS in 9-D", "scikit-learn, Isomap in 9-D")
    sklearn = peers.scikit_learn("manifold")
    if sklearn is None:
        return [(name, ABSENT, "", "", "", "-") for name in names]
    chords = 2 * np.sqrt(2) * np.sin(np.clip(np.abs(distances), 0, np.pi) / 2)
    np.fill_diagonal(chords, 0)
    methods = (
        sklearn.manifold.MDS(9, metric="precomputed", n_init=1, init="classical_mds", random_state=0),
        sklearn.manifold.Isomap(n_neighbors=NEIGHBOURS, n_components=9, metric="precomputed"),
    )
    rows = []
    for name, method in zip(names, methods, strict=True):
        one = watch(partial(method.fit_transform, chords))
        error = recovery_error(true, nearest_rotations(one.result, true))
        rows.append(
            row(name, one, error, ratio=ratio_text(one.seconds[0] / ours_s), note=", aligned to the truth")
        )
    return rows


def nearest_rotations(points: np.ndarray, true: Rotation) -> Rotation:
    """Align (n, 9) points with the true rotation matrices and return the nearest rotations."""
    wanted = true.as_matrix().reshape(-1, 9)
    centred = points - points.mean(axis=0)
    turn, scale = orthogonal_procrustes(centred, wanted - wanted.mean(axis=0))
    placed = centred @ turn * (scale / np.sum(centred**2)) + wanted.mean(axis=0)
    left, _, right = np.linalg.svd(placed.reshape(-1, 3, 3))
    left[:, :, -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    return Rotation.from_matrix(left @ right)


def row(name: str, one: Watched, error: float, *, ratio="", note="", target="-") -> tuple[str, ...]:
    return name, time_text(one.median_s), ratio, f"{error:.4f} rad{note}", one.peak, target


if __name__ == "__main__":
    main()
