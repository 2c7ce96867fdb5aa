"""Orientation recovery at equal error: how long ours takes, and how long the published stochastic descent.

    python benchmarks/recovery_speed.py                  a quarter of an hour on two cores
    python benchmarks/recovery_speed.py --seconds 60     the stochastic method stops after a minute at the latest

Ours is ``spectral+refine`` on all pairs, the median of several calls.  The stochastic method (arXiv 2104.06237, our
implementation of it) begins with the 30,000 steps that were published and is given four times as many again and again
until its E_OR is within 2 % of ours, or its time is used up; the table then holds what it had by then, and the ratio is
a lower bound.  Each row is a descent from the start, and its own time alone counts.

scikit-learn (extra ``baselines``) is there for sanity: MDS and Isomap place the images in nine dimensions, by distances
2 sqrt(2) sin(d / 2), which are those of rotation matrices.  They are turned onto the true matrices there, a help that
the others do without, and each image gets the rotation nearest to its point.
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
from cryoem.evaluation import recovery_error
from cryoem.recovery import recover_orientations
from cryoem.rotations import random_rotations

PUBLISHED_STEPS = 30_000
GROWTH = 4
SAME = 1.02
ASKED = ">= 1,000 x"
NEIGHBOURS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orientations", type=int, default=1650)
    parser.add_argument("--sigma", type=float, default=0.2, help="of the Gaussian errors of distances, rad")
    parser.add_argument("--seconds", type=float, default=240.0, help="longest run of the stochastic method")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    true = random_rotations(arguments.orientations, rng=0)
    distances = perturbed_distances(exact_distances(true), standard_deviation=arguments.sigma, rng=1)
    methods = ("spectral+refine", "spectral")
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
        f"{arguments.orientations} orientations, all pairs, errors of {arguments.sigma:g} rad: time to the same E_OR",
        ("method", "time", f"{OURS} is faster by", "E_OR", "peak memory", "asked"),
        rows,
    )


def stochastic_rows(true, distances, best: float, ours_s: float, limit_s: float) -> list[tuple[str, ...]]:
    """The stochastic method with more and more steps, until its error is as wanted or the time is used up."""
    recover_orientations(distances, method="sgd", steps=GROWTH, rng=0)  # loads TensorFlow
    rows, steps, wanted = [], PUBLISHED_STEPS, SAME * best
    while True:
        one = watch(partial(recover_orientations, distances, method="sgd", steps=steps, rng=0))
        error = recovery_error(true, one.result.rotations)
        affordable = int(steps * limit_s / one.seconds[0])
        reached = error <= wanted
        last = reached or steps > affordable / 1.25
        # the variance beyond that of the distances themselves falls as 1 / steps
        missing = (error**2 - best**2) / (wanted**2 - best**2)
        ratio = ratio_text(one.seconds[0] / ours_s)
        rows.append(
            row(
                f"stochastic, {steps:,} steps",
                one,
                error,
                ratio=ratio if reached else f"> {ratio}",
                note="" if reached else ", not the same yet",
                asked=ASKED if last else "-",
            )
        )
        if last:
            return rows
        steps = min(int(np.clip(1.1 * missing, 1.2, GROWTH) * steps), affordable)


def embedding_rows(true, distances, ours_s: float) -> list[tuple[str, ...]]:
    """scikit-learn's metric MDS and Isomap."""
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
            row(name, one, error, ratio=ratio_text(one.seconds[0] / ours_s), note=", turned onto the truth")
        )
    return rows


def nearest_rotations(points: np.ndarray, true: Rotation) -> Rotation:
    """The rotations nearest to (n, 9) points that were turned and scaled onto the true rotation matrices."""
    wanted = true.as_matrix().reshape(-1, 9)
    centred = points - points.mean(axis=0)
    turn, scale = orthogonal_procrustes(centred, wanted - wanted.mean(axis=0))
    placed = centred @ turn * (scale / np.sum(centred**2)) + wanted.mean(axis=0)
    left, _, right = np.linalg.svd(placed.reshape(-1, 3, 3))
    left[:, :, -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    return Rotation.from_matrix(left @ right)


def row(name: str, one: Watched, error: float, *, ratio="", note="", asked="-") -> tuple[str, ...]:
    return name, time_text(one.median_s), ratio, f"{error:.4f} rad{note}", one.peak, asked


if __name__ == "__main__":
    main()
