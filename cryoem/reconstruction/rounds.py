"""Rounds of refinement for one set of images: grid, weight by half-map FSC, match, repeat.

Maps are reconstructed with poses sampled from the uncertainty of each image (one draw of the expectation step of an EM
algorithm), not with the most likely poses, which would reproduce and preserve the errors of the map. The sampling noise
is averaged out over the gradient rounds since convergence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.projection.fourier import VolumeTransform, transform
from cryoem.reconstruction.accumulation import FourierAccumulator
from cryoem.reconstruction.alternatives import APART_RAD, alternative_poses
from cryoem.reconstruction.masks import particle_mask
from cryoem.reconstruction.optics_fits import (
    OpticsEvidence,
    defocus_changes,
    fitted_optics,
    optics_evidence,
)
from cryoem.reconstruction.pose_steps import (
    FullImages,
    MatchResult,
    WorkingImages,
    coarse_size,
    descend,
    gridded_sets,
    search,
    searchable_shell,
    working_images,
)
from cryoem.reconstruction.resolution import FSC, HALF_MAP_THRESHOLD, fourier_shell_correlation
from cryoem.reconstruction.variation import locally_filtered
from cryoem.rotations import Poses
from cryoem.validation import not_negative, positive_number, whole_number

AHEAD = 2  # references that are computed at a time
FOLDS = 8  # more folds mean less noise in the references but more work
COMPARED_THRESHOLD = 0.06  # close to the optimum, images also gain from shells with little signal
LEAST_GAIN = 2.0  # least log-likelihood ratio with which an alternative, far away, replaces a pose
CONVERGING = 0.5  # orientations still converge if they move by less than this fraction of the previous move
SETTLED_ROUNDS = 2  # gradient rounds since convergence, after which a refinement ends


@dataclass(frozen=True)
class RefinementSchedule:
    """Schedule of a refinement.

    Parameters
    ----------
    search_rounds : int
        Number of rounds of random search. The search radius is halved after each round.
    gradient_rounds : int
        Maximum number of rounds of Gauss-Newton steps that follow the search in each half. At most as many rounds, and
        at most two, of all images follow.
    candidates : int
        Number of random rotations tried for each image in each search round.
    search_radius : float
        Radius of the first search in radians.
    tolerance : float
        Mean change of orientation in radians below which refinement stops after a gradient round. From the second
        gradient round on, it also stops if orientations move at least half as far as in the round before, and no finer
        shell is compared.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    search_rounds: int = 2
    gradient_rounds: int = 4
    candidates: int = 24
    search_radius: float = 0.12
    tolerance: float = 1e-3

    def __post_init__(self):
        whole_number(self.search_rounds, name="search_rounds", at_least=0)
        whole_number(self.gradient_rounds, name="gradient_rounds", at_least=0)
        whole_number(self.candidates, name="candidates", at_least=1)
        positive_number(self.search_radius, name="search_radius")
        not_negative(self.tolerance, name="tolerance")


@dataclass(frozen=True)
class RoundSettings:
    """Settings of all rounds.

    ``group`` (k, 3, 3) contains the rotations of the point group.
    """

    pixel_size_angstrom: float
    group: np.ndarray
    schedule: RefinementSchedule
    refine_shifts: bool
    refine_ctf: bool

    @property
    def last_round(self) -> int:
        """Total number of search and gradient rounds."""
        return self.schedule.search_rounds + self.schedule.gradient_rounds


@dataclass(frozen=True)
class RefinementState:
    """State of n images between two rounds.

    ``poses`` are the most likely poses, and ``sampled`` those used to reconstruct maps. ``optics`` has the fitted
    defocus and scale of each image. ``settled`` contains the most likely poses of each gradient round since
    convergence. ``finest_shell`` is the finest shell at which images are compared, and ``explained`` the fraction of
    the power of the images that slices explained in the last round. ``history`` has one entry per round. ``ended`` is
    True after the last round.
    """

    poses: Poses
    sampled: Poses
    optics: Optics
    settled: tuple[Poses, ...]
    finest_shell: int
    explained: float
    history: tuple[dict, ...]
    ended: bool

    def outcome(self) -> Poses:
        """Return the most likely poses, averaged image by image over the rounds since convergence."""
        if len(self.settled) < 2:
            return self.poses
        last = self.poses.rotations
        turns = np.mean([(poses.rotations * last.inv()).as_rotvec() for poses in self.settled], axis=0)
        shifts = np.mean([poses.shifts_px for poses in self.settled], axis=0)
        return Poses(Rotation.from_rotvec(turns) * last, shifts)


