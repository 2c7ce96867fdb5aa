"""Fix the gauge of recovered orientations, which distances leave undetermined, with common lines of the images.

Distances between orientations do not change under ``R -> A R B`` or ``R -> R^T``. B only changes the frame in which the
particle is described. A rotates the axes of every image, and a wrong A makes reconstruction impossible. A and the
transposition are found from the images. The central slices of two images intersect in a common line: a direction in
each image's Fourier transform along which the two must agree. The score of a candidate is the mean correlation along
the common lines that it predicts.

A and Rz(pi) A have the same score. Rotating every image by half a turn corresponds to the mirror image of the particle,
which projections cannot distinguish from the particle.

An image of a symmetric particle is a slice at all copies ``R g`` of its orientation, so it shares several lines with
every other image and with itself. For such particles, distances alone distinguish R from R^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.images import correct_images
from cryoem.orientations.common_lines import fourier_lines, score_turns
from cryoem.rotations import Poses, as_poses, point_group
from cryoem.validation import unread_images, whole_number

CANDIDATES = 20_000
FEW_PAIRS, PROMISING_SHARE = 150, 5  # one candidate in this number is scored again, with more pairs
SHORTLIST = 12
COARSE_RADII = 16
SEARCH_RADII = (0.12, 0.06, 0.03)
SUMMIT_RADII, LAST_RADII = (0.06, 0.04, 0.03, 0.02, 0.01), (0.005,)
BLOCK = 32  # images whose lines fit into the cache together
CLIMBING_PAIRS = 200_000  # for the last steps to the summit
CLIMBING_SHARE = 10  # one of these pairs in this number is used for the first steps
_ROWS, _COLUMNS = np.triu_indices(3)
_AXES = np.vstack([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
_EDGES = np.array([v for v in np.ndindex(3, 3, 3) if sum(x != 1 for x in v) == 2]) - 1
_STENCIL = np.vstack([_AXES, _EDGES / np.sqrt(2)])
_BALL = np.vstack([_STENCIL, _STENCIL[1:] / 2])


@dataclass(frozen=True)
class Gauge:
    """Orientations in the gauge that best fits the images.

    Attributes
    ----------
    rotations : Rotation
        All n orientations, ``turn * R_hat`` or ``turn * R_hat^T``.
    score : float
        Mean correlation along common lines; 1 is a perfect match.
    inverted : bool
        Whether the orientations were transposed.
    turn : Rotation
        The rotation A of the image axes.
    runner_up : float
        Score of the best candidate with the opposite value of ``inverted``, refined with fewer pairs. The lower this
        score is compared with ``score``, the clearer the choice. NaN for a symmetric particle, because its orientations
        are not transposed.
    """

    rotations: Rotation
    score: float
    inverted: bool
    turn: Rotation
    runner_up: float


def fix_gauge(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    optics: Optics | None = None,
    symmetry: str = "C1",
    pairs: int = 600,
    max_images: int = 1000,
    rng: np.random.Generator | int | None = None,
) -> Gauge:
    """Use common lines to fix the gauge of orientations: a rotation of the image axes and a possible transposition.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least 3 images, at least 8 px wide, with the origin at pixel ``y // 2``. If the images are in files, only
        those to be compared are read.
    poses : Poses or Rotation
        n orientations known up to ``R -> A R B`` and ``R -> R^T``, as recovered from distances, and the shifts to be
        undone. A bare ``Rotation`` means that the particles are centred.
    optics : Optics, optional
        Optics of the images, used for phase flipping. Default: ``images.optics`` if available, otherwise no CTF.
    symmetry : str
        Point group G of the particle. If it is not C1, the orientations must be known up to ``R -> A R``, in the frame
        of G. Default: ``"C1"``.
    pairs : int
        Number of image pairs used to score each candidate in the coarse search over SO(3). Default: 600.
    max_images : int
        Maximum number of images to compare, chosen at random. Default: 1000.
    rng : Generator or int, optional
        Random number generator or seed.

    Returns
    -------
    Gauge

    Raises
    ------
    ValueError
        If there are fewer than 3 images; if the images do not have shape (n, y, y), are too small or constant, or
        contain NaN or infinity; if ``poses`` or ``optics`` describes a different number of images; if a count is too
        small; or if the point group is unknown.

    References
    ----------
    Common lines: van Heel, Ultramicroscopy 21 (1987) 111.
    """
    pairs = whole_number(pairs, name="pairs", at_least=1)
    max_images = whole_number(max_images, name="max_images", at_least=3)
    images = unread_images(images, at_least=3, smallest_px=8)
    n = images.shape[0]
    poses, optics = as_poses(poses, count=n), known_optics(images, optics)
    if optics is not None:
        optics_of(optics, None, count=n)
    group, rng = point_group(symmetry), np.random.default_rng(rng)

    # read, phase-flip and centre the images to compare
    chosen = slice(None) if n <= max_images else np.sort(rng.choice(n, max_images, replace=False))
    corrected = correct_images(
        images[chosen],
        optics=None if optics is None else optics[chosen],
        shifts_px=poses.shifts_px[chosen],
    )
    # search the turn of the orientations and, without symmetry, of their transposes
    lines, copies = fourier_lines(corrected), len(corrected) * len(group)
    coarse, fine = (_pairs(copies, count, rng) for count in (pairs, CLIMBING_PAIRS))
    some = fine[np.sort(rng.permutation(len(fine))[: max(pairs, len(fine) // CLIMBING_SHARE)])]
    candidates = (poses.rotations, poses.rotations.inv()) if len(group) == 1 else (poses.rotations,)
    matrices = [_copies(oriented[chosen], group) for oriented in candidates]
    best = [_search(lines, oriented, coarse, some) for oriented in matrices]
    inverted = len(best) == 2 and bool(best[1][0] > best[0][0])
    runner_up = best[not inverted][0] if len(best) == 2 else float("nan")
    # climb to the maximum for all pairs
    turn = best[inverted][1]
    for radius in LAST_RADII:
        turn = _climb(lines, matrices[inverted], fine, turn, radius)
    score = float(score_turns(lines, matrices[inverted], fine, _float_matrices(turn)[None])[0])
    return Gauge(turn * candidates[inverted], score, inverted, turn, runner_up)


def _search(lines, matrices, coarse, some) -> tuple[float, Rotation]:
    """Find the best score over SO(3) and its turn."""
    smooth = np.ascontiguousarray(lines[..., :COARSE_RADII])
    # score a grid that covers SO(3): all of it with few pairs, then the best with more
    grid = covering_rotations(CANDIDATES)
    few = coarse[:: len(coarse) // min(len(coarse), FEW_PAIRS)]
    scores = score_turns(smooth, matrices, few, _float_matrices(grid))
    grid = grid[np.argsort(-scores)[: CANDIDATES // PROMISING_SHARE]]
    scores = score_turns(smooth, matrices, coarse, _float_matrices(grid))
    shortlist = _distinct(grid[np.argsort(-scores)[: 40 * SHORTLIST]], SHORTLIST)
    # search around the best few within shrinking radii
    for radius in SEARCH_RADII:
        around = Rotation.from_rotvec(radius * _BALL)
        clouds = Rotation.concatenate([around * turn for turn in shortlist])
        scores = score_turns(smooth, matrices, coarse, _float_matrices(clouds)).reshape(len(shortlist), -1)
        shortlist = [around[k] * turn for k, turn in zip(scores.argmax(axis=1), shortlist, strict=True)]
    turn = shortlist[int(scores.max(axis=1).argmax())]
    # climb to the maximum with more pairs and all frequencies
    for radius in SUMMIT_RADII:
        turn = _climb(lines, matrices, some, turn, radius)
    return float(score_turns(lines, matrices, some, _float_matrices(turn)[None])[0]), turn


def _climb(lines, matrices, pairs, turn: Rotation, radius: float) -> Rotation:
    """Step to the maximum of a quadratic fitted to 19 scores around ``turn``, or to the best score if there is none."""
    steps = radius * _STENCIL
    scores = score_turns(lines, matrices, pairs, _float_matrices(Rotation.from_rotvec(steps) * turn))
    terms = np.column_stack([np.ones(len(steps)), steps, steps[:, _ROWS] * steps[:, _COLUMNS]])
    fit = np.linalg.lstsq(terms, scores, rcond=None)[0]
    curvature = np.zeros((3, 3))
    curvature[_ROWS, _COLUMNS] = fit[4:]
    curvature = curvature + curvature.T
    best = steps[scores.argmax()]
    if np.linalg.eigvalsh(curvature)[-1] < 0:
        summit = np.linalg.solve(curvature, -fit[1:4])
        best = summit * min(1, 1.5 * radius / max(np.linalg.norm(summit), 1e-12))
    return Rotation.from_rotvec(best) * turn


def _copies(rotations: Rotation, group: Rotation) -> np.ndarray:
    """Return matrices of all copies of the orientations, ordered by group element."""
    return np.concatenate([_float_matrices(rotations * g) for g in group])


def _float_matrices(rotations: Rotation) -> np.ndarray:
    return np.ascontiguousarray(rotations.as_matrix(), np.float32)


def _distinct(rotations: Rotation, count: int, apart: float = 0.25) -> list[Rotation]:
    """Select the first ``count`` rotations of a ranked list that are at least ``apart`` radians from one another."""
    kept: list[Rotation] = []
    for candidate in rotations:
        if all((candidate.inv() * other).magnitude() > apart for other in kept):
            kept.append(candidate)
        if len(kept) == count:
            break
    return kept


def covering_rotations(n: int) -> Rotation:
    """Return n rotations that cover SO(3) evenly, without randomness.

    References
    ----------
    Super-Fibonacci spirals: Alexa, CVPR 2022.
    """
    phi, psi = np.sqrt(2), 1.533751168755204288118041
    s = np.arange(n) + 0.5
    inner, outer = np.sqrt(s / n), np.sqrt(1 - s / n)
    a, b = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    return Rotation.from_quat(
        np.stack([inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)], axis=1)
    )


def _pairs(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` pairs of different images, or return all pairs if there are no more than that: (pairs, 2) int."""
    every = n * (n - 1) // 2
    if count >= every:
        return np.stack(np.triu_indices(n, 1), axis=1)
    first = rng.integers(n, size=count)
    second = (first + rng.integers(1, n, size=count)) % n
    # in blocks of images, whose lines stay in the cache
    order = np.lexsort([second, first, second // BLOCK, first // BLOCK])
    return np.stack([first, second], axis=1)[order]
