"""Orientations from their pairwise distances.

Distances determine orientations up to ``R -> A R B`` for any two rotations A, B and up to ``R -> R^T``; see
``gauge`` for what fixes that.  Of a symmetric particle, with the axes of ``rotations.point_group``, B is such that it
maps the group onto itself, and R and R^T can be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, whole_number
from cryoem.mapped_arrays import scattered_rows
from cryoem.recovery.few import enumerated_starts
from cryoem.recovery.landmarks import locate_all, spread_landmarks
from cryoem.recovery.polish import polish_against
from cryoem.recovery.spectral import spectral_start
from cryoem.recovery.symmetric import symmetric_starts
from cryoem.rotations import point_group

METHODS = ("spectral", "spectral+refine", "sgd")
SYMMETRY_TOLERANCE = 1e-3
FEWEST_IMAGES = 5
FEWEST_LANDMARKS = 12
POLISHED_STARTS = 8
MIRRORED = 128  # rows of a matrix that are held against its columns at a time


@dataclass(frozen=True)
class Recovery:
    """Recovered orientations.

    ``rotations``: n orientations in an arbitrary gauge; ``losses``: mean squared error of the distances (rad^2) at
    each round, its robust counterpart where a ``robust_width`` was given; ``frames``: the orientations of each
    round, the last being ``rotations``; ``start``: ``"spectral"``, or ``"enumerated"`` where the images are too few
    or too spread for that, or ``"random"`` for the stochastic method.
    """

    rotations: Rotation
    losses: np.ndarray
    frames: tuple[Rotation, ...]
    start: str


def recover_orientations(
    distances: np.ndarray,
    *,
    method: str = "spectral+refine",
    symmetry: str = "C1",
    landmarks: int | np.ndarray | None = None,
    rounds: int = 60,
    robust_width: float = np.inf,
    steps: int = 30_000,
    learning_rate: float = 0.05,
    rng: np.random.Generator | int | None = None,
) -> Recovery:
    """Recover orientations from pairwise distances by minimising ``mean (d_hat_ij - d(q_i, q_j))^2``.

    Parameters
    ----------
    distances : (n, n) radians, symmetric; the diagonal is not used.  Or (n, m), of all images to m of them, which
        ``landmarks`` numbers; these may be float32 and memory-mapped, and are read block by block.
    method : ``"spectral"`` linear algebra only; ``"spectral+refine"`` followed by Gauss-Newton rounds over all pairs;
        ``"sgd"`` the published stochastic descent from random orientations (arXiv 2104.06237, section 3.2).
    symmetry : point group G of the particle; the distances are then ``min_g d(R_i, R_j g)``.  Not for ``"sgd"``.
    landmarks : use only the distances to this many images, chosen so that they cover all orientations,
        O(n * landmarks); all by default.  Or the (m,) numbers of the images that the columns of ``distances`` are of.
    rounds : Gauss-Newton rounds at the most.
    robust_width : residuals beyond this many radians lose weight; plain least squares by default.
    steps, learning_rate : of ``"sgd"``.
    rng : generator or seed, for landmarks, enumerated starts and ``"sgd"``.

    Returns
    -------
    Recovery.

    Raises
    ------
    ValueError : distances are not square, not finite, not symmetric, of fewer than 5 images, or not radians;
        the method or the point group is unknown, or they do not go together; no image of a symmetric particle has
        enough others near it; landmarks are fewer than 12 or more than n, or numbers of no images, or not those of
        the columns; a count is negative or a width not positive.

    Source: the loss is that of arXiv 2104.06237, eq. 6; docs/conventions.md says what it leaves open.
    """
    if landmarks is not None and np.ndim(landmarks):
        numbers = _landmark_numbers(distances, landmarks)
    else:
        distances, numbers = _checked(distances), None
    n = len(distances)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if numbers is None and landmarks is not None:
        landmarks = whole_number(landmarks, name="landmarks", at_least=FEWEST_LANDMARKS)
        if landmarks > n:
            raise ValueError(f"landmarks must be at most the {n} images, got {landmarks}")
    rounds = whole_number(rounds, name="rounds", at_least=0)
    if not robust_width > 0:
        raise ValueError(f"robust_width must be positive, got {robust_width}")
    rng = np.random.default_rng(rng)
    group = point_group(symmetry)
    group = group if len(group) > 1 else None
    if method == "sgd":
        if group is not None:
            raise ValueError(f"symmetry must be C1 for the stochastic method, got {symmetry!r}")
        if numbers is not None:
            raise ValueError("method must be another than 'sgd' where distances are to landmarks alone")
        from cryoem.recovery.stochastic import descend

        frames, losses = descend(distances, steps=steps, learning_rate=learning_rate, rng=rng)
        return Recovery(frames[-1], losses, frames, "random")
    rounds = 0 if method == "spectral" else rounds
    if numbers is None:
        if landmarks is None or landmarks == n:
            return _recover_square(distances, group, rounds, robust_width, rng)
        numbers = spread_landmarks(lambda image: distances[:, image], n, landmarks, rng=rng)
        distances = distances[:, numbers]
    among = _checked(scattered_rows(distances, numbers))
    anchor = _recover_square(among, group, rounds, robust_width, rng)
    visited, losses = locate_all(
        distances, anchor.rotations.as_quat(), rounds=rounds, robust_width=robust_width, group=group
    )
    return _recovery(visited, losses, anchor.start)


def _recover_square(distances, group, rounds: int, robust_width: float, rng: np.random.Generator) -> Recovery:
    """All pairs: the spectral start where it applies, the best of the enumerated ones otherwise."""

    def polished(quaternions, most_rounds):
        return polish_against(
            distances, quaternions, None, rounds=most_rounds, robust_width=robust_width, group=group
        )

    if group is not None:
        starts = symmetric_starts(distances, group, rng)
        return min((_recovery(*polished(s, rounds), "spectral") for s in starts), key=lambda r: r.losses[-1])
    spectral = spectral_start(distances)
    if spectral is not None:
        return _recovery(*polished(spectral, rounds), "spectral")
    starts = enumerated_starts(distances, rng)
    if not starts:
        raise ValueError("distances must fit orientations, and no four of these images do")
    promising = sorted(starts, key=lambda start: polished(start, 0)[1][-1])[:POLISHED_STARTS]
    return min(
        (_recovery(*polished(start, rounds), "enumerated") for start in promising), key=lambda r: r.losses[-1]
    )


def _recovery(visited: list[np.ndarray], losses: list[float], start: str) -> Recovery:
    frames = tuple(Rotation.from_quat(quaternions) for quaternions in visited)
    return Recovery(frames[-1], np.array(losses), frames, start)


def _landmark_numbers(distances: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(m,) numbers of the images that the columns of (n, m) distances are of."""
    numbers = np.asarray(landmarks)
    if np.ndim(distances) != 2:
        raise ValueError(f"distances must be (n, m), to m landmarks, got shape {np.shape(distances)}")
    n, m = np.shape(distances)
    if numbers.shape != (m,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"landmarks must be the {m} numbers of the images that the columns of distances are of, "
            f"got {numbers.dtype} of shape {numbers.shape}"
        )
    if m < FEWEST_LANDMARKS:
        raise ValueError(f"landmarks must be at least {FEWEST_LANDMARKS}, got {m}")
    if numbers.min() < 0 or numbers.max() >= n or len(np.unique(numbers)) < m:
        raise ValueError(f"landmarks must be different numbers from 0 to {n - 1}, got {numbers[:5]}...")
    return numbers


