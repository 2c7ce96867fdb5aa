"""Gauss-Newton descent of the recovery loss on unit quaternions.

``d = 2 arccos |<q_i, q_j>|`` changes by ``2 t_ij . delta`` when q_i moves by a tangent ``delta``, with t_ij the unit
tangent at q_i that points away from q_j.  Every image therefore has its own 3 x 3 normal equations against all
references, formed in one pass over the distances, and all images move at once.  Of a symmetric particle, it is the
nearest copy of a reference that counts.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import copies_of

STEP = 0.7
LEAST_GAIN = 1e-4
SHORTEST_STEP = 0.05


@numba.njit(parallel=True, cache=True)
def _normal_equations(distances, quaternions, copies, robust_width):
    """Per image: H (4, 4), g (4,), the summed loss and its count, against the nearest of the copies (m, k, 4) of each
    reference; one at zero distance, and one whose distance is NaN, is skipped.
    """
    n, m = distances.shape
    hessians, gradients = np.zeros((n, 4, 4)), np.zeros((n, 4))
    squares, counts = np.zeros(n), np.zeros(n)
    for i in numba.prange(n):
        q = quaternions[i]
        t = np.empty(4)
        for j in range(m):
            if np.isnan(distances[i, j]):
                continue
            p = copies[j, 0]
            c = q[0] * p[0] + q[1] * p[1] + q[2] * p[2] + q[3] * p[3]
            for k in range(1, copies.shape[1]):
                other = copies[j, k]
                overlap = q[0] * other[0] + q[1] * other[1] + q[2] * other[2] + q[3] * other[3]
                if abs(overlap) > abs(c):
                    p, c = other, overlap
            sign = 1.0 if c >= 0 else -1.0
            norm = 0.0
            for k in range(4):
                t[k] = c * q[k] - p[k]
                norm += t[k] * t[k]
            norm = np.sqrt(norm)
            if norm < 1e-12:
                squares[i] += distances[i, j] ** 2
                continue
            residual = distances[i, j] - 2 * np.arctan2(norm, abs(c))
            counts[i] += 1
            squared = (residual / robust_width) ** 2
            squares[i] += residual * residual if squared == 0 else robust_width**2 * np.log1p(squared)
            weight = 1.0 / (1.0 + squared)
            for k in range(4):
                t[k] *= sign / norm
                gradients[i, k] += 2 * weight * residual * t[k]
                for h in range(k + 1):
                    hessians[i, k, h] += 4 * weight * t[k] * t[h]
        for k in range(4):
            for h in range(k):
                hessians[i, h, k] = hessians[i, k, h]
    return hessians, gradients, squares, counts


def polish_against(
    distances: np.ndarray,
    quaternions: np.ndarray,
    references: np.ndarray | None,
    *,
    rounds: int,
    robust_width: float,
    group: Rotation | None = None,
) -> tuple[list[np.ndarray], list[float]]:
    """Descend the squared error of the distances.

    Parameters
    ----------
    distances : (n, m) radians; NaN where a pair is to be left out.
    quaternions : (n, 4) start.
    references : (m, 4) quaternions that stay fixed, or None: the references are the images themselves (m == n).
    rounds : Gauss-Newton rounds at the most; it stops when the loss no longer falls by ``LEAST_GAIN``.
    robust_width : residuals beyond this many radians lose weight (Cauchy); infinity for plain least squares.
    group : the rotations of the particle's point group, in the frame of the orientations; none by default.

    Returns
    -------
    The quaternions (n, 4) of every round, the best last, and their losses over pairs, rad^2: the mean of r^2, or of
    ``w^2 log(1 + r^2 / w^2)`` for a finite width w.
    """
    largest = 1.0 if references is not None else STEP
    step = largest
    visited, losses = [], []
    move = None
    for _ in range(rounds + 1):
        candidate = quaternions if move is None else _moved(quaternions, step * move)
        against = candidate if references is None else references
        copies = against[:, None] if group is None else copies_of(Rotation.from_quat(against), group)
        hessians, gradients, squares, counts = _normal_equations(distances, candidate, copies, robust_width)
        loss = float(squares.sum() / max(counts.sum(), 1))
        if losses and loss >= losses[-1]:
            step /= 2
            if step < SHORTEST_STEP * largest:
                break
            continue
        settled = bool(losses) and loss > losses[-1] * (1 - LEAST_GAIN)
        quaternions, step = candidate, min(largest, 1.5 * step)
        visited.append(quaternions)
        losses.append(loss)
        if settled:
            break
        move = _gauss_newton_move(hessians, gradients, quaternions)
    return visited, losses


def _gauss_newton_move(hessians: np.ndarray, gradients: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """Tangent moves (n, 4) that solve the normal equations; stiff along the quaternion itself, which may not change."""
    stiffness = 1 + np.trace(hessians, axis1=1, axis2=2)
    along = np.einsum("n,ni,nj->nij", stiffness, quaternions, quaternions)
    damping = 1e-6 * stiffness[:, None, None] * np.eye(4)
    return np.linalg.solve(hessians + along + damping, gradients[..., None])[..., 0]


def _moved(quaternions: np.ndarray, move: np.ndarray) -> np.ndarray:
    moved = quaternions + move
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)