def first_state(
    settings: RoundSettings, poses: Poses, optics: Optics, finest_shell: int, *, explained: float = 0.0
) -> RefinementState:
    """Return the state before the first round."""
    return RefinementState(poses, poses, optics, (), finest_shell, explained, (), settings.last_round == 0)


def next_round(
    settings: RoundSettings, images: FullImages, state: RefinementState, rng: np.random.Generator
) -> RefinementState:
    """Refine one set of images by one round: the poses and, in gradient rounds, the optics."""
    schedule, number = settings.schedule, len(state.history)
    stated, images = images.optics, replace(images, optics=state.optics)
    searching = number < schedule.search_rounds
    radius = schedule.search_radius / 2**number
    finest = searchable_shell(radius, state.finest_shell) if searching else state.finest_shell

    # grid the folds at the sampled poses, and measure how well their halves agree
    fold = rng.permutation(len(state.poses)) % FOLDS
    members = [np.flatnonzero(fold == f) for f in range(FOLDS)]
    sums = gridded_sets(images, state.sampled, members, finest, settings.group, explained=state.explained)
    halves = [reduce(add, sums[half::2]) for half in (0, 1)]
    maps = [half.invert() for half in halves]
    mask = particle_mask(*maps)
    fsc = fourier_shell_correlation(*maps, mask=mask)
    last = min(finest, last_trusted_shell(fsc, HALF_MAP_THRESHOLD if searching else COMPARED_THRESHOLD))

    # match every image with the map of the other folds
    step = partial(descend, steps=2, refine_shifts=settings.refine_shifts)
    if searching:
        step = partial(
            search,
            candidates=schedule.candidates,
            radius=radius,
            rng=rng,
            refine_shifts=settings.refine_shifts,
        )
    alternatives = state.poses
    if number == schedule.search_rounds:
        alternatives = alternative_poses(
            images,
            state.poses,
            locally_filtered((halves[0] + halves[1]).invert(), maps, mask, last_shell=last),
            (finest, last),
            group=settings.group,
            refine_shifts=settings.refine_shifts,
            rng=rng.spawn(1)[0],
        )
    references = _references(sums, halves, maps, mask, last)
    fit = None
    if settings.refine_ctf and not searching:
        changes = defocus_changes(stated, last / (images.size * settings.pixel_size_angstrom))
        stated = (
            stated if len(changes) > 1 else state.optics
        )  # only the scale is fitted, and the defocus kept
        fit = partial(optics_evidence, changes=changes)
    found, evidence = _match_folds(
        step, fit, images, stated, state.poses, alternatives, members, references, (finest, last)
    )
    optics = state.optics if fit is None else fitted_optics(stated, evidence)
    # displacements are relative to the current ones, in coarse pixels
    pixel_px = images.size / coarse_size(images.size, finest)
    poses, sampled = (
        Poses(new.rotations, state.poses.shifts_px + pixel_px * new.shifts_px)
        for new in (found.poses, found.sample(rng))
    )

    turned = (poses.rotations * state.poses.rotations.inv()).magnitude()
    near = turned <= APART_RAD
    moved = float(turned[near].mean()) if near.any() else 0.0
    resolution = pixel_px * settings.pixel_size_angstrom * fsc.resolution_angstrom(HALF_MAP_THRESHOLD)
    entry = {
        "round": number + 1,
        "kind": "search" if searching else "gradient",
        "score": float(found.scores.mean()),
        "moved_rad": moved,
        "relocated": int(np.count_nonzero(~near)),
        "resolution_angstrom": resolution,
    }

    # choose the finest shell of the next round, and whether to continue
    finest_shell = state.finest_shell
    if last < finest:
        finest_shell = min(images.size // 2, int(1.3 * last) + 4)
    settled = state.settled
    if not searching:
        converging = state.history and moved < CONVERGING * state.history[-1]["moved_rad"]
        settled = (poses,) if converging else (*settled, poses)
    jitters = len(settled) >= SETTLED_ROUNDS and finest_shell <= state.finest_shell
    # relocated images have taken only the steps of one round
    converged = not searching and near.all() and (moved < schedule.tolerance or jitters)
    ended = converged or number + 1 == settings.last_round
    explained = float(np.mean(np.maximum(found.scores, 0) ** 2))
    history = (*state.history, entry)
    return RefinementState(poses, sampled, optics, settled, finest_shell, explained, history, ended)


def _match_folds(
    step: Callable,
    fit: Callable | None,
    images: FullImages,
    stated: Optics,
    poses: Poses,
    alternatives: Poses,
    members: list[np.ndarray],
    references: Iterable[VolumeTransform],
    shells: tuple[int, int],
) -> tuple[MatchResult, OpticsEvidence | None]:
    """Take one step of every image against the reference of its fold, and evaluate its optics with ``fit``, if given.

    Images whose ``alternatives`` differ from their ``poses`` also take a step from there, and keep the better result.
    ``members`` are the indices of the images in each fold. ``shells`` are the shell to which images are cropped and the
    last one that is compared.
    """
    finest, last = shells
    found, evidence = [], []
    differs = np.any(alternatives.rotations.as_quat() != poses.rotations.as_quat(), axis=1)

    def stepped(
        reference: VolumeTransform, rows: np.ndarray, starts: Poses
    ) -> tuple[WorkingImages, MatchResult]:
        work = working_images(images[rows], starts[rows], finest).within(last)
        return work, step(reference, work, starts.rotations[rows])

    for reference, fold in zip(references, members, strict=True):
        for part in images[fold].blocks():
            some = fold[part]
            work, result = stepped(reference, some, poses)
            other = np.flatnonzero(differs[some])
            if len(other):
                _, there = stepped(reference, some[other], alternatives)
                # from here on, all displacements are relative to ``poses``
                apart_px = (alternatives.shifts_px - poses.shifts_px)[some[other]]
                there = there.displaced(apart_px / work.pixel_px)
                # in white noise, the log-likelihood ratio is the rise multiplied by the number of elements
                result = result.improved_by(there, other, least_rise=LEAST_GAIN / work.weights.sum())
            found.append(result)
            if fit is not None:
                evidence.append(fit(reference, work, result.poses, stated[some]))
    order = np.argsort(np.concatenate(members))
    matched = MatchResult(
        Poses.concatenate([part.poses for part in found])[order],
        np.concatenate([part.scores for part in found])[order],
        np.concatenate([part.covariances for part in found])[order],
    )
    return matched, OpticsEvidence.concatenate(evidence)[order] if evidence else None


# --- maps of the folds


def last_trusted_shell(fsc: FSC, threshold: float) -> int:
    """Return the last shell before the correlation of the half-maps falls below a threshold, at least 4."""
    return max(fsc.shells_above(threshold), 4)


def _references(
    sums: list[FourierAccumulator],
    halves: list[FourierAccumulator],
    maps: list[np.ndarray],
    mask: np.ndarray,
    last_shell: int,
) -> Iterator[VolumeTransform]:
    """For each fold, yield the filtered map of all other folds.

    ``halves`` are the sums over the even and over the odd folds, and ``maps`` their maps. The next references are
    computed while the caller uses one.
    """

    def reference(fold: int) -> VolumeTransform:
        rest = halves[fold % 2] - sums[fold]
        # the statistics that determine the filter must not contain the images to be matched, either
        pair = (rest.invert(), maps[1 - fold % 2])
        whole = (rest + halves[1 - fold % 2]).invert()
        return transform(locally_filtered(whole, pair, mask, last_shell=last_shell))

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque(pool.submit(reference, fold) for fold in range(AHEAD))
        for fold in range(AHEAD, len(sums) + AHEAD):
            if fold < len(sums):
                waiting.append(pool.submit(reference, fold))
            yield waiting.popleft().result()