def _checked(distances: np.ndarray) -> np.ndarray:
    """A contiguous float64 copy with a zero diagonal."""
    if np.ndim(distances) != 2 or np.shape(distances)[0] != np.shape(distances)[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {np.shape(distances)}")
    if len(distances) < FEWEST_IMAGES:
        raise ValueError(f"distances must be between at least {FEWEST_IMAGES} images, got {len(distances)}")
    distances = finite_array(distances, name="distances", ndim=2, dtype=np.float64).copy()
    np.fill_diagonal(distances, 0)
    asymmetry = _asymmetry(distances)
    if asymmetry > SYMMETRY_TOLERANCE:
        raise ValueError(
            f"distances must be symmetric, got entries that differ from their mirror by {asymmetry:.3g} rad"
        )
    n = len(distances)
    outside = np.count_nonzero(distances < 0) + np.count_nonzero(distances > np.pi)
    if 2 * outside >= n * (n - 1):  # else their median is inside
        middle = np.median(distances[np.triu_indices(n, 1)])
        if not 0 <= middle <= np.pi:
            raise ValueError(
                f"distances must be radians between 0 and pi but for errors, got a median of {middle:.3g}"
            )
    return distances


def _asymmetry(distances: np.ndarray) -> float:
    """The largest difference of an entry of (n, n) from its mirror, some rows at a time."""
    largest = 0.0
    for first in range(0, len(distances), MIRRORED):
        rows = distances[first : first + MIRRORED, first:]
        largest = max(largest, np.abs(rows - distances[first:, first : first + MIRRORED].T).max())
    return float(largest)
