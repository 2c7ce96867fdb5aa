"""Recover orientations from their pairwise distances.

Distances determine orientations up to ``R -> A R B`` for any two rotations A and B, and up to ``R -> R^T``. ``gauge``
determines A and the transposition. For a symmetric particle with the axes of ``rotations.point_group``, B must map the
group onto itself, and distances distinguish R from R^T.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.distances.exact import BYTES_PER_PAIR, FEWEST_LANDMARKS, spread_landmarks
from cryoem.memory import check_memory
from cryoem.orientations.descent import gauss_newton, stochastic_descent
from cryoem.orientations.starts import (
    locate,
    locate_near,
    small_sample_starts,
    spectral_start,
    squared_overlaps,
    symmetric_starts,
    unambiguous_radius,
)
from cryoem.rotations import point_group, random_rotations
from cryoem.validation import finite_array, positive_number, whole_number

METHODS = ("spectral", "spectral+gauss_newton", "sgd", "published")
LEARNING_RATES = {"sgd": 0.05, "published": 0.5}
SYMMETRY_TOLERANCE = 1e-3
FEWEST_IMAGES = 5
REFINED_STARTS = 8
ROWS_COMPARED = 128  # rows of a matrix compared with its columns at a time
BLOCK = 8192  # images whose distances to landmarks are in memory at once
ROWS_READ = 16  # scattered rows read before memory is released
# not copy-on-write mode, where a page may hold the only copy of data written to it
SHARED_MODES = ("r", "r+", "w+")


@dataclass(frozen=True)
class Recovery:
    """Recovered orientations.

    Attributes
    ----------
    rotations : Rotation
        Orientations in an arbitrary gauge.
    losses : (rounds,) array
        Mean squared error of the distances (rad^2) in each round, or its robust counterpart if ``robust_width`` is
        finite. For stochastic descent, means over the steps from one of ``frames`` to the next.
    frames : tuple of Rotation
        Orientations in each round; the last element equals ``rotations``. For stochastic descent, the random start
        comes first. If more images are located by landmarks than are refined together, there is only the result.
    start : str
        Kind of starting point: ``"spectral"``; ``"enumerated"``, if there are too few images for a spectral start or
        they are too far apart; or ``"random"``, for stochastic descent.
    """

    rotations: Rotation
    losses: np.ndarray
    frames: tuple[Rotation, ...]
    start: str


def recover_orientations(
    distances: np.ndarray,
    *,
    method: str = "spectral+gauss_newton",
    symmetry: str = "C1",
    landmarks: int | np.ndarray | None = None,
    rounds: int = 60,
    robust_width: float = np.inf,
    steps: int = 30_000,
    learning_rate: float | None = None,
    rng: np.random.Generator | int | None = None,
) -> Recovery:
    """Recover orientations from pairwise distances by minimising ``mean (d_hat_ij - d(q_i, q_j))^2``.

    Parameters
    ----------
    distances : (n, n) or (n, m) array
        Symmetric distances in radians between all images (the diagonal is ignored), or distances from all images to the
        m images in ``landmarks``. An (n, m) array may be float32 and memory-mapped, and is read block by block.
    method : {"spectral+gauss_newton", "spectral", "sgd", "published"}
        Recovery method:

        - ``"spectral+gauss_newton"`` (default): linear algebra, followed by Gauss-Newton rounds over all pairs
        - ``"spectral"``: linear algebra only
        - ``"published"``: stochastic descent as in arXiv 2104.06237, section 3.2, with a constant learning rate, from
          random orientations that are uniform in the Euler angles, until it converges
        - ``"sgd"``: stochastic descent with a learning rate that decays to zero, from random orientations that are
          uniform on SO(3)
    symmetry : str
        Point group G of the particle; the distances are then ``min_g d(R_i, R_j g)``. Stochastic descent supports only
        C1. Default: ``"C1"``.
    landmarks : int or (m,) array, optional
        For (n, n) distances, the number of landmarks, which are images selected so that their orientations are well
        spread. Only the distances to the landmarks are then used, at a cost of O(n * landmarks). For (n, m) distances,
        the indices of the images to which the columns refer. Default: use all pairs.
    rounds : int
        Maximum number of Gauss-Newton rounds. Default: 60.
    robust_width : float
        Residual in radians beyond which pairs lose weight. Default: infinity (plain least squares).
    steps, learning_rate : int, float, optional
        Maximum number of Adam steps and learning rate of stochastic descent. Default: 30,000 steps, and a learning rate
        of 0.5 for ``"published"`` and 0.05 for ``"sgd"``.
    rng : Generator or int, optional
        Random number generator or seed, for landmarks, enumerated starts and stochastic descent.

    Returns
    -------
    Recovery

    Raises
    ------
    ValueError
        If the distances contain NaN or infinity or are not in radians; if distances between all pairs are not a
        symmetric (n, n) matrix; if no set of orientations is consistent with the distances; if there are fewer than 5
        images, or the images of a symmetric particle have too few neighbours; if there are fewer than 12 or more than n
        landmarks, or ``landmarks`` does not contain one index for each column; if the method or the point group is
        unknown, or the two cannot be combined; or if a number is out of range.
    MemoryError
        If the distances between all pairs do not fit into memory.

    References
    ----------
    arXiv 2104.06237, eq. 6 (the loss).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    rounds = whole_number(rounds, name="rounds", at_least=0)
    if not robust_width > 0:
        raise ValueError(f"robust_width must be positive, got {robust_width}")
    steps = whole_number(steps, name="steps", at_least=1)
    if learning_rate is not None:
        learning_rate = positive_number(learning_rate, name="learning_rate")
    group = point_group(symmetry)
    rng = np.random.default_rng(rng)
    if method in LEARNING_RATES:
        if len(group) > 1:
            raise ValueError(f"symmetry must be C1 for stochastic descent, got {symmetry!r}")
        if landmarks is not None:
            raise ValueError(
                f"method {method!r} uses the distances between all pairs, so landmarks must be None"
            )
        distances = _checked(distances)
        if published := method == "published":
            start = random_rotations(len(distances), coverage="euler", rng=rng)
        else:
            start = Rotation.random(len(distances), rng=rng)
        frames, losses = stochastic_descent(
            distances,
            start,
            steps=steps,
            learning_rate=learning_rate or LEARNING_RATES[method],
            decay=not published,
            rng=rng,
        )
        return Recovery(frames[-1], losses, frames, "random")

    options = {
        "rounds": 0 if method == "spectral" else rounds,
        "robust_width": robust_width,
        "group": group if len(group) > 1 else None,
    }
    if np.ndim(landmarks):
        numbers = _landmark_numbers(distances, landmarks)
    else:
        distances = _checked(distances)
        n = len(distances)
        if landmarks is not None:
            landmarks = whole_number(landmarks, name="landmarks", at_least=FEWEST_LANDMARKS)
            if landmarks > n:
                raise ValueError(f"landmarks must be at most {n}, the number of images, got {landmarks}")
        if landmarks in (None, n):
            return _recover_square(distances, options, rng)
        numbers = spread_landmarks(lambda image: distances[:, image], n, landmarks, rng=rng)
        distances = distances[:, numbers]

    # recover the landmarks from all pairs of them, then every image from its distances to them
    anchor = _recover_square(_checked(read_rows(distances, numbers)), options, rng)
    visited, losses = locate_all(distances, anchor.rotations.as_quat(), **options)
    return _recovery(visited, losses, anchor.start)


