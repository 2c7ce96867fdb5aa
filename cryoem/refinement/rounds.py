"""The rounds of refinement of one set of images: grid, trust, match, repeat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.projectors.fourier import transform
from cryoem.reconstruction import SliceSums
from cryoem.refinement.poses import Poses
from cryoem.refinement.steps import descend, search
from cryoem.refinement.trust import FOLDS, LEAST_TRUSTED, filtered, last_trusted_shell, total, trust
from cryoem.refinement.working_set import FullImages, WorkingSet, working_set
from cryoem.resolution import FSC

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


def follow(plan: Plan, images: FullImages, poses: Poses, rng, callback) -> tuple[Poses, list[dict]]:
    """All rounds on one set of images: their poses and the history."""
    fold = rng.permutation(len(images.planes)) % FOLDS
    nyquist = images.size // 2
    trusted = nyquist  # the finest shell worth looking at
    history: list[dict] = []
    for round_ in range(plan.search_rounds + plan.gradient_rounds):
        radius = plan.search_radius / 2**round_ if round_ < plan.search_rounds else None
        finest = trusted if radius is None else min(trusted, math.ceil(SHELLS_PER_RADIAN / radius))
        work = working_set(images, poses, finest)
        matrices = poses.rotations.as_matrix()
        sums = [work.of(fold == f).gridded(matrices[fold == f], plan.group) for f in range(FOLDS)]
        fsc, mask = trust(sums)
        last = min(finest, last_trusted_shell(fsc))
        step = partial(descend, steps=2, moves=plan.moves)
        if radius is not None:
            step = partial(search, candidates=plan.candidates, radius=radius, rng=rng, moves=plan.moves)
        moved, scores = _match_folds(step, work.within(last), poses.rotations, fold, sums, fsc, mask)
        coarse_pixel_angstrom = work.pixel_px * plan.pixel_size_angstrom
        entry = {
            "round": round_ + 1,
            "kind": "gradient" if radius is None else "search",
            "score": float(scores.mean()),
            "moved_rad": float((moved.rotations * poses.rotations.inv()).magnitude().mean()),
            "resolution_angstrom": coarse_pixel_angstrom * fsc.resolution_angstrom(LEAST_TRUSTED),
        }
        poses = Poses(moved.rotations, poses.shifts_px + work.pixel_px * moved.shifts_px)
        if last < finest:
            trusted = min(nyquist, int(1.3 * last) + 4)
        history.append(entry)
        if callback is not None:
            callback(entry, poses.rotations)
        if radius is None and entry["moved_rad"] < plan.tolerance:
            break
    return poses, history


def _match_folds(
    step, matched: WorkingSet, rotations: Rotation, fold, sums: list[SliceSums], fsc: FSC, mask
) -> tuple[Poses, np.ndarray]:
    """One step of every image against the map of the other folds: orientations, how far the particles stand from where
    they were taken to be, in coarse pixels, and the correlation (n,).
    """
    moved, scores = np.empty((len(rotations), 3, 3)), np.empty(len(rotations))
    shifts = np.empty((len(rotations), 2))
    for f in range(FOLDS):
        reference = transform(filtered(total(sums) - sums[f], fsc, mask))
        members = np.flatnonzero(fold == f)
        found, scores[members] = step(reference, matched.of(members), rotations[members])
        moved[members], shifts[members] = found.rotations.as_matrix(), found.shifts_px
    return Poses(Rotation.from_matrix(moved), shifts), scores
