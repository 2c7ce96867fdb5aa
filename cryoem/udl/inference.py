"""The polar network in NumPy, for programs that run without Keras and TensorFlow.

It reads the weights that ``save_aligner`` writes and evaluates the layers of ``networks.build_polar_network``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import scipy.special

from cryoem.udl.spectra import PolarGrid

BATCH = 32  # spectra whose feature maps stay in the cache
EPSILON = 1e-3  # of Keras' layer normalisation


def read_polar_network(path: Path, grid: PolarGrid) -> Callable[[np.ndarray], np.ndarray]:
    """Read weights of a polar network; return the function (n, n_angles, n_radii) -> (n, 2) unit vectors."""
    with h5py.File(path, "r") as file:

        def weights(layer: str) -> list[np.ndarray]:
            variables = file[f"layers/{layer}/vars"]
            return [variables[name][()] for name in sorted(variables)]

        first, second, gate, gate_out, norm, (change, log_sharpness, start) = map(
            weights, ("conv2d", "conv2d_1", "dense", "dense_1", "layer_normalization", "template_match")
        )
    n_angles, n_radii = grid.n_angles, grid.n_radii
    if start.shape != (n_angles, n_radii):
        raise ValueError(f"its template must be {n_angles} x {n_radii}, got {start.shape}")
    template = start + np.sqrt(np.mean(start**2)) * change
    steps = np.arange(n_angles)
    # row a is the template rotated by a steps
    rotated = template[np.mod(steps - steps[:, None], n_angles)].reshape(n_angles, -1)
    angles = 2 * np.pi * steps / n_angles
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def evaluate(spectra: np.ndarray) -> np.ndarray:
        # weights of the rings
        rings = np.concatenate([spectra.mean(axis=1), spectra.var(axis=1)], axis=1)
        rings = rings - rings.mean(axis=1, keepdims=True)
        rings = norm[0] * rings / np.sqrt(np.mean(rings**2, axis=1, keepdims=True) + EPSILON) + norm[1]
        gates = np.exp(_gelu(rings @ gate[0] + gate[1]) @ gate_out[0] + gate_out[1])
        # clean the spectra
        x = spectra - spectra.mean(axis=1, keepdims=True)
        x = x + _convolve(_gelu(_convolve(x[..., None], *first)), *second)[..., 0]
        x *= gates[:, None, :]
        # mean direction of the softmax over the correlation with the template
        scores = np.exp(log_sharpness) * (x.reshape(len(x), -1) @ rotated.T)
        where = np.exp(scores - scores.max(axis=1, keepdims=True))
        direction = where @ directions
        return direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)

    def network(spectra: np.ndarray) -> np.ndarray:
        spectra = np.asarray(spectra, np.float32)
        return np.concatenate([evaluate(spectra[s : s + BATCH]) for s in range(0, len(spectra), BATCH)])

    return network


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (0.5 * (1 + scipy.special.erf(x / np.float32(np.sqrt(2)))))


def _convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolve (b, angle, radius, c) with a (k, l, c, d) kernel, periodic in the angle and zero beyond the radii."""
    along, across, _, width = kernel.shape
    n_angles, n_radii = x.shape[1:3]
    x = np.concatenate([x[:, n_angles - along // 2 :], x, x[:, : along // 2]], axis=1)
    x = np.pad(x, ((0, 0), (0, 0), (across // 2, across // 2), (0, 0)))
    total = np.broadcast_to(bias, (len(x), n_angles, n_radii, width)).astype(np.float32)
    for i in range(along):
        for j in range(across):
            total += x[:, i : i + n_angles, j : j + n_radii] @ kernel[i, j]
    return total
