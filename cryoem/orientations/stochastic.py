"""The published recovery: stochastic descent on random pairs, from random orientations.

It is the baseline of the figures.  Quaternions follow tensorflow-graphics (xyzw, as in this package); its
``relative_angle`` is not used, because at identical rotations it returns 0.003 rad with a gradient near -3000.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.devices import gpus_of_tensorflow

PAIRS = 256
FRAMES = 20
STEPS_AT_ONCE = 2000  # steps whose pairs are in memory


def descend(
    distances: np.ndarray, *, steps: int, learning_rate: float, rng: np.random.Generator
) -> tuple[tuple[Rotation, ...], np.ndarray]:
    """Minimise the mean squared error of (n, n) distances, radians, by Adam on batches of ``PAIRS`` random pairs.

    The learning rate decays to zero along a cosine: at a constant rate, the noise of the pairs would limit the
    accuracy.  Return the orientations at the start, at ``FRAMES - 1`` moments and at the end, and the loss (rad^2)
    averaged between them.

    References
    ----------
    arXiv 2104.06237, section 3.2: Adam on batches of 256 pairs, 30,000 steps.
    """
    import keras
    import tensorflow as tf
    from tensorflow_graphics.geometry.transformation import quaternion

    gpus_of_tensorflow()  # applies the choice of device before TensorFlow starts
    n = len(distances)
    quaternions = tf.Variable(Rotation.random(n, rng=rng).as_quat().astype(np.float32))
    targets = tf.constant(distances, tf.float32)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(schedule)
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
        return tf.reduce_mean(losses.stack())

    frames, losses = [Rotation.from_quat(quaternions.numpy())], []
    for count in np.diff(np.unique(np.linspace(0, steps, FRAMES + 1).astype(int))):
        total = 0.0
        for done in range(0, count, STEPS_AT_ONCE):
            some = min(STEPS_AT_ONCE, count - done)
            first = rng.integers(n, size=(some, PAIRS))
            second = (first + rng.integers(1, n, size=(some, PAIRS))) % n
            total += some * float(run(tf.constant(first, tf.int32), tf.constant(second, tf.int32)))
        losses.append(total / count)
        frames.append(Rotation.from_quat(quaternions.numpy()))
    return tuple(frames), np.array(losses)
