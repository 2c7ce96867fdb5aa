"""Minimise the recovery loss over unit quaternions, by Gauss-Newton rounds or stochastic descent.

``d = 2 arccos |<q_i, q_j>|`` changes by ``2 t_ij . delta`` when q_i moves by a tangent ``delta``, where t_ij is the
unit tangent at q_i that points away from q_j. Each image therefore has its own 3 x 3 normal equations with respect to
all references. They are formed in one pass over the distances, and all images move at once. For a symmetric particle,
the nearest copy of each reference is used.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.devices import gpus_of_tensorflow
from cryoem.rotations import copies_of

# Gauss-Newton
STEP = 0.7
LEAST_GAIN = 1e-4
SHORTEST_STEP = 0.05
# stochastic
PAIRS = 256
FRAMES = 20
STEPS_AT_ONCE = 2000  # steps whose pairs are in memory at once
# convergence of the published descent
WINDOW = 1000
LEAST_LOSS = 1e-8
LEAST_CHANGE = 1e-7

# let the compiler reorder sums so that loops vectorise, while NaN and infinity keep their meaning
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@numba.njit(inline="always")
def _arctan(x):
    """Compute the arctangent of a number from 0 to 1 in double precision.

    It uses only arithmetic, so that loops vectorise.

    References
    ----------
    The rational approximation of the Cephes library (S. Moshier), ``atan.c``.
    """
    far = x > 0.66
    y = (x - 1) / (x + 1) if far else x
    z = y * y
    p = -8.750608600031904122785e-1 * z - 1.615753718733365076637e1
    p = (p * z - 7.500855792314704667340e1) * z - 1.228866684490136173410e2
    p = p * z - 6.485021904942025371773e1
    q = (z + 2.485846490142306297962e1) * z + 1.650270098316988542046e2
    q = (q * z + 4.328810604912902668951e2) * z + 4.853903996359136964868e2
    q = q * z + 1.945506571482613964425e2
    return (np.pi / 4 if far else 0.0) + (y + y * z * p / q)


@numba.njit(inline="always")
def _nearest(q, copies, nearest):
    """Write the copy of each reference that is nearest to q, from ``copies`` (k, 4, m), into ``nearest`` (4, m)."""
    for j in range(copies.shape[2]):
        best = 0.0
        for k in range(copies.shape[0]):
            p0, p1, p2, p3 = copies[k, 0, j], copies[k, 1, j], copies[k, 2, j], copies[k, 3, j]
            overlap = abs(q[0] * p0 + q[1] * p1 + q[2] * p2 + q[3] * p3)
            if k == 0 or overlap > best:
                best = overlap
                nearest[0, j], nearest[1, j], nearest[2, j], nearest[3, j] = p0, p1, p2, p3


@numba.njit(inline="always")
def _loss(residuals, robust_width):
    """Sum the squared residuals or, if the width is finite, their robust counterparts."""
    total = 0.0
    if np.isinf(robust_width):
        for residual in residuals:
            total += residual * residual
        return total
    for residual in residuals:
        squared = (residual / robust_width) ** 2
        total += residual * residual if squared == 0 else robust_width**2 * np.log1p(squared)
    return total


@numba.njit(parallel=True, cache=True, fastmath=_FAST)
def _normal_equations(distances, quaternions, copies, robust_width):
    """Form H (4, 4), g (4,), the summed loss and its number of pairs for each image.

    Each image is paired with the nearest of the ``copies`` (k, 4, m) of each reference. Pairs with a NaN distance are
    skipped. A pair at the same orientation, which has no direction, contributes only to the loss.
    """
    n, m = distances.shape
    hessians, gradients = np.empty((n, 4, 4)), np.empty((n, 4))
    squares, counts = np.empty(n), np.empty(n)
    robust = 1.0 / robust_width  # 0 for plain least squares
    for i in numba.prange(n):
        q = quaternions[i]
        references = copies[0]
        if len(copies) > 1:
            references = np.empty((4, m))
            _nearest(q, copies, references)
        residuals = np.empty(m)
        count = g0 = g1 = g2 = g3 = 0.0
        h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
        for j in range(m):
            p0, p1, p2, p3 = references[0, j], references[1, j], references[2, j], references[3, j]
            c = q[0] * p0 + q[1] * p1 + q[2] * p2 + q[3] * p3
            t0, t1, t2, t3 = c * q[0] - p0, c * q[1] - p1, c * q[2] - p2, c * q[3] - p3
            norm = np.sqrt(t0 * t0 + t1 * t1 + t2 * t2 + t3 * t3)
            known = not np.isnan(distances[i, j])
            counted = known and norm >= 1e-12
            # four times half of the angle with sine `norm` and cosine |c|
            residual = distances[i, j] - 4 * _arctan(norm / (1 + abs(c))) if known else 0.0
            residuals[j] = residual
            weight = 1 / (1 + (residual * robust) ** 2)
            scale = (1.0 if c >= 0 else -1.0) / norm if counted else 0.0
            t0, t1, t2, t3 = scale * t0, scale * t1, scale * t2, scale * t3
            count += 1.0 if counted else 0.0
            w0, w1, w2, w3 = weight * t0, weight * t1, weight * t2, weight * t3
            g0 += residual * w0
            g1 += residual * w1
            g2 += residual * w2
            g3 += residual * w3
            h00 += t0 * w0
            h10 += t1 * w0
            h11 += t1 * w1
            h20 += t2 * w0
            h21 += t2 * w1
            h22 += t2 * w2
            h30 += t3 * w0
            h31 += t3 * w1
            h32 += t3 * w2
            h33 += t3 * w3
        # one number at a time, because assigning whole rows takes seconds to compile
        gradient, hessian = gradients[i], hessians[i]
        gradient[0], gradient[1], gradient[2], gradient[3] = 2 * g0, 2 * g1, 2 * g2, 2 * g3
        hessian[0, 0], hessian[1, 0], hessian[2, 0], hessian[3, 0] = 4 * h00, 4 * h10, 4 * h20, 4 * h30
        hessian[1, 1], hessian[2, 1], hessian[3, 1] = 4 * h11, 4 * h21, 4 * h31
        hessian[2, 2], hessian[3, 2], hessian[3, 3] = 4 * h22, 4 * h32, 4 * h33
        for a in range(4):
            for b in range(a):
                hessian[b, a] = hessian[a, b]
        squares[i], counts[i] = _loss(residuals, robust_width), count
    return hessians, gradients, squares, counts


def gauss_newton(
    distances: np.ndarray,
    quaternions: np.ndarray,
    references: np.ndarray | None,
    *,
    rounds: int,
    robust_width: float,
    group: Rotation | None = None,
) -> tuple[list[np.ndarray], list[float]]:
    """Minimise the squared error of (n, m) distances by Gauss-Newton steps that move all images at once.

    The start is ``quaternions`` (n, 4). The ``references`` (m, 4) are fixed; None means that the images themselves are
    the references. NaN excludes a pair. Residuals beyond ``robust_width`` radians lose weight (Cauchy loss). ``group``
    contains the rotations of the point group. Descent ends after ``rounds`` or when the relative decrease of the loss
    is less than ``LEAST_GAIN``.

    Return the quaternions of every round, with the best last, and the mean losses over pairs in rad^2: the mean of r^2
    or, for a finite width w, of ``w^2 log(1 + r^2 / w^2)``.
    """
    largest = 1.0 if references is not None else STEP
    step = largest
    quaternions = np.ascontiguousarray(quaternions)
    visited, losses = [], []
    move = None
    for _ in range(rounds + 1):
        # loss and normal equations at the candidate, against the nearest copy of each reference
        candidate = quaternions if move is None else _moved(quaternions, step * move)
        against = candidate if references is None else references
        copies = against[:, None] if group is None else copies_of(Rotation.from_quat(against), group)
        copies = np.ascontiguousarray(copies.transpose(1, 2, 0))  # (k, 4, m)
        hessians, gradients, squares, counts = _normal_equations(distances, candidate, copies, robust_width)
        loss = float(squares.sum() / max(counts.sum(), 1))
        # the loss has grown, so shorten the step
        if losses and loss >= losses[-1]:
            step /= 2
            if step < SHORTEST_STEP * largest:
                break
            continue
        converged = bool(losses) and loss > losses[-1] * (1 - LEAST_GAIN)
        quaternions, step = candidate, min(largest, 1.5 * step)
        visited.append(quaternions)
        losses.append(loss)
        if converged:
            break
        move = _gauss_newton_move(hessians, gradients, quaternions)
    return visited, losses


def _gauss_newton_move(hessians: np.ndarray, gradients: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """Solve the normal equations for tangent moves (n, 4); stiffness along each quaternion keeps its length."""
    stiffness = 1 + np.trace(hessians, axis1=1, axis2=2)
    along = np.einsum("n,ni,nj->nij", stiffness, quaternions, quaternions)
    damping = 1e-6 * stiffness[:, None, None] * np.eye(4)
    return np.linalg.solve(hessians + along + damping, gradients[..., None])[..., 0]


def _moved(quaternions: np.ndarray, move: np.ndarray) -> np.ndarray:
    moved = quaternions + move
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def stochastic_descent(
    distances: np.ndarray,
    start: Rotation,
    *,
    steps: int,
    learning_rate: float,
    decay: bool = True,
    rng: np.random.Generator,
) -> tuple[tuple[Rotation, ...], np.ndarray]:
    """Minimise the mean squared error of (n, n) distances (radians) by Adam on batches of ``PAIRS`` random pairs.

    Return the orientations at the start, at up to ``FRAMES - 1`` intermediate steps and at the end, and the loss
    (rad^2) averaged between them.

    With ``decay``, the learning rate decays to zero along a cosine, and all ``steps`` are taken. At a constant rate,
    the noise from sampling pairs limits the accuracy. Without ``decay``, the rate is constant, as published, and the
    descent may end earlier, at the end of the frame in which it converges. It converges when the mean loss of
    ``WINDOW`` steps is below ``LEAST_LOSS`` or differs from that of the previous ``WINDOW`` steps by less than
    ``LEAST_CHANGE`` (both in rad^2). Quaternions are normalised only in the loss. They grow with each step, so a
    constant rate rotates them less and less.

    Quaternions follow tensorflow-graphics (xyzw, as in this package). Its ``relative_angle`` is not used, because for
    identical rotations it returns 0.003 rad with a gradient near -3000.

    References
    ----------
    arXiv 2104.06237, section 3.2: Adam on batches of 256 pairs. The convergence criterion is that of its code.
    """
    gpus_of_tensorflow()  # apply the choice of device before TensorFlow starts
    import tensorflow as tf
    from tensorflow_graphics.geometry.transformation import quaternion

    from cryoem.training.backend import keras

    n = len(distances)
    quaternions = tf.Variable(start.as_quat().astype(np.float32))
    targets = tf.constant(distances, tf.float32)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(schedule if decay else learning_rate)
    optimizer.build([quaternions])

    @tf.function
    def run(first, second):
        losses = tf.TensorArray(tf.float32, size=len(first))
        for k in tf.range(len(first)):
            with tf.GradientTape() as tape:
                a = quaternion.normalize(tf.gather(quaternions, first[k]))
                b = quaternion.normalize(tf.gather(quaternions, second[k]))
                overlap = tf.abs(tf.reduce_sum(a * b, axis=-1))
                angle = 2 * tf.acos(tf.clip_by_value(overlap, 0.0, 1 - 1e-6))
                wanted = tf.gather_nd(targets, tf.stack([first[k], second[k]], axis=1))
                loss = tf.reduce_mean(tf.square(wanted - angle))
            gradient = tf.convert_to_tensor(tape.gradient(loss, quaternions))
            optimizer.apply([gradient], [quaternions])
            losses = losses.write(k, loss)
        return losses.stack()

    frames, losses, of_steps = [Rotation.from_quat(quaternions.numpy())], [], np.empty(0)
    for count in np.diff(np.unique(np.linspace(0, steps, FRAMES + 1).astype(int))):
        for done in range(0, count, STEPS_AT_ONCE):
            some = min(STEPS_AT_ONCE, count - done)
            first = rng.integers(n, size=(some, PAIRS))
            second = (first + rng.integers(1, n, size=(some, PAIRS))) % n
            found = run(tf.constant(first, tf.int32), tf.constant(second, tf.int32))
            of_steps = np.append(of_steps, found.numpy().astype(float))
        losses.append(of_steps[-count:].mean())
        frames.append(Rotation.from_quat(quaternions.numpy()))
        if not decay and has_converged(of_steps):
            break
    return tuple(frames), np.array(losses)


def has_converged(losses: np.ndarray) -> bool:
    """Return whether the losses (steps,) have met the published criterion after any step."""
    sums = np.cumsum(np.append(0.0, losses))
    means = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW  # over the last steps, after each step
    changes = np.abs(means[WINDOW:] - means[:-WINDOW])
    return bool((means < LEAST_LOSS).any() or (changes < LEAST_CHANGE).any())
