"""Refinement of orientations by projection matching, from the images alone.

Each round grids the images, in four folds, with their current orientations.  Two folds against two give
half-maps, whose Fourier shell correlation says how far each shell can be trusted.  Every image is then
compared with slices of the map of the *other three* folds, Wiener-filtered by that trust and masked: a map
that holds the image's own noise would pull it back to where it was.  Orientations move by random search in a
shrinking ball in the first rounds, then by Gauss-Newton steps on the slice itself.  All work is done at the
coarsest image size that holds the trusted shells.  Shifts, where there are any, move along with the orientations.

The half-maps that the resolution is read from are refined apart: two halves of the images go the same way from
the same start, without ever sharing a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, many_rotations, positive_number, square_images, whole_number
from cryoem.projectors import half_planes_from_images, plane_frequencies
from cryoem.projectors.fourier import transform
from cryoem.projectors.matching import correlate_candidates, displaced, gauss_newton_steps
from cryoem.reconstruction import SliceSums, disc_frequencies, grid_slices, once_each
from cryoem.resolution import FSC, fourier_shell_correlation, masked_half_map_fsc, shell_index
from cryoem.rotations import normaliser, point_group, random_small_rotations
from cryoem.volumes import DensityMap, low_pass, soft_mask, soft_sphere

FOLDS = 4
SHELLS_PER_RADIAN = 2.0  # finer shells than this over the search radius turn by more than a search can follow
LEAST_TRUSTED = 0.143
LARGEST_STEP = 0.15
LARGEST_SHIFT = 1.0  # coarse pixels


@dataclass(frozen=True)
class Refinement:
    """Refined orientations and the map that they give.

    ``rotations``: n orientations; ``shifts_px`` (n, 2) (x, y): where the particles stand; ``map``: reconstruction from
    all images; ``half_maps``: from two random halves, each refined for itself from the same start; ``mask``: (y, y, y)
    soft mask made of them; ``fsc``: between the half-maps under that mask, corrected for it by phase randomisation;
    ``history``: one dict a round with ``round``, ``kind`` (search or gradient), ``score`` (mean correlation of images
    and slices), ``moved_rad`` (mean change of orientation), ``resolution_angstrom`` (of two halves of the folds, at
    0.143 under the mask: it steers the refinement, and is not a resolution to quote).
    """

    rotations: Rotation
    shifts_px: np.ndarray
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    mask: np.ndarray
    fsc: FSC
    history: list[dict]


def refine(
    images: np.ndarray,
    rotations: Rotation,
    *,
    pixel_size_angstrom: float,
    shifts_px: np.ndarray | None = None,
    symmetry: str = "C1",
    search_rounds: int = 3,
    gradient_rounds: int = 4,
    candidates: int = 24,
    search_radius: float = 0.12,
    tolerance: float = 1e-3,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[dict, Rotation], None] | None = None,
) -> Refinement:
    """Refine orientations against the map that they give, round by round, without any ground truth.

    Parameters
    ----------
    images : (n, y, x) real, y == x, at least 16 of 12 px, the particle brighter than its surroundings.
    rotations : n orientations in the images' gauge (see ``gauge.fix_gauge``).
    pixel_size_angstrom : side of a pixel.
    shifts_px : (n, 2) displacement (x, y) of each particle, to start from; by default images are taken to be centred,
        and shifts are not refined.
    symmetry : point group of the particle, in the frame of ``rotations.point_group``; maps are made with it.
    search_rounds : rounds of random search, the radius halving each time from ``search_radius`` (radians).
    gradient_rounds : rounds of Gauss-Newton steps after them, at the most.
    candidates : random rotations tried for each image in a search round.
    tolerance : radians; a gradient round that moves orientations by less than this on average is the last.
    rng : generator or seed of folds and candidates.
    callback : called after each round with its history entry and the orientations.

    Returns
    -------
    Refinement.

    Raises
    ------
    ValueError : images are not (n, y, y), too few or too small, not finite, constant, or not as many as
        rotations; a count is negative or a size not positive; the point group is unknown.

    Source: Penczek et al., Ultramicroscopy 53 (1994) 251, for projection matching.
    """
    images = square_images(images, at_least=4 * FOLDS, smallest_px=12)
    many_rotations(rotations, count=len(images))
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    positive_number(search_radius, name="search_radius")
    search_rounds = whole_number(search_rounds, name="search_rounds", at_least=0)
    gradient_rounds = whole_number(gradient_rounds, name="gradient_rounds", at_least=0)
    candidates = whole_number(candidates, name="candidates", at_least=1)
    rng = np.random.default_rng(rng)
    size = images.shape[1]
    moves = shifts_px is not None
    shifts = np.zeros((len(images), 2)) if shifts_px is None else _checked_shifts(shifts_px, len(images))
    images, unit = _normalised(images)
    planes = half_planes_from_images(images)
    plan = _Plan(
        size,
        pixel_size_angstrom,
        point_group(symmetry).as_matrix(),
        search_rounds,
        gradient_rounds,
        candidates,
        search_radius,
        tolerance,
        moves,
    )
    refined, history = _follow(plan, planes, _Poses(rotations, shifts), rng, callback)
    members = np.array_split(rng.permutation(len(images)), 2)
    halves = [
        _follow(plan, planes[half], _Poses(rotations[half], shifts[half]), rng, None)[0] for half in members
    ]
    # each half is free to drift as a whole; its frame, and that alone, is taken from the refinement of all images
    halves = [
        _without_drift(found, refined.of(half), symmetry) for found, half in zip(halves, members, strict=True)
    ]
    return _conclude(plan, planes, unit, refined, halves, members, history)


@dataclass(frozen=True)
class _Poses:
    """``rotations``: n orientations; ``shifts_px`` (n, 2) (x, y): displacement of each particle."""

    rotations: Rotation
    shifts_px: np.ndarray

    def of(self, members: np.ndarray) -> _Poses:
        return _Poses(self.rotations[members], self.shifts_px[members])


def _checked_shifts(shifts_px: np.ndarray, n: int) -> np.ndarray:
    shifts_px = finite_array(shifts_px, name="shifts_px", ndim=2, dtype=float)
    if shifts_px.shape != (n, 2):
        raise ValueError(f"shifts_px must be ({n}, 2), got {shifts_px.shape}")
    return shifts_px


def _without_drift(found: _Poses, wanted: _Poses, symmetry: str) -> _Poses:
    """Poses in the frame and about the origin of others, as far as the symmetry leaves these free."""
    axes = np.eye(3)
    if len(point_group(symmetry)) == 1:
        frame = (found.rotations.inv() * wanted.rotations).mean()
    else:
        about_axis = normaliser(symmetry)[1]
        turns = (found.rotations.inv() * wanted.rotations).as_rotvec()[:, 2]
        frame = Rotation.from_rotvec([0, 0, np.median(turns) if about_axis else 0.0])
        axes = axes[2:] if about_axis else axes[:0]
    rotations = found.rotations * frame
    seen = (
        rotations.as_matrix()[:, :2] @ axes.T
    )  # (n, 2, free axes): what a move of the origin does to shifts
    origin = np.linalg.lstsq(
        seen.reshape(-1, len(axes)), (wanted.shifts_px - found.shifts_px).ravel(), rcond=None
    )[0]
    return _Poses(rotations, found.shifts_px + seen @ origin)


@dataclass(frozen=True)
class _Plan:
    """What every round needs to know; see ``refine``.  ``group``: (k, 3, 3) rotations of the point group."""

    size: int
    pixel_size_angstrom: float
    group: np.ndarray
    search_rounds: int
    gradient_rounds: int
    candidates: int
    search_radius: float
    tolerance: float
    moves: bool


def _follow(plan: _Plan, planes: np.ndarray, poses: _Poses, rng, callback) -> tuple[_Poses, list[dict]]:
    """All rounds on one set of images: their poses and the history."""
    fold = rng.permutation(len(planes)) % FOLDS
    frequencies = plane_frequencies(plan.size)
    trusted = plan.size // 2  # the finest shell worth looking at
    history: list[dict] = []
    for round_ in range(plan.search_rounds + plan.gradient_rounds):
        radius = plan.search_radius / 2**round_ if round_ < plan.search_rounds else None
        finest = trusted if radius is None else min(trusted, math.ceil(SHELLS_PER_RADIAN / radius))
        centred = displaced(planes, frequencies, -poses.shifts_px) if plan.moves else planes
        work = _working_set(centred, plan.size, finest)
        sums = _grid_folds(work, poses.rotations, fold, plan.group)
        fsc, mask = _trust(sums)
        last = min(finest, _last_trusted_shell(fsc))
        step = partial(_descend, steps=2, moves=plan.moves)
        if radius is not None:
            step = partial(_search, candidates=plan.candidates, radius=radius, rng=rng, moves=plan.moves)
        moved, scores = _match_folds(step, work.within(last), poses.rotations, fold, sums, fsc, mask)
        coarse_pixel = plan.size / work.size
        entry = {
            "round": round_ + 1,
            "kind": "gradient" if radius is None else "search",
            "score": float(scores.mean()),
            "moved_rad": float((moved.rotations * poses.rotations.inv()).magnitude().mean()),
            "resolution_angstrom": coarse_pixel
            * plan.pixel_size_angstrom
            * fsc.resolution_angstrom(LEAST_TRUSTED),
        }
        poses = _Poses(moved.rotations, poses.shifts_px + coarse_pixel * moved.shifts_px)
        if last < finest:
            trusted = min(plan.size // 2, int(1.3 * last) + 4)
        history.append(entry)
        if callback is not None:
            callback(entry, poses.rotations)
        if radius is None and entry["moved_rad"] < plan.tolerance:
            break
    return poses, history


def _normalised(images: np.ndarray) -> tuple[np.ndarray, float]:
    """Images without their background, the mean outside the inscribed circle, in units of their deviation;
    that unit.
    """
    n = images.shape[1]
    y, x = np.indices((n, n)) - n // 2
    outside = np.hypot(y, x) > 0.5 * n - 1
    images = images - images[:, outside].mean(axis=1)[:, None, None]
    unit = float(images.std())
    if unit == 0:
        raise ValueError(f"images must not be constant, got {len(images)} constant ones")
    return images / np.float32(unit), unit


@dataclass(frozen=True)
class _WorkingSet:
    """Images at a coarser size, as their transforms inside the Nyquist circle of that size."""

    planes: np.ndarray  # (n, m) complex64
    frequencies: np.ndarray  # (m, 2) cycles per coarse pixel
    size: int

    def within(self, shell: int) -> _WorkingSet:
        radius = np.hypot(*self.frequencies.T) * self.size
        kept = np.flatnonzero((radius > 0.5) & (radius < shell + 0.5))
        return _WorkingSet(np.ascontiguousarray(self.planes[:, kept]), self.frequencies[kept], self.size)


def _working_set(planes: np.ndarray, size: int, shell: int) -> _WorkingSet:
    """Fourier-crop half-planes of ``size`` to the smallest good even size that holds ``shell``."""
    coarse = min(size, 2 * scipy.fft.next_fast_len(shell + 1, real=True))
    _, frequencies = disc_frequencies(coarse)
    k = np.rint(frequencies * coarse).astype(int)  # (m, 2): k_x >= 0, k_y of either sign
    index = (k[:, 1] % size) * (size // 2 + 1) + k[:, 0]
    return _WorkingSet(np.ascontiguousarray(planes[:, index]), frequencies, coarse)


def _grid_folds(
    work: _WorkingSet, rotations: Rotation, fold: np.ndarray, group: np.ndarray
) -> list[SliceSums]:
    matrices = rotations.as_matrix()
    return [
        grid_slices(work.planes[fold == f], matrices[fold == f], work.frequencies, work.size, group=group)
        for f in range(FOLDS)
    ]


def _total(sums: list[SliceSums]) -> SliceSums:
    return sum(sums[1:], sums[0])


def _trust(sums: list[SliceSums]) -> tuple[FSC, np.ndarray]:
    """FSC between two halves of the folds inside the mask of the particle, and that mask."""
    a, b = _total(sums[::2]).invert(), _total(sums[1::2]).invert()
    size = len(a)
    sphere = soft_sphere(a.shape, 0.45 * size, 0.05 * size)
    coarse = fourier_shell_correlation(a, b, mask=sphere)
    blur = min(2 * coarse.resolution_angstrom(0.5), size / 3)
    blurred = low_pass(DensityMap(((a + b) / 2 * sphere).astype(np.float32), 1.0), blur)
    mask = sphere * soft_mask(blurred, extend_px=0.03 * size, edge_px=0.05 * size)
    return fourier_shell_correlation(a, b, mask=mask), mask


def _last_trusted_shell(fsc: FSC) -> int:
    below = np.flatnonzero(fsc.correlation < LEAST_TRUSTED)
    return max(int(below[0]) if len(below) else len(fsc.correlation), 4)


def _filtered(sums: SliceSums, fsc: FSC, mask: np.ndarray) -> np.ndarray:
    """The masked map of some of the folds, Wiener-filtered: half-maps of FSC f have a signal-to-noise of f /
    (1 - f).
    """
    correlation = np.clip(np.concatenate([[1.0], fsc.correlation]), 0, 0.9999)
    correlation[_last_trusted_shell(fsc) + 1 :] = 0
    ratio = correlation / (1 - correlation) * 2 * (FOLDS - 1) / FOLDS
    weight = np.append(ratio / (1 + ratio), 0).astype(np.float32)
    shells = np.minimum(shell_index(sums.size), len(weight) - 1)
    spectrum = scipy.fft.rfftn(sums.invert(), workers=-1) * weight[shells]
    return scipy.fft.irfftn(spectrum, s=(sums.size,) * 3, workers=-1) * mask


def _match_folds(step, matched: _WorkingSet, rotations: Rotation, fold, sums, fsc: FSC, mask):
    """One step of every image against the map of the other folds: orientations, how far the particles stand from where
    they were taken to be, in coarse pixels, and the correlation (n,).
    """
    moved, scores = np.empty((len(rotations), 3, 3)), np.empty(len(rotations))
    shifts = np.empty((len(rotations), 2))
    for f in range(FOLDS):
        reference = transform(_filtered(_total(sums) - sums[f], fsc, mask))
        members = np.flatnonzero(fold == f)
        found, scores[members] = step(
            reference, matched.planes[members], rotations[members], matched.frequencies
        )
        moved[members], shifts[members] = found.rotations.as_matrix(), found.shifts_px
    return _Poses(Rotation.from_matrix(moved), shifts), scores


def _search(
    reference, planes, rotations: Rotation, frequencies, *, candidates: int, radius: float, rng, moves: bool
):
    """The best of the current orientation and random ones around it, and its correlation (n,); where particles may
    move, followed by one step.
    """
    n = len(planes)
    around = random_small_rotations((n, candidates), radius=radius, rng=rng)
    turns = np.concatenate([np.zeros((n, 1, 3)), around], axis=1)
    matrices = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(n, -1, 3, 3)
    matrices = matrices @ rotations.as_matrix()[:, None]
    scores = correlate_candidates(reference, planes, matrices, frequencies, once_each(frequencies))
    best = np.argmax(scores, axis=1)
    found = Rotation.from_matrix(matrices[np.arange(n), best])
    if moves:
        return _descend(reference, planes, found, frequencies, steps=1, moves=True)
    return _Poses(found, np.zeros((n, 2))), scores[np.arange(n), best]


def _descend(reference, planes, rotations: Rotation, frequencies, *, steps: int, moves: bool):
    """Gauss-Newton steps, each kept only where the correlation grows; poses and the correlation (n,)."""
    weights = once_each(frequencies)
    finest = np.hypot(*frequencies.T).max() * reference.shape.volume[0]  # Fourier pixels
    difference = 0.5 / (np.pi * finest)

    def correlation(centred, oriented: Rotation) -> np.ndarray:
        matrices = oriented.as_matrix()[:, None]
        return correlate_candidates(reference, centred, matrices, frequencies, weights)[:, 0]

    shifts, centred = np.zeros((len(planes), 2)), planes
    score = correlation(centred, rotations)
    for _ in range(steps):
        step = gauss_newton_steps(
            reference, centred, rotations, frequencies, weights, difference=difference, with_shifts=moves
        )
        moved = Rotation.from_rotvec(_shortened(step[:, :3], LARGEST_STEP)) * rotations
        moved_shifts, moved_planes = shifts, planes
        if moves:
            moved_shifts = shifts + _shortened(step[:, 3:], LARGEST_SHIFT)
            moved_planes = displaced(planes, frequencies, -moved_shifts)
        moved_score = correlation(moved_planes, moved)
        better = moved_score > score
        rotations = Rotation.from_matrix(
            np.where(better[:, None, None], moved.as_matrix(), rotations.as_matrix())
        )
        shifts = np.where(better[:, None], moved_shifts, shifts)
        centred = np.where(better[:, None], moved_planes, centred)
        score = np.maximum(score, moved_score)
    return _Poses(rotations, shifts), score


def _shortened(steps: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1, longest / np.maximum(length, 1e-12))


def _conclude(plan: _Plan, planes, unit: float, poses: _Poses, halves, members, history) -> Refinement:
    """Maps at full size, in the images' own units: of all images, and of halves that never saw each other."""

    def gridded(images, found: _Poses) -> SliceSums:
        centred = displaced(images, plane_frequencies(plan.size), -found.shifts_px) if plan.moves else images
        work = _working_set(centred, plan.size, plan.size // 2)
        matrices = found.rotations.as_matrix()
        return grid_slices(work.planes, matrices, work.frequencies, work.size, group=plan.group)

    half_sums = [gridded(planes[half], found) for found, half in zip(halves, members, strict=True)]
    a, b = (sums.invert() * unit for sums in half_sums)
    full = gridded(planes, poses).invert() * unit
    _, mask = _trust(half_sums)
    fsc = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=plan.pixel_size_angstrom, rng=0)
    full, a, b = (DensityMap(v.astype(np.float32), plan.pixel_size_angstrom) for v in (full, a, b))
    return Refinement(poses.rotations, poses.shifts_px, full, (a, b), mask, fsc, history)