def _recover_square(distances: np.ndarray, options: dict, rng: np.random.Generator) -> Recovery:
    """Recover from all pairs: from the spectral start if possible, otherwise from the best enumerated starts."""

    def refined(start: np.ndarray, kind: str) -> Recovery:
        return _recovery(*gauss_newton(distances, start, None, **options), kind)

    def start_loss(start: np.ndarray) -> float:
        return gauss_newton(distances, start, None, **{**options, "rounds": 0})[1][-1]

    if options["group"] is not None:
        starts, kind = symmetric_starts(distances, options["group"], rng), "spectral"
    elif (spectral := spectral_start(distances)) is not None:
        starts, kind = [spectral], "spectral"
    else:
        starts, kind = small_sample_starts(distances, rng), "enumerated"
        if not starts:
            raise ValueError("the distances are not consistent with any set of orientations")
        starts = sorted(starts, key=start_loss)[:REFINED_STARTS]
    return min((refined(start, kind) for start in starts), key=lambda recovery: recovery.losses[-1])


def _recovery(visited: list[np.ndarray], losses: list[float], start: str) -> Recovery:
    frames = tuple(Rotation.from_quat(quaternions) for quaternions in visited)
    return Recovery(frames[-1], np.array(losses), frames, start)


def _landmark_numbers(distances: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Validate the (m,) indices of the images that the columns of (n, m) distances refer to."""
    numbers = np.asarray(landmarks)
    if np.ndim(distances) != 2:
        raise ValueError(f"distances to landmarks must be (n, m), got shape {np.shape(distances)}")
    n, m = np.shape(distances)
    if numbers.shape != (m,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"landmarks must be {m} integer indices, one for each column of distances, "
            f"got {numbers.dtype} of shape {numbers.shape}"
        )
    if m < FEWEST_LANDMARKS:
        raise ValueError(f"at least {FEWEST_LANDMARKS} landmarks are required, got {m}")
    if numbers.min() < 0 or numbers.max() >= n or len(np.unique(numbers)) < m:
        raise ValueError(f"landmarks must be distinct indices from 0 to {n - 1}, got {numbers[:5]}...")
    return numbers


def _checked(distances: np.ndarray) -> np.ndarray:
    """Validate distances, and return a contiguous float64 copy with a zero diagonal."""
    if np.ndim(distances) != 2 or np.shape(distances)[0] != np.shape(distances)[1]:
        raise ValueError(f"distances must be a square (n, n) matrix, got shape {np.shape(distances)}")
    if len(distances) < FEWEST_IMAGES:
        raise ValueError(
            f"at least {FEWEST_IMAGES} images are required, got distances between {len(distances)}"
        )
    check_memory(
        f"recovery from the distances between all pairs of {len(distances):,} images",
        BYTES_PER_PAIR * len(distances) ** 2,
        remedy="use landmarks",
    )
    distances = finite_array(distances, name="distances", ndim=2, dtype=np.float64).copy()
    np.fill_diagonal(distances, 0)
    asymmetry = _asymmetry(distances)
    if asymmetry > SYMMETRY_TOLERANCE:
        raise ValueError(
            f"distances must be symmetric, got a difference of {asymmetry:.3g} rad from the transpose"
        )
    n = len(distances)
    outside = np.count_nonzero(distances < 0) + np.count_nonzero(distances > np.pi)
    if 2 * outside >= n * (n - 1):  # otherwise the median is within this range
        middle = np.median(distances[np.triu_indices(n, 1)])
        if not 0 <= middle <= np.pi:
            raise ValueError(
                f"distances must be in radians, mostly between 0 and pi, got a median of {middle:.3g}"
            )
    return distances


def _asymmetry(distances: np.ndarray) -> float:
    """Return the largest difference of an (n, n) matrix from its transpose, computed some rows at a time."""
    largest = 0.0
    for first in range(0, len(distances), ROWS_COMPARED):
        rows = distances[first : first + ROWS_COMPARED, first:]
        largest = max(largest, np.abs(rows - distances[first:, first : first + ROWS_COMPARED].T).max())
    return float(largest)


# --- landmarks


def locate_all(
    columns: np.ndarray, known: np.ndarray, *, rounds: int, robust_width: float, group: Rotation | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Find the quaternions of all images from their (n, m) distances to known ones (m, 4), block by block.

    Arguments and results are those of ``gauss_newton``. If there is more than one block, only the last round is
    returned.
    """
    n = len(columns)
    found, weighted = np.empty((n, 4)), 0.0
    for first in range(0, n, BLOCK):
        part = columns[first : first + BLOCK]
        some = np.ascontiguousarray(part, np.result_type(part, np.float32))
        if not np.isfinite(some).all():
            row = first + int(np.argmin(np.isfinite(some).all(axis=1)))
            raise ValueError(f"distances must be finite, got NaN or infinity in row {row}")
        if group is None:
            start = locate(squared_overlaps(some), known)
        else:
            start = locate_near(some, known, unambiguous_radius(group))
        visited, losses = gauss_newton(
            some, start, known, rounds=rounds, robust_width=robust_width, group=group
        )
        release_pages(part)
        if n <= BLOCK:
            return visited, np.array(losses)
        found[first : first + BLOCK] = visited[-1]
        weighted += losses[-1] * len(some)
    return [found], np.array([weighted / n])


def read_rows(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return a copy of ``rows[numbers]``, releasing the pages of a memory-mapped array after every few rows.

    The operating system reads up to 2 MB around each row, so scattered rows would otherwise map the whole file.
    """
    rows = np.asanyarray(rows)
    found = np.empty((len(numbers), *rows.shape[1:]), rows.dtype)
    for start in range(0, len(numbers), ROWS_READ):
        part = slice(start, start + ROWS_READ)
        found[part] = rows[numbers[part]]
        release_pages(rows)
    return found


def release_pages(array: np.ndarray) -> None:
    """Release the file pages that have been read from a memory-mapped array or a view of one.

    Otherwise these pages count towards the memory of the process. They are read again when needed. The function has no
    effect on other arrays, or on systems without ``madvise``.
    """
    mapped = None
    while isinstance(array, np.ndarray):
        mapped = array if isinstance(array, np.memmap) else mapped
        array = array.base
    shared = mapped is not None and isinstance(array, mmap.mmap) and mapped.mode in SHARED_MODES
    if shared and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
