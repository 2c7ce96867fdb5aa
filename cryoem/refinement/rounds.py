"""The rounds of refinement of one set of images: grid, trust, match, repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.projectors.fourier import transform
from cryoem.reconstruction import SliceSums
from cryoem.refinement.poses import Poses
from cryoem.refinement.progress import Standing
from cryoem.refinement.steps import Found, descend, search
from cryoem.refinement.trust import FOLDS, LEAST_TRUSTED, filtered, last_trusted_shell, total, trust
from cryoem.refinement.working_set import FullImages, WorkingSet, working_set
from cryoem.resolution import FSC

CONVERGING = (
    0.5  # a round that moves orientations by less than this share of the round before is still on its way
)
SHELLS_PER_RADIAN = 2.0  # finer shells than this over the search radius turn by more than a search can follow


@dataclass(frozen=True)
class Plan:
    """What every round needs to know; see ``refine``.  ``group``: (k, 3, 3) rotations of the point group; ``moves``:
    whether shifts are refined.
    """

    pixel_size_angstrom: float
    group: np.ndarray
    search_rounds: int
    gradient_rounds: int
    candidates: int
    search_radius: float
    tolerance: float
    moves: bool

    @property
    def most_rounds(self) -> int:
        """Of search and of gradient."""
        return self.search_rounds + self.gradient_rounds


def rounds(
    plan: Plan, images: FullImages, standing: Standing, rng: np.random.Generator
) -> Iterator[Standing]:
    """The rounds of one set of images from where it stands to its end: its standing after each.

    Maps are not made with the likeliest poses but with poses drawn from what each image leaves open (one draw of the
    expectation step of an EM algorithm): the likeliest ones would agree with the map's own errors, and keep them.  What
    the draws leave in the poses is averaged over the gradient rounds since orientations have settled.
    """
    while not standing.ended:
        standing = _after_round(plan, images, standing, rng)
        yield standing


def first_standing(plan: Plan, images: FullImages, start: Poses) -> Standing:
    """Images before the first round, if there is any."""
    return Standing.at_start(start, trusted=images.size // 2, ended=plan.most_rounds == 0)


def _after_round(plan: Plan, images: FullImages, standing: Standing, rng) -> Standing:
    poses, drawn = Poses.from_array(standing.poses), Poses.from_array(standing.drawn)
    history, settled, trusted = standing.history, standing.settled, standing.trusted
    round_ = len(history)
    radius = plan.search_radius / 2**round_ if round_ < plan.search_rounds else None
    finest = trusted if radius is None else min(trusted, math.ceil(SHELLS_PER_RADIAN / radius))
    fold = rng.permutation(len(images.planes)) % FOLDS
    sums = _gridded_folds(working_set(images, drawn, finest), drawn, fold, plan.group)
    fsc, mask = trust(sums)
    last = min(finest, last_trusted_shell(fsc))
    step = partial(descend, steps=2, moves=plan.moves)
    if radius is not None:
        step = partial(search, candidates=plan.candidates, radius=radius, rng=rng, moves=plan.moves)
    work = working_set(images, poses, finest)
    found = _match_folds(step, work.within(last), poses.rotations, fold, sums, fsc, mask)
    entry = {
        "round": round_ + 1,
        "kind": "gradient" if radius is None else "search",
        "score": float(found.scores.mean()),
        "moved_rad": float((found.poses.rotations * poses.rotations.inv()).magnitude().mean()),
        "resolution_angstrom": work.pixel_px
        * plan.pixel_size_angstrom
        * fsc.resolution_angstrom(LEAST_TRUSTED),
    }
    drawn = poses.followed_by(found.drawn(rng), work.pixel_px).as_array()
    likeliest = poses.followed_by(found.poses, work.pixel_px).as_array()
    if last < finest:
        trusted = min(images.size // 2, int(1.3 * last) + 4)
    converged = False
    if radius is None:
        on_the_way = history and entry["moved_rad"] < CONVERGING * history[-1]["moved_rad"]
        settled = likeliest[None] if on_the_way else np.concatenate([settled, likeliest[None]])
        converged = entry["moved_rad"] < plan.tolerance
    ended = converged or round_ + 1 == plan.most_rounds
    return Standing(likeliest, drawn, settled, trusted, (*history, entry), ended)


def _gridded_folds(work: WorkingSet, poses: Poses, fold: np.ndarray, group: np.ndarray) -> list[SliceSums]:
    matrices = poses.rotations.as_matrix()
    return [work.of(fold == f).gridded(matrices[fold == f], group) for f in range(FOLDS)]


def _match_folds(
    step, matched: WorkingSet, rotations: Rotation, fold, sums: list[SliceSums], fsc: FSC, mask
) -> Found:
    """One step of every image against the map of the other folds."""
    members = [np.flatnonzero(fold == f) for f in range(FOLDS)]
    found = []
    for f, some in enumerate(members):
        reference = transform(filtered(total(sums) - sums[f], fsc, mask))
        found.append(step(reference, matched.of(some), rotations[some]))
    order = np.argsort(np.concatenate(members))

    def in_order(parts):
        return np.concatenate(parts)[order]

    poses = Poses(
        Rotation.from_quat(in_order([part.poses.rotations.as_quat() for part in found])),
        in_order([part.poses.shifts_px for part in found]),
    )
    return Found(
        poses, in_order([part.scores for part in found]), in_order([part.covariances for part in found])
    )
